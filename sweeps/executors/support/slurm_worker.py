"""A Slurm job, as its launcher sees it: submitted, read from its folder, asked about, asked to stop.

The job's scripts, and what is in its folder, are described in slurm_script.py.
"""

from concurrent.futures import Future
import dataclasses
import os
import re
import time

from etils import epath

from experiments import files
from experiments.alive.lease import Process
from experiments.cli import EXIT_AGAIN, EXIT_INPUT
from sweeps.executors.support import slurm_script
from sweeps.executors.support.event_file import EventFile
from sweeps.executors.support.log import last_error
from sweeps.executors.support.protocol import End, Event, Failure, NotStarted
from sweeps.executors.support.slurm_queue import Queue, State
from sweeps.executors.support.slurm_script import NOT_STARTED

LATE_SECONDS = 10.0  # within which what another host has written is seen here
ALIVE_SECONDS = 15.0  # between two signs of life of a job whose worker cannot give any: it waits, or sets up
ASK_AGAIN_SECONDS = 10.0  # between two requests to stop
GIVE_UP_SECONDS = 60.0  # after the request to end at once, when Slurm does not answer
LOG_BYTES = 1 << 16  # at the end of a log, in which the reason of a failure is looked for
FINAL = range(EXIT_INPUT + 1)  # exit statuses of a worker that nobody asked to end
# The class of failure of a job that Slurm has ended, and what is said of it.
CLASS_OF_STATE = {
    "BOOT_FAIL": "node",
    "CANCELLED": "preempted",
    "DEADLINE": "preempted",
    "NODE_FAIL": "node",
    "OUT_OF_MEMORY": "memory",
    "PREEMPTED": "preempted",
    "REVOKED": "preempted",
    "TIMEOUT": "preempted",
}
HELD = re.compile("requeued.* held", re.IGNORECASE)  # why a job waits for an administrator that was queued again
USUAL_REASONS = ("", "None", "Priority", "Resources", "BeginTime")  # for which a job waits


