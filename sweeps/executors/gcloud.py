"""One Cloud TPU slice: its options, the gcloud commands for its whole life, and running them.

Arguments are lists; the one line that a remote shell reads is quoted by shlex. gcloud's own settings name project and
account: nothing here sees a credential.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import time
from typing import Any

from experiments.cli import EXIT_AGAIN, EXIT_INPUT, InputError
from sweeps.executors.local import ROOT
from sweeps.executors.protocol import Event

POLL_SECONDS = float(os.environ.get("LOSSGRID_GCLOUD_POLL_SECONDS", "15"))
ATTEMPTS = 3  # of a step that fails, before the slice is given up
ENDED = ("FAILED", "SUSPENDED", "SUSPENDING", "DELETING")
HOME = "lossgrid"  # folder of the code on every host
CODE = ("analysis", "experiments", "models", "sweeps", "requirements.txt", "requirements-tpu.txt")


@dataclasses.dataclass(frozen=True)
class Options:
    """Of one slice; `slots` is how many at a time."""

    zone: str = ""
    type: str = ""  # accelerator type, such as v5litepod-16
    bucket: str = ""  # gs://… in which the slices work
    runtime: str = "v2-alpha-tpuv5-lite"  # runtime version of the slice's machines
    project: str = ""  # "": gcloud's own
    spot: bool = False
    reserved: bool = False
    valid_hours: int = 24  # so long a request waits for its slice
    slots: int = 1
    setup: str = ""  # file of the code's folder with a shell script that runs on each host after the bootstrap

    def check(self) -> None:
        """Raises InputError for values that are missing, or cannot be names."""
        for name, pattern in (
            ("zone", r"[a-z]+-[a-z]+\d+-[a-z]"),
            ("type", r"[a-z0-9]+-\d+"),
            ("bucket", r"gs://[a-z0-9][\w./-]+"),
            ("runtime", r"[\w.-]+"),
            ("project", r"([a-z][a-z0-9:.-]+)?"),
            ("setup", r"([\w][\w./-]*)?"),
        ):
            if not re.fullmatch(pattern, value := getattr(self, name)):
                raise InputError(f"tpu-vm: {name}={value}: expected {name}=… of the form {pattern}")
        if self.spot and self.reserved:
            raise InputError("tpu-vm: spot=true,reserved=true: expected one of the two at most")


class Stopped(Exception):
    """The launcher asked to stop."""


class Lost(Exception):
    """The slice is gone; another one may do."""


def say(command: list[str], aloud: bool = True) -> None:
    """A command in the log, and in front of the launcher's reader."""
    line = shlex.join(command)
    print(f"+ {line}", file=sys.stderr, flush=True)
    if aloud:
        tell({"event": "say", "text": f"+ {line}"})


