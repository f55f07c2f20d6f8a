"""Say which numbers of a fit the design supports: one verdict, made once, inherited by everything derived from the fit.

A number is supported where the rows bound it. Two accounts of its uncertainty are compared. The bootstrap sees other
valleys where replicates end in them. The likelihood region (region.py) is everything that the rows do not rule out, in all
valleys, for all numbers at once (Scheffe 1959). Where a fit is nearly linear, the region is an ellipsoid, and a number
ranges over it sqrt(p F_p / F_1) times as far as its own interval reaches: 1.9 times for five coefficients and 20 rows.
Where it ranges much farther, the region is a bent valley or has several, the bootstrap knows one corner of it, and no
interval that could be printed would hold the truth as often as it says (measured in analysis/README.md).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from analysis.trust.design_check import Design
from analysis.trust.identification import RIVALLED
from analysis.trust.interval import Interval
from analysis.trust.region import Region

FARTHEST = 1.45  # range over the region, over what it is for a number that is linear in the parameters
WIDTH_ERROR = 0.9  # relative error of the width of a 90% interval of n replicates, times sqrt(n)
SURE = 2.0  # of those standard errors
BY_FACTOR = 10.0  # a positive number that ranges over more than this is judged by its logarithm
NOT_KNOWN = "not known"  # ends a reason that follows from that of another number
NUDGE = 1e-3  # of a coefficient, to see whether a number depends on it

Quantity = Callable[[Any], Any]  # of a law, whose coefficients may be arrays


@dataclasses.dataclass(frozen=True)
class Judged:
    """An interval as it may be printed, or why there is none; is_known: whether the number itself may be printed."""

    interval: Interval | None
    why: str = ""
    is_known: bool = True


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Say what a fit may be asked.

    nothing: why no number has an interval; empty where some do. withheld: coefficients and exponents of the optimum that
    have none, with the reason. region: what the rows do not rule out; None where it was not explored.
    """

    design: Design
    nothing: str = ""
    withheld: Mapping[str, str] = dataclasses.field(default_factory=dict)
    region: Region | None = dataclasses.field(default=None, compare=False)  # arrays have no one truth

    @property
    def is_supported(self) -> bool:
        """Whether the design supports every coefficient and exponent."""
        return not self.nothing and not self.withheld

    @property
    def unknown(self) -> Mapping[str, str]:
        """What the rows do not tell, with the reason; empty where they support every coefficient and exponent."""
        return {"any number": self.nothing} if self.nothing else self.withheld

    def remark(self, name: str) -> str:
        """Say why a number, or its interval, is not known; empty for one that is supported."""
        if name in self.withheld:
            return f"not known: {self.withheld[name]}"
        return f"no interval: {self.nothing}" if self.nothing else ""

    @property
    def line(self) -> str:
        """The verdict in one line."""
        if self.nothing:
            return f"no interval can be given: {self.nothing}"
        if not self.withheld:
            return "the rows support every coefficient"
        names = ", ".join(self.withheld)
        first = next(name for name, why in self.withheld.items() if not why.endswith(NOT_KNOWN))
        why = self.withheld[first]
        if names == first:
            return f"the rows do not tell {first}: {why}"
        return f"the rows do not tell {names} ({first}: {why})"

    def judge(self, quantity: Quantity, law: Any, interval: Interval | None, is_derived: bool = False) -> Judged:
        """Return the interval of a function of the law as it may be printed, or why it may not.

        is_derived: the number is made of coefficients, as the exponents of the optimum are, and needs all of those that it
        depends on; a prediction does not: it may be sure where they are not.
        """
        if self.nothing:
            return Judged(None, self.nothing, is_known=not is_derived)
        needed = [name for name in self.withheld if is_derived and depends_on(quantity, law, name)]
        if needed:
            first = next((name for name in needed if not self.withheld[name].endswith(NOT_KNOWN)), needed[0])
            return Judged(None, f"{first} is {NOT_KNOWN}: {self.withheld[first]}", is_known=False)
        if interval is None or self.region is None:
            return Judged(interval)
        return _judge_by_region(quantity, law, interval, self.region)

    def to_json(self) -> dict[str, Any]:
        """Return the verdict for JSON, without its region."""
        return {
            "line": self.line,
            "supported": self.is_supported,
            "nothing": self.nothing or None,
            "withheld": dict(self.withheld),
            "design": self.design.to_json(),
        }


def depends_on(quantity: Quantity, law: Any, name: str) -> bool:
    """Whether a function of a law changes with one of its coefficients."""
    if name not in law.names():
        return False
    value = float(getattr(law, name))
    moved = dataclasses.replace(law, **{name: value * (1 + NUDGE) + (NUDGE if value == 0 else 0.0)})
    with np.errstate(all="ignore"):
        here = float(quantity(law))
        there = float(quantity(moved))
    if not (math.isfinite(here) and math.isfinite(there)):
        return True
    return abs(there - here) > 1e-9 * NUDGE * max(abs(here), abs(there))


def _judge_by_region(quantity: Quantity, law: Any, interval: Interval, region: Region) -> Judged:
    """Compare an interval with the range of its number over the region, and widen it by what the rows do not rule out.

    That is the range where the objective has risen by what bounds one number. Over the whole region it would be 1.9 times
    as wide as the scatter asks for where only a part of a law is known (measured on ladders and on models of one size).
    """
    stacked = type(law).stack(region.coefficients)
    with np.errstate(all="ignore"):
        values = np.asarray(quantity(stacked), dtype=np.float64)
    return judge_over_region(values, interval, region)