class SlurmWorker:
    """A job, as its launcher sees it."""

    def __init__(self, queue: Queue, job: slurm_script.Job):
        self.pid = os.getpid()
        self.number: str | None = None  # of the job, once Slurm has taken it
        self.refused: NotStarted | None = None
        self._queue = queue
        self._job = job
        self._folder = epath.Path(job.folder)
        self._log_start = _size(job.log)
        self._submission: Future[str | NotStarted] | None = None
        self._events = EventFile(self._folder / "stdout")
        self._worker_speaks = False  # since the job was last queued
        self._told_reason = ""
        self._end: End = None
        # All times are on the monotonic clock.
        self._alive_at = time.monotonic()
        self._over_since: float | None = None  # since when Slurm says that it is over
        self._stop_asked: dict[bool, float] = {}  # by `force`: when it was last asked to stop
        self._first_killed_at: float | None = None

    def go(self, token: str = "") -> None:
        """Write its scripts, and submit it."""
        job = dataclasses.replace(self._job, token=token)
        files.write_bytes(self._folder / "host.sh", slurm_script.host_script(job).encode())
        script = self._folder / "job.sh"
        files.write_bytes(script, slurm_script.job_script(job).encode())
        self._submission = self._queue.submit(os.fspath(script))

    # --- what it says

    def events(self) -> list[Event]:
        """Return what its first host has reported since the last call, and what there is to say about the job."""
        found = self._events.read()
        self._worker_speaks = self._worker_speaks or bool(found)
        texts = self._queue.notices
        self._queue.notices = []
        state = self._state()
        if state is not None and state.name == "PENDING":
            texts += self._unusual_reason(state.reason)
        found += [{"event": "say", "text": text} for text in texts]
        now = time.monotonic()
        if not self._worker_speaks and now - self._alive_at > ALIVE_SECONDS:
            self._alive_at = now  # it is Slurm that knows of it
            found.append({"event": "alive"})
        return found

    def _unusual_reason(self, reason: str) -> list[str]:
        """Return a line about what a job waits for, where it is not just its turn; once."""
        if reason in USUAL_REASONS or reason == self._told_reason:
            return []
        self._told_reason = reason
        return [f"Slurm job {self.number} waits: {reason}"]

    # --- what becomes of it

    def poll(self) -> End:
        """Return the worker's exit status once it is over, or what Slurm says of a job that left none."""
        self._queue.look()
        if self._end is None:
            self._end = self._look()
        return self._end

    def _look(self) -> End:
        if self.number is None:
            return self._look_at_submission()
        status = self._exit_status()
        if status in FINAL:
            return status
        state = self._state()
        if state is None or not state.over:
            self._over_since = None
            return self._look_at_running(status, state)
        return self._end_by(state, status)

    def _look_at_submission(self) -> End:
        """See whether Slurm has taken the job."""
        if self._submission is None or not self._submission.done():
            return None
        answer = self._submission.result()
        if isinstance(answer, NotStarted):
            self.refused = answer
            return answer
        self.number = answer
        self._queue.watch(answer)
        me = dataclasses.asdict(Process.of(self.pid))
        files.write_json(self._folder / "job", {"number": answer, "launcher": me})
        if self._stop_asked:  # meanwhile
            self._queue.tell(["scancel", answer])
            self._queue.hurry()
        return None

    def _look_at_running(self, status: int | None, state: State | None) -> End:
        """Look at a job that Slurm does not call over."""
        if status is not None or self._stop_asked:
            self._queue.hurry()  # it may be over by now, or queued again
        if state is not None and state.name != "RUNNING":
            self._worker_speaks = False
        if state is not None and HELD.search(state.reason):
            return NotStarted("node", f"Slurm job {self.number}: {state.reason}")
        killed = self._first_killed_at
        if killed is not None and time.monotonic() - killed > GIVE_UP_SECONDS:
            return Failure("preempted", f"Slurm has not answered the request to end job {self.number}")
        return None

    def _end_by(self, state: State, status: int | None) -> End:
        """Return the end of a job that Slurm calls over."""
        if state.name in CLASS_OF_STATE:
            return Failure(CLASS_OF_STATE[state.name], f"Slurm job {self.number} is {state.name}")
        if status == NOT_STARTED:
            return NotStarted("node", f"Slurm job {self.number} could not start its worker{self._last_words()}")
        self._over_since = self._over_since or time.monotonic()
        is_new = time.monotonic() - self._over_since < LATE_SECONDS
        if status == EXIT_AGAIN and is_new and not self._stop_asked:
            return None  # Slurm may be about to queue it again
        if status is not None:
            return status if status <= 128 else 128 - status
        if is_new:
            return None
        if state.name == "COMPLETED":
            return 0
        return Failure("node", f"Slurm job {self.number} is {state.name}, without an exit status{self._last_words()}")

    def _state(self) -> State | None:
        return self._queue.state(self.number) if self.number else None

    def _exit_status(self) -> int | None:
        """Return the exit status that the job has left; None where there is none (yet)."""
        try:
            return int((self._folder / "exit").read_text())
        except (OSError, ValueError):
            return None

    def _last_words(self) -> str:
        """Return the last error in the log of this attempt, as the end of a sentence."""
        try:
            with open(self._job.log, "rb") as file:
                file.seek(max(self._log_start, _size(self._job.log) - LOG_BYTES))
                text = last_error(file.read())
        except OSError:
            return ""
        return f": {text}" if text else ""

    # --- its end

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end, or end it at once. One that has not started leaves the queue."""
        now = time.monotonic()
        before = self._stop_asked.get(force)
        if self._end is not None or (before is not None and now - before < ASK_AGAIN_SECONDS):
            return
        self._stop_asked[force] = now
        if force:
            self._first_killed_at = self._first_killed_at or now
        if self.number is None:
            return
        self._queue.hurry()
        if force:
            self._queue.tell(["scancel", self.number])
        else:
            self._queue.tell(
                ["scancel", "--state=PENDING", self.number],
                ["scancel", "--state=RUNNING", "--signal=TERM", self.number],
            )

    def close(self) -> None:
        """Leave nothing queued, and no file that only a running job needs."""
        if self.number is None:
            # Where sbatch has failed, Slurm may have taken the job all the same.
            self._queue.tell(["scancel", f"--user={os.getuid()}", f"--name={self._job.name}"])
        elif self._end not in FINAL and not self._over_by_slurm():
            self._queue.tell(["scancel", self.number])
        if self.number is not None:
            self._queue.forget(self.number)
        for name in ("job", "stdout"):
            (self._folder / name).unlink(missing_ok=True)

    def _over_by_slurm(self) -> bool:
        state = self._state()
        return state is not None and state.over


def _size(path: str) -> int:
    """Return the size of a file in bytes; 0 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
