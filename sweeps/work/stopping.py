"""Which runs need not be trained to their end, by their loss curves so far. Off unless a launch asks for it.

A run is dominated when its forecast (sweeps/work/curves.py) lies above that of the best run that differs from it in options
of the optimizer and the schedule only, intervals included. Such runs answer "which learning rate is best"; runs of
other sizes, lengths, data or seeds are never compared. A stopped run stays in the grid with `censored` = 1.
"""

from collections.abc import Collection, Sequence
import dataclasses
import time

from experiments.alive import stops
from experiments.alive.stops import Stop
from experiments.run import identity, schema
from sweeps.work import curves
from sweeps.work.curves import Curve
from sweeps.work.workdir import Node, Workdir

LOOK_SECONDS = 5.0
SHARE = 0.2  # of a run's steps, before it is judged
MARGIN = 0.01  # nats: closer than this to the best is not dominated


def rivals(run: schema.Run) -> str:
    """Return a text that is equal for runs that differ in options of the optimizer and the schedule only."""
    default = schema.Run(run.family, run.model)
    without_optimizer = dataclasses.replace(run, opt=default.opt, schedule=default.schedule)
    return identity.fingerprint(without_optimizer, (str(run.data),))


class Stopping:
    """Looks at the runs of a study now and then and asks workers to end what need not go on."""

    def __init__(self, workdir: Workdir, nodes: Sequence[Node], dominated: bool, diverging: bool):
        """Judge the runs of `nodes`: stop those that are `dominated`, those that are `diverging`, or both."""
        self.workdir = workdir
        self.dominated = dominated
        self.diverging = diverging
        self.groups: dict[str, list[Node]] = {}
        for node in nodes:
            self.groups.setdefault(rivals(node.run), []).append(node)
        self.needed = {node.run.parent for node in nodes}  # a parent is trained to its end
        self._asked: set[str] = set()
        self._looked_at = 0.0  # on the monotonic clock

    def look(self, running: Collection[Node]) -> None:
        """Judge the runs that are being trained here; ask those to end that need not go on."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        seen = _Curves(self.workdir)
        for node in running:
            if node.fingerprint in self._asked or node.fingerprint in self.needed:
                continue
            curve = seen.of(node)
            if not SHARE * node.run.steps <= curve.last < node.run.steps:
                continue
            stop = self._judge(node, seen)
            if stop is not None:
                stops.ask(self.workdir.run_dir(node.fingerprint), stop)
                self._asked.add(node.fingerprint)

    def _judge(self, node: Node, seen: "_Curves") -> Stop | None:
        """Return the request to end a run, if there is a reason."""
        curve = seen.of(node)
        if self.diverging:
            why = curves.diverging(curve)
            if why:
                return Stop("diverged", f"stopped at about step {curve.last}: {why}")
        if self.dominated:
            why = self._dominated(node, seen)
            if why:
                return Stop("complete", f"stopped at about step {curve.last}: {why}")
        return None

    def _dominated(self, node: Node, seen: "_Curves") -> str | None:
        """Return why one of its rivals is better than a run can become; None when none is known to be."""
        others = [other for other in self.groups[rivals(node.run)] if other.fingerprint != node.fingerprint]
        if not others:
            return None
        curve = seen.of(node)
        mine = curves.forecast(curve, node.run.steps)
        if mine is None:
            return None
        for other in others:
            why = _beaten(mine, curve.last, seen.of(other))
            if why:
                return f"{why} of {other.name}"
        return None


class _Curves:
    """The curves of one look at the workdir, each read once."""

    def __init__(self, workdir: Workdir):
        self._workdir = workdir
        self._read: dict[str, Curve] = {}

    def of(self, node: Node) -> Curve:
        """Return the curve of a run."""
        if node.fingerprint not in self._read:
            self._read[node.fingerprint] = self._workdir.curve(node.fingerprint)
        return self._read[node.fingerprint]


def _beaten(mine: curves.Forecast, until: float, other: Curve) -> str | None:
    """Return why the run whose forecast is `mine`, made from its steps up to `until`, cannot become better than the other."""
    if other.last >= mine.step:  # the other is over: what it made of its own forecast corrects ours
        shift = curves.shift(other, until, mine.step)
        end = curves.level_of(other, mine.step)
        if shift is None or end is None:
            return None
        corrected = mine.low + shift
        if corrected <= end + MARGIN:
            return None
        return f"its loss would end at {corrected:.3f} or more, above {end:.3f}, that"
    if other.last < SHARE * mine.step:
        return None
    theirs = curves.forecast(other, mine.step)
    if theirs is None or mine.low <= theirs.high + MARGIN:
        return None
    return f"its loss is expected at {mine.low:.3f} or more, above {theirs.high:.3f}, the most expected"
