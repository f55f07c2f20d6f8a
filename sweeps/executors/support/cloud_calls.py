"""Run gcloud's commands for one slice, and say what came of each: done, to be tried again, or refused for good.

Each command is printed before it runs. None is waited for longer than CALL_SECONDS, and a request to stop ends what can be
left undone; what deletes is never left undone.
"""

from collections.abc import Sequence
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO

from sweeps.executors.support import gcloud
from sweeps.executors.support.gcloud import ABSENT, UNKNOWN, Found, Slice
from sweeps.executors.support.protocol import Event

POLL_SECONDS = float(os.environ.get("LOSSGRID_GCLOUD_POLL_SECONDS", "15"))
CALL_SECONDS = 1800.0  # for one command: a bootstrap installs packages
LOOK_SECONDS = 0.05
LONGEST_REASON = 200  # characters
# What no later try will change. Quota, capacity and the network are none of it.
REFUSED = re.compile(r"INVALID_ARGUMENT|PERMISSION_DENIED|UNAUTHENTICATED|unrecognized arguments|Invalid choice")
QUOTA = re.compile(r"quota", re.IGNORECASE)  # gcloud says it with any status


class Stopped(Exception):
    """The launcher asked to stop."""


class Unanswered(Exception):
    """The cloud did not do what it was asked, and may the next time."""


class Refused(Exception):
    """The cloud will not do what it was asked, however often."""


def tell(event: Event) -> None:
    """Report an event to the launcher, in one write: several threads share this pipe."""
    with contextlib.suppress(OSError):  # a launcher that is dead hears nothing; the slice is to be deleted all the same
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def announce(command: Sequence[str], aloud: bool = True) -> None:
    """Write a command to the log; `aloud`: show it to the launcher's reader too."""
    line = shlex.join(command)
    print(f"+ {line}", file=sys.stderr, flush=True)
    if aloud:
        tell({"event": "say", "text": f"+ {line}"})


class Cloud:
    """The commands of one slice as they are run. `stops` are the signals that asked us to end."""

    def __init__(self, slice_: Slice):
        self.slice = slice_
        self.stops: list[int] = []
        self.unsure = False  # whether a request for the slice was not answered, and may still be heard

    def pause(self, seconds: float) -> None:
        """Wait. Raises Stopped at a request to stop."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.stops:
                raise Stopped
            time.sleep(LOOK_SECONDS)

    def run(self, command: Sequence[str], attempts: int) -> str:
        """Run a command, again where it fails, and return its output. Raises Unanswered, Refused or Stopped."""
        for attempt in range(1, attempts):
            with contextlib.suppress(Unanswered):
                return self._run_once(command)
            self.pause(min(POLL_SECONDS, 2.0 * attempt))
        return self._run_once(command)

    def _run_once(self, command: Sequence[str], may_stop: bool = True) -> str:
        if self.stops:
            raise Stopped
        announce(command)
        done = self._call(command, may_stop)
        if done.returncode == 0:
            return done.stdout
        said = " ".join(done.stderr.split())[-LONGEST_REASON:]
        words = " ".join(command[:5])
        reason = f"{words} … ended with {done.returncode}: {said}"
        if REFUSED.search(said) and not QUOTA.search(said):
            raise Refused(reason)
        raise Unanswered(reason)

    def _call(self, command: Sequence[str], may_stop: bool) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, or to a request to stop, or until it takes too long."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # a pipe could fill up
            process = subprocess.Popen(
                command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True
            )
            end = time.monotonic() + CALL_SECONDS
            while process.poll() is None:
                asked = may_stop and self.stops
                if asked or time.monotonic() > end:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    break
                time.sleep(LOOK_SECONDS)
            said = [_text(file) for file in (out, err)]
        sys.stderr.write(said[1])
        return subprocess.CompletedProcess(list(command), process.returncode, *said)

    # --- the request for the slice

    def describe(self) -> Found:
        """Return where the request stands; ABSENT when there is none, UNKNOWN when nobody can say now."""
        command = self.slice.describe()
        announce(command, aloud=False)
        done = self._call(command, may_stop=False)
        if done.returncode != 0:
            state = ABSENT if "NOT_FOUND" in done.stderr else UNKNOWN
            return Found(self.slice.name, state, {})
        try:
            return gcloud.found_in(json.loads(done.stdout))
        except ValueError:
            return Found(self.slice.name, UNKNOWN, {})

    def is_active(self, attempt: str) -> bool | None:
        """Whether the slice of an attempt is there to train on; None when nobody can say now."""
        found = self.describe()
        if found.state == UNKNOWN:
            return None
        return found.state == "ACTIVE" and found.labels.get("lossgrid-attempt") == attempt

    def create(self, attempt: str) -> None:
        """Ask for the slice. What came of it shows in `describe`: a request that failed may have been heard.

        Raises Refused where no later try will do, Stopped.
        """
        try:
            self._run_once(self.slice.create(attempt), may_stop=False)
            self.unsure = False
        except Unanswered:
            self.unsure = True

    def try_delete(self) -> None:
        """Ask for the deletion of request and slice. What came of it shows in `describe`."""
        command = self.slice.delete()
        announce(command)
        self._call(command, may_stop=False)


def delete_for_good(cloud: Cloud, seconds: float) -> bool:
    """Delete a slice that is ours and see it gone; False where the cloud has not said so within so long.

    Gone is what is absent at one look, or at two with a while between where the slice may be on its way.
    """
    end = time.monotonic() + seconds
    looks = 2 if cloud.unsure else 1
    absent = 0
    while True:
        found = cloud.describe()
        if found.state == ABSENT:
            absent += 1
        elif found.state != UNKNOWN:
            if not cloud.slice.is_ours(found):
                return True  # it is another's: ours is gone
            absent = 0
            cloud.try_delete()
            absent += cloud.describe().state == ABSENT
        if absent >= looks:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)


def _text(file: IO[bytes]) -> str:
    """Return all that is in a file."""
    file.seek(0)
    return file.read().decode(errors="replace")
