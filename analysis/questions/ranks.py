"""Is what is best here best at the end? Kendall's tau between the orders of variants at each level and at the last."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import numpy as np

from analysis.grid.table import Columns, Grid
from analysis.writing.numbers import counted, number
from experiments.cli import InputError

BEST: dict[str, Callable[[Any], Any]] = {"least": np.argmin, "most": np.argmax}
FEWEST = 3  # variants that two levels share: of two, an order is a toss of a coin


@dataclasses.dataclass(frozen=True)
class Level:
    """The order at one level beside that at the last. p: of an order as alike by chance; nan where too few are shared."""

    at: float
    variants: int
    tau: float
    p: float
    is_best_kept: bool  # whether what is best here is best at the last level


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is ordered, over what, and every level but the last, the largest of which comes last."""

    of: str
    over: str
    last: float
    levels: tuple[Level, ...]


def ask(grid: Grid, columns: Columns, of: str, over: str, best: str = "least") -> Answer:
    """Compare the orders of variants. Several rows of one variant and level count by their mean. best: "least" or "most".

    Raises InputError for fewer than two levels, or fewer than three variants in common with the last.
    """
    variant = grid.words(of)[columns.row]
    level = grid.numbers(over, over)[columns.row]
    if not np.isfinite(level).all():
        raise InputError(f"--over={over}: not a number in a row that is used; expected sizes, tokens or steps")
    *places, last = np.unique(level).tolist()
    if not places:
        raise InputError(f"--over={over}: 1 level; expected two or more")

    def values_at(place: float) -> dict[str, float]:
        is_here = level == place
        return _means(variant[is_here], columns["loss"][is_here])

    final = values_at(last)
    levels = []
    for place in places:
        own = values_at(place)
        levels.append(_compared(place, own, final, BEST[best]))
    most = max(one.variants for one in levels)
    if most < FEWEST:
        raise InputError(f"--of={of}: no level shares {FEWEST} variants with {over}={last:g}; expected the same ones")
    return Answer(of, over, last, tuple(levels))


def _means(variant: np.ndarray, value: np.ndarray) -> dict[str, float]:
    """Return the mean value of each variant, in the order in which they come."""
    means = {}
    for name in dict.fromkeys(variant.tolist()):
        own = value[variant == name]
        means[name] = float(own.mean())
    return means


def _compared(at: float, own: dict[str, float], final: dict[str, float], best_of: Callable[[Any], Any]) -> Level:
    """Compare one level with the last, by the variants that both have."""
    from scipy.stats import kendalltau

    shared = [name for name in own if name in final]
    if len(shared) < FEWEST:
        return Level(at, len(shared), math.nan, math.nan, False)
    here = [own[name] for name in shared]
    there = [final[name] for name in shared]
    found: Any = kendalltau(here, there)
    best_here = best_of(here)
    best_there = best_of(there)
    tau = float(found.statistic)
    p = float(found.pvalue)
    return Level(at, len(shared), tau, p, bool(best_here == best_there))


def lines(answer: Answer) -> list[str]:
    """Return the answer for people."""
    told = [f"order of {answer.of} at each {answer.over}, beside that at {number(answer.last)}"]
    for one in answer.levels:
        kept = "the best is the same" if one.is_best_kept else "another is the best"
        told.append(
            f"{answer.over} {number(one.at)}: tau {number(one.tau, 3)} (p {number(one.p, 2)}, {counted(one.variants, 'variant')}), {kept}"
        )
    return told


def to_json(answer: Answer) -> dict[str, Any]:
    """Return the answer for JSON."""
    return dataclasses.asdict(answer)
