"""The gcloud commands for the whole life of a Cloud TPU slice. Writes them; support/slice_keeper.py runs them.

Arguments are lists; the one line that a remote shell reads is quoted by shlex. gcloud's own settings name project and
account: nothing here sees a credential.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import re
import shlex
import tarfile
from typing import Any

from models.errors import InputError
from sweeps.executors.support.protocol import ROOT

HOME = "lossgrid"  # folder of the code on every host
CODE = ("analysis", "experiments", "models", "sweeps", "requirements.txt", "requirements-tpu.txt")
PATTERNS = {
    "zone": r"[a-z]+-[a-z]+\d+-[a-z]",
    "type": r"[a-z0-9]+-\d+",
    "bucket": r"gs://[a-z0-9][\w./-]+",
    "runtime": r"[\w.-]+",
    "project": r"([a-z][a-z0-9:.-]+)?",
    "setup": r"([\w][\w./-]*)?",
}


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
        """Raise InputError for values that are missing, or cannot be names."""
        for name, pattern in PATTERNS.items():
            value = getattr(self, name)
            if not re.fullmatch(pattern, value):
                raise InputError(f"tpu-vm: {name}={value}: expected {name}=… of the form {pattern}")
        if self.spot and self.reserved:
            raise InputError("tpu-vm: spot=true,reserved=true: expected one of the two at most")


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice by its name, and the commands for it, each a list of arguments."""

    options: Options
    name: str

    def _gcloud(self, *words: str) -> list[str]:
        """A gcloud command in the project of the options, which asks nothing back."""
        command = ["gcloud", *words]
        if self.options.project:
            command.append(f"--project={self.options.project}")
        return [*command, "--quiet"]

    @property
    def _zone(self) -> str:
        return f"--zone={self.options.zone}"

    def _queued(self, verb: str, *words: str) -> list[str]:
        """A command about the queued resource: the request for the slice."""
        return self._gcloud("compute", "tpus", "queued-resources", verb, self.name, self._zone, *words)

    def _tpu_vm(self, verb: str, *words: str) -> list[str]:
        """A command about the slice's hosts."""
        return self._gcloud("compute", "tpus", "tpu-vm", verb, *words)

    def create(self) -> list[str]:
        """Return the command that asks for the slice."""
        words = [
            f"--node-id={self.name}",
            f"--accelerator-type={self.options.type}",
            f"--runtime-version={self.options.runtime}",
            f"--valid-until-duration={self.options.valid_hours}h",
        ]
        if self.options.spot:
            words.append("--spot")
        if self.options.reserved:
            words.append("--reserved")
        return self._queued("create", *words)

    def describe(self) -> list[str]:
        """Return the command that says where the request stands, as JSON."""
        return self._queued("describe", "--format=json")

    def delete(self) -> list[str]:
        """Return the command that deletes the request and its slice."""
        return self._queued("delete", "--force")

    def copy(self, code: str) -> list[str]:
        """Return the command that copies an archive of the code to all hosts."""
        return self._tpu_vm("scp", code, f"{self.name}:{HOME}.tar.gz", self._zone, "--worker=all")

    def shell(self, *commands: Sequence[str]) -> list[str]:
        """Return the command that runs others on all hosts, one after the other."""
        line = " && ".join(shlex.join(command) for command in commands)
        return self._tpu_vm("ssh", self.name, self._zone, "--worker=all", f"--command={line}")

    def bootstrap(self) -> list[str]:
        """Return the command that makes every host ready, once."""
        python = f"{HOME}/.venv/bin/python"
        steps = [
            ["mkdir", "-p", HOME],
            ["tar", "-xzf", f"{HOME}.tar.gz", "-C", HOME],
            ["python3", "-m", "venv", f"{HOME}/.venv"],
            [python, "-m", "pip", "install", "--quiet", "-r", f"{HOME}/requirements-tpu.txt"],
        ]
        if self.options.setup:
            steps.append(["bash", f"{HOME}/{self.options.setup}"])
        return self.shell(*steps)

    def train(self, population: str, workdir: str) -> list[str]:
        """Return the command that runs the worker on all hosts; its process id is kept for `interrupt`."""
        inputs = [f"--population={population}", f"--workdir={workdir}"]
        worker = [".venv/bin/python", "-m", "experiments.train", *inputs, "--hosts=auto"]
        script = f"echo $$ > worker.pid; exec {shlex.join(worker)}"
        return self.shell(["cd", HOME], ["bash", "-c", script])

    def interrupt(self) -> list[str]:
        """Return the command that asks the worker to save and end."""
        return self.shell(["bash", "-c", f"kill -TERM $(cat {HOME}/worker.pid)"])

    def sync(self, source: str, target: str) -> list[str]:
        """Return the command that copies one folder to another, one of them in the bucket.

        Claims are the launcher's, and stay here.
        """
        return self._gcloud("storage", "rsync", source, target, "--recursive", r"--exclude=(.*/)?claim\.json$")


def archive(path: str) -> str:
    """Write the project's code as one file, without what git would not keep; return its path."""

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in info.name else info

    with tarfile.open(path, "w:gz") as out:
        for name in CODE:
            out.add(os.path.join(ROOT, name), name, filter=kept)
    return path


def remote_population(population: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Return a population as a slice is given it: corpora in the bucket; nothing of this machine."""
    execution = population["execution"] | {"data_root": f"{root}/data", "cpu_devices": None}
    return {**population, "execution": execution}


def _local_runs(population: Mapping[str, Any], workdir: str) -> list[str]:
    """Runs of a population, and the parents they start from, that have a folder here already."""
    wanted = list(population["fingerprints"])
    for run in population["runs"]:
        if run.get("parent"):
            wanted.append(run["parent"])
    distinct = dict.fromkeys(wanted)
    return [name for name in distinct if os.path.isdir(os.path.join(workdir, "runs", name))]


def life_of(
    slice_: Slice, population: Mapping[str, Any], workdir: str, scratch: str, name: str
) -> dict[str, list[list[str]]]:
    """Return the commands of every step of a slice's life, in order, for the population of that `name`.

    `scratch` is a folder that holds the archive of the code and the remote population.
    """
    root = f"{slice_.options.bucket}/{name}"
    runs = os.path.join(workdir, "runs")
    upload = [
        slice_.sync(os.path.join(scratch, "populations"), f"{root}/populations"),
        slice_.sync(os.path.abspath(population["execution"]["data_root"]), f"{root}/data"),
    ]
    for run in _local_runs(population, workdir):
        upload.append(slice_.sync(os.path.join(runs, run), f"{root}/runs/{run}"))
    collect = []
    for run in population["fingerprints"]:
        collect.append(slice_.sync(f"{root}/runs/{run}", os.path.join(runs, run)))
    return {
        "create": [slice_.create(), slice_.describe()],
        "bootstrap": [slice_.copy(os.path.join(scratch, "code.tar.gz")), slice_.bootstrap()],
        "upload": upload,
        "run": [slice_.train(f"{root}/populations/{name}.json", root)],
        "collect": collect,
        "delete": [slice_.delete()],
    }
