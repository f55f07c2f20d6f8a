"""Where each run of a launch stands, and what has become of it: one table, moved along arrows that are written down.

    waiting -> ready -> running -> done
                |          |-> retry -> running …
                |-> elsewhere -> ready, done
    waiting, retry -> failing -> done

A run's fate is its final status. It follows from the run's own attempts and the fates of its parents, never from the order
in which things happen: a parent that is to be trained again, or that another launcher is at, has no fate yet, whatever an
older record says.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import enum

from sweeps.work.workdir import Node, State


class Stage(enum.Enum):
    """Where a run stands in this launch."""

    WAITING = "its parent has no fate yet"
    READY = "for the first worker that is free"
    RUNNING = "a worker of this launch is at it"
    RETRY = "to be trained again, or further"
    ELSEWHERE = "another launcher is at it"
    FAILING = "given up; its record is still to be written"
    DONE = "it has its fate"


ARROWS = {
    Stage.WAITING: {Stage.READY, Stage.FAILING},
    Stage.READY: {Stage.RUNNING, Stage.ELSEWHERE, Stage.DONE},
    Stage.RUNNING: {Stage.RETRY, Stage.DONE},
    Stage.RETRY: {Stage.RUNNING, Stage.ELSEWHERE, Stage.FAILING, Stage.DONE},
    Stage.ELSEWHERE: {Stage.READY, Stage.DONE},
    Stage.FAILING: {Stage.DONE},
    Stage.DONE: set(),
}


@dataclasses.dataclass(frozen=True)
class Fate:
    """What has become of a run in the end. `censored`: it was stopped early."""

    status: str
    censored: bool = False

    @classmethod
    def of(cls, state: State) -> "Fate":
        """Return the fate that a state of the workdir is, once nobody will change it."""
        return cls(state.status, state.censored)

    @property
    def bears_children(self) -> bool:
        """Whether other runs may start from it."""
        return self.status == "complete" and not self.censored

    def __str__(self) -> str:
        return f"{self.status} (stopped early)" if self.censored else self.status


class Runs:
    """The runs that a launch is to train, and the fates of these and of their parents."""

    def __init__(self, nodes: Iterable[Node]):
        self.nodes = {node.fingerprint: node for node in nodes}
        self.done = 0
        self._stages = dict.fromkeys(self.nodes, Stage.WAITING)
        self._fates: dict[str, Fate] = {}
        self._children: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            if node.run.parent:
                self._children.setdefault(node.run.parent, []).append(node)

    @property
    def left(self) -> int:
        """Runs that have no fate yet."""
        return len(self.nodes) - self.done

    def stage(self, node: Node) -> Stage:
        """Return where a run stands."""
        return self._stages[node.fingerprint]

    def move(self, nodes: Iterable[Node], stage: Stage) -> None:
        """Move runs on to another stage."""
        for node in nodes:
            before = self._stages[node.fingerprint]
            assert stage in ARROWS[before], f"{node.name}: from {before.name} to {stage.name}"
            self._stages[node.fingerprint] = stage

    def fate(self, fingerprint: str | None) -> Fate | None:
        """Return the fate of a run, or of a parent outside of this launch; None while it has none."""
        return self._fates.get(fingerprint) if fingerprint else None

    def decide(self, fingerprint: str, fate: Fate) -> Sequence[Node]:
        """Note the fate of a run, or of a parent outside of this launch; return the children that wait for it."""
        if fingerprint in self.nodes:
            self.move([self.nodes[fingerprint]], Stage.DONE)
            self.done += 1
        self._fates[fingerprint] = fate
        children = self._children.get(fingerprint, [])
        return [child for child in children if self.stage(child) is Stage.WAITING]

    def undecided_parents(self, nodes: Iterable[Node]) -> set[str]:
        """Return the parents of runs that have no fate yet."""
        parents = {node.run.parent for node in nodes if node.run.parent}
        return parents - self._fates.keys()

    def outside_parents(self) -> list[str]:
        """Return the parents that this launch does not train itself."""
        return [parent for parent in self._children if parent not in self.nodes]
