"""Turn what is raised outside of this program into results with a class of failure (protocol.py)."""

import errno

from experiments.cli import InputError, explain
from sweeps.executors.support.protocol import NotStarted

LONGEST_REASON = 300  # characters
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
FORBIDDEN = (errno.EACCES, errno.EPERM)


def not_started(error: Exception) -> NotStarted:
    """Say that there is no worker because of an error: its class by what it is, one line by what it says."""
    return NotStarted(_kind(error), explain(error)[:LONGEST_REASON])


def _kind(error: Exception) -> str:
    """Return the class of an error. Whatever is not known for certain may pass: "node"."""
    if isinstance(error, InputError):
        return "user"
    if isinstance(error, OSError) and error.errno in DISK:
        return "disk"
    if isinstance(error, OSError) and error.errno in FORBIDDEN:
        return "user"
    return "node"
