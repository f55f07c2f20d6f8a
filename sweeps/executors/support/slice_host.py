"""Run a worker on one host of a TPU slice, detached from whoever started it. It talks through the bucket alone.

    python -m sweeps.executors.support.slice_host FOLDER ATTEMPT POPULATION WORKDIR

Comes back at once and leaves a process that starts `experiments.train`, hands on its events, its end, and what it is
asked (support/slice_talk.py). A second start on the same host finds the lock of the first, and changes nothing. When the
keeper's counter has stood still for ORPHAN_SECONDS, the worker saves and ends: before long the slice will delete itself.
"""

import contextlib
import fcntl
import os
import sys
import time
import urllib.request

from etils import epath

from sweeps.executors.support import slice_talk
from sweeps.executors.support.gcloud import PYTHON
from sweeps.executors.support.protocol import Event
from sweeps.executors.support.slice_talk import GO_ON, STOP_AT_ONCE, HostState, Orders, Stillness
from sweeps.executors.support.subprocess_worker import SubprocessWorker

LOOK_SECONDS = float(os.environ.get("LOSSGRID_SLICE_LOOK_SECONDS", "5"))
BEAT_SECONDS = 6 * LOOK_SECONDS  # between two counts where there is nothing to say
ORPHAN_SECONDS = 60 * LOOK_SECONDS
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


def rank_of_host() -> int:
    """Return this host's number in its slice, as libtpu counts."""
    given = os.environ.get("TPU_WORKER_ID")
    if given is None:
        request = urllib.request.Request(METADATA + "agent-worker-number", headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            given = answer.read().decode()
    return int(given)


class SliceHost:
    """One host's worker, and what is said of it in the bucket."""

    def __init__(self, folder: str, attempt: str, rank: int, log: epath.Path):
        self._folder = folder
        self._attempt = attempt
        self._rank = rank
        self._log = log
        self._beats = 0
        self._beat_at = float("-inf")  # on the monotonic clock
        self._batches = 0
        self._unsent: list[Event] = []
        self._keeper = Stillness()

    def run(self, population: str, workdir: str) -> None:
        """Run the worker to its end, once the keeper has said in whose name."""
        orders = self._wait_for_orders()
        arguments = [f"--population={population}", f"--workdir={workdir}", "--hosts=auto"]
        worker = SubprocessWorker([PYTHON, "-m", "experiments.train", *arguments], None, {}, self._log)
        worker.go(orders.token if self._rank == 0 else "")  # the first host holds the claims
        asked = GO_ON
        while True:
            status = worker.poll()  # before the last events are read, or some could be missed
            self._unsent += worker.events()
            if status is not None:
                break
            self._tell(status=None)
            wanted = self._wanted()
            if wanted > asked:
                asked = wanted
                worker.stop(force=wanted == STOP_AT_ONCE)
            time.sleep(LOOK_SECONDS)
        worker.close()
        while not self._tell(status):  # the slice deletes itself where nobody hears it
            time.sleep(LOOK_SECONDS)

    def _wait_for_orders(self) -> Orders:
        """Return the keeper's first words to this attempt."""
        while True:
            orders = slice_talk.read_orders(self._folder)
            if orders is not None and orders.attempt == self._attempt:
                return orders
            time.sleep(LOOK_SECONDS)

    def _wanted(self) -> int:
        """Return what the keeper asks for, or what its silence means."""
        orders = slice_talk.read_orders(self._folder)
        if orders is not None and orders.attempt != self._attempt:
            return STOP_AT_ONCE  # another slice has our place
        still = self._keeper.seconds(orders.beat if orders else None)
        if still > ORPHAN_SECONDS:
            return slice_talk.SAVE_AND_STOP
        return orders.stop if orders else GO_ON

    def _tell(self, status: int | None) -> bool:
        """Say what is new. False where it could not be said now; it will be said again."""
        is_due = time.monotonic() - self._beat_at >= BEAT_SECONDS
        with contextlib.suppress(OSError):
            if self._unsent:
                slice_talk.write_events(self._folder, self._attempt, self._rank, self._batches, self._unsent)
                self._batches += 1
                self._unsent = []
            if is_due or status is not None:
                log = self._end_of_log() if status is not None else ""
                self._beats += 1
                HostState(self._beats, status, log, self._batches).write(self._folder, self._attempt, self._rank)
                self._beat_at = time.monotonic()
            return True
        return False

    def _end_of_log(self) -> str:
        """Return the last of what the worker has said."""
        with open(self._log, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - slice_talk.LOG_BYTES))
            return file.read().decode(errors="replace")


def detach() -> bool:
    """Leave a process behind that has no terminal and no parent, and return True in it; False in the one that was called."""
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    return True


def main(argv: list[str]) -> int:
    """Start the worker of this host, if it does not run already; return the exit status."""
    folder, attempt, population, workdir = argv
    rank = rank_of_host()
    lock = open(f"worker-{attempt}.lock", "w")  # held by the process that is left behind, until it ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"the worker of {attempt} runs already")
        return 0
    over = epath.Path(f"worker-{attempt}.over")
    if over.exists():
        print(f"the worker of {attempt} is over already")
        return 0
    if not detach():
        return 0
    log = epath.Path(f"worker-{attempt}.log")
    try:
        SliceHost(folder, attempt, rank, log).run(population, workdir)
    finally:
        over.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
