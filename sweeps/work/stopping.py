"""Which runs need not be trained to their end, by their loss curves so far. Off unless a launch asks for it.

A run is dominated when its forecast (sweeps/work/curves.py) lies above that of the best run that differs from it in options
of the optimizer and the schedule only, intervals included. Such runs answer "which learning rate is best"; runs of
other sizes, lengths, data or seeds are never compared. A stopped run stays in the grid with `censored` = 1.
"""

from collections.abc import Collection, Sequence
import dataclasses
import time

from experiments import files
from experiments.alive import stops
from experiments.alive.stops import Stop
from experiments.run import identity, schema
from sweeps.work import curves
from sweeps.work.workdir import Node, Workdir

LOOK_SECONDS = 5.0
SHARE = 0.2  # of a run's steps, before it is judged
LARGEST = 1e18  # of a loss that says anything
MARGIN = 0.01  # nats: closer than this to the best is not dominated


@dataclasses.dataclass(frozen=True)
class Curve:
    """The training loss of a run so far, from its metrics log."""

    steps: list[int]
    losses: list[float]

    @property
    def last(self) -> int:
        """The newest step."""
        return self.steps[-1] if self.steps else 0


def read(store: Workdir, fingerprint: str) -> Curve:
    """The curve of a run; empty when it has none."""
    rows = files.read_lines(store.run_dir(fingerprint) / "metrics.jsonl")
    rows = [row for row in rows if isinstance(row.get("step"), int) and "loss" in row]
    losses = [x if isinstance(x := row["loss"], int | float) and abs(x) < LARGEST else float("nan") for row in rows]
    return Curve([row["step"] for row in rows], losses)


def rivals(run: schema.Run) -> str:
    """Equal for runs that differ in options of the optimizer and the schedule only."""
    plain = schema.Run(run.family, run.model)
    return identity.fingerprint(dataclasses.replace(run, opt=plain.opt, schedule=plain.schedule), (str(run.data),))


class Stopping:
    """Looks at the runs of a study now and then and asks workers to end what need not go on."""

    def __init__(self, store: Workdir, nodes: Sequence[Node], dominated: bool, diverging: bool):
        self.store, self.dominated, self.diverging = store, dominated, diverging
        self.groups: dict[str, list[Node]] = {}
        for node in nodes:
            self.groups.setdefault(rivals(node.run), []).append(node)
        self.needed = {node.run.parent for node in nodes}  # a parent is trained to its end
        self._asked: set[str] = set()
        self._at = 0.0

    def look(self, running: Collection[Node]) -> None:
        """Ask what needs to be asked of the runs that are being trained here."""
        if time.monotonic() - self._at < LOOK_SECONDS:
            return
        self._at = time.monotonic()
        known: dict[str, Curve] = {}
        for node in running:
            if node.fingerprint in self._asked or node.fingerprint in self.needed:
                continue
            curve = known.setdefault(node.fingerprint, read(self.store, node.fingerprint))
            if not SHARE * node.run.steps <= curve.last < node.run.steps:
                continue
            if stop := self._judge(node, curve, known):
                stops.ask(self.store.run_dir(node.fingerprint), stop)
                self._asked.add(node.fingerprint)

    def _judge(self, node: Node, curve: Curve, known: dict[str, Curve]) -> Stop | None:
        if self.diverging and (why := curves.diverging(curve.steps, curve.losses)):
            return Stop("diverged", f"stopped at about step {curve.last}: {why}")
        others = [other for other in self.groups[rivals(node.run)] if other.fingerprint != node.fingerprint]
        if not self.dominated or not others:
            return None
        mine = curves.forecast(curve.steps, curve.losses, node.run.steps)
        if mine is None:
            return None
        for other in others:
            if other.fingerprint not in known:
                known[other.fingerprint] = read(self.store, other.fingerprint)
            if why := _beaten(mine, curve.last, known[other.fingerprint]):
                return Stop("complete", f"stopped at about step {curve.last}: {why} of {other.name}")
        return None


def _beaten(mine: curves.Forecast, until: int, other: Curve) -> str | None:
    """Why the run whose forecast is `mine`, made from its steps up to `until`, cannot become better than the other."""
    if other.last >= mine.step:  # the other is over: what it made of its own forecast corrects ours
        shift = curves.shift(other.steps, other.losses, until, mine.step)
        end = curves.level_of(other.steps, other.losses, mine.step)
        if shift is None or end is None or mine.low + shift <= end + MARGIN:
            return None
        return f"its loss would end at {mine.low + shift:.3f} or more, above {end:.3f}, that"
    theirs = curves.forecast(other.steps, other.losses, mine.step) if other.last >= SHARE * mine.step else None
    if theirs is None or mine.low <= theirs.high + MARGIN:
        return None
    return f"its loss is expected at {mine.low:.3f} or more, above {theirs.high:.3f}, the most expected"
