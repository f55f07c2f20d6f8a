"""Hear requests to stop: the signals by which people, shells, schedulers and batch systems ask a process to end."""

from collections.abc import Callable, Iterator
import contextlib
import signal
import threading
from typing import Any

# SIGUSR1 and SIGUSR2 are what batch systems send before a time limit, SIGXCPU at one; SIGHUP, when a terminal closes.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

Handler = Callable[[int, Any], Any]


@contextlib.contextmanager
def heard(handler: Handler, to_the_end: bool = False) -> Iterator[None]:
    """Have `handler` called at a request to stop for as long as a block of code runs; afterwards all is as before.

    `to_the_end`: the process ends with the block. A request that comes while it does is ignored, so that it ends with
    the status that it has come to, and not by a signal.

    SIGHUP stays ignored where it is, as under nohup. Outside the main thread, which alone can hear signals, nothing
    is changed.
    """
    former = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if not _is_ignored_hangup(number):
                former[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in former.items():
            afterwards = signal.SIG_IGN if to_the_end else before
            signal.signal(number, signal.SIG_DFL if afterwards is None else afterwards)  # None: not set from Python


def _is_ignored_hangup(number: int) -> bool:
    hangup = getattr(signal, "SIGHUP", None)
    return number == hangup and signal.getsignal(number) == signal.SIG_IGN
