"""Runs, parents, signatures -> populations in a workable order.

Runs of one signature can train as one program. How many programs they are split into is a matter of time only: a
split costs another process start and lets another worker help. Nothing here touches files.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import heapq
import math

from experiments.run import identity
from experiments.run.schema import Execution
from experiments.store.record import ledger
from models.errors import InputError
from sweeps.cost.guess import step_bytes
from sweeps.work.workdir import Node

# What a worker costs on a CPU besides its steps, and how fast its steps are; measured on two shared cores with models
# of 5 thousand to 1 million parameters. Only the order and the balance of populations depend on it.
START_SECONDS = 12.0
STEP_SECONDS = 8e-4
FLOPS_PER_SECOND = 5e10
STATE_SHARE = 0.3  # of a worker's memory, for the states of its runs
WORKER_MEMORY = 16 << 30  # bytes, of a worker of which nobody says; out of memory, a population is halved
WORTHWHILE = 0.98  # a split is kept when the whole study takes at most this share of the time before it


@dataclasses.dataclass(frozen=True)
class Population:
    """Runs of one signature that one worker trains. `level` is 0 when none of them has a parent in the study."""

    nodes: tuple[Node, ...]
    level: int = 0

    @property
    def name(self) -> str:
        """An id that follows from the runs."""
        fingerprints = sorted(node.fingerprint for node in self.nodes)
        return hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()[:12]

    @functools.cached_property
    def seconds(self) -> float:
        """Estimate of what it takes on one core."""
        return START_SECONDS + sum(map(estimate, self.nodes))

    @functools.cached_property
    def steps(self) -> int:
        """Optimizer steps of all runs."""
        return sum(node.run.steps for node in self.nodes)

    @functools.cached_property
    def flops_per_step(self) -> float:
        """Training FLOPs of one step of one run."""
        run = self.nodes[0].run
        return ledger(run)["flops_per_token"] * run.batch_tokens

    def of(self, nodes: Iterable[Node]) -> "Population":
        """Return the population of some of its runs."""
        return dataclasses.replace(self, nodes=tuple(nodes))


def each_alone(nodes: Iterable[Node]) -> list[Population]:
    """Return a population for each run."""
    return [Population((node,)) for node in nodes]


def worker_input(population: Population, **options: object) -> dict[str, object]:
    """Return what a worker of the population is given (experiments/train.py).

    `options` are those of the execution, for what the study leaves open.
    """
    nodes = population.nodes
    execution = dataclasses.asdict(nodes[0].execution)
    for name, value in options.items():
        if execution[name] is None:
            execution[name] = value
    return {
        "schema": 1,
        "runs": [identity.to_dict(node.run) for node in nodes],
        "fingerprints": [node.fingerprint for node in nodes],
        "execution": execution,
    }


def estimate(node: Node) -> float:
    """Estimate the seconds of one run's steps on one core, roughly."""
    flops = ledger(node.run)["flops_total"]
    return node.run.steps * STEP_SECONDS + flops / FLOPS_PER_SECOND


def levels(nodes: Sequence[Node], known: Callable[[str], bool]) -> dict[str, int]:
    """Count the ancestors within the study that each run waits for, by fingerprint.

    `known`: whether a run outside of the study has been trained. Raises InputError for a parent that nobody trains, and
    for a circle.
    """
    by_name = {node.fingerprint: node for node in nodes}
    level: dict[str, int] = {}
    for node in nodes:
        # Walk up to the first ancestor whose level is known, or that has none; then number the way back.
        line: list[Node] = []
        at: Node | None = node
        while at is not None and at.fingerprint not in level:
            if at.fingerprint in [one.fingerprint for one in line]:
                circle = " -> ".join(one.fingerprint for one in line)
                raise InputError(f"{node.name}: its parents form a circle: {circle}")
            line.append(at)
            at = _parent_within(at, by_name, known)
        below = 0 if at is None else level[at.fingerprint] + 1
        for depth, one in enumerate(reversed(line)):
            level[one.fingerprint] = below + depth
    return level


