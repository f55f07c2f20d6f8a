"""The process that sees to one Cloud TPU slice: makes it, has it train a population, collects, deletes it.

    python -m sweeps.executors.support.slice_keeper OPTIONS POPULATION WORKDIR      started by the executor tpu-vm

It runs the commands of support/gcloud.py one after the other, each printed before it runs, and passes the worker's
events on. Whatever goes wrong, its last command is to delete the slice: nothing is left that costs.
"""

from collections.abc import Callable, Sequence
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time

from etils import epath

from experiments import files
from experiments.alive import lease, requests, watchdog
from experiments.cli import EXIT_AGAIN, EXIT_FAILURE, EXIT_INPUT
from models.errors import InputError
from sweeps.executors.support import gcloud
from sweeps.executors.support.gcloud import Options, Slice
from sweeps.executors.support.options import parse_options
from sweeps.executors.support.protocol import Event

POLL_SECONDS = float(os.environ.get("LOSSGRID_GCLOUD_POLL_SECONDS", "15"))
ATTEMPTS = 3  # of a step that fails, before the slice is given up
ENDED = ("FAILED", "SUSPENDED", "SUSPENDING", "DELETING")  # states of a request that no slice will come of
NAME = re.compile(r"[\w.-]+")


class Stopped(Exception):
    """The launcher asked to stop."""


class Lost(Exception):
    """The slice is gone; another one may do."""


def tell(event: Event) -> None:
    """Report an event to the launcher, in one write: several processes and threads share this pipe."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def announce(command: Sequence[str], aloud: bool = True) -> None:
    """Write a command to the log; `aloud`: show it to the launcher's reader too."""
    line = shlex.join(command)
    print(f"+ {line}", file=sys.stderr, flush=True)
    if aloud:
        tell({"event": "say", "text": f"+ {line}"})


