"""Run what is not yet recorded.

    python -m sweeps.launch --study=sweeps/studies/quickstart.py --workdir=runs/quickstart

Every point is frozen and checked before the first is launched; missing corpora are prepared; runs that have a record
are left alone; the others train as populations. The same command again does only what is missing, whatever has
happened to the one before. Exit code 0 when every run has a record and none failed (a diverged run is a result),
1 when some failed, 2 for bad input, 75 when it was stopped and the same command goes on.
"""

from collections.abc import Sequence
import dataclasses
import os
import time

from absl import flags

from experiments import cli
from experiments.cli import EXIT_AGAIN, EXIT_FAILURE, InputError
from sweeps import executors, graph
from sweeps import study as studies
from sweeps.display import Display, clock
from sweeps.scheduler import Scheduler
from sweeps.store import Node, Store, distinct, identify


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a launch came to: runs by status, whether it was stopped from outside, how many runs it had to train."""

    counts: dict[str, int]
    stopped: bool
    trained: int


def launch(
    study: studies.Study, store: Store, executor: executors.Executor, retry_failed: bool = False, progress: bool = True
) -> Outcome:
    """Train the runs of a study that have no record. Raises InputError, before anything starts, for bad input."""
    nodes = identify(study, studies.manifests(study, progress))
    runs = distinct(nodes)
    graph.levels(runs, lambda parent: store.state(parent).status == "complete")  # before anything is written
    missing = [node for node in runs if not store.finished(node.fingerprint, retry_failed)]
    for parent in {node.run.parent for node in missing if node.run.parent}:
        if store.state(parent).status == "complete" and store.newest_step(parent) is None:
            raise InputError(
                f"parent={parent}: {store.run_dir(parent)} has no checkpoint left; delete it to train it again"
            )
    store.write_study(study, nodes)
    stopped = False
    if missing:
        # How much of the machine a worker has follows from the whole study, not from what is left of it: a batch that
        # is split over more devices sums in another order, and a relaunch shall end in the same bits.
        executor.share(len(graph.populations(runs, executor.slots, lambda parent: True)))
        parts = graph.populations(missing, executor.slots, lambda parent: True)
        with Display(study.name, parts, len(runs) - len(missing), len(runs)) as display:
            display.say(_opening(study.name, runs, missing, len(parts), executor.slots))
            stopped = not Scheduler(store, executor, parts, display, retry_failed).run()
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
    if os.path.isfile(flags.FLAGS.workdir):
        raise InputError(f"--workdir={flags.FLAGS.workdir} is a file; expected a folder")
    for note in study.notes:
        print(f"note: {note}")
    store = Store(flags.FLAGS.workdir)
    store.root.mkdir(parents=True, exist_ok=True)
    outcome = launch(study, store, executor, flags.FLAGS.retry_failed)
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
    flags.DEFINE_string("executor", "local", f"where workers run: {', '.join(executors.EXECUTORS)}")
    flags.DEFINE_string("data_root", None, "folder of prepared corpora; default: what the study says, or 'data'")
    flags.DEFINE_bool("retry_failed", False, "train runs again that are recorded as failed")
    cli.run(main, required=("study", "workdir"))
