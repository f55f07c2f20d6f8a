"""Train runs of one signature to their ends, and the command for one run. The loop is in experiments/training/loop.py.

    python -m experiments.train --config=experiments/configs/smoke.py --workdir=runs/smoke
    python -m experiments.train --options=moe     # every option of a run of a family

The same command again resumes from the newest checkpoint, or says that the run is complete. Steps, losses and
parameters do not depend on where a run was interrupted.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import json
import math
import os
import sys
import threading
from typing import Any, cast

from absl import flags
from etils import epath

from experiments import cli, files, prepare
from experiments.alive import holding, hosts, lease, requests, watchdog
from experiments.alive.lease import Lease
from experiments.cli import EXIT_AGAIN, InputError
from experiments.run import config_file, freeze
from experiments.run.schema import Execution, Run
from experiments.store import inherit
from experiments.store import record as records
from experiments.store.metrics import Metrics
from experiments.training import admission, heap, packing
from experiments.training.admission import Admitted
from experiments.training.loop import Loop, Report, Stopped
from experiments.training.program import program
from experiments.training.trial import Trial


def set_up_devices(execution: Execution, keep_memory: bool = True) -> None:
    """Set up simulated CPU devices (one per core this process may use), what they keep of memory, the compilation cache.

    It has to come before any computation of jax: afterwards the devices are the caller's, which is said where
    execution.cpu_devices asks for others.
    """
    import jax

    if keep_memory:
        heap.keep_freed_memory()
    try:
        jax.config.update("jax_num_cpu_devices", execution.cpu_devices or _cores())
    except RuntimeError:  # devices are in use already: the caller has chosen
        wanted = execution.cpu_devices
        found = jax.device_count()
        if wanted is not None and jax.default_backend() == "cpu" and found != wanted:
            _say(f"execution.cpu_devices={wanted} is too late: jax is in use already, with {found} devices")
    if execution.compile_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(execution.compile_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def train(
    runs: Sequence[Run],
    directories: Sequence[epath.Path],
    execution: Execution,
    report: Report,
    held: Lease | None = None,
) -> None:
    """Train runs of one signature, each in its own directory; those that are recorded already are left alone.

    `held`: what a launcher has handed out; without it the folders are claimed here. Raises InputError for what can be
    known before the first step, Stopped after a request to stop (all is saved), Lost when somebody else has the runs.
    """
    execution = _on_devices(runs, directories, execution)
    root = epath.Path(execution.data_root)
    corpora = {data: prepare.prepare(data, root) for data in {run.data for run in runs}}
    trials = admission.admit(runs, directories, corpora, execution)
    if not trials:
        return
    requested = _StopRequests()
    with requests.heard(requested), _holding(trials, held) as held:
        # Somebody may have ended one meanwhile.
        unrecorded = [trial for trial in trials if not admission.is_recorded(trial.directory)]
        if unrecorded:
            started = [trial.start(execution) for trial in unrecorded]
            with _settled(started), admission.reserved(started):
                loop = _loop(started, execution, report, held)
                requested.stop(loop)
                loop.run()


def _on_devices(runs: Sequence[Run], directories: Sequence[epath.Path], execution: Execution) -> Execution:
    """Set up the devices, and check that they can train the runs that have no record; return how they are trained.

    Nothing is written before that: a mesh that asks for more devices than there are leaves no folder behind.
    """
    for directory in directories:
        files.check_folder(directory)
    to_train = [run for run, directory in zip(runs, directories, strict=True) if not admission.is_recorded(directory)]
    if not to_train:
        return execution
    set_up_devices(execution, heap.gains(to_train[0]))
    execution = _with_intervals(execution, to_train)
    program(to_train[0], len(to_train), execution)  # the loop finds it made
    return execution


def _with_intervals(execution: Execution, runs: Sequence[Run]) -> Execution:
    """Return the execution with the interval between checkpoints that it leaves open."""
    import jax

    devices = jax.devices()
    every = packing.checkpoint_tokens(runs, execution, devices[0], len(devices))
    return dataclasses.replace(execution, checkpoint_every_tokens=every)


@contextlib.contextmanager
def _settled(trials: Sequence[Trial]) -> Iterator[None]:
    """Let saves that are under way end also after an error: whoever has the folders next would meet them there."""
    try:
        yield
    except BaseException:
        if hosts.count() == 1:  # of several some may be gone, for which a save would wait in vain
            for trial in trials:
                if trial.saved_step is None:  # its checkpoints may never have been opened
                    continue
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    trial.checkpoints.wait()
        raise


def _loop(trials: Sequence[Trial], execution: Execution, report: Report, held: Lease | None) -> Loop:
    """Set up the loop of trials. Only the first process of several writes and speaks."""
    if not hosts.first():
        report = _say_nothing
        for trial in trials:
            trial.metrics = cast(Metrics, hosts.Silence())
    return Loop(trials, execution, report, held)


class _StopRequests:
    """Stops a loop, between two steps, at a request to stop; raises Stopped while there is no loop yet."""

    def __init__(self) -> None:
        self._loop: Loop | None = None
        self._came = False

    def __call__(self, *_: Any) -> None:
        """Hear a request, as the handler of its signal."""
        self._came = True
        if self._loop is None:
            raise Stopped("no step was taken; the same command goes on")
        self._loop.stop = True

    def stop(self, loop: Loop) -> None:
        """Let requests stop this loop from now on."""
        self._loop = loop
        loop.stop = self._came


@contextlib.contextmanager
def _holding(trials: Sequence[Admitted], held: Lease | None) -> Iterator[Lease | None]:
    """Hold the folders of trials on the first process, unless a launcher has handed them out. Raises Lost on all."""
    (handed_out,) = hosts.anywhere([held is not None])  # a launcher tells the first process alone
    if handed_out:
        yield held
        return
    fingerprints = [trial.fingerprint for trial in trials]
    directories = [trial.directory for trial in trials]
    with contextlib.ExitStack() as stack:

        def take() -> Lease | None:
            if not hosts.first():
                return None
            return stack.enter_context(holding.hold(directories, fingerprints, _say))

        yield hosts.together(take, lease.Lost)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- events


def _say_nothing(event: dict[str, Any]) -> None:
    """Report nothing: events are the first process's to report."""


