"""Workers on Cloud TPU slices: each population gets a slice of its own, made for it and deleted after it.

    --workdir=gs://mine/study --executor=tpu-vm:zone=us-east5-b,type=v5litepod-16,spot=true,slots=4

For every worker a process of this machine (support/slice_keeper.py) runs gcloud, one step after the other, each printed
before it runs:

    create     queued-resources create, spot, reserved, flex-start or on demand; then describe until it is active
    prepare    corpora to the bucket, the code as one archive to all hosts, Python and requirements-tpu.txt by uv
    start      a process on every host that outlives the ssh; the hosts join each other (--hosts=auto)
    watch      events, exit statuses and counters in the bucket, and describe
    delete     the queued resource and its slice, whatever has happened before, until it is gone

The workdir is in the bucket: what a slice writes is there at once, and a request to stop reaches it. No slice is left
that costs: one that nobody watches for `still_minutes`, or that is `max_hours` old, deletes itself (support/dead_man.sh).
Slices bear owner and workdir in their names and labels, and none that does not is ever touched. The API knows v4 to v6e;
TPU7x is for GKE: `sweeps.manifest --kind=xpk`.
"""

from collections.abc import Sequence
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from etils import epath

from models.errors import InputError
from sweeps.executors.support.gcloud import Options as Options
from sweeps.executors.support.options import options_text
from sweeps.executors.support.outside import not_started
from sweeps.executors.support.protocol import ROOT, End, Event, Executor, Failure, NotStarted
from sweeps.executors.support.subprocess_worker import SubprocessWorker, wait_for_output

SAVE_SECONDS = 300.0  # for a slice that was asked to stop
KEEPER = [sys.executable, "-m", "sweeps.executors.support.slice_keeper"]
CLEANER = [sys.executable, "-m", "sweeps.executors.support.slice_cleaner"]
BUCKET = re.compile(r"gs://[a-z0-9][\w./-]+")


def executor(options: Options) -> "TpuVmExecutor":
    """Make the executor. Raises InputError for options that gcloud could not take, and where there is no gcloud."""
    options.check()
    if shutil.which("gcloud") is None:
        raise InputError("--executor=tpu-vm: there is no gcloud on PATH; install the Google Cloud CLI")
    return TpuVmExecutor(options)


class Keeper(SubprocessWorker):
    """The process that sees to a slice. It is never killed: it would leave the slice to delete itself."""

    def __init__(self, command: Sequence[str], log: epath.Path):
        super().__init__(command, None, {}, log)
        self._heard: list[Event] = []  # that nobody has asked for yet
        self._ended: Failure | None = None  # what it has said at its end, beside its exit status
        self._asked_at: float | None = None  # on the monotonic clock, when it was last asked to stop

    def _hear(self) -> None:
        for event in super().events():
            if event["event"] == "end":
                kind = Failure if event["started"] else NotStarted
                self._ended = kind(event["kind"], event["reason"])
            else:
                self._heard.append(event)

    def events(self) -> list[Event]:
        """Return what the slice's worker has reported since the last call."""
        self._hear()
        found = self._heard
        self._heard = []
        return found

    def poll(self) -> End:
        """Return its end once it is over."""
        status = super().poll()
        if status is None:
            return None
        self._hear()
        return self._ended or status

    def stop(self, force: bool = False) -> None:
        """Ask it to have the slice save and to delete it; by force, or when that takes too long, only to delete."""
        if self.process.poll() is not None:
            return
        if self._asked_at is None:
            self._ask(times=2 if force else 1)
        elif time.monotonic() - self._asked_at > SAVE_SECONDS:
            self._ask(times=1)

    def _ask(self, times: int) -> None:
        """Send SIGTERM once to save first, twice to delete at once."""
        for _ in range(times):
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.01)  # two signals at once are one
        self._asked_at = time.monotonic()

    @property
    def was_killed(self) -> bool:
        """Whether it could not delete its slice."""
        status = self.process.poll()
        return status is not None and status < 0


class TpuVmExecutor(Executor[Keeper]):
    """Processes of this machine that do nothing but talk to gcloud; this machine's cores are no limit."""

    def __init__(self, options: Options):
        self._options = options
        self._workdir = ""
        self.target = options.type  # the plan has to be for this slice
        self.slots = options.slots

    def check(self, workdir: epath.Path) -> None:
        """Raise InputError for a workdir that slices cannot reach."""
        path = os.fspath(workdir)
        if not BUCKET.fullmatch(path):
            raise InputError(f"--workdir={path}: slices work in the bucket; expected gs://BUCKET/FOLDER")
        self._workdir = path

    def clear(self, workdir: epath.Path) -> None:
        """Delete the slices whose keeper, a process of this machine, is dead."""
        self._workdir = os.fspath(workdir)
        cleaner = subprocess.run(self._cleaner(), cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        if cleaner.returncode != 0:
            print(f"{workdir}: what earlier launches may have left could not be looked for", file=sys.stderr)

    def _cleaner(self) -> list[str]:
        """Return the command that deletes the slices of dead keepers."""
        return [*CLEANER, options_text(self._options), self._workdir]

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> Keeper | NotStarted:
        """Start the process that sees to a slice."""
        command = [*KEEPER, options_text(self._options), os.fspath(population), os.fspath(workdir)]
        try:
            return Keeper(command, log)
        except OSError as error:  # no processes, memory or file descriptors are left
            return not_started(error)

    def release(self, worker: Keeper) -> None:
        """Have the slice deleted whose keeper was killed; nobody waits for it."""
        if worker.was_killed:
            nothing = subprocess.DEVNULL
            subprocess.Popen(
                self._cleaner(), cwd=ROOT, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
            )

    def wait(self, workers: Sequence[Keeper], seconds: float) -> None:
        """Return when one of the workers writes or ends, or after so long."""
        wait_for_output(workers, seconds)
