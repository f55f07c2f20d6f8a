"""Work out from the rows alone, before anything is fitted, what a design can say.

An exponent is learned from how far its input moves while the others stand still: from the spread of its logarithm beside
the line in theirs (the collinearity of Belsley, Kuh & Welsch 1980, chapter 3). A ladder of D = 20 N has none. How much is
enough depends on the noise, which only a fit knows: that is the affair of verdict.py, and here are the facts it tells.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis.grid.table import Columns
from analysis.trust import bootstrap

FEWEST_SPARE = 2  # independent units beside one for each coefficient; fewer measure no scatter
NARROW = 0.3  # spread of ln X beside the line in the other inputs, below which a reader is told of it
SHORT = 3.0  # factor that an input spans, up to which a reader is told of it
SAME = 1e-9  # relative spread of what does not vary
CLEAR = 3.0  # standard errors of a slope that is there


@dataclasses.dataclass(frozen=True)
class Design:
    """Hold what the rows can say of a law, whatever their losses are.

    rows, runs: all, and those that are independent; coefficients: to be fitted, None for a law that takes steps of its own.
    ranges: least and largest value of every input. beside: standard deviation of ln input beside its line in the others.
    leverage: the largest share that one run has in it. condition: of the correlations of the inputs' logarithms, 1 where
    they move independently. facts: what limits an input, in words. tied: inputs that do not vary, or follow the others.
    nothing: why no number can have an interval.
    """

    rows: int
    runs: int
    coefficients: int | None
    ranges: Mapping[str, tuple[float, float]]
    beside: Mapping[str, float]
    leverage: Mapping[str, float]
    condition: float | None
    facts: Mapping[str, str]
    rising: tuple[str, ...]  # inputs with which the target rises
    nothing: str = ""
    tied: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the design for fit.json."""
        fields = dataclasses.asdict(self)
        fields["ranges"] = {role: list(ends) for role, ends in self.ranges.items()}  # as JSON has no tuples
        fields["rising"] = list(self.rising)
        fields["tied"] = list(self.tied)
        return fields

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> "Design":
        """Read what `to_json` wrote."""
        ranges = {role: (low, high) for role, (low, high) in data["ranges"].items()}
        lists = {"rising": tuple(data["rising"]), "tied": tuple(data["tied"])}
        return cls(**{**data, **lists, "ranges": ranges})


def lay_out(
    columns: Columns,
    inputs: Sequence[str],
    target: str,
    coefficients: int | None = None,
    runs: int | None = None,
) -> Design:
    """Look at the rows of a fit: `inputs` are the roles that the law takes, `coefficients` how many are to be fitted.

    runs: how many independent ones count, where that is known; rows that only bound a law do not.
    """
    roles = _varying_roles(columns, inputs)
    logs = {role: np.log(columns[role]) for role in roles}
    member = bootstrap.units(len(columns), columns.values.get("run"))
    if runs is None:
        runs = int(member.max()) + 1
    ranges = {}
    beside = {}
    leverage = {}
    for role in roles:
        value = columns[role]
        ranges[role] = (float(value.min()), float(value.max()))
        apart = _beside(logs, role)
        beside[role] = float(apart.std())
        leverage[role] = _largest_share(apart, member)
    ties = _ties(columns, logs, beside)
    return Design(
        rows=len(columns),
        runs=runs,
        coefficients=coefficients,
        ranges=ranges,
        beside=beside,
        leverage=leverage,
        condition=_condition(logs),
        facts=ties | _short(logs, ties),
        rising=_rising(columns, logs, target),
        nothing=_why_nothing(columns, target, runs, coefficients),
        tied=tuple(ties),
    )


def _varying_roles(columns: Columns, inputs: Sequence[str]) -> list[str]:
    """Return the inputs that are one positive number a row; C is left out where N and D, which make it, are there."""
    made = {"C"} if {"N", "D"} <= set(inputs) else set()
    found = []
    for role in inputs:
        if role in made or role not in columns:
            continue
        value = columns[role]
        if value.dtype.kind == "f" and value.ndim == 1 and (value > 0).all():
            found.append(role)
    return found


def _beside(logs: Mapping[str, np.ndarray], role: str) -> np.ndarray:
    """Return how far ln of an input lies from its line in the logarithms of the others [rows]."""
    others = [value - value.mean() for name, value in logs.items() if name != role]
    centred = logs[role] - logs[role].mean()
    if not others:
        return centred
    line = np.stack(others, axis=1)
    slope, *_ = np.linalg.lstsq(line, centred, rcond=1e-10)
    return centred - line @ slope


