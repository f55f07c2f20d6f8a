"""Which of several runs that differ in the optimizer's options only cannot become the best. Pure arithmetic on curves.

A run is dominated by a rival when even the lowest end that its forecast allows lies above the rival's. Runs are compared
at the same step, and only where the rest of the schedule cannot turn the order round:

- a rival that is over has shown what its decay was worth: how far it ended below what a power law promised. The decay of a
  run with a larger learning rate may be worth more, in proportion (the noise that it takes away grows with the rate: Tissue
  et al. 2024; Schaipp et al. 2025), and then all that the rival fell since that step is taken for its decay's; where other
  options differ, nobody knows, and twice as much is allowed for;
- a rival that is still under way decides only over runs whose decay is worth no more than its own: of no larger rate and
  else the same optimizer, or of a schedule without decay.

A rival that diverged, failed or was stopped itself decides nothing. Since a run is only dominated by a better one, the best
of those that are under way is never dominated by one of them.
"""

from collections.abc import Iterable
import dataclasses

from sweeps.work import curves
from sweeps.work.curves import Curve

SHARE = 0.2  # of a run's steps, before it is judged or decides over others
LATEST = 0.8  # of a run's steps, after which it is not stopped any more: little is left to save, and its decay goes on
MARGIN = 0.01  # nats: closer than this to the best is not dominated
DOUBT = 2.0  # so many times what a rival's decay was worth, that of an optimizer with other options may be


@dataclasses.dataclass(frozen=True)
class Rival:
    """A run of a group: same model, tokens, data, seed and schedule."""

    key: str  # tells it from the others
    name: str  # for a reader
    curve: Curve  # so far
    steps: int  # of the whole run
    rate: float  # opt.lr
    other_options: str  # a text that is equal where all other options of the optimizer are
    decays: bool  # whether the schedule ends below its peak
    over: bool = False  # trained to its end
    alive: bool = True  # neither diverged nor failed nor stopped


@dataclasses.dataclass(frozen=True)
class Domination:
    """Which rival is better than a run can become, and why that is so."""

    by: Rival
    why: str


def dominated(run: Rival, group: Iterable[Rival]) -> Domination | None:
    """Return what dominates a run; None where nothing is known to. `group`: its rivals, itself or not."""
    if run.over or not SHARE * run.steps <= run.curve.last <= LATEST * run.steps:
        return None
    mine = curves.forecast_from(run.curve, run.curve.last, run.steps)
    if mine is None:
        return None
    for other in group:
        if other.key == run.key or not other.alive:
            continue
        why = _beaten_by_whole(run, mine, other) if other.over else _beaten_by_part(run, other)
        if why:
            return Domination(other, f"{why} of {other.name}")
    return None


def _beaten_by_whole(run: Rival, mine: curves.Forecast, other: Rival) -> str | None:
    """Return why a run cannot become better than a rival that is over."""
    end = curves.level_of(other.curve, run.steps)
    mine_low = _lowest(mine, run.curve, run.curve.last)
    if end is None or mine_low <= end + MARGIN:  # before the dear part
        return None
    most = _most_gain(run, other)
    if most > 1.0:
        level = curves.level_of(other.curve, run.curve.last)
        gain = None if level is None else level - end
    else:
        gain = curves.gain(other.curve, run.curve.last, run.steps)
    if gain is None:
        return None
    lowest = mine_low - max(0.0, gain) * most
    if lowest <= end + MARGIN:
        return None
    return f"its loss would end at {lowest:.3f} or more, above {end:.3f}, that"


def _beaten_by_part(run: Rival, other: Rival) -> str | None:
    """Return why a run cannot become better than a rival that is under way too: by what both were at the same step."""
    if run.decays and _most_gain(run, other) > 1.0:
        return None
    both = min(run.curve.last, other.curve.last)
    if both < SHARE * run.steps or not _is_ahead(other.curve, run.curve, both):
        return None
    mine = curves.forecast_from(run.curve, both, run.steps)
    theirs = curves.forecast_from(other.curve, both, run.steps)
    if mine is None or theirs is None:
        return None
    mine_low = _lowest(mine, run.curve, both)
    if mine_low <= theirs.high + MARGIN:
        return None
    return f"its loss is expected at {mine_low:.3f} or more, above {theirs.high:.3f}, the most expected"


def _lowest(found: curves.Forecast, curve: Curve, until: float) -> float:
    """Return the lowest end that a forecast allows; where the curve lies lower already, as in a decay, its level."""
    level = curves.recent_level(curve, until)
    return found.low if level is None else min(found.low, level)


def _is_ahead(one: Curve, other: Curve, step: float) -> bool:
    """Whether the first of two curves lies below the second around a step."""
    first = curves.level_of(one, step)
    second = curves.level_of(other, step)
    return first is not None and second is not None and first < second


def _most_gain(run: Rival, other: Rival) -> float:
    """Return what a run's decay may be worth at most, in units of what the other's is."""
    ratio = max(1.0, run.rate / other.rate) if other.rate > 0 else float("inf")
    return ratio if run.other_options == other.other_options else DOUBT * ratio
