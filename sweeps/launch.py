"""Run what is not yet recorded.

    python -m sweeps.launch --study=sweeps/studies/quickstart.py --workdir=runs/quickstart

Every point is frozen and checked before the first is launched; missing corpora are prepared; runs that have a record
are left alone; the others train as populations. The same command again does only what is missing, whatever has
happened to the one before. Exit code 0 when every run has a record and none failed (a diverged run is a result),
1 when some failed, 2 for bad input, 75 when it was stopped, or no worker could be started, and the same command goes on.

Executors other than the local one ask for a plan of the study as it stands (sweeps.plan --workdir=DIR; sweeps/cost/plan_file.py),
whose meshes and packing the runs then have.
"""

import dataclasses
import time
from typing import Any

from absl import flags
from etils import epath

from experiments import cli, files
from experiments.cli import EXIT_AGAIN, EXIT_FAILURE, InputError
from sweeps import executors
from sweeps.cost import plan_file
from sweeps.executors.support.protocol import Executor
from sweeps.study import file as studies
from sweeps.work import retries
from sweeps.work.display import clock
from sweeps.work.launch import Outcome, Policy, launch
from sweeps.work.workdir import Workdir


def main(_: list[str]) -> int:
    """Launch the study of the flags; return the exit code."""
    started_at = time.monotonic()
    given = flags.FLAGS
    study = studies.load(given.study, given.data_root)
    executor = executors.load(given.executor)
    budgets = retries.parse_budgets(given.retries)
    policy = Policy(given.retry_failed, budgets, given.stop_dominated, given.stop_diverging)
    executor_name = given.executor.partition(":")[0]
    check_early_stopping(policy, executor_name, executor)
    if not given.no_plan:
        plan = plan_file.plan_to_launch(study, given.workdir, executor_name, executor)
        if plan:
            study, together = plan_file.apply_plan(study, plan)
            policy = dataclasses.replace(policy, together=together)
    files.check_folder(given.workdir)
    for note in study.notes:
        print(f"note: {note}")
    if given.dry_run:
        executor.check(epath.Path(given.workdir))
        print(executor.rehearse(epath.Path(given.workdir)))
        return 0
    workdir = Workdir(given.workdir)
    outcome = launch(study, workdir, executor, policy)
    return report(study.name, workdir, outcome, time.monotonic() - started_at)


def check_early_stopping(policy: Policy, name: str, executor: Executor[Any]) -> None:
    """Raise InputError where runs shall be stopped early, and neither curves nor requests pass. `name`: of the executor."""
    flag = "--stop_dominated" if policy.stop_dominated else "--stop_diverging"
    wanted = policy.stop_dominated or policy.stop_diverging
    if wanted and not executor.shares_workdir:
        raise InputError(
            f"{flag}: --executor={name} brings curves back only when a run is over, and can stop none before; expected "
            "an executor whose workers share the workdir"
        )


def report(name: str, workdir: Workdir, outcome: Outcome, seconds: float) -> int:
    """Print what a launch came to, and what to do next; return the exit code."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.counts.items()))
    if outcome.stopped:
        print(f"{name}: stopped ({counts}); the same command goes on")
        return EXIT_AGAIN
    if outcome.trained:
        print(f"{name}: {counts}, in {clock(seconds)}")
    else:
        print(f"{name}: nothing to do, every run has its record ({counts})")
    failed = outcome.counts.get("failed", 0)
    if failed:
        print(f"python -m sweeps.status --workdir={workdir.root} says why {failed} failed; --retry_failed tries again")
        return EXIT_FAILURE
    return 0


def accept_dash(argv: list[str]) -> list[str]:
    """Return the command line with --no-plan as the flag's own name is spelt."""
    return ["--no_plan" if word == "--no-plan" else word for word in argv]


if __name__ == "__main__":
    default_budgets = ",".join(f"{kind}={count}" for kind, count in retries.BUDGETS.items())
    cli.define_path("study", None, "FILE.py[:ARG] with get_study(arg)")
    cli.define_path("workdir", None, "folder of the study: records, checkpoints, logs")
    flags.DEFINE_string("executor", "local", f"where workers run: {', '.join(executors.executor_names())}")
    cli.define_path("data_root", None, "folder of prepared corpora; default: what the study says, or 'data'")
    flags.DEFINE_bool("retry_failed", False, "train runs again that are recorded as failed; finish those stopped early")
    flags.DEFINE_string("retries", "", f"KIND=COUNT,...: tries after each kind of failure; default: {default_budgets}")
    flags.DEFINE_bool("stop_dominated", False, "stop runs whose loss curve cannot reach that of their best rival")
    flags.DEFINE_bool("stop_diverging", False, "stop runs whose loss rises above where it began, and stays there")
    flags.DEFINE_bool(
        "dry_run", False, "show how a worker would be started, such as a job script; start and write nothing"
    )
    flags.DEFINE_bool(
        "no_plan", False, "--no-plan: launch whatever plan.json in the workdir says, or that there is none"
    )
    cli.run(main, required=("study", "workdir"), check=accept_dash)
