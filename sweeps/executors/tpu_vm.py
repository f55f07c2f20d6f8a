"""Workers on Cloud TPU slices: each population gets a slice of its own, made for it and deleted after it.

    --executor=tpu-vm:zone=us-east5-b,type=v5litepod-16,bucket=gs://mine/work,spot=true,slots=4

For every worker a process of this machine (support/slice_keeper.py) runs gcloud, one step after the other, each printed
before it runs:

    create     queued-resources create, spot or reserved or on demand; then describe until it is active
    bootstrap  the code as one archive to all hosts, a virtual environment, requirements-tpu.txt
    upload     the population, prepared corpora, and what there is of its runs and their parents, to the bucket
    run        experiments.train on all hosts at once, which join each other (--hosts=auto); events come back
    collect    runs from the bucket to the workdir
    delete     the queued resource and its slice, whatever has happened before

A slice that is preempted ends its worker with 'again', and the launcher asks for another. `sweeps.manifest` writes the
same commands (support/gcloud.py) as a script and runs nothing.
"""

from collections.abc import Sequence
import dataclasses
import os
import shutil
import signal
import sys
import time

from etils import epath

from models.errors import InputError
from sweeps.executors.support.gcloud import Options as Options
from sweeps.executors.support.protocol import Executor
from sweeps.executors.support.subprocess_worker import SubprocessWorker, wait_for_output

SAVE_SECONDS = 300.0  # for a slice that was asked to stop
KEEPER = [sys.executable, "-m", "sweeps.executors.support.slice_keeper"]


def executor(options: Options) -> "TpuVmExecutor":
    """Make the executor. Raises InputError for options that gcloud could not take, and where there is no gcloud."""
    options.check()
    if shutil.which("gcloud") is None:
        raise InputError("--executor=tpu-vm: there is no gcloud on PATH; install the Google Cloud CLI")
    return TpuVmExecutor(options)


class Keeper(SubprocessWorker):
    """The process that sees to a slice. It is never killed: it would leave the slice behind."""

    asked_at: float | None = None  # on the monotonic clock, when it was last asked to stop

    def stop(self, force: bool = False) -> None:
        """Ask it to have the slice save, to collect and to delete; by force, or when that takes too long, only to delete."""
        if self.poll() is not None:
            return
        if self.asked_at is None:
            self._ask(times=2 if force else 1)
        elif time.monotonic() - self.asked_at > SAVE_SECONDS:
            self._ask(times=1)

    def _ask(self, times: int) -> None:
        """Send SIGTERM once to save first, twice to delete at once."""
        for _ in range(times):
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.01)  # two signals at once are one
        self.asked_at = time.monotonic()


class TpuVmExecutor(Executor[Keeper]):
    """Processes of this machine that do nothing but talk to gcloud; this machine's cores are no limit."""

    shares_workdir = False  # the slices work in the bucket; runs come back once they are over

    def __init__(self, options: Options):
        self._options = options
        self.target = options.type  # the plan has to be for this slice
        self.slots = options.slots

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> Keeper:
        """Start the process that sees to a slice. Raises InputError for a workdir that is no local folder."""
        if "://" in os.fspath(workdir):
            raise InputError(
                f"--workdir={workdir}: slices work in the bucket; expected a local folder for what comes back"
            )
        inputs = [os.path.abspath(population), os.path.abspath(workdir)]
        return Keeper([*KEEPER, options_text(self._options), *inputs], None, {}, log)

    def wait(self, workers: Sequence[Keeper], seconds: float) -> None:
        """Return when one of the workers writes or ends, or after so long."""
        wait_for_output(workers, seconds)


def options_text(options: Options) -> str:
    """Return options as they are typed, `key=value,…`, without those that have their default."""
    words = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            text = str(value).lower() if isinstance(value, bool) else value
            words.append(f"{field.name}={text}")
    return ",".join(words)