def _largest_share(apart: np.ndarray, member: np.ndarray) -> float:
    """Return the largest share of one run in the squares of `apart` [rows]; 1 where there are none."""
    squares = np.bincount(member, apart**2)
    total = squares.sum()
    rounding = SAME**2 * len(apart)
    if total > rounding:
        return float(squares.max() / total)
    return 1.0


def _condition(logs: Mapping[str, np.ndarray]) -> float | None:
    """Return the condition of the logarithms of the inputs, each in units of its own; None where one does not vary."""
    if not logs:
        return None
    standard = []
    for value in logs.values():
        spread = value.std()
        if spread <= _rounding(value):
            return None
        centred = value - value.mean()
        standard.append(centred / spread)
    sizes = np.linalg.svd(np.stack(standard), compute_uv=False)
    largest = sizes[0]
    smallest = sizes[-1]
    if smallest > SAME * largest:
        return float(largest / smallest)
    return None


def _rounding(log: np.ndarray) -> float:
    """Return the spread of a logarithm below which it does not vary."""
    largest = float(np.abs(log).max())
    return SAME * max(1.0, largest)


def _ties(columns: Columns, logs: Mapping[str, np.ndarray], beside: Mapping[str, float]) -> dict[str, str]:
    """Say in words what keeps an input from being told apart: it does not vary, or follows another one."""
    facts = {}
    for role, log in logs.items():
        spread = float(np.ptp(log))
        if spread <= _rounding(log):
            facts[role] = f"{role} is {columns[role][0]:.3g} in every row"
    varying = {role: log for role, log in logs.items() if role not in facts}
    for role, log in varying.items():
        others = [name for name in varying if name != role]
        narrow = NARROW * min(1.0, float(log.std()))
        if others and beside[role] < narrow:
            facts[role] = _following(columns, role, others, beside[role])
    return facts


def _short(logs: Mapping[str, np.ndarray], ties: Mapping[str, str]) -> dict[str, str]:
    """Say in words which of the other inputs hardly vary."""
    facts = {}
    for role, log in logs.items():
        factor = float(np.exp(np.ptp(log)))
        if role not in ties and factor <= SHORT:
            facts[role] = f"{role} spans a factor of {factor:.3g} only"
    return facts


def _following(columns: Columns, role: str, others: Sequence[str], beside: float) -> str:
    """Say that an input follows the others, as a ratio where it is one."""
    percent = 100 * np.expm1(beside)
    within = f"within {percent:.2g}%" if percent > 1e-4 else "exactly"
    if len(others) > 1:
        return f"{role} follows from {', '.join(others)} {within} in every row"
    top = role
    bottom = others[0]
    if {top, bottom} == {"N", "D"}:  # tokens per parameter, which readers know
        top = "D"
        bottom = "N"
    log_ratio = np.log(columns[top] / columns[bottom])
    is_one_ratio = log_ratio.std() <= 1.1 * beside + SAME
    if is_one_ratio:
        ratio = np.exp(np.median(log_ratio))
        return f"{top}/{bottom} is {ratio:.3g} {within} in every row"
    return f"{top} follows from {bottom} {within} in every row"


def _rising(columns: Columns, logs: Mapping[str, np.ndarray], target: str) -> tuple[str, ...]:
    """Return the inputs with which the target rises, the others held: clear slopes of a plane through the logarithms."""
    value = columns[target]
    names = [role for role, log in logs.items() if np.ptp(log) > 0]
    rows = len(value)
    if not names or rows <= len(names) + 2:
        return ()
    centred = [logs[role] - logs[role].mean() for role in names]
    plane = np.column_stack([np.ones(rows), *centred])
    slopes, *_ = np.linalg.lstsq(plane, value, rcond=1e-10)
    error = value - plane @ slopes
    freedom = rows - plane.shape[1]
    variance = float(error @ error) / freedom
    inverse = np.linalg.pinv(plane.T @ plane, rcond=1e-10)
    spread = np.sqrt(np.diag(inverse) * variance)
    rounding = SAME * np.abs(value).max()
    clear = CLEAR * spread + rounding
    is_rising = slopes[1:] > clear[1:]  # without the constant
    return tuple(role for role, rises in zip(names, is_rising, strict=True) if rises)


def _why_nothing(columns: Columns, target: str, runs: int, coefficients: int | None) -> str:
    """Say why no number can have an interval, whatever the fit: empty where some can."""
    value = columns[target]
    largest = np.abs(value).max()
    if np.ptp(value) <= SAME * largest:
        return f"{target} is {value[0]:.4g} in every row"
    if coefficients is None or runs - coefficients >= FEWEST_SPARE:
        return ""
    kind = "rows" if runs == len(columns) else "independent runs"
    return f"{runs} {kind} for {coefficients} coefficients: too few are left to measure the scatter by"