def judge_over_region(values: np.ndarray, interval: Interval, region: Region) -> Judged:
    """Judge a number by its values at the points of a region, see `_judge_by_region`."""
    values = np.broadcast_to(values, region.rise.shape)
    if not np.isfinite(values).all():
        return Judged(None, "what the rows allow has no end", is_known=False)
    low = float(values.min())
    high = float(values.max())
    if interval.level == region.level and _times_wider(low, high, interval) > farthest(region):
        return Judged(None, f"the rows allow {_between(low, high)}", is_known=False)
    reached = values[region.within(interval.level)]
    wider = dataclasses.replace(
        interval,
        low=min(interval.low, float(reached.min())),
        high=max(interval.high, float(reached.max())),
    )
    return Judged(wider)


def _between(low: float, high: float) -> str:
    """Write a range with as many digits as tell its ends apart."""
    for digits in range(3, 10):
        lowest = f"{low:.{digits}g}"
        highest = f"{high:.{digits}g}"
        if lowest != highest:
            return f"{lowest} to {highest}"
    return f"{low} to {high}"


def farthest(region: Region) -> float:
    """Return how many times wider than its interval the range of a number over a region may be."""
    linear = math.sqrt(region.all / region.one)
    return FARTHEST * linear * (1 + SURE * WIDTH_ERROR / math.sqrt(region.replicates))


def _times_wider(low: float, high: float, interval: Interval) -> float:
    """Return how many times wider than the interval a range is; in logarithms where it is of many sizes."""
    ends = [low, high, interval.low, interval.high]
    if min(ends) > 0 and high > BY_FACTOR * low:
        low, high, inner_low, inner_high = np.log(ends)
    else:
        inner_low = interval.low
        inner_high = interval.high
    range_of_all = high - low
    width = inner_high - inner_low
    if range_of_all <= 1e-9 * max(abs(low), abs(high)):  # rounding
        return 0.0
    return float(range_of_all / width) if width > 0 else math.inf


@dataclasses.dataclass(frozen=True)
class Part:
    """Name what a coefficient of a law has to do with its inputs.

    roles: the inputs that it is learned from; needs: coefficients without which it cannot be known; end: the largest value
    that a fit looks at, None without one; term: the prefactor of its term, which may be zero; "" where it has none.
    """

    name: str
    roles: tuple[str, ...]
    needs: tuple[str, ...] = ()
    end: float | None = None
    term: str = ""


def withhold(
    law: Any,
    parts: Sequence[Part],
    design: Design,
    region: Region | None,
    intervals: Mapping[str, Interval],
    lost: Mapping[str, str],
) -> dict[str, str]:
    """Return which coefficients, and which exponents of the optimum, have no interval, with the reason in words.

    lost: those that the certificate does not find identified, with its reasons.
    """
    bare = Verdict(design, region=region)
    found: dict[str, str] = {}
    for part in parts:
        own = bare.judge(lambda one, name=part.name: getattr(one, name), law, intervals.get(part.name)).why
        at_end = _at_end(law, part, region)
        tied = "" if region is not None else _tied(design, part)
        why = lost.get(part.name, "") or own or at_end or tied
        if why:
            found[part.name] = design.nothing or _with_fact(design, part, why, law)
    for part in parts:
        missing = [name for name in part.needs if name in found]
        if missing and part.name not in found:
            verb = "is" if len(missing) == 1 else "are"
            found[part.name] = f"{' and '.join(missing)} {verb} {NOT_KNOWN}"
    in_order = {part.name: found[part.name] for part in parts if part.name in found}
    return in_order | _exponents_withheld(law, Verdict(design, withheld=in_order, region=region), intervals)


def _exponents_withheld(law: Any, verdict: Verdict, intervals: Mapping[str, Interval]) -> dict[str, str]:
    """Return the exponents of the optimum that have no interval: they are made of coefficients."""
    found = {}
    for name in law.optimum_exponents():
        judged = verdict.judge(
            lambda one, name=name: one.optimum_exponents()[name], law, intervals.get(name), is_derived=True
        )
        if judged.why:
            found[name] = judged.why
    return found


def _at_end(law: Any, part: Part, region: Region | None) -> str:
    """Say that a coefficient reaches the end of its range within the region, which goes on behind it."""
    if part.end is None or not math.isfinite(part.end):
        return ""
    largest = float(getattr(law, part.name))
    if region is not None:
        largest = max(largest, float(region.of(law, part.name).max()))
    return f"the rows allow {part.end:.3g}, the end of its range" if largest >= part.end * (1 - 1e-9) else ""


def _tied(design: Design, part: Part) -> str:
    """Say that a coefficient is learned from an input that the rows do not tell apart; only a region could say more."""
    return "nothing beside that tells it" if set(part.roles) & set(design.tied) else ""


def _with_fact(design: Design, part: Part, why: str, law: Any) -> str:
    """Put before a reason what the rows look like, where that explains it."""
    roles = part.roles or tuple(design.facts)
    is_gone = bool(part.term) and 0 in (float(getattr(law, part.term)), float(getattr(law, part.name)))
    rising = [role for role in part.roles if role in design.rising]
    if is_gone and rising:
        return f"{law.TARGET} rises with {', '.join(rising)}"
    facts = [design.facts[role] for role in roles if role in design.facts]
    if facts and why.startswith(RIVALLED):
        why = RIVALLED  # what else may be the reason is of no help beside the fact
    return "; ".join([*facts[:1], why])