_printing = threading.Lock()  # two threads report: the loop, and the signs of life


def _print_event(event: dict[str, Any]) -> None:
    """Print an event as a line of JSON, which knows no infinity."""
    finite = {name: _null(value) for name, value in event.items()}
    with _printing:
        print(json.dumps(finite), flush=True)


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Bar:
    """Progress of one run on the terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[speed]:,.0f} tokens/s"),
            TimeRemainingColumn(),
        )
        self.task = TaskID(0)

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self.bar.start()
            self.task = self.bar.add_task("", total=event["steps"], completed=event["done"], loss=math.nan, speed=0)
        elif event["event"] == "progress":
            speed = event["tokens_per_second"]
            self.bar.update(self.task, completed=event["done"], loss=event["loss"], speed=speed)

    def stop(self) -> None:
        """End the display. There is none where nothing was left to train, and none may leave an empty line."""
        if self.bar.live.is_started:
            self.bar.stop()


# --- the command


def _train_population(path: str, workdir: str) -> int:
    """Train the runs of a population file, as the worker of a study: events are JSON lines on stdout."""
    watchdog.breathe(_print_event)
    try:
        runs, execution, fingerprints = _read_population(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--population={path} is not a readable population ({type(error).__name__}: {error})"
        ) from error
    directories = [epath.Path(workdir) / "runs" / name for name in fingerprints]
    held = lease.given(epath.Path(workdir))
    if held is not None:
        held.begin(directories)
    train(runs, directories, execution, _print_event, held)
    return 0


def _read_population(path: str) -> tuple[list[Run], Execution, list[str]]:
    """Read runs, their execution and their fingerprints. Raises what any access to a damaged file would."""
    value = files.read_json(path)
    frozen = [freeze.freeze(run | {"execution": value["execution"]}) for run in value["runs"]]
    fingerprints = value["fingerprints"]
    for name in fingerprints:
        if not inherit.FINGERPRINT.fullmatch(name):
            raise ValueError(f"{name!r} is no fingerprint")
    if not frozen or len(frozen) != len(fingerprints):
        raise ValueError(f"{len(frozen)} runs and {len(fingerprints)} fingerprints")
    return [run for run, _ in frozen], frozen[0][1], fingerprints


def _train_one(workdir: str) -> int:
    """Train the run of the config with a progress bar, and say how it ended."""
    run, execution = inherit.resolve(*config_file.frozen())
    directory = epath.Path(workdir)
    known = (directory / "record.json").exists()
    progress = _Bar()
    try:
        train([run], [directory], execution, progress)
    finally:
        progress.stop()
    if not flags.FLAGS.hosts or hosts.first():
        print(_summary(directory, known))
    return 0


def _summary(directory: epath.Path, known: bool) -> str:
    """Return how a run ended, in one line. `known`: it had before this command."""
    record = records.read(directory / "record.json")
    if record["status"] == "diverged":
        return f"diverged: {record['reason']}; the record is {directory}/record.json"
    columns = record["columns"]
    return (
        f"{'already complete' if known else 'complete'}: held-out loss {columns['loss_nats']:.4f} "
        f"+- {columns['loss_nats_sem']:.4f} nats/token ({columns['bits_per_byte']:.4f} bits/byte) after "
        f"{columns['tokens']:,} tokens, {columns['params_total']:,} parameters, {columns['flops_total']:.3g} FLOPs, "
        f"{columns['wall_seconds']:.1f} s; the record is {directory}/record.json"
    )


def _show_options(which: str) -> int:
    """Print every option of a run of FAMILY or FAMILY,OPTIMIZER."""
    from rich.console import Console

    from experiments.run import options_table
    from experiments.training import optimizers

    family, _, optimizer = which.partition(",")
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(options_table.table(family, optimizer or optimizers.DEFAULT))
    return 0


def _check_arguments(argv: list[str]) -> list[str]:
    """Give --options the default family where it has no value; then look at the config's flags."""
    spelt = ["--options=dense" if arg in ("--options", "-options") else arg for arg in argv]
    return config_file.check_arguments(spelt)


def main(_: list[str]) -> int:
    """Run the command line."""
    given = flags.FLAGS
    if given.options is not None:
        return _show_options(given.options)
    cli.require(["workdir"])
    if (given.config is None) == (given.population is None):
        raise InputError("expected --config=FILE.py, for one run (see --help)")
    hosts.join(given.hosts)
    try:
        if given.population:
            return _train_population(given.population, given.workdir)
        return _train_one(given.workdir)
    except Stopped:
        print("stopped; everything is saved, the same command goes on", file=sys.stderr)
        return EXIT_AGAIN


if __name__ == "__main__":
    config_file.define()
    cli.define_path("workdir", None, "folder of the run: metrics, checkpoints, record; the same command resumes")
    flags.DEFINE_string(
        "options", None, "print every option of a run of FAMILY or FAMILY,OPTIMIZER (dense, adamw), and end"
    )
    flags.DEFINE_string(
        "hosts", None, "several hosts train together: auto, or HOST:PORT,INDEX,COUNT (experiments/alive/hosts.py)"
    )
    cli.define_path("population", None, "used by sweeps.launch: a population file whose runs train as one program")
    cli.run(main, check=_check_arguments, overrides=config_file.names)
