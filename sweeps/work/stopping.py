"""Which runs need not be trained to their end, by their loss curves so far. Off unless a launch asks for it.

A run is dominated when it cannot become better than a rival (sweeps/work/rivals.py): a run that differs from it in options
of the optimizer only. Such runs answer "which learning rate is best"; runs of other sizes, lengths, data, seeds or schedules
are never compared. A stopped run stays in the grid with `censored` = 1.

When a launch has trained what it had to, every run that was stopped is compared with those that were trained to their end.
One that none of them dominates, because the rival that did has diverged since, is trained on (`unjustified`): of each group
in which anything converges, somebody is trained to the end.
"""

from collections.abc import Collection, Sequence
import dataclasses
import math
import os
import time

from experiments.alive import stops
from experiments.alive.stops import Stop
from experiments.run import identity, schema
from sweeps.work import curves, rivals
from sweeps.work.curve_log import CurveLog
from sweeps.work.rivals import Rival
from sweeps.work.workdir import Node, State, Workdir

LOOK_SECONDS = 5.0
REMOTE_SECONDS = 60.0  # between two looks where each file that is looked for is a request to an object store
STOPPED = "stopped at about step"  # how the reason begins of what is stopped here


def group_of(run: schema.Run) -> str:
    """Return a text that is equal for runs that differ in options of the optimizer only."""
    default = schema.Run(run.family, run.model)
    without_optimizer = dataclasses.replace(run, opt=default.opt)
    return identity.fingerprint(without_optimizer, (str(run.data),))


def other_options(run: schema.Run) -> str:
    """Return a text that is equal for runs whose optimizers differ in the learning rate only."""
    return str(dataclasses.replace(run.opt, lr=1.0))


class Stopping:
    """Looks at the runs of a study now and then and asks workers to end what need not go on."""

    def __init__(self, workdir: Workdir, nodes: Sequence[Node], dominated: bool, diverging: bool):
        """Judge the runs of `nodes`: stop those that are `dominated`, those that are `diverging`, or both."""
        self.workdir = workdir
        self.dominated = dominated
        self.diverging = diverging
        self.groups: dict[str, list[Node]] = {}
        self._group: dict[str, str] = {}  # of each run
        for node in nodes:
            name = group_of(node.run)
            self.groups.setdefault(name, []).append(node)
            self._group[node.fingerprint] = name
        self.needed = {node.run.parent for node in nodes}  # a parent is trained to its end
        self._logs: dict[str, CurveLog] = {}
        self._states: dict[str, State] = {}  # of runs that have their record
        self._seconds = REMOTE_SECONDS if "://" in os.fspath(workdir.root) else LOOK_SECONDS
        self._looked_at = float("-inf")  # on the monotonic clock

    def look(self, running: Collection[Node]) -> None:
        """Judge the runs that are being trained here; ask those to end that need not go on."""
        if time.monotonic() - self._looked_at < self._seconds:
            return
        self._looked_at = time.monotonic()
        self.look_at_once(running)

    def look_at_once(self, running: Collection[Node]) -> None:
        """Do what `look` does, however short the last time was ago."""
        by_group: dict[str, list[Node]] = {}
        for node in running:
            by_group.setdefault(self._group[node.fingerprint], []).append(node)
        for name, nodes in by_group.items():
            self._look_at_group(self.groups[name], nodes)

    def _look_at_group(self, group: Sequence[Node], running: Sequence[Node]) -> None:
        """Judge the runs of one group that are being trained here, one after the other: who is stopped decides no more."""
        wanted = group if self.dominated else running
        seen = {node.fingerprint: self.seen(node) for node in wanted}
        for node in running:
            fingerprint = node.fingerprint
            run = seen[fingerprint]
            if fingerprint in self.needed or not run.alive or run.over:
                continue
            everybody = list(seen.values())
            stop = self._judge(run, everybody)
            if stop is None:
                continue
            folder = self.workdir.run_dir(fingerprint)
            stops.ask(folder, stop)
            seen[fingerprint] = dataclasses.replace(run, alive=False)

    def _judge(self, run: Rival, group: Sequence[Rival]) -> Stop | None:
        """Return the request to end a run, if there is a reason."""
        last = run.curve.last
        if not rivals.SHARE * run.steps <= last < run.steps:
            return None
        if self.diverging:
            why = curves.diverging(run.curve)
            if why:
                return Stop("diverged", f"{STOPPED} {last:.0f}: {why}")
        if self.dominated:
            found = rivals.dominated(run, group)
            if found:
                return Stop("complete", f"{STOPPED} {last:.0f}: {found.why}")
        return None

    def seen(self, node: Node) -> Rival:
        """Return a run as it stands now."""
        fingerprint = node.fingerprint
        folder = self.workdir.run_dir(fingerprint)
        state = self._recorded(fingerprint)
        is_whole = state is not None and state.status == "complete" and not state.censored
        curve = self._logs.setdefault(fingerprint, CurveLog(folder)).read()
        under_way = state is None and not (folder / stops.FILE).exists()
        converges = len(curve.losses) == 0 or math.isfinite(curve.losses[-1])
        return Rival(
            key=fingerprint,
            name=node.name,
            curve=curve,
            steps=node.run.steps,
            rate=node.run.opt.lr,
            other_options=other_options(node.run),
            decays=node.run.schedule.name != "constant",
            over=is_whole,
            alive=is_whole or (under_way and converges),
        )

    def _recorded(self, fingerprint: str) -> State | None:
        """Return the state of a run that has its record, which is read once; None of one that has none, or none any more."""
        if not (self.workdir.run_dir(fingerprint) / "record.json").exists():
            self._states.pop(fingerprint, None)
            return None
        if fingerprint not in self._states:
            self._states[fingerprint] = self.workdir.state(fingerprint)
        state = self._states[fingerprint]
        return None if state.damaged else state


def unjustified(workdir: Workdir, nodes: Sequence[Node]) -> list[Node]:
    """Return runs that were stopped as dominated, and that none which was trained to its end dominates now.

    Asked when nothing is left to train. Of a group of which nobody was trained to the end, that is each that was stopped.
    """
    judge = Stopping(workdir, nodes, dominated=True, diverging=False)
    found = []
    for group in judge.groups.values():
        stopped = []
        for node in group:
            state = workdir.state(node.fingerprint)
            if _was_dominated(state):
                stopped.append(node)
        if not stopped:
            continue
        everybody = [judge.seen(node) for node in group]
        whole = [one for one in everybody if one.over]
        for node in stopped:
            run = judge.seen(node)
            if rivals.dominated(run, whole) is None:
                found.append(node)
    return found


def _was_dominated(state: State) -> bool:
    """Whether a run was stopped here as dominated, and not by somebody's own request."""
    return state.censored and state.status == "complete" and (state.reason or "").startswith(STOPPED)