class SliceKeeper:
    """Runs the commands of one slice. `stops` are the signals that asked us to end."""

    def __init__(self, slice_: Slice):
        self.slice = slice_
        self.stops: list[int] = []
        self.clearing = False  # what is left to do is done, whoever asks to stop

    def run_step(self, command: Sequence[str], attempts: int = ATTEMPTS) -> str:
        """Run a command to its end and return its output.

        Raises Lost when it keeps failing, Stopped when we were asked to stop.
        """
        reason = ""
        for attempt in range(1, attempts + 1):
            if self.stops and not self.clearing:
                raise Stopped
            announce(command)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            sys.stderr.write(done.stderr)
            if done.returncode == 0:
                return done.stdout
            said = " ".join(done.stderr.split())
            reason = f"ended with {done.returncode}: {said[-200:]}"
            if attempt < attempts:
                time.sleep(min(POLL_SECONDS, 2.0 * attempt))
        raise Lost(f"{shlex.join(command[:5])} … {reason}")

    def state(self) -> str:
        """Return the state of the request: ACTIVE, WAITING_FOR_RESOURCES, …; ABSENT when there is none."""
        command = self.slice.describe()
        announce(command, aloud=False)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return "ABSENT" if "NOT_FOUND" in done.stderr else "UNKNOWN"
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(done.stdout)["state"]["state"])
        return "UNKNOWN"

    def make(self) -> None:
        """Ask for the slice and wait for it. One that a launcher before us has left is deleted first."""
        if self.state() != "ABSENT":
            self.run_step(self.slice.delete())
        self.run_step(self.slice.create())
        while True:
            state = self.state()
            if state == "ACTIVE":
                return
            if state in ENDED or state == "ABSENT":
                raise Lost(f"the request for {self.slice.options.type} is {state}")
            if self.stops:
                raise Stopped
            tell({"event": "waiting", "state": state})
            time.sleep(POLL_SECONDS)

    def run_worker(self, command: Sequence[str]) -> int:
        """Run the worker to its end, its events passed on to the launcher. Return the exit status it would have here."""
        interrupted = False
        announce(command)
        process = subprocess.Popen(command, stdout=sys.stdout)
        while True:
            status = _wait(process, 1.0)
            if status is not None:
                break
            if len(self.stops) > 1:  # at once: the slice, and what it has not saved, is about to go
                process.kill()
            elif self.stops and not interrupted:
                interrupted = True
                announce(self.slice.interrupt())
                subprocess.run(self.slice.interrupt(), check=False, stdout=sys.stderr)
        if status not in (0, EXIT_INPUT, EXIT_AGAIN) and self.state() != "ACTIVE":
            print(f"error: the slice {self.slice.name} was preempted", file=sys.stderr)
            return EXIT_AGAIN
        return EXIT_AGAIN if interrupted and status != 0 else status

    def run_life(self, life: dict[str, list[list[str]]], still_ours: Callable[[], bool]) -> int:
        """Run every step from the creation to the deletion; return the worker's exit status.

        `still_ours`: whether what comes back may still be written here.
        """
        uploaded = False
        try:
            self.make()
            for command in [*life["bootstrap"], *life["upload"]]:
                self.run_step(command)
            uploaded = True
            return self.run_worker(life["run"][0])
        except Stopped:
            return EXIT_AGAIN
        except Lost as error:
            print(f"error: UNAVAILABLE: {error}", file=sys.stderr)  # the class "node" of sweeps/work/failures.py
            return EXIT_FAILURE
        finally:
            self.clearing = True
            if uploaded and self._may_collect(still_ours):
                for command in life["collect"]:
                    with contextlib.suppress(Lost):
                        self.run_step(command)
            with contextlib.suppress(Lost):
                self.run_step(life["delete"][0])

    def _may_collect(self, still_ours: Callable[[], bool]) -> bool:
        """Whether to bring the runs back: not where they are another's by now, nor after a second request to stop."""
        if not still_ours():
            print("error: another launcher has taken over these runs; nothing is collected", file=sys.stderr)
            return False
        return len(self.stops) < 2


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return the exit status of a process, None when it does not end within so long."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def serve(options: Options, population: str, workdir: str) -> int:
    """See to a population's slice from its creation to its deletion; return the worker's exit status.

    This process holds the claims, not the slice. Raises lease.Lost when they are another's from the beginning.
    """
    name = os.path.splitext(os.path.basename(population))[0]
    if not NAME.fullmatch(name):
        raise InputError(f"--population={population}: expected a file named by letters and digits")
    value = files.read_json(population)
    keeper = SliceKeeper(Slice(options, f"lossgrid-{name}"))
    hearing = requests.heard(lambda number, _: keeper.stops.append(number))
    with hearing, tempfile.TemporaryDirectory(prefix="lossgrid-") as scratch:
        life = gcloud.life_of(keeper.slice, value, workdir, scratch, name)
        os.makedirs(os.path.join(scratch, "populations"))
        remote = gcloud.remote_population(value, f"{options.bucket}/{name}")
        with open(os.path.join(scratch, "populations", f"{name}.json"), "w") as file:
            json.dump(remote, file)
        gcloud.archive(os.path.join(scratch, "code.tar.gz"))
        runs = [epath.Path(workdir) / "runs" / fingerprint for fingerprint in value["fingerprints"]]
        held = lease.given(epath.Path(workdir))
        if held is not None:
            held.begin(runs)

        def still_ours() -> bool:
            with contextlib.suppress(OSError):
                return held is None or held.holds(runs)
            return True  # to look is no reason to leave a slice behind

        return keeper.run_life(life, still_ours)


def main(argv: list[str]) -> int:
    """Serve OPTIONS POPULATION WORKDIR; return the exit status."""
    options_text, population, workdir = argv
    watchdog.breathe(tell)
    try:
        options = parse_options(Options, options_text, "--executor=tpu-vm")
        options.check()
        return serve(options, population, workdir)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except lease.Lost as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_AGAIN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
