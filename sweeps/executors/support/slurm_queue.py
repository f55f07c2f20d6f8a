"""Talk to Slurm: sbatch, squeue, scancel, and sacct where squeue knows a job no more.

Each command runs in a thread, since any of them may hang for as long as a controller is away; nothing here waits for
one. One squeue asks about all jobs at once. A command that fails is a result, never an exception: what a job was known
to be it still is, until Slurm has answered again.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import dataclasses
import os
import re
import shutil
import subprocess
import time

from models.errors import InputError
from sweeps.executors.support.protocol import NotStarted

COMMAND_SECONDS = 60.0  # after which a command that hangs is given up
ASK_SECONDS = 10.0  # between two questions about all jobs
SOON_SECONDS = 1.0  # between two of them when something is known to have changed
AWAY_SECONDS = 30.0  # of silence after which it is said that Slurm does not answer
LONGEST_REASON = 300  # characters

# States of a job that does not go on (squeue's manual page, "JOB STATE CODES"). One that is COMPLETING is not yet over.
OVER = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)
UNKNOWN = "UNKNOWN"  # ours: neither squeue nor sacct knows the job

# What sbatch says where the same submission will be refused again.
_WRONG = (
    r"unrecognized option|requires an argument|ambiguous|invalid (time|partition|generic|gres|feature|constraint|node|"
    r"account|qos|license|reservation|wckey|number|memory|mail|--)|reservation is invalid|is not a valid|"
    r"node configuration is not available|specification (is )?invalid|can ?not be satisfied|"
    r"more processors requested|permission denied|not permitted|time limit is invalid|directive pattern"
)
# What it says of a user who has as many jobs as he may.
_LIMIT = r"SubmitJob|MaxJobs|submit limit|accounting/QOS policy|temporarily unable to accept"


@dataclasses.dataclass(frozen=True)
class State:
    """What Slurm says of a job: the name of its state, and why it waits."""

    name: str
    reason: str = ""

    @property
    def over(self) -> bool:
        """Tell whether the job does not go on."""
        return self.name in OVER or self.name == UNKNOWN


class LimitReached(NotStarted):
    """Slurm takes no more jobs of this user for now."""


def check_installed() -> None:
    """Raise InputError where Slurm's commands are not on PATH."""
    for command in ("sbatch", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise InputError(
                f"--executor=slurm: {command} is not on PATH; expected a host from which jobs are submitted"
            )


def _run(*command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm's; one that hangs, or is not there, has the exit status 1 and says so.

    What describes the job that we are in ourselves is kept from it: it would become part of the new one.
    """
    environment = {}
    for name, value in os.environ.items():
        if not name.startswith("SLURM_") or name in ("SLURM_CONF", "SLURM_CLUSTERS"):
            environment[name] = value
    try:
        return subprocess.run(
            command,
            input=given,
            stdin=None if given is not None else subprocess.DEVNULL,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        said = f"{command[0]} has not answered for {COMMAND_SECONDS:.0f} s"
    except OSError as error:
        said = f"{command[0]}: {error.strerror}"
    return subprocess.CompletedProcess(command, 1, "", said)


def _run_all(commands: Sequence[Sequence[str]]) -> None:
    for command in commands:
        _run(*command)


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a command complained of, in one line."""
    lines = []
    for line in done.stderr.splitlines():
        text = re.sub(r"^\w+: (error: |fatal: )?", "", line.strip())
        if text and not text.startswith("Try "):
            lines.append(text)
    return "; ".join(dict.fromkeys(lines))[:LONGEST_REASON] or f"exit code {done.returncode}"


def refusal(done: subprocess.CompletedProcess[str]) -> NotStarted:
    """Say why sbatch has taken no job: for good ("user"), for now ("node"), or because there are enough of them."""
    text = _said(done)
    if re.search(_LIMIT, text, re.IGNORECASE):
        return LimitReached("node", f"sbatch: {text}")
    wrong = re.search(_WRONG, text, re.IGNORECASE)
    return NotStarted("user" if wrong else "node", f"sbatch: {text}")


def submit(script: str) -> str | NotStarted:
    """Submit the script of a job; return the job's number, or why there is none."""
    done = _run("sbatch", "--parsable", script)
    number = done.stdout.strip().partition(";")[0]  # a federation adds the name of the cluster
    if done.returncode == 0 and number.isdecimal():
        return number
    return refusal(done)


def rehearse(script: str) -> str | NotStarted:
    """Have Slurm look at the text of a script, and submit nothing; return what it says, or why it would refuse."""
    done = _run("sbatch", "--test-only", given=script)
    return _said(done) if done.returncode == 0 else refusal(done)


def _states() -> dict[str, State] | str:
    """Return the state of all jobs of this user that Slurm still knows, by number; or what it says where it cannot."""
    user = f"--user={os.getuid()}"
    done = _run("squeue", "--noheader", user, "--states=all", "--format=%i|%T|%r")
    if done.returncode != 0:
        return _said(done)
    states = {}
    for line in done.stdout.splitlines():
        number, _, rest = line.strip().partition("|")
        name, _, reason = rest.partition("|")
        states[number] = State(name, reason)
    return states


def _recorded_state(number: str) -> State:
    """Return the state in which a job ended that squeue has forgotten, from Slurm's accounting where there is one."""
    done = _run("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={number}", "--format=State")
    words = done.stdout.split()  # "CANCELLED by 1000"
    return State(words[0].rstrip("+") if done.returncode == 0 and words else UNKNOWN)


class Queue:
    """What Slurm is known to say of our jobs, kept up to date by `look`."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(4, "slurm")
        self._states: dict[str, State] = {}
        self._watched: dict[str, float] = {}  # since when, by number, on the monotonic clock
        self._asking: Future[dict[str, State] | str] | None = None
        self._asked_at = time.monotonic()
        self._answered_at = time.monotonic()
        self._recalled: dict[str, Future[State]] = {}  # of jobs that squeue has forgotten
        self._hurried = False
        self._away = False  # it was said that Slurm does not answer
        self.notices: list[str] = []  # for the user, until somebody has shown them

    def submit(self, script: str) -> "Future[str | NotStarted]":
        """Submit a job, in a thread."""
        return self._threads.submit(submit, script)

    def tell(self, *commands: Sequence[str]) -> None:
        """Run commands, one after the other, whose answers nobody waits for."""
        self._threads.submit(_run_all, commands)

    def watch(self, number: str) -> None:
        """Ask about a job from now on."""
        self._watched[number] = time.monotonic()

    def forget(self, number: str) -> None:
        """Ask about a job no more."""
        self._watched.pop(number, None)
        self._states.pop(number, None)
        self._recalled.pop(number, None)

    def state(self, number: str) -> State | None:
        """Return what was last known of a job; None while Slurm has not yet said anything."""
        return self._states.get(number)

    def hurry(self) -> None:
        """Ask soon: something has changed."""
        self._hurried = True

    def look(self) -> None:
        """Ask Slurm when it is time to, and take in what it has answered. Never waits."""
        now = time.monotonic()
        self._take_answers(now)
        every = SOON_SECONDS if self._hurried else ASK_SECONDS
        if self._watched and self._asking is None and now - self._asked_at >= every:
            self._asked_at = now
            self._hurried = False
            self._asking = self._threads.submit(_states)

    def _take_answers(self, now: float) -> None:
        for number, recalled in list(self._recalled.items()):
            if recalled.done():
                self._states[number] = recalled.result()
        if self._asking is None or not self._asking.done():
            return
        answer = self._asking.result()
        self._asking = None
        if isinstance(answer, str):
            if now - self._answered_at > AWAY_SECONDS and not self._away:
                self._away = True
                self.notices.append(f"Slurm does not answer ({answer}); its jobs go on, and so do we")
            return
        self._answered_at = now
        if self._away:
            self._away = False
            self.notices.append("Slurm answers again")
        for number, since in self._watched.items():
            if number in answer:
                self._states[number] = answer[number]
                self._recalled.pop(number, None)
            elif since < self._asked_at and number not in self._recalled:
                self._recalled[number] = self._threads.submit(_recorded_state, number)
