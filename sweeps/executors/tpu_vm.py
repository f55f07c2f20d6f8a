"""Workers on Cloud TPU slices: each population gets a slice of its own, made for it and deleted after it.

    --executor=tpu-vm:zone=us-east5-b,type=v5litepod-16,bucket=gs://mine/work,spot=true,slots=4

For every worker a process of this machine (this file as a command) runs gcloud, one step after the other, each printed
before it runs:

    create     queued-resources create, spot or reserved or on demand; then describe until it is active
    bootstrap  the code as one archive to all hosts, a virtual environment, requirements-tpu.txt
    upload     the population, prepared corpora, and what there is of its runs and their parents, to the bucket
    run        experiments.train on all hosts at once, which join each other (--hosts=auto); events come back
    collect    runs from the bucket to the workdir
    delete     the queued resource and its slice, whatever has happened before

A slice that is preempted ends its worker with 'again', and the launcher asks for another. `sweeps.manifest` writes the
same commands (sweeps/executors/gcloud.py) as a script and runs nothing.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from typing import Any

from etils import epath

from experiments import files
from experiments.alive import lease, watchdog
from experiments.cli import EXIT_AGAIN, EXIT_FAILURE, EXIT_INPUT, InputError
from sweeps.executors.gcloud import Lost, Options, Slice, Stopped, archive, commands, remote_population, tell
from sweeps.executors.local import LocalExecutor, LocalWorker
from sweeps.executors.options import options as options_

SAVE_SECONDS = 300.0  # for a slice that was asked to stop


def executor(options: Options) -> "TpuVmExecutor":
    """Raises InputError for options that gcloud could not take, and where there is no gcloud."""
    options.check()
    if shutil.which("gcloud") is None:
        raise InputError("--executor=tpu-vm: there is no gcloud on PATH; install the Google Cloud CLI")
    return TpuVmExecutor(options)


class Keeper(LocalWorker):
    """The process that sees to a slice. It is never killed: it would leave the slice behind."""

    asked_at: float | None = None

    def stop(self, force: bool = False) -> None:
        """Ask it to have the slice save, to collect and to delete; by force, or when that takes too long, only to delete."""
        if self.poll() is not None:
            return
        late = self.asked_at is not None and time.monotonic() - self.asked_at > SAVE_SECONDS
        if self.asked_at is None or late:
            for _ in range(1 + (force and self.asked_at is None)):
                self.process.send_signal(signal.SIGTERM)
                time.sleep(0.01)  # two signals at once are one
            self.asked_at = time.monotonic()


class TpuVmExecutor(LocalExecutor):
    """Processes of this machine that do nothing but talk to gcloud; this machine's cores are no limit."""

    def __init__(self, options: Options):
        self._options, self.target = options, options.type  # what a plan has to be for (sweeps/cost/plan_file.py)
        super().__init__([sys.executable, "-m", "sweeps.executors.tpu_vm"])

    def share(self, populations: int) -> None:
        """As many slices as the options say."""
        self.slots = self._options.slots

    def options(self) -> dict[str, Any]:
        """What the study leaves open follows from the slice."""
        return {}

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> LocalWorker:
        """Start the process that sees to a slice."""
        if "://" in os.fspath(workdir):
            raise InputError(
                f"--workdir={workdir}: slices work in the bucket; expected a local folder for what comes back"
            )
        fields = ((f.name, getattr(self._options, f.name), f.default) for f in dataclasses.fields(Options))
        text = ",".join(f"{name}={str(v).lower() if isinstance(v, bool) else v}" for name, v, d in fields if v != d)
        at, folder = os.path.abspath(population), os.path.abspath(workdir)
        return Keeper([*self._command, text, at, folder], None, {}, log)

    def release(self, worker: LocalWorker) -> None:
        """Nothing is kept for it."""


def serve(options: Options, population: str, workdir: str) -> int:
    """A population's slice from its creation to its deletion. Returns the worker's exit code.

    This process holds the claims, not the slice. Raises lease.Lost when they are another's from the beginning.
    """
    name = os.path.splitext(os.path.basename(population))[0]
    if not re.fullmatch(r"[\w.-]+", name):
        raise InputError(f"--population={population}: expected a file named by letters and digits")
    value, slice_ = files.read_json(population), Slice(options, f"lossgrid-{name}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: slice_.stops.append(number))
    with tempfile.TemporaryDirectory(prefix="lossgrid-") as scratch:
        steps = commands(slice_, value, workdir, scratch, name)
        os.makedirs(os.path.join(scratch, "populations"))
        remote = remote_population(value, f"{options.bucket}/{name}")
        with open(os.path.join(scratch, "populations", f"{name}.json"), "w") as file:
            json.dump(remote, file)
        archive(os.path.join(scratch, "code.tar.gz"))
        runs = [epath.Path(workdir) / "runs" / fingerprint for fingerprint in value["fingerprints"]]
        if held := lease.given(epath.Path(workdir)):
            held.begin(runs)

        def ours() -> bool:
            with contextlib.suppress(OSError):
                return held is None or held.holds(runs)
            return True  # to look is no reason to leave a slice behind

        return _all_steps(slice_, steps, ours)


def _all_steps(slice_: Slice, steps: dict[str, list[list[str]]], ours: Callable[[], bool]) -> int:
    """`ours`: whether what comes back may still be written here."""
    reached = False
    try:
        slice_.make()
        for step in ("bootstrap", "upload"):
            for command in steps[step]:
                slice_.step(command)
        reached = True
        return slice_.run(steps["run"][0])
    except Stopped:
        return EXIT_AGAIN
    except Lost as error:
        print(f"error: UNAVAILABLE: {error}", file=sys.stderr)  # the class "node" of sweeps/work/failures.py
        return EXIT_FAILURE
    finally:
        slice_.clearing = True
        if reached and not ours():
            print("error: another launcher has taken over these runs; nothing is collected", file=sys.stderr)
            reached = False
        for command in steps["collect"] if reached and len(slice_.stops) < 2 else ():
            with contextlib.suppress(Lost):
                slice_.step(command)
        with contextlib.suppress(Lost):
            slice_.step(steps["delete"][0])


def main(argv: list[str]) -> int:
    """OPTIONS POPULATION WORKDIR: what TpuVmExecutor starts."""
    text, population, workdir = argv
    watchdog.breathe(tell)
    try:
        options = options_(Options, text, "--executor=tpu-vm")
        options.check()
        return serve(options, population, workdir)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except lease.Lost as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_AGAIN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
