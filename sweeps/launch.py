"""Run what is not yet recorded.

    python -m sweeps.launch --study=sweeps/studies/quickstart.py --workdir=runs/quickstart

Every point is frozen and checked before the first is launched; missing corpora are prepared; runs that have a record
are left alone; the others train as populations. The same command again does only what is missing, whatever has
happened to the one before. Exit code 0 when every run has a record and none failed (a diverged run is a result),
1 when some failed, 2 for bad input, 75 when it was stopped and the same command goes on.

Executors other than the local one ask for a plan of the study as it stands (sweeps.plan --workdir=DIR; sweeps/cost/plan_file.py),
whose meshes and packing the runs then have.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import os
import time

from absl import flags

from experiments import cli, files
from experiments.cli import EXIT_AGAIN, EXIT_FAILURE, InputError
from sweeps import executors
from sweeps.cost import plan_file
from sweeps.executors.support import protocol
from sweeps.study import file as studies
from sweeps.study.corpora import prepare_corpora
from sweeps.work import failures, populations
from sweeps.work.display import Display, clock
from sweeps.work.scheduler import Scheduler
from sweeps.work.stopping import Stopping
from sweeps.work.workdir import Node, Workdir, distinct, identify


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
    budgets: Mapping[str, int] = dataclasses.field(default_factory=lambda: failures.BUDGETS)
    stop_dominated: bool = False
    stop_diverging: bool = False
    together: Mapping[str, int] = dataclasses.field(default_factory=dict)  # most runs of a population, by signature


def launch(
    study: studies.Study,
    store: Workdir,
    executor: protocol.Executor,
    policy: Policy = Policy(),
    progress: bool = True,
) -> Outcome:
    """Train the runs of a study that have no record. Raises InputError, before anything starts, for bad input."""
    nodes = identify(study, prepare_corpora(study, progress))
    runs = distinct(nodes)
    populations.levels(runs, lambda parent: store.state(parent).status == "complete")  # before anything is written
    missing = [node for node in runs if not store.finished(node.fingerprint, policy.retry_failed)]
    for parent in {node.run.parent for node in missing if node.run.parent}:
        if store.state(parent).status == "complete" and store.newest_step(parent) is None:
            raise InputError(
                f"parent={parent}: {store.run_dir(parent)} has no checkpoint left; delete it to train it again"
            )
    store.write_study(study, nodes)
    stopped = False
    if missing:
        executor.clear(store.root)
        # How much of the machine a worker has follows from the whole study, not from what is left of it: a batch that
        # is split over more devices sums in another order, and a relaunch shall end in the same bits.
        together = policy.together
        executor.share(len(populations.populations(runs, executor.slots, lambda parent: True, together=together)))
        parts = populations.populations(missing, executor.slots, lambda parent: True, together=together)
        with Display(study.name, parts, len(runs) - len(missing), len(runs)) as display:
            display.say(_opening(study.name, runs, missing, len(parts), executor.slots))
            stopping = None
            if policy.stop_dominated or policy.stop_diverging:
                stopping = Stopping(store, runs, policy.stop_dominated, policy.stop_diverging)
            scheduler = Scheduler(store, executor, parts, display, policy.retry_failed, policy.budgets, stopping)
            stopped = not scheduler.run()
    with contextlib.suppress(OSError):  # a read-only workdir in which nothing is to be done
        store.claims.sweep([node.fingerprint for node in runs if store.finished(node.fingerprint)])
    counts: dict[str, int] = {}
    for node in runs:
        status = store.state(node.fingerprint).status
        counts[status] = counts.get(status, 0) + 1
    return Outcome(counts, stopped, len(missing))


def _opening(name: str, runs: Sequence[Node], missing: Sequence[Node], parts: int, slots: int) -> str:
    done = f", {len(runs) - len(missing)} recorded already" if len(missing) < len(runs) else ""
    workers = f"{min(slots, parts)} worker{'s' if min(slots, parts) > 1 else ''}"
    return f"{name}: {len(runs)} runs{done}; training {len(missing)} as {parts} populations on {workers}"


def main(_: list[str]) -> int:
    """The command line."""
    start = time.monotonic()
    study = studies.load(flags.FLAGS.study, flags.FLAGS.data_root)
    executor = executors.load(flags.FLAGS.executor)
    given = flags.FLAGS
    budgets = failures.parse_budgets(given.retries)
    policy = Policy(given.retry_failed, budgets, given.stop_dominated, given.stop_diverging)
    if not given.no_plan:
        target = getattr(executor, "target", None)
        if planned := plan_file.plan_to_launch(study, given.workdir, given.executor.partition(":")[0], target):
            study, together = plan_file.apply_plan(study, planned)
            policy = dataclasses.replace(policy, together=together)
    files.check_folder(flags.FLAGS.workdir)
    if os.path.isfile(flags.FLAGS.workdir):
        raise InputError(f"--workdir={flags.FLAGS.workdir} is a file; expected a folder")
    for note in study.notes:
        print(f"note: {note}")
    store = Workdir(flags.FLAGS.workdir)
    store.root.mkdir(parents=True, exist_ok=True)
    outcome = launch(study, store, executor, policy)
    summary = ", ".join(f"{count} {status}" for status, count in sorted(outcome.counts.items()))
    if outcome.stopped:
        print(f"{study.name}: stopped ({summary}); the same command goes on")
        return EXIT_AGAIN
    failed = outcome.counts.get("failed", 0)
    if outcome.trained:
        print(f"{study.name}: {summary}, in {clock(time.monotonic() - start)}")
    else:
        print(f"{study.name}: nothing to do, every run has its record ({summary})")
    if failed:
        print(f"python -m sweeps.status --workdir={store.root} says why {failed} failed; --retry_failed tries again")
        return EXIT_FAILURE
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("study", None, "FILE.py[:ARG] with get_study(arg)")
    flags.DEFINE_string("workdir", None, "folder of the study: records, checkpoints, logs")
    flags.DEFINE_string("executor", "local", f"where workers run: {', '.join(executors.executor_names())}")
    flags.DEFINE_string("data_root", None, "folder of prepared corpora; default: what the study says, or 'data'")
    flags.DEFINE_bool("retry_failed", False, "train runs again that are recorded as failed; finish those stopped early")
    budgets = ",".join(f"{kind}={count}" for kind, count in failures.BUDGETS.items())
    flags.DEFINE_list("retries", [], f"tries after each kind of failure, by kind; default: {budgets}")
    flags.DEFINE_bool("stop_dominated", False, "stop runs whose loss curve cannot reach that of their best rival")
    flags.DEFINE_bool("stop_diverging", False, "stop runs whose loss rises above where it began, and stays there")
    flags.DEFINE_bool(
        "no_plan", False, "--no-plan: launch whatever plan.json in the workdir says, or that there is none"
    )
    spelt = {"--no-plan": "--no_plan"}
    cli.run(main, required=("study", "workdir"), check=lambda argv: [spelt.get(word, word) for word in argv])
