"""Compare families at equal accelerator hours, as Languini does (Stanic et al. 2023, arXiv 2309.11197)."""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.laws.one_quantity import Plateau
from analysis.questions import fit as fitting
from analysis.questions.exchange import POINTS, Crossing, turn
from analysis.trust.bootstrap import row_counts
from experiments.cli import InputError

Runs = Mapping[str, tuple[Array, Array]]  # family -> hours and losses of its runs


@dataclasses.dataclass(frozen=True)
class HoursClass:
    """Families at equal accelerator hours: their losses, the best one, and in what share of replicates it is that."""

    hours: float
    losses: dict[str, float]
    winner: str
    share: float


@dataclasses.dataclass(frozen=True)
class EqualHours:
    """A comparison at equal accelerator hours: per class of hours, and where pairs of families turn over."""

    method: str
    classes: tuple[HoursClass, ...]
    crossings: dict[str, Crossing]
    notes: tuple[str, ...] = ()


def loss_at_hours(hours: Array, loss: Array, at: Array, method: str = "isotonic") -> Array:
    """Return the best loss that runs of one family [runs] reach within `at` hours [points].

    isotonic: the best run so far, straight in ln hours between those that improve on it; NaN before the first run and
    after the last. power: E + K hours^-gamma through those runs (at least 4), and so beyond them too.
    """
    order = np.lexsort((loss, hours))
    hours = np.asarray(hours, dtype=np.float64)[order]
    loss = np.asarray(loss, dtype=np.float64)[order]
    least_so_far = np.minimum.accumulate(loss)
    improves = np.r_[True, loss[1:] < least_so_far[:-1]]
    front = hours[improves]
    least = loss[improves]
    if method == "isotonic":
        is_inside = (at >= hours[0]) & (at <= hours[-1])
        interpolated = np.interp(np.log(at), np.log(front), least)
        return np.where(is_inside, interpolated, np.nan)
    if method != "power":
        raise InputError(f"--hours_method: {method!r} is not a method; expected isotonic or power")
    values = {"X": front, "loss": least}
    columns = Columns(values, np.arange(len(front)), {}, ())
    result = fitting.fit(columns, Plateau, FitSpec(bootstrap=0))
    predicted = result.law.predict(at)
    return np.asarray(predicted, dtype=np.float64)


def equal_hours(
    runs: Runs,
    classes: Sequence[float] | None = None,
    *,
    method: str = "isotonic",
    baseline: str | None = None,
    draws: int = 1000,
    seed: int = 42,
    level: float = 0.9,
) -> EqualHours:
    """Compare families by what an hour of the accelerator buys.

    runs: per family its accelerator hours and losses [runs]. classes: hours to compare at; by default doublings over
    what all families cover. Raises InputError where the families' hours do not overlap.
    """
    low, high = _overlap(runs)
    at = _classes(low, high, classes)
    # The first points are the classes, the rest a fine grid in which crossings are looked for.
    grid = np.geomspace(low, high, POINTS)
    points = np.r_[at, grid]
    losses = np.array([loss_at_hours(hours, loss, points, method) for hours, loss in runs.values()])
    replicates = _resampled(runs, points, draws, seed)
    names = list(runs)
    found = []
    for place, hours in enumerate(at):
        losses_there = losses[:, place]
        replicates_there = replicates[:, :, place]
        if np.isfinite(losses_there).any():
            found.append(_class(float(hours), losses_there, replicates_there, names))
    notes = ("shares and intervals are those of the isotonic curves",) if method == "power" else ()
    first = baseline if baseline is not None and baseline in runs else names[0]
    losses_on_grid = losses[:, len(at) :]
    replicates_on_grid = replicates[:, :, len(at) :]
    crossings = _crossings(grid, losses_on_grid, replicates_on_grid, names, first, level)
    return EqualHours(method, tuple(found), crossings, notes)


def _overlap(runs: Runs) -> tuple[float, float]:
    """Return the hours that all families cover. Raises InputError where there are none."""
    low = max(float(hours.min()) for hours, _ in runs.values())
    high = min(float(hours.max()) for hours, _ in runs.values())
    if not 0 < low < high:
        spans = ", ".join(f"{name} {hours.min():.3g} to {hours.max():.3g}" for name, (hours, _) in runs.items())
        raise InputError(f"hours: the families' accelerator hours do not overlap ({spans})")
    return low, high


def _classes(low: float, high: float, classes: Sequence[float] | None) -> Array:
    """Return the hours to compare at: those given, or doublings."""
    if classes is None:
        doublings = np.arange(0, np.log2(high / low) + 1e-9)
        return low * 2.0**doublings
    at = np.asarray(classes, dtype=np.float64)
    is_number = (at > 0) & np.isfinite(at)
    if not is_number.all():
        raise InputError("hours: classes must be positive numbers")
    return at


def _crossings(
    hours: Array, losses: Array, replicates: Array, names: list[str], first: str, level: float
) -> dict[str, Crossing]:
    """Find where each family turns over against the first; losses [families, points], replicates [.., families, points]."""
    k = names.index(first)
    found = {}
    for i, name in enumerate(names):
        if name == first:
            continue
        found[f"{name} against {first}"] = turn(
            x=hours,
            point=np.log(losses[i] / losses[k]),
            draws=np.log(replicates[:, i] / replicates[:, k]),
            names=(name, first),
            end=float(hours[-1]),
            level=level,
        )
    return found


def _resampled(runs: Runs, at: Array, draws: int, seed: int) -> Array:
    """Return losses at hours [points] of every family, with its runs drawn again: [replicates, families, points]."""
    stream = np.random.default_rng(seed)
    found = np.full((draws, len(runs), len(at)), np.nan)
    for family, (hours, loss) in enumerate(runs.values()):
        own_seed = int(stream.integers(2**31))
        counts = row_counts(len(hours), draws, own_seed, None, 2)
        for replicate, count in enumerate(counts):
            is_drawn = count > 0
            drawn_hours = hours[is_drawn]
            drawn_loss = loss[is_drawn]
            # A resampled family has a smaller range; its best run keeps counting past its end.
            within = np.clip(at, drawn_hours.min(), drawn_hours.max())
            found[replicate, family] = loss_at_hours(drawn_hours, drawn_loss, within)
    return found


def _class(hours: float, losses: Array, replicates: Array, names: list[str]) -> HoursClass:
    """Return one class of hours: losses [families] and their replicates [replicates, families]."""
    best = int(np.nanargmin(losses))
    is_known = np.isfinite(replicates).all(axis=1)
    known = replicates[is_known]
    share = float("nan")
    if len(known):
        winners = known.argmin(axis=1)
        share = float((winners == best).mean())
    named = {}
    for name, loss in zip(names, losses, strict=True):
        if np.isfinite(loss):
            named[name] = float(loss)
    return HoursClass(hours, named, names[best], share)
