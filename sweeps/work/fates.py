"""What becomes of the runs of a launch: fates are noted here, and children of what has failed are given up with it.

A fate comes from a record: of a worker of ours, of another launcher, or of this one, for a run that is given up.
"""

from collections.abc import Mapping

from sweeps.work.display import Display
from sweeps.work.elsewhere import Elsewhere
from sweeps.work.runs import Fate, Runs, Stage
from sweeps.work.waiting import Line
from sweeps.work.workdir import Node, State, Workdir


class Fates:
    """Notes the fates of runs, looks up those that others decide, writes the records of runs that are given up."""

    def __init__(
        self,
        workdir: Workdir,
        display: Display,
        runs: Runs,
        line: Line,
        known: Mapping[str, State],
        retry_failed: bool,
    ):
        """`known`: states of runs that have their record from before; `retry_failed`: a failed one is no fate."""
        self.elsewhere = Elsewhere(workdir)
        self._workdir = workdir
        self._display = display
        self._runs = runs
        self._line = line
        self._known = known
        self._retry_failed = retry_failed
        self._parents = runs.outside_parents()  # whose fates are still to be looked up
        self._given_up: list[tuple[Node, str]] = []  # whose records are still to be written, with the reasons

    def decide(self, fingerprint: str, fate: Fate) -> None:
        """Note the fate of a run: its children may start, or are given up with it."""
        waiting = self._runs.decide(fingerprint, fate)
        if not fate.bears_children:
            for child in waiting:
                self.give_up(child, f"its parent {fingerprint} has status {fate}")
        self._line.parent_decided(fingerprint)

    def give_up(self, node: Node, reason: str) -> None:
        """Give up a run; its record is written when the disk answers."""
        self._display.say(f"{node.name} failed: {reason}")
        self._runs.move([node], Stage.FAILING)
        self._given_up.append((node, reason))

    def write_failures(self) -> None:
        """Write the records of runs that are given up, and of the children that go with them. Raises OSError."""
        while self._given_up:
            node, reason = self._given_up[0]
            state = self._workdir.recorded(node.fingerprint)
            if state is None or not state.final(self._retry_failed):  # else another launcher has brought it to its end
                self._workdir.write_failed(node, reason)
                state = State("failed")
            self.decide(node.fingerprint, Fate.of(state))
            self._given_up.pop(0)

    def look_up_parents(self) -> None:
        """Look up the fates of parents that this launch does not train. Raises OSError."""
        while self._parents:
            parent = self._parents[-1]
            state = self._known.get(parent) or self._workdir.recorded(parent)
            if state is not None:
                self.decide(parent, Fate.of(state))
            else:
                self.elsewhere.add(parent)
            self._parents.pop()

    def look_elsewhere(self) -> list[Node]:
        """Note which runs of other launchers are done; return those of ours that nobody is at any more. Raises OSError."""
        orphans = []
        for fingerprint in self.elsewhere.look():
            state = self._workdir.recorded(fingerprint)
            if state is not None:
                self.decide(fingerprint, Fate.of(state))
            elif fingerprint in self._runs.nodes:
                orphans.append(self._runs.nodes[fingerprint])
            else:
                self.decide(fingerprint, Fate("lost"))
            self.elsewhere.remove(fingerprint)
        self._runs.move(orphans, Stage.READY)
        return orphans
