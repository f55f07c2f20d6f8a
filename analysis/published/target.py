"""A published number, ours, and the verdict."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.grid.table import Grid

REPRODUCED = "reproduced"
FLAWED = "reproduced with a flaw"
NOT_REPRODUCIBLE = "not reproducible"
NOT_IDENTIFIED = "not identified"
OURS = "ours alone"


@dataclasses.dataclass(frozen=True)
class Target:
    """A quantity with its published value, or None where nothing was published.

    tolerance: how far ours may be from it, relative (or absolute where `absolute`). refit: what an independent program
    gave on the same rows, with its own relative tolerance, where the published number cannot be had.
    """

    quantity: str
    published: float | None
    tolerance: float = 0.0
    source: str = ""
    absolute: bool = False
    refit: float | None = None
    refit_tolerance: float = 1e-4


@dataclasses.dataclass(frozen=True)
class Found:
    """Our value. flaw: one sentence on what is wrong with the published number. identified: whether the rows fix it."""

    value: float
    flaw: str = ""
    identified: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table. difference is ours - published, relative to the published one unless that is 0."""

    study: str
    quantity: str
    published: float | None
    ours: float
    difference: float | None
    verdict: str
    note: str
    source: str
    refit: float | None
    refit_agrees: bool | None


@dataclasses.dataclass(frozen=True)
class Study:
    """A published grid: what it is called, the files it needs, its targets, and what computes ours from the grids.

    `refit` takes the grids by file name and gives every target's quantity; those that cannot be computed on this machine
    (a package is missing) are left out.
    """

    title: str
    files: tuple[str, ...]
    targets: Sequence[Target]
    refit: Callable[[Mapping[str, "Grid"]], Mapping[str, Found]]


def within(value: float, goal: float, tolerance: float, absolute: bool = False) -> bool:
    """Whether a value lies within a tolerance of a goal."""
    return abs(value - goal) <= tolerance * (1.0 if absolute else abs(goal))


def judge(target: Target, found: Found) -> str:
    """The verdict."""
    if not found.identified:
        return NOT_IDENTIFIED
    if target.published is None:
        return OURS
    if not within(found.value, target.published, target.tolerance, target.absolute):
        return NOT_REPRODUCIBLE
    return FLAWED if found.flaw else REPRODUCED


def compare(name: str, study: Study, found: Mapping[str, Found]) -> list[Row]:
    """The rows of a study's table, in the order of its targets.

    Raises KeyError when `refit` gave a quantity that no target names.
    """
    strangers = set(found) - {target.quantity for target in study.targets}
    if strangers:
        raise KeyError(f"{name}: {', '.join(sorted(strangers))} have no target")
    rows = []
    for target in study.targets:
        if target.quantity not in found:
            continue
        ours = found[target.quantity]
        difference = None
        if target.published is not None and math.isfinite(ours.value):
            difference = ours.value - target.published
            difference = difference / abs(target.published) if target.published else difference
        agrees = None if target.refit is None else within(ours.value, target.refit, target.refit_tolerance)
        rows.append(
            Row(
                study=name,
                quantity=target.quantity,
                published=target.published,
                ours=ours.value,
                difference=difference,
                verdict=judge(target, ours),
                note=ours.flaw,
                source=target.source,
                refit=target.refit,
                refit_agrees=agrees,
            )
        )
    return rows


def table(source: str, published: Mapping[str, float | None], tolerance: float, **other: float | bool) -> list[Target]:
    """Targets that share a source and a tolerance."""
    return [Target(name, value, tolerance, source, **other) for name, value in published.items()]  # type: ignore[arg-type]
