"""Why a worker ended before all its runs had a record, and how often that is worth another try.

A class is read from the exit code, what the worker said last, and the kernel's count of out-of-memory kills. Each has a
budget of its own: being preempted twenty times says nothing about a run, a bad option says everything at once.
Decides; does nothing.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import re
import signal

from experiments.cli import EXIT_AGAIN, EXIT_INPUT, InputError, nearest

# How often a population (a run, for "diverged") may end in each way before it is given up. What was preempted or lost
# its node starts counting again once it has come further, so that progress is never given up.
BUDGETS = {
    "preempted": 20,  # asked to stop from outside, or another launcher took over
    "node": 5,  # killed, crashed below Python, hung, a device or a file system that went away
    "memory": 1,  # a population is halved at once; a run alone is tried once more
    "disk": 3,  # full or read-only: nobody's fault; the launch ends, and the runs wait
    "crash": 1,  # an exception that nobody expected
    "user": 0,  # a value that cannot be right will not be right the next time
    "diverged": 0,  # a result; again only where the hardware is under suspicion
}
RESTARTED_BY_PROGRESS = ("preempted", "node")
BACKOFF_SECONDS = {"node": 1.0, "disk": 5.0}  # before the first retry; doubled each time
BACKOFF_LIMIT = 60.0

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_TEXTS = (
    ("node", r"^stalled: |: stalled: "),
    ("disk", r"no space left|disk quota exceeded|read-only file system"),
    ("memory", r"RESOURCE_EXHAUSTED|out of memory|MemoryError|bad_alloc|cannot allocate memory|Unable to allocate"),
    (
        "node",
        (
            r"input/output error|stale file handle|transport endpoint|DEADLINE_EXCEEDED|UNAVAILABLE|CUDA_ERROR_|"
            r"uncorrectable|device or resource busy|TPU initialization failed|/dev/(vfio|accel)"
        ),
    ),
)


@dataclasses.dataclass(frozen=True)
class Failure:
    """An end without all records: its class and one line for a reader."""

    kind: str
    reason: str


def parse_budgets(texts: list[str]) -> dict[str, int]:
    """The default budgets with `class=count` put in their place. Raises InputError for anything else."""
    out = dict(BUDGETS)
    for text in texts:
        kind, _, count = text.partition("=")
        if kind not in BUDGETS:
            raise InputError(f"--retries={text}: {kind!r} is no kind of failure; {nearest(kind, BUDGETS, 'kind')}")
        if not re.fullmatch(r"\d{1,6}", count):
            raise InputError(f"--retries={text}: expected a count, such as {kind}=3")
        out[kind] = int(count)
    return out


def oom_kills() -> int:
    """Processes that the kernel of this host has killed for want of memory so far; 0 where it does not say."""
    total = 0
    for path, name in (("/proc/vmstat", "oom_kill"), ("/sys/fs/cgroup/memory.events", "oom_kill")):
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            total += next((int(line.split()[1]) for line in file if line.split()[0] == name), 0)
    return total


def classify(code: int, log: bytes, oom: bool = False) -> Failure:
    """The failure of a worker that ended with `code` (negative: a signal) and wrote `log` in this attempt.

    `oom`: the kernel has killed something for want of memory meanwhile.
    """
    number = -code if code < 0 else code - 128 if code > 128 else 0  # a shell or a container adds 128
    named = signal.Signals(number) if number in set(signal.Signals) else None
    how = f"killed by {named.name}" if named else f"exit code {code}"
    text = last_error(log)
    reason = f"{how}: {text}" if text else how
    return Failure(_kind(code, named, text, oom), reason)


def _kind(code: int, named: signal.Signals | None, text: str, oom: bool) -> str:
    if named is signal.SIGKILL and oom:
        return "memory"
    if code == EXIT_INPUT:
        return "user"
    if named in _STOPS:
        return "preempted"
    for kind, pattern in _TEXTS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind
    if code == EXIT_AGAIN:
        return "preempted"
    return "node" if named else "crash"


def last_error(log: bytes) -> str:
    """The last line of a log that begins with `error: ` (or its last line), at most 300 characters."""
    lines = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1].removeprefix("error: ")[:300]


def backoff(kind: str, times: int) -> float:
    """Seconds to wait before the `times`-th retry."""
    return min(BACKOFF_LIMIT, BACKOFF_SECONDS.get(kind, 0.0) * 2 ** (times - 1))


def describe(spent: Mapping[str, int]) -> str:
    """Attempts by class, for a reader: "2 preempted, 1 node"."""
    return ", ".join(f"{count} {kind}" for kind, count in spent.items() if count)
