"""Why a worker ended before all its runs had a record. Reads signs and names a class; sweeps/work/retries.py decides.

A class is read from the exit status, what the worker said last, and the kernel's count of out-of-memory kills.
"""

import contextlib
import re
import signal

from experiments.alive import requests
from experiments.cli import EXIT_AGAIN, EXIT_INPUT
from sweeps.executors.support.log import last_error
from sweeps.executors.support.protocol import Failure

SHELL_OFFSET = 128  # a shell or a container reports signal n as the exit status 128 + n
KILL_COUNTERS = ("/proc/vmstat", "/sys/fs/cgroup/memory.events")  # files with a line `oom_kill NUMBER`

_MEMORY = (
    r"RESOURCE_EXHAUSTED|out.of.memory|MemoryError|bad_alloc|cannot allocate memory|Unable to allocate|"
    r"CU\w+_STATUS_ALLOC_FAILED|exceeded HBM capacity"
)
_DISK = r"no space left|disk quota exceeded|read-only file system"
_NODE = (
    r"input/output error|stale file handle|transport endpoint|DEADLINE_EXCEEDED|UNAVAILABLE|CUDA_ERROR_|"
    r"uncorrectable|device or resource busy|TPU initialization failed|/dev/(vfio|accel)"
)
_TAKEN = r"preempted|another launcher"  # what came to take the place or the runs
# What the last error of a worker says about its class; the first pattern that is found counts.
_PATTERNS = (
    ("node", r"^stalled: |: stalled: "),
    ("node", r"cannot be read now \("),  # what a bucket is short of, such as requests, is no memory of ours
    ("disk", _DISK),
    ("node", r"quota|rate.?limit|too many requests|\b429\b|stockout|no more capacity|insufficient capacity"),
    ("memory", _MEMORY),
    ("node", _NODE),
)


def oom_kills() -> int:
    """Count the processes that the kernel of this host has killed for want of memory; 0 where it does not say."""
    total = 0
    for path in KILL_COUNTERS:
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            for line in file:
                name, *numbers = line.split()
                if name == "oom_kill":
                    total += int(numbers[0])
                    break
    return total


def classify(status: int, log: bytes, oom: bool = False) -> Failure:
    """Name the failure of a worker that ended with an exit status (negative: a signal) and wrote `log` in this attempt.

    `oom`: the kernel has killed something for want of memory meanwhile.
    """
    ended_by = _signal_of(status)
    how = f"killed by {ended_by.name}" if ended_by else f"exit code {status}"
    text = last_error(log)
    is_error = re.search(rb"^\s*error: ", log, re.MULTILINE) is not None
    reason = f"{how}: {text}" if text else how
    return Failure(_kind(status, ended_by, text, is_error, oom), reason)


def _signal_of(status: int) -> signal.Signals | None:
    """Return the signal that an exit status stands for, if it does."""
    if status < 0:
        number = -status
    elif status > SHELL_OFFSET:
        number = status - SHELL_OFFSET
    else:
        return None
    return signal.Signals(number) if number in set(signal.Signals) else None


def _kind(status: int, ended_by: signal.Signals | None, text: str, is_error: bool, oom: bool) -> str:
    """Return the class of a failure. What is certain comes first, what an error message hints at after it."""
    if ended_by is signal.SIGKILL and oom:
        return "memory"
    if status == EXIT_INPUT:
        return "user"
    if ended_by in requests.SIGNALS:
        return "preempted"
    for kind, pattern in _PATTERNS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind
    if status == EXIT_AGAIN:  # with an error, it is a disk or a host that did not answer, and no request to stop
        return "node" if is_error and not re.search(_TAKEN, text) else "preempted"
    return "node" if ended_by else "crash"