def _parent_within(node: Node, by_name: Mapping[str, Node], known: Callable[[str], bool]) -> Node | None:
    """Return the parent of a run where it is in the study; None for no parent, and for one that is trained already."""
    parent = node.run.parent
    if parent is None:
        return None
    if parent in by_name:
        return by_name[parent]
    if not known(parent):
        raise InputError(f"{node.name}: parent={parent} is neither in the study nor trained in this workdir")
    return None


def arrange(
    nodes: Sequence[Node],
    slots: int,
    known: Callable[[str], bool],
    memory: int | None = None,
    together: Mapping[str, int] | None = None,
) -> list[Population]:
    """Arrange runs as populations for `slots` workers at a time: parents first, then the longest first.

    Splits a signature where that makes the whole study end earlier, and where the states of its runs would not fit:
    more runs than `together` has for it (from a plan), or else than the `memory` of one worker (bytes) can hold.
    """
    most_together = together or {}
    state_bytes = STATE_SHARE * (memory or WORKER_MEMORY)
    by_level: dict[int, list[Population]] = {}
    for program, members in _by_program(nodes, known).items():
        most = most_together.get(program.signature) or _most_in_memory(members[0], state_bytes)
        for piece in _pieces(members, most):
            by_level.setdefault(program.level, []).append(Population(tuple(piece), program.level))
    arranged = []
    for level in sorted(by_level):
        balanced = balance(by_level[level], slots)
        arranged += sorted(balanced, key=lambda population: -population.seconds)
    return arranged


@dataclasses.dataclass(frozen=True)
class _Program:
    """What runs have in common that may train as one program."""

    level: int
    signature: str
    execution: Execution


def _by_program(nodes: Sequence[Node], known: Callable[[str], bool]) -> dict[_Program, list[Node]]:
    """Group runs by the program that can train them."""
    level = levels(nodes, known)
    groups: dict[_Program, list[Node]] = {}
    for node in nodes:
        program = _Program(level[node.fingerprint], identity.signature(node.run), node.execution)
        groups.setdefault(program, []).append(node)
    return groups


def _most_in_memory(node: Node, limit: float) -> int:
    """Return how many runs like this one have states of at most `limit` bytes together; one at least."""
    of_parameter = step_bytes(node.run)
    of_run = of_parameter * ledger(node.run)["params_total"]
    return max(1, int(limit // of_run))


def _pieces(members: Sequence[Node], most: int) -> list[list[Node]]:
    """Deal runs out to as few pieces of at most `most` as there can be, long and short ones to each."""
    number = math.ceil(len(members) / most)
    longest_first = sorted(members, key=estimate, reverse=True)
    return [longest_first[index::number] for index in range(number)]


def makespan(populations: Iterable[Population], slots: int) -> float:
    """Return the seconds until the last of `slots` workers is done, when each takes the longest population that is left."""
    ends = [0.0] * slots  # a heap: the worker that is free first comes first
    longest_first = sorted((population.seconds for population in populations), reverse=True)
    for seconds in longest_first:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def halves(whole: Population) -> list[Population]:
    """Split a population in two of about equal length: longest run first, onto the shorter half."""
    sides: tuple[list[Node], list[Node]] = ([], [])
    seconds = [0.0, 0.0]
    for node in sorted(whole.nodes, key=estimate, reverse=True):
        shorter = 1 if seconds[1] < seconds[0] else 0
        sides[shorter].append(node)
        seconds[shorter] += estimate(node)
    return [whole.of(side) for side in sides]


def balance(populations: Sequence[Population], slots: int) -> list[Population]:
    """Split the longest population again and again; keep the stage at which the whole is expected to end first."""
    stage = list(populations)
    best = list(populations)
    shortest = makespan(best, slots)
    for _ in range(4 * slots):
        divisible = [population for population in stage if len(population.nodes) > 1]
        if not divisible:
            break
        longest = max(divisible, key=lambda population: population.seconds)
        stage.remove(longest)
        stage += halves(longest)
        span = makespan(stage, slots)
        if span < WORTHWHILE * shortest:
            best = list(stage)
            shortest = span
    return best
