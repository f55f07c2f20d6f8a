"""Train the runs of a study that have no record yet: from checked points to the scheduler's loop, and what it came to."""

import collections
from collections.abc import Collection, Mapping, Sequence
import contextlib
import dataclasses
from typing import Any

from models.errors import InputError
from models.mesh.mesh import check_devices
from sweeps.executors.support.protocol import Executor
from sweeps.study import file as studies
from sweeps.study.corpora import prepare_corpora
from sweeps.work import populations, retries, stopping
from sweeps.work.display import Display
from sweeps.work.populations import Population
from sweeps.work.scheduler import Scheduler
from sweeps.work.stopping import Stopping
from sweeps.work.workdir import Node, State, Workdir, distinct, identify


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a launch came to: runs by status, whether it was stopped from outside, how many runs it had to train."""

    counts: dict[str, int]
    stopped: bool
    trained: int


@dataclasses.dataclass(frozen=True)
class Policy:
    """What to do about runs that fail, or need not go on."""

    retry_failed: bool = False  # train runs again that are recorded as failed, and finish those that were stopped early
    budgets: Mapping[str, int] = dataclasses.field(default_factory=lambda: retries.BUDGETS)
    stop_dominated: bool = False
    stop_diverging: bool = False
    together: Mapping[str, int] = dataclasses.field(default_factory=dict)  # most runs of a population, by signature


def launch(
    study: studies.Study,
    workdir: Workdir,
    executor: Executor[Any],
    policy: Policy = Policy(),
    progress: bool = True,
) -> Outcome:
    """Train the runs of a study that have no record. Raises InputError, before anything starts, for bad input.

    `progress`: show how far the preparation of corpora is.
    """
    executor.check(workdir.root)
    workdir.root.mkdir(parents=True, exist_ok=True)
    nodes = identify(study, prepare_corpora(study, progress))
    runs = distinct(nodes)
    before = _recorded(workdir, runs)
    # Before anything is written: parents that nobody trains, circles, parents without a checkpoint.
    populations.levels(runs, lambda parent: parent in before and before[parent].status == "complete")
    missing = [node for node in runs if not _is_final(before.get(node.fingerprint), policy.retry_failed)]
    _check_parents(workdir, missing, before)
    _check_meshes(missing, executor)
    workdir.write_study(study, nodes)
    missing += _to_train_on(workdir, runs, policy, missing)
    trained = 0
    stopped = False
    recorded = before
    if missing:
        executor.clear(workdir.root)
    while missing and not stopped:
        trained += len(missing)
        others = _without(recorded, missing)
        stopped = not _train(study.name, workdir, executor, policy, runs, missing, others)
        recorded = others | _recorded(workdir, missing)
        missing = [] if stopped else _to_train_on(workdir, runs, policy)
    with contextlib.suppress(OSError):  # a read-only workdir in which nothing is to be done
        workdir.claims.sweep([node.fingerprint for node in runs if node.fingerprint in recorded])
    statuses = collections.Counter(_status(workdir, node, recorded) for node in runs)
    return Outcome(dict(statuses), stopped, trained)


def _to_train_on(workdir: Workdir, runs: Sequence[Node], policy: Policy, missing: Collection[Node] = ()) -> list[Node]:
    """Set the records aside of runs that were stopped as dominated by what has not converged since; return the runs."""
    if not policy.stop_dominated:
        return []
    known = {node.fingerprint for node in missing}
    again = [node for node in stopping.unjustified(workdir, runs) if node.fingerprint not in known]
    for node in again:
        print(f"{node.name} was stopped early for a run that did not converge: it is trained on")
        workdir.set_aside(node.fingerprint)
    return again


def _recorded(workdir: Workdir, nodes: Sequence[Node]) -> dict[str, State]:
    """Read the records of runs and of their parents, each once; return the states of those that have one.

    What else their records say is not kept. Raises OSError where the disk does not answer.
    """
    fingerprints = {}
    for node in nodes:
        fingerprints[node.fingerprint] = None
        if node.run.parent:
            fingerprints[node.run.parent] = None
    found = {}
    for fingerprint in fingerprints:
        state = workdir.recorded(fingerprint)
        if state is not None:
            found[fingerprint] = dataclasses.replace(state, record={})
    return found


def _without(recorded: Mapping[str, State], nodes: Sequence[Node]) -> dict[str, State]:
    """Return what is recorded of other runs than these, which are about to be trained."""
    fingerprints = {node.fingerprint for node in nodes}
    return {name: state for name, state in recorded.items() if name not in fingerprints}


def _is_final(state: State | None, retry_failed: bool) -> bool:
    return state is not None and state.final(retry_failed)


def _status(workdir: Workdir, node: Node, recorded: Mapping[str, State]) -> str:
    """Return the status of a run: that of its record, or where it stands without one."""
    state = recorded.get(node.fingerprint) or workdir.state(node.fingerprint)
    return state.status


def _check_parents(workdir: Workdir, missing: Sequence[Node], recorded: Mapping[str, State]) -> None:
    """Raise InputError where a run would start from a parent that is complete and has no checkpoint left."""
    parents = {node.run.parent for node in missing if node.run.parent}
    for parent in parents & recorded.keys():
        if recorded[parent].status == "complete" and workdir.newest_step(parent) is None:
            raise InputError(
                f"parent={parent}: {workdir.run_dir(parent)} has no checkpoint left; delete it to train it again"
            )


def _check_meshes(missing: Sequence[Node], executor: Executor[Any]) -> None:
    """Raise InputError, naming the run, for a mesh of more devices than a worker has."""
    for node in missing:
        devices = executor.devices(node.execution)
        if devices is None:
            continue
        try:
            check_devices(node.execution.mesh, devices)
        except InputError as error:
            raise InputError(f"{node.name}: {error}") from None


def _train(
    name: str,
    workdir: Workdir,
    executor: Executor[Any],
    policy: Policy,
    runs: Sequence[Node],
    missing: Sequence[Node],
    recorded: Mapping[str, State],
) -> bool:
    """Train the `missing` ones of a study's runs. False when the launch was stopped from outside.

    `recorded`: states of others that have their record.
    """

    def arranged(nodes: Sequence[Node]) -> list[Population]:
        return populations.arrange(nodes, executor.slots, lambda parent: True, executor.memory, policy.together)

    # How much of the machine a worker has follows from the whole study, not from what is left of it: a batch that
    # is split over more devices sums in another order, and a relaunch shall end in the same bits.
    executor.share(len(arranged(runs)))
    to_train = arranged(missing)
    judge = None
    if policy.stop_dominated or policy.stop_diverging:
        judge = Stopping(workdir, runs, policy.stop_dominated, policy.stop_diverging)
    with Display(name, to_train, recorded=len(runs) - len(missing), total=len(runs)) as display:
        display.say(_opening(name, len(runs), len(missing), len(to_train), executor.slots))
        scheduler = Scheduler(
            workdir,
            executor,
            to_train,
            display,
            policy.retry_failed,
            policy.budgets,
            judge,
            recorded,
            arranged,
        )
        return scheduler.run()


def _opening(name: str, runs: int, missing: int, to_train: int, slots: int) -> str:
    """Say what a launch is about to do; all numbers are counts, `to_train` of populations."""
    recorded = f", {runs - missing} recorded already" if missing < runs else ""
    workers = min(slots, to_train)
    on = f"{workers} worker{'s' if workers > 1 else ''}"
    return f"{name}: {runs} runs{recorded}; training {missing} as {to_train} populations on {on}"
