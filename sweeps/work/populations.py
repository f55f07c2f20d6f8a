"""Runs, parents, signatures -> populations in a workable order.

Runs of one signature can train as one program. How many programs they are split into is a matter of time only: a
split costs another process start and lets another worker help. Nothing here touches files.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import heapq
import os

from experiments.cli import InputError
from experiments.run import identity
from experiments.store.record import ledger
from sweeps.work.workdir import Node

# What a worker costs on a CPU besides its steps, and how fast its steps are; measured on two shared cores with models
# of 5 thousand to 1 million parameters. Only the order and the balance of populations depend on it.
START_SECONDS = 12.0
STEP_SECONDS = 8e-4
FLOPS_PER_SECOND = 5e10
STATE_BYTES = 16  # per parameter: itself, two moments, a gradient, in float32
STATE_SHARE = 0.3  # of the machine's memory, for the states of all populations that run at once


@dataclasses.dataclass(frozen=True)
class Population:
    """Runs of one signature that one worker trains. `level` is 0 when none of them has a parent in the study."""

    nodes: tuple[Node, ...]
    level: int = 0

    @property
    def name(self) -> str:
        """An id that follows from the runs."""
        return hashlib.sha256(" ".join(sorted(n.fingerprint for n in self.nodes)).encode()).hexdigest()[:12]

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


def worker_input(population: Population, **options: object) -> dict[str, object]:
    """What a worker of the population is given (experiments/train.py); `options` of the execution for what is left open."""
    nodes = population.nodes
    execution = dataclasses.asdict(nodes[0].execution)
    return {
        "schema": 1,
        "runs": [identity.to_dict(node.run) for node in nodes],
        "fingerprints": [node.fingerprint for node in nodes],
        "execution": execution | {key: value for key, value in options.items() if execution[key] is None},
    }


def estimate(node: Node) -> float:
    """Seconds of one run's steps on one core, roughly."""
    counts = ledger(node.run)
    return node.run.steps * STEP_SECONDS + counts["flops_total"] / FLOPS_PER_SECOND


def levels(nodes: Sequence[Node], known: Callable[[str], bool]) -> dict[str, int]:
    """How many ancestors within the study each run waits for. `known`: whether a run outside of it has been trained.

    Raises InputError for a parent that nobody trains, and for a circle.
    """
    by_name = {node.fingerprint: node for node in nodes}
    out: dict[str, int] = {}
    for node in nodes:
        chain: list[str] = []
        at = node
        while at.fingerprint not in out:
            if at.fingerprint in chain:
                raise InputError(f"{node.name}: its parents form a circle: {' -> '.join(chain)}")
            chain.append(at.fingerprint)
            parent = at.run.parent
            if parent is None or parent not in by_name:
                if parent is not None and not known(parent):
                    raise InputError(f"{at.name}: parent={parent} is neither in the study nor trained in this workdir")
                out[at.fingerprint] = 0
                chain.pop()
                break
            at = by_name[parent]
        for name in reversed(chain):
            out[name] = out[by_name[name].run.parent or ""] + 1
    return out


def populations(
    nodes: Sequence[Node],
    slots: int,
    known: Callable[[str], bool],
    memory: int | None = None,
    together: Mapping[str, int] | None = None,
) -> list[Population]:
    """Populations for `slots` workers at a time: parents first, then the longest first.

    Splits a signature where that makes the whole study end earlier, and where the states of its runs would not fit:
    more runs than `together` has for it (from a plan), or else than `memory` bytes can hold.
    """
    level = levels(nodes, known)
    groups: dict[object, list[Node]] = {}
    for node in nodes:
        key = (level[node.fingerprint], identity.signature(node.run), node.execution)
        groups.setdefault(key, []).append(node)
    limit = STATE_SHARE * (memory or memory_bytes()) / slots
    pieces: dict[int, list[Population]] = {}
    for (depth, signature, _), members in groups.items():  # type: ignore[misc]  # keys are the triples above
        for piece in _fitting(members, limit, (together or {}).get(signature)):
            pieces.setdefault(depth, []).append(Population(tuple(piece), depth))
    return [p for depth in sorted(pieces) for p in sorted(balance(pieces[depth], slots), key=lambda p: -p.seconds)]


def _fitting(members: list[Node], limit: float, most: int | None = None) -> Iterable[list[Node]]:
    """Runs in pieces of equal number: at most `most`, or whose states take at most `limit` bytes (or one at a time)."""
    each = STATE_BYTES * ledger(members[0].run)["params_total"]
    most = most or max(1, int(limit // each))
    parts = -(-len(members) // most)
    members = sorted(members, key=estimate, reverse=True)
    return [members[i::parts] for i in range(parts)]


def memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def makespan(parts: Iterable[Population], slots: int) -> float:
    """Seconds until the last of `slots` workers is done, when each takes the longest population that is left."""
    ends = [0.0] * slots
    for seconds in sorted((p.seconds for p in parts), reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def halves(whole: Population) -> list[Population]:
    """Two populations of about equal length: longest run first, onto the shorter half."""
    sides: tuple[list[Node], list[Node]] = ([], [])
    load = [0.0, 0.0]
    for node in sorted(whole.nodes, key=estimate, reverse=True):
        side = load[1] < load[0]
        sides[side].append(node)
        load[side] += estimate(node)
    return [Population(tuple(side), whole.level) for side in sides]


def balance(parts: Sequence[Population], slots: int) -> list[Population]:
    """Split the longest population again and again; keep the stage at which the whole is expected to end first."""
    best, shortest = list(parts), makespan(parts, slots)
    at = list(parts)
    for _ in range(4 * slots):
        longest = max((p for p in at if len(p.nodes) > 1), key=lambda p: p.seconds, default=None)
        if longest is None:
            break
        at.remove(longest)
        at += halves(longest)
        span = makespan(at, slots)
        if span < 0.98 * shortest:
            best, shortest = list(at), span
    return best
