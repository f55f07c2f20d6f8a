"""Populations that wait: for the parents of their runs, for a delay to pass, and then in line for a worker.

Nothing is looked through twice: a population hears of it when a parent of its runs has a fate, and the line is a heap.
"""

import collections
import dataclasses
import heapq
import itertools
import time

from sweeps.work.populations import Population
from sweeps.work.runs import Runs, Stage

TO_START = (Stage.READY, Stage.RETRY)
Spent = collections.Counter[str]  # ends without a record so far, by class of failure


@dataclasses.dataclass
class Task:
    """A population that waits for a worker, and how often its runs have ended without a record so far."""

    population: Population
    spent: Spent = dataclasses.field(default_factory=collections.Counter)
    not_before: float = 0.0  # on the monotonic clock
    place: int = 0  # in line: the lowest comes first
    parents: set[str] = dataclasses.field(default_factory=set)  # that have no fate yet


class Line:
    """The tasks of a launch that no worker is at."""

    def __init__(self, runs: Runs):
        self._runs = runs
        self._by_parent: dict[str, list[Task]] = {}
        self._delayed: list[Task] = []
        self._ready: list[tuple[int, Task]] = []  # a heap; no two tasks have one place
        self._places = itertools.count()
        self._places_in_front = itertools.count(-1, -1)

    def add(self, task: Task, in_front: bool = False) -> None:
        """Have a task wait for whatever it has to wait for."""
        task.place = next(self._places_in_front if in_front else self._places)
        task.parents = self._runs.undecided_parents(task.population.nodes)
        for parent in task.parents:
            self._by_parent.setdefault(parent, []).append(task)
        if task.parents:
            return
        if task.not_before > time.monotonic():  # its runs have been tried, so that it waits for no parent
            self._delayed.append(task)
        else:
            self._make_ready(task)

    def _make_ready(self, task: Task) -> None:
        """Put a task that has nothing but a worker to wait for in line."""
        waiting = [node for node in task.population.nodes if self._runs.stage(node) is Stage.WAITING]
        self._runs.move(waiting, Stage.READY)
        heapq.heappush(self._ready, (task.place, task))

    def parent_decided(self, parent: str) -> None:
        """Let those tasks go on that have waited for a parent, and for no other any more."""
        for task in self._by_parent.pop(parent, []):
            task.parents.discard(parent)
            if not task.parents:
                self._make_ready(task)

    def next(self) -> Task | None:
        """Take the first task out of the line, with those of its runs that are still to be trained; None: none is ready."""
        self._end_delays()
        while self._ready:
            _, task = heapq.heappop(self._ready)
            nodes = [node for node in task.population.nodes if self._runs.stage(node) in TO_START]
            if nodes:
                task.population = task.population.of(nodes)
                return task
        return None

    def _end_delays(self) -> None:
        """Put those in line whose delay is over."""
        if self._delayed:
            now = time.monotonic()
            over = [task for task in self._delayed if task.not_before <= now]
            self._delayed = [task for task in self._delayed if task.not_before > now]
            for task in over:
                self._make_ready(task)
