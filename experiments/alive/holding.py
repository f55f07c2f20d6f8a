"""Hold the folders of runs that no launcher has handed out, as `experiments.train --workdir=DIR` does.

The claim is the one that a launcher writes (claims.py), so that two processes never train in one folder, whoever
started them. Of this host a holder is known to live or not, and a dead one's claim is taken over at once. That of
another host is watched: it lives as soon as its counter is raised, and is dead when it was not raised for long.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import time

from etils import epath

from experiments.alive import claims
from experiments.alive.claims import Claims
from experiments.alive.lease import Lease, Lost
from experiments.objects.bucket import is_remote

POLL_SECONDS = 2.0

Say = Callable[[str], None]


@contextlib.contextmanager
def hold(directories: Sequence[epath.Path], fingerprints: Sequence[str], say: Say) -> Iterator[Lease]:
    """Hold the folders of runs for as long as a block of code runs. Raises Lost when somebody else is at one.

    `say` is told what is waited for.
    """
    token = claims.new_token()
    with contextlib.ExitStack() as stack:
        leases = []
        for directory, fingerprint in zip(directories, fingerprints, strict=True):
            leases.append(stack.enter_context(_held(directory, fingerprint, token, say)))
        yield leases[0]  # all have the token, and by it one can look at all claims


@contextlib.contextmanager
def _held(directory: epath.Path, fingerprint: str, token: str, say: Say) -> Iterator[Lease]:
    """Hold one folder."""
    directory.mkdir(parents=True, exist_ok=True)
    root = _root(directory)
    of_run = Claims(root, lambda _: directory)
    _take(of_run, directory, fingerprint, token, say)
    lease = Lease(root, token)
    try:
        lease.begin([directory])
        yield lease
    finally:
        lease.end()
        of_run.release([fingerprint])
        if root == directory and not is_remote(root):  # elsewhere other workers have their counters there
            with contextlib.suppress(OSError):
                (root / "workers").rmdir()


def _root(directory: epath.Path) -> epath.Path:
    """Return the folder under which the claim of a run is locked: a study's, where the run is one of its runs."""
    study = directory.parent.parent
    is_of_study = directory.parent.name == "runs" and (study / "study.json").exists()
    return study if is_of_study else directory


def _take(of_run: Claims, directory: epath.Path, fingerprint: str, token: str, say: Say) -> None:
    """Claim a run as soon as it is known that nobody is at it. Raises Lost when somebody is."""
    waiting = False
    while True:
        with of_run.lock():
            other = of_run.by_other(fingerprint)
            if other is None:
                if of_run.take_for_ourselves(fingerprint, token):
                    return
                continue
        if of_run.is_seen_alive(other):
            raise Lost(f"{directory} is being trained by {other}; the same command goes on when that has ended")
        if not waiting:
            say(f"{directory}: waiting up to {claims.STALE_SECONDS:.0f} s to see whether {other} still trains it")
            waiting = True
        time.sleep(POLL_SECONDS)