def tell(event: Event) -> None:
    """An event for the launcher, in one write: several processes and threads share this pipe."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


@dataclasses.dataclass
class Slice:
    """One slice and the commands for it. `stops` are the signals that asked us to end."""

    options: Options
    name: str
    stops: list[int] = dataclasses.field(default_factory=list)
    clearing: bool = False  # what is left to do is done, whoever asks to stop

    # --- commands, each a list of arguments

    def _gcloud(self, *words: str) -> list[str]:
        return ["gcloud", *words, *([f"--project={self.options.project}"] if self.options.project else []), "--quiet"]

    def _queued(self, verb: str, *words: str) -> list[str]:
        zone = f"--zone={self.options.zone}"
        return self._gcloud("compute", "tpus", "queued-resources", verb, self.name, zone, *words)

    def create(self) -> list[str]:
        """Ask for the slice."""
        kind = ["--spot"] * self.options.spot + ["--reserved"] * self.options.reserved
        wanted = [f"--accelerator-type={self.options.type}", f"--runtime-version={self.options.runtime}"]
        valid = f"--valid-until-duration={self.options.valid_hours}h"
        return self._queued("create", f"--node-id={self.name}", *wanted, valid, *kind)

    def describe(self) -> list[str]:
        """Where the request stands, as JSON."""
        return self._queued("describe", "--format=json")

    def delete(self) -> list[str]:
        """The request and its slice."""
        return self._queued("delete", "--force")

    def copy(self, archive: str) -> list[str]:
        """The code, to all hosts."""
        zone = f"--zone={self.options.zone}"
        return self._gcloud(
            "compute", "tpus", "tpu-vm", "scp", archive, f"{self.name}:{HOME}.tar.gz", zone, "--worker=all"
        )

    def shell(self, *commands: Sequence[str]) -> list[str]:
        """Commands on all hosts, one after the other."""
        line = " && ".join(map(shlex.join, commands))
        zone = f"--zone={self.options.zone}"
        return self._gcloud("compute", "tpus", "tpu-vm", "ssh", self.name, zone, "--worker=all", f"--command={line}")

    def bootstrap(self) -> list[str]:
        """What every host needs, once."""
        python = f"{HOME}/.venv/bin/python"
        steps = [
            ["mkdir", "-p", HOME],
            ["tar", "-xzf", f"{HOME}.tar.gz", "-C", HOME],
            ["python3", "-m", "venv", f"{HOME}/.venv"],
            [python, "-m", "pip", "install", "--quiet", "-r", f"{HOME}/requirements-tpu.txt"],
        ]
        return self.shell(*steps, *([["bash", f"{HOME}/{self.options.setup}"]] if self.options.setup else []))

    def train(self, population: str, workdir: str) -> list[str]:
        """The worker, on all hosts; its process id is kept for `interrupt`."""
        inner = [".venv/bin/python", "-m", "experiments.train", f"--population={population}", f"--workdir={workdir}"]
        script = f"echo $$ > worker.pid; exec {shlex.join([*inner, '--hosts=auto'])}"
        return self.shell(["cd", HOME], ["bash", "-c", script])

    def interrupt(self) -> list[str]:
        """Ask the worker to save and end."""
        return self.shell(["bash", "-c", f"kill -TERM $(cat {HOME}/worker.pid)"])

    def sync(self, source: str, target: str) -> list[str]:
        """What is in one folder to another, one of them in the bucket; claims are the launcher's, and stay here."""
        return self._gcloud("storage", "rsync", source, target, "--recursive", r"--exclude=(.*/)?claim\.json$")

    # --- running them

    def step(self, command: list[str], attempts: int = ATTEMPTS) -> str:
        """Run a command to its end; its output. Raises Lost when it keeps failing, Stopped when asked to stop."""
        reason = ""
        for attempt in range(1, attempts + 1):
            if self.stops and not self.clearing:
                raise Stopped
            say(command)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            sys.stderr.write(done.stderr)
            if done.returncode == 0:
                return done.stdout
            reason = f"ended with {done.returncode}: {' '.join(done.stderr.split())[-200:]}"
            if attempt < attempts:
                time.sleep(min(POLL_SECONDS, 2.0 * attempt))
        raise Lost(f"{shlex.join(command[:5])} … {reason}")

    def state(self) -> str:
        """Of the request: ACTIVE, WAITING_FOR_RESOURCES, …; ABSENT when there is none."""
        say(self.describe(), aloud=False)
        done = subprocess.run(self.describe(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return "ABSENT" if "NOT_FOUND" in done.stderr else "UNKNOWN"
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(done.stdout)["state"]["state"])
        return "UNKNOWN"

    def make(self) -> None:
        """Ask for the slice and wait for it. One that a launcher before us has left is deleted first."""
        if self.state() != "ABSENT":
            self.step(self.delete())
        self.step(self.create())
        while (state := self.state()) != "ACTIVE":
            if state in ENDED or state == "ABSENT":
                raise Lost(f"the request for {self.options.type} is {state}")
            if self.stops:
                raise Stopped
            tell({"event": "waiting", "state": state})
            time.sleep(POLL_SECONDS)

    def run(self, command: list[str]) -> int:
        """The worker to its end, its events passed on to the launcher. The exit code that it would have here."""
        asked = False
        say(command)
        process = subprocess.Popen(command, stdout=sys.stdout)
        while (code := _wait(process, 1.0)) is None:
            if len(self.stops) > 1:  # at once: the slice, and what it has not saved, is about to go
                process.kill()
            elif self.stops and not asked:
                asked = True
                say(self.interrupt())
                subprocess.run(self.interrupt(), check=False, stdout=sys.stderr)
        if code not in (0, EXIT_INPUT, EXIT_AGAIN) and self.state() != "ACTIVE":
            print(f"error: the slice {self.name} was preempted", file=sys.stderr)
            return EXIT_AGAIN
        return EXIT_AGAIN if asked and code else code


def _wait(process: subprocess.Popen, seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def archive(path: str) -> str:
    """The project's code as one file, without what git would not keep."""

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in info.name else info

    with tarfile.open(path, "w:gz") as out:
        for name in CODE:
            out.add(os.path.join(ROOT, name), name, filter=kept)
    return path


def _folders(value: dict[str, Any], workdir: str) -> list[str]:
    """Runs of a population, and the parents they start from, that have a folder already."""
    names = [*value["fingerprints"], *(run["parent"] for run in value["runs"] if run.get("parent"))]
    return [name for name in dict.fromkeys(names) if os.path.isdir(os.path.join(workdir, "runs", name))]


def remote_population(value: dict[str, Any], root: str) -> dict[str, Any]:
    """A population as a slice is given it: corpora in the bucket; nothing of this machine."""
    return value | {"execution": value["execution"] | {"data_root": f"{root}/data", "cpu_devices": None}}


def commands(slice_: Slice, value: dict[str, Any], workdir: str, scratch: str, name: str) -> dict[str, list[list[str]]]:
    """Every step's commands, in order. `scratch` is a folder that holds the archive and the remote population."""
    root = f"{slice_.options.bucket}/{name}"
    population = f"{root}/populations/{name}.json"
    up = [slice_.sync(os.path.join(scratch, "populations"), f"{root}/populations")]
    up.append(slice_.sync(os.path.abspath(value["execution"]["data_root"]), f"{root}/data"))
    up += [slice_.sync(os.path.join(workdir, "runs", run), f"{root}/runs/{run}") for run in _folders(value, workdir)]
    down = [slice_.sync(f"{root}/runs/{run}", os.path.join(workdir, "runs", run)) for run in value["fingerprints"]]
    return {
        "create": [slice_.create(), slice_.describe()],
        "bootstrap": [slice_.copy(os.path.join(scratch, "code.tar.gz")), slice_.bootstrap()],
        "upload": up,
        "run": [slice_.train(population, root)],
        "collect": down,
        "delete": [slice_.delete()],
    }
