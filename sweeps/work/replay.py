"""Replay recorded loss curves through early stopping: what would have been stopped, saved, and lost.

Runs of a group train side by side, `slots` at a time and one step at a time each, and are judged as a launch judges them
(sweeps/work/rivals.py). A run whose curve breaks off diverged there; what it had dominated is then trained on, as a launch
does it (sweeps/work/stopping.py).
"""

from collections.abc import Sequence
import dataclasses
import math

from sweeps.work import rivals
from sweeps.work.rivals import Rival

LOOKS = 50  # at a run of a group, from its beginning to its end


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A run whose curve is known to its end. `rival`: with that curve; `loss`: at its end, NaN where it diverged."""

    rival: Rival
    loss: float


@dataclasses.dataclass(frozen=True)
class Replay:
    """What became of one group. Steps are those of all its runs, without stopping and with it."""

    stopped: tuple[str, ...]  # keys of rivals
    winner: str | None  # None where all diverged
    regret: float  # nats by which the best run that was trained to its end lies above the winner
    steps: int
    steps_trained: int

    @property
    def winner_stopped(self) -> bool:
        """Whether the run that would have been the best was not trained to its end."""
        return self.winner in self.stopped


@dataclasses.dataclass
class _Trained:
    """A run while it is replayed."""

    recorded: Recorded
    last: float = 0.0  # step
    stopped: bool = False

    @property
    def length(self) -> float:
        """Return the step at which it ends by itself: its last, or that at which it diverged."""
        rival = self.recorded.rival
        return rival.steps if math.isfinite(self.recorded.loss) else min(rival.curve.last, rival.steps)

    @property
    def ended(self) -> bool:
        return self.last >= self.length

    @property
    def died(self) -> bool:
        return self.ended and not math.isfinite(self.recorded.loss)

    def seen(self) -> Rival:
        """Return it as early stopping sees it now."""
        rival = self.recorded.rival
        alive = not self.stopped and not self.died
        return dataclasses.replace(rival, curve=rival.curve.until(self.last), alive=alive, over=alive and self.ended)


def replay(group: Sequence[Recorded], slots: int) -> Replay:
    """Train the runs of a group, `slots` at a time, in their order, and stop those that are dominated."""
    trained = [_Trained(one) for one in group]
    stride = max(1.0, max(one.rival.steps for one in group) / LOOKS)
    while running := _running(trained, slots) or _revived(trained):
        for one in running:
            one.last = min(one.last + stride, one.length)
        for one in running:
            if not one.ended:
                others = [other.seen() for other in trained]
                one.stopped = rivals.dominated(one.seen(), others) is not None
    return _summary(trained)


def _running(trained: Sequence[_Trained], slots: int) -> list[_Trained]:
    """Return the runs that are being trained: the first that have not come to an end."""
    under_way = [one for one in trained if not one.ended and not one.stopped]
    return under_way[:slots]


def _revived(trained: Sequence[_Trained]) -> list[_Trained]:
    """Let runs go on that were stopped, and that none which was trained to its end dominates; return them."""
    whole = [one.seen() for one in trained if one.ended and not one.died]
    revived = [one for one in trained if one.stopped and rivals.dominated(one.seen(), whole) is None]
    for one in revived:
        one.stopped = False
    return revived


def _summary(trained: Sequence[_Trained]) -> Replay:
    """Return what the replay came to."""
    finite = [one.recorded for one in trained if math.isfinite(one.recorded.loss)]
    whole = [one.recorded for one in trained if not one.stopped and math.isfinite(one.recorded.loss)]
    winner = min(finite, key=_loss, default=None)
    regret = 0.0
    if winner:
        best = min(map(_loss, whole), default=math.inf)
        regret = best - winner.loss
    return Replay(
        stopped=tuple(one.recorded.rival.key for one in trained if one.stopped),
        winner=winner.rival.key if winner else None,
        regret=regret,
        steps=sum(int(one.length) for one in trained),
        steps_trained=sum(int(one.last) for one in trained),
    )


def _loss(one: Recorded) -> float:
    return one.loss
