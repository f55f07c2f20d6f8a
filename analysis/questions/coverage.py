"""How often do printed intervals hold the truth? Plant grids of a design, fit each as analysis.fit does, and tally.

What is read is what the commands write: fit.json and the JSON of a prediction. An interval that is withheld there counts as
none printed, and not as a miss.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import json
import math
import pathlib
import time
from typing import Any
import zlib

import numpy as np

from analysis.fitting.result import FitError, to_json
from analysis.fitting.spec import FitSpec
from analysis.laws.chinchilla import Chinchilla
from analysis.questions import predict
from analysis.questions.fit import fit
from analysis.questions.planted import DESIGNS, Planted
from analysis.writing.strict_json import finite_or_null
from experiments.cli import InputError, nearest

SCHEMA = 1
COEFFICIENTS = ("E", "A", "B", "alpha", "beta")
QUANTITIES = (*COEFFICIENTS, "exponent_N", "exponent_D", "loss at 10x", "N* at 10x", "loss on its line at 10x")
PROFILES = tuple(f"profile of {name}" for name in COEFFICIENTS)
BY_FACTOR = ("A", "B", "N* at 10x", "profile of A", "profile of B")  # whose width is high/low, and not the difference
SAVE_EVERY = 20.0  # seconds
NOMINAL = (0.85, 0.95)  # share of 90% intervals that should hold the truth


@dataclasses.dataclass(frozen=True)
class Printed:
    """Hold what was printed of one quantity of one grid, beside the truth.

    low, high: ends of the interval, None where that side is open. is_given: whether an interval with an end was printed.
    """

    truth: float
    low: float | None
    high: float | None
    is_given: bool = True

    def to_list(self) -> list[float | None]:
        """Write it short, for JSON: the truth, and the ends of the interval where one was printed."""
        return [self.truth, self.low, self.high] if self.is_given else [self.truth]

    @classmethod
    def from_list(cls, values: Sequence[float | None]) -> "Printed":
        """Read what `to_list` wrote. Raises TypeError or ValueError for anything else."""
        truth, *ends = values
        if truth is None:
            raise ValueError("a truth is missing")
        if not ends:
            return cls(truth, None, None, is_given=False)
        low, high = ends
        return cls(truth, low, high)

    @property
    def holds(self) -> bool:
        """Whether the interval holds the truth."""
        is_above = self.low is None or self.low <= self.truth
        is_below = self.high is None or self.truth <= self.high
        return is_above and is_below


@dataclasses.dataclass(frozen=True)
class Share:
    """Count the intervals of one quantity over the grids of a design.

    covered: share of those printed that hold the truth. width: their median, see BY_FACTOR; infinite where more than half
    of them are open. Both are None where none was printed.
    """

    grids: int
    printed: int
    covered: float | None
    width: float | None

    @property
    def is_as_it_says(self) -> bool:
        """Whether the share of 90% intervals that hold the truth may be within NOMINAL, for all that so few grids tell."""
        low, high = self.limits
        return low <= NOMINAL[1] and high >= NOMINAL[0]

    @property
    def limits(self) -> tuple[float, float]:
        """Return the 95% limits of the share covered, exact ones; 0 and 1 where none was printed."""
        from scipy.stats import binomtest

        if self.covered is None:
            return 0.0, 1.0
        held = round(self.covered * self.printed)
        limits = binomtest(held, self.printed).proportion_ci(0.95, method="exact")
        return float(limits.low), float(limits.high)


@dataclasses.dataclass(frozen=True)
class Tally:
    """Hold outcomes by design and by the number of its grid: what was printed of each quantity."""

    seed: int
    replicates: int
    outcomes: dict[str, dict[int, dict[str, Printed]]]

    def missing(self, names: Sequence[str], count: int) -> list[tuple[str, int]]:
        """Return the grids, of the first `count` of each design, that have not been fitted."""
        found = []
        for name in names:
            done = self.outcomes.get(name, {})
            found += [(name, number) for number in range(count) if number not in done]
        return found

    def add(self, name: str, number: int) -> None:
        """Plant, fit and note one grid."""
        planted = plant(name, self.seed, number)
        self.outcomes.setdefault(name, {})[number] = outcome(planted, self.replicates)

    def shares(self, name: str) -> dict[str, Share]:
        """Count, for each quantity, over the grids of a design."""
        outcomes = self.outcomes[name].values()
        found = {}
        for quantity in (*QUANTITIES, *PROFILES):
            printed = [one[quantity] for one in outcomes]
            found[quantity] = share_of(printed, quantity)
        return found


def plant(name: str, seed: int, number: int) -> Planted:
    """Plant grid `number` of a design: the same one whatever else is planted."""
    stream = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    return DESIGNS[name].plant(stream)


def truths(planted: Planted) -> dict[str, float]:
    """Return what is true of every quantity."""
    truth = planted.truth
    budget = {"C": planted.budget}
    known = {
        **truth.coefficients(),
        **truth.optimum_exponents(),
        "loss at 10x": truth.target_at(budget),
        "N* at 10x": truth.optimum(planted.budget)[0],
        "loss on its line at 10x": truth.predict(**planted.line),
    }
    for name in COEFFICIENTS:
        known[f"profile of {name}"] = known[name]
    return {name: float(value) for name, value in known.items()}


def outcome(planted: Planted, replicates: int) -> dict[str, Printed]:
    """Fit a grid as analysis.fit does, and read what fit and predict write of every quantity."""
    known = truths(planted)
    try:
        written = intervals_written(planted, replicates)
    except FitError:
        written = {}
    found = {}
    for name, value in known.items():
        ends = written.get(name) or {"low": None, "high": None}
        low = _finite(ends["low"])
        high = _finite(ends["high"])
        # An interval that is open on both sides says nothing: it was withheld.
        found[name] = Printed(value, low, high, is_given=not (low is None and high is None))
    return found


def intervals_written(planted: Planted, replicates: int) -> dict[str, Mapping[str, Any] | None]:
    """Return the intervals that fit.json and the predictions hold, by quantity; None or missing where withheld."""
    result = fit(planted.columns, Chinchilla, FitSpec(bootstrap=replicates))
    content = to_json(result, "", "analysis.coverage")
    fitted = predict.from_json(content)
    of_budget = predict.to_json(predict.predict(fitted, {"C": planted.budget}))
    of_line = predict.to_json(predict.predict(fitted, planted.line))
    found = dict(content["intervals"])
    found["loss at 10x"] = of_budget["interval"]
    found["N* at 10x"] = of_budget["optimum_intervals"]["N"]
    found["loss on its line at 10x"] = of_line["interval"]
    for name, ends in content["certificate"]["profile"].items():
        found[f"profile of {name}"] = ends
    return found


def _finite(end: float | None) -> float | None:
    """Return an end of an interval; None where it is infinite or missing."""
    return end if end is not None and math.isfinite(end) else None


def share_of(printed: Sequence[Printed], quantity: str) -> Share:
    """Count the intervals of one quantity."""
    given = [one for one in printed if one.is_given]
    if not given:
        return Share(len(printed), 0, None, None)
    held = sum(one.holds for one in given)
    widths = [_width(one, quantity in BY_FACTOR) for one in given]
    return Share(len(printed), len(given), held / len(given), float(np.median(widths)))


def _width(one: Printed, by_factor: bool) -> float:
    """Return the width of an interval: high - low, or high/low; infinite where an end is open."""
    if one.low is None or one.high is None:
        return math.inf
    if not by_factor:
        return one.high - one.low
    return one.high / one.low if one.low > 0 else math.inf


def chosen(names: Sequence[str]) -> list[str]:
    """Return the designs of these names; all of them for none. Raises InputError for a name that is not one."""
    for name in names:
        if name not in DESIGNS:
            raise InputError(f"--design: {name!r} is not a design; {nearest(name, DESIGNS, 'design')}")
    return list(dict.fromkeys(names)) or list(DESIGNS)


def complete(found: Tally, grids: Iterable[tuple[str, int]], save: Callable[[], None]) -> None:
    """Add grids to a tally, and save it on the way, so that a stopped command loses little."""
    last = time.monotonic()
    for name, number in grids:
        found.add(name, number)
        if time.monotonic() - last > SAVE_EVERY:
            save()
            last = time.monotonic()
    save()


def read(path: str, seed: int, replicates: int) -> Tally:
    """Load a tally to go on with; an empty one where there is no file. Raises InputError where it was made otherwise."""
    file = pathlib.Path(path)
    if not file.exists():
        return Tally(seed, replicates, {})
    try:
        data = json.loads(file.read_text())
        found = from_json(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--out: {path} is not a tally to go on with ({type(error).__name__}: {error})") from None
    for flag, was, wanted in (("seed", found.seed, seed), ("replicates", found.replicates, replicates)):
        if was != wanted:
            raise InputError(
                f"--{flag}: {path} was made with {flag}={was}, got {wanted}; expected the same, or another --out"
            )
    return found


def to_content(found: Tally) -> dict[str, Any]:
    """Return a tally for strict JSON: what was printed of each grid, and the counts."""
    outcomes: dict[str, Any] = {}
    shares: dict[str, Any] = {}
    for name, grids in found.outcomes.items():
        outcomes[name] = {}
        for number, quantities in grids.items():
            outcomes[name][str(number)] = {key: one.to_list() for key, one in quantities.items()}
        shares[name] = {key: finite_or_null(dataclasses.asdict(one)) for key, one in found.shares(name).items()}
    return {
        "schema": SCHEMA,
        "seed": found.seed,
        "replicates": found.replicates,
        "shares": shares,
        "outcomes": outcomes,
    }


def from_json(data: Mapping[str, Any]) -> Tally:
    """Return the tally of a file's content. Raises KeyError, TypeError or ValueError when something is missing."""
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']!r}, expected {SCHEMA}")
    outcomes: dict[str, dict[int, dict[str, Printed]]] = {}
    for name, grids in data["outcomes"].items():
        outcomes[name] = {}
        for number, quantities in grids.items():
            outcomes[name][int(number)] = {key: Printed.from_list(one) for key, one in quantities.items()}
    return Tally(data["seed"], data["replicates"], outcomes)


def outside(found: Tally, name: str) -> list[str]:
    """Name what is printed of a design and does not hold the truth as often as it says, with the share that does."""
    wrong = []
    for quantity, share in found.shares(name).items():
        if not share.is_as_it_says:
            wrong.append(f"{quantity} {share.covered:.0%}")
    return wrong
