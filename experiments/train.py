"""Train runs of one signature to their ends, and the command for one run. The loop is in experiments/training/loop.py.

    python -m experiments.train --config=experiments/configs/smoke.py --workdir=runs/smoke

The same command again resumes from the newest checkpoint, or says that the run is complete. Steps, losses and
parameters do not depend on where a run was interrupted.
"""

from collections.abc import Sequence
import json
import math
import os
import signal
import sys
import threading
from typing import Any

from absl import flags
from etils import epath

from experiments import cli, files, prepare
from experiments.alive import hosts, lease, watchdog
from experiments.alive.lease import Lease
from experiments.cli import EXIT_AGAIN, InputError
from experiments.run import config_file, freeze, identity
from experiments.run.schema import Execution, Run
from experiments.store import inherit
from experiments.store import lineage as lineages
from experiments.store import record as records
from experiments.training.loop import Population, Report, Stopped
from experiments.training.trial import Trial, workdir_of


def set_up_devices(execution: Execution) -> None:
    """Simulated CPU devices (one per core this process may use) and the compilation cache. Before any jax computation."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", execution.cpu_devices or cores)
    except RuntimeError:  # devices are in use already: the caller has chosen
        pass
    if execution.compile_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(execution.compile_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def train(
    runs: Sequence[Run],
    directories: Sequence[epath.Path],
    execution: Execution,
    report: Report,
    held: Lease | None = None,
) -> None:
    """Train runs of one signature, each in its own directory; those that are recorded already are left alone.

    Raises InputError for what can be known before the first step, Stopped after SIGTERM or SIGINT (all is saved), Lost
    when `held` is no longer ours.
    """
    for directory in directories:
        files.check_folder(directory)
    trials = []
    corpora = {data: prepare.prepare(data, epath.Path(execution.data_root)) for data in {run.data for run in runs}}
    for run, directory in zip(runs, directories, strict=True):
        manifests = corpora[run.data]
        if (size := max(m.vocab_size for m in manifests)) > run.model.vocab:
            raise InputError(f"model.vocab={run.model.vocab} is less than the tokenizer's vocabulary of {size}")
        names = tuple(m.fingerprint for m in manifests)
        fingerprint = identity.fingerprint(run, names)
        if (directory / "record.json").exists() and records.read(directory / "record.json")["status"] != "failed":
            workdir_of(directory, run, fingerprint, names)
            continue
        parent = inherit.find(run, directory, execution)
        line = _line(run, manifests, parent)
        workdir_of(directory, run, fingerprint, names, line)
        trials.append((run, fingerprint, directory, manifests, parent))
    if not trials:
        return
    set_up_devices(execution)
    started = [Trial(*trial[:4], execution, trial[4]) for trial in trials]
    if not hosts.first():
        report = _say_nothing
        for trial in started:
            trial.metrics = hosts.Silence()
    population = Population(started, execution, report, held)

    def stop(*_: Any) -> None:
        population.stop = True

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    population.run()


def _line(run: Run, manifests: tuple[Any, ...], parent: inherit.Parent | None) -> lineages.Lineage:
    """The lineage after a run. Raises InputError when there is not so much data left."""
    from experiments.data.batches import check_enough

    names, before = tuple(m.fingerprint for m in manifests), parent.lineage if parent else None
    line = lineages.after(run, names, before, parent is not None and parent.learns(run))
    read = dict(line.reads)[lineages.data_key(run, names)]
    check_enough(manifests, run.data, read.sequences * read.seq_len, run.seq_len)
    return line


def _say_nothing(event: dict[str, Any]) -> None:
    """Events are the first process's to report."""


_printing = threading.Lock()  # two threads report: the loop, and the signs of life


def _print_event(event: dict[str, Any]) -> None:
    with _printing:
        print(json.dumps({k: _null(v) for k, v in event.items()}), flush=True)


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _train_population(path: str, workdir: str) -> int:
    """Worker of a study: the runs of a population file, events as JSON lines on stdout (sweeps/executors)."""
    watchdog.breathe(_print_event)
    try:
        value = files.read_json(path)
        frozen = [freeze.freeze(run | {"execution": value["execution"]}) for run in value["runs"]]
        if bad := [name for name in value["fingerprints"] if not inherit.FINGERPRINT.fullmatch(name)]:
            raise ValueError(f"{bad[0]!r} is no fingerprint")
        if not frozen or len(frozen) != len(value["fingerprints"]):
            raise ValueError(f"{len(frozen)} runs and {len(value['fingerprints'])} fingerprints")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--population={path} is not a readable population ({type(error).__name__}: {error})"
        ) from error
    directories = [epath.Path(workdir) / "runs" / name for name in value["fingerprints"]]
    if held := lease.given(epath.Path(workdir)):
        held.begin(directories)
    train([run for run, _ in frozen], directories, frozen[0][1], _print_event, held)
    return 0


class _Bar:
    """Progress of one run on the terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("steps")]
        columns += [TextColumn("loss {task.fields[loss]:.4f}"), TextColumn("{task.fields[speed]:,.0f} tokens/s")]
        self.bar = Progress(*columns, TimeRemainingColumn())
        self.task: Any = None

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self.bar.start()
            self.task = self.bar.add_task("", total=event["steps"], completed=event["done"], loss=math.nan, speed=0)
        elif event["event"] == "progress":
            speed = event["tokens_per_second"]
            self.bar.update(self.task, completed=event["done"], loss=event["loss"], speed=speed)


def _train_one(workdir: str) -> int:
    run, execution = inherit.resolve(*config_file.frozen())
    directory, bar = epath.Path(workdir), _Bar()
    known = (directory / "record.json").exists()
    try:
        train([run], [directory], execution, bar)
    finally:
        bar.bar.stop()
    if flags.FLAGS.hosts and not hosts.first():
        return 0
    record = records.read(directory / "record.json")
    columns = record["columns"]
    if record["status"] == "diverged":
        print(f"diverged: {record['reason']}; the record is {directory}/record.json")
        return 0
    print(
        f"{'already complete' if known else 'complete'}: held-out loss {columns['loss_nats']:.4f} "
        f"+- {columns['loss_nats_sem']:.4f} nats/token ({columns['bits_per_byte']:.4f} bits/byte) after "
        f"{columns['tokens']:,} tokens, {columns['params_total']:,} parameters, {columns['flops_total']:.3g} FLOPs, "
        f"{columns['wall_seconds']:.1f} s; the record is {directory}/record.json"
    )
    return 0


def main(_: list[str]) -> int:
    """The command line."""
    given = flags.FLAGS
    if (given.config is None) == (given.population is None):
        raise InputError("expected --config=FILE.py, for one run (see --help)")
    hosts.join(given.hosts)
    try:
        return _train_population(given.population, given.workdir) if given.population else _train_one(given.workdir)
    except Stopped:
        print("stopped; everything is saved, the same command goes on", file=sys.stderr)
        return EXIT_AGAIN
    except lease.Lost as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_AGAIN


if __name__ == "__main__":
    config_file.define()
    flags.DEFINE_string("workdir", None, "folder of the run: metrics, checkpoints, record; the same command resumes")
    flags.DEFINE_string(
        "hosts", None, "several hosts train together: auto, or HOST:PORT,INDEX,COUNT (experiments/alive/hosts.py)"
    )
    flags.DEFINE_string("population", None, "used by sweeps.launch: a population file whose runs train as one program")
    cli.run(main, ["workdir"], config_file.check_arguments)
