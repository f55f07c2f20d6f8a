"""The gcloud commands for the whole life of a Cloud TPU slice. Writes them; support/slice_keeper.py runs them.

A slice belongs to one population of one workdir of one owner. All three are in its name and its labels, and what does
not bear these labels is never deleted. Arguments are lists; the one line that a remote shell reads is quoted by shlex.
gcloud's own settings name project and account: nothing here sees a credential.
"""

from collections.abc import Sequence
import dataclasses
import getpass
import hashlib
import json
import os
import re
import shlex
import tarfile
from typing import Any

from models.errors import InputError
from sweeps.cost import machines
from sweeps.executors.support.options import at_least
from sweeps.executors.support.protocol import ROOT

HOME = "lossgrid"  # folder of the code on every host
CODE = ("analysis", "experiments", "models", "sweeps", "requirements.txt", "requirements-tpu.txt")
PATTERNS = {
    "zone": r"[a-z]+-[a-z]+\d+-[a-z]",
    "type": r"[a-z0-9]+-\d+",
    "runtime": r"[\w.-]*",
    "project": r"([a-z][a-z0-9:.-]+)?",
    "owner": r"([a-z][a-z0-9-]{0,11})?",
    "service_account": r"([\w.-]+@[\w.-]+)?",
    "setup": r"([\w][\w./-]*)?",
}
# Software of the hosts, by the beginning of the accelerator type (cloud.google.com/tpu/docs/runtimes).
RUNTIMES = {
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
OLD_RUNTIME = "tpu-ubuntu2204-base"  # v4
SCOPE = "https://www.googleapis.com/auth/cloud-platform"  # to read and write the bucket, and to delete itself
DEAD_MAN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dead_man.sh")
PYTHON = ".venv/bin/python"  # in the code's folder
SETUP = "sweeps/executors/support/host_setup.sh"  # in the code's folder

# Where the request for a slice stands.
ABSENT = "ABSENT"  # there is none
UNKNOWN = "UNKNOWN"  # nobody can say now
ENDED = ("FAILED", "SUSPENDED", "SUSPENDING")  # no slice will come of it


@dataclasses.dataclass(frozen=True)
class Options:
    """Of one slice; `slots` is how many at a time."""

    zone: str = ""
    type: str = ""  # accelerator type, such as v5litepod-16
    runtime: str = ""  # runtime version of the slice's machines; "": that of the type
    project: str = ""  # "": gcloud's own
    owner: str = ""  # whose slices these are, in their names and labels; "": the user's name
    service_account: str = ""  # of the hosts; "": the project's default one
    spot: bool = False
    reserved: bool = False
    flex_start: bool = False  # waits for capacity, and is ended by Google after max_hours
    valid_hours: int = at_least(1, 24)  # so long a request waits for its slice
    max_hours: int = at_least(1, 24)  # so long a slice lives at most: then it deletes itself
    still_minutes: int = at_least(5, 15)  # a slice deletes itself when nobody has watched it for so long
    slots: int = at_least(1, 1)
    setup: str = ""  # file of the code's folder with a shell script that runs on each host after the bootstrap

    def check(self) -> None:
        """Raise InputError for values that are missing, or cannot be names."""
        for name, pattern in PATTERNS.items():
            value = getattr(self, name)
            if not re.fullmatch(pattern, value):
                raise InputError(f"tpu-vm: {name}={value}: expected {name}=… of the form {pattern}")
        if self.type.startswith("tpu7"):
            raise InputError(
                f"tpu-vm: type={self.type}: the Cloud TPU API has v4 to v6e; GKE has this one: "
                "sweeps.manifest --kind=xpk, or --kind=skypilot"
            )
        if machines.target(self.type).kind != "tpu":
            raise InputError(f"tpu-vm: type={self.type}: expected a TPU slice, such as v5litepod-16")
        kinds = [name for name in ("spot", "reserved", "flex_start") if getattr(self, name)]
        if len(kinds) > 1:
            given = ",".join(f"{name}=true" for name in kinds)
            raise InputError(f"tpu-vm: {given}: expected one of them at most")

    def owner_name(self) -> str:
        """Return whose slices these are, as a label's value."""
        if self.owner:
            return self.owner
        plain = re.sub(r"[^a-z0-9-]", "-", getpass.getuser().lower())
        return f"u-{plain}"[:12].rstrip("-")

    def runtime_version(self) -> str:
        """Return the software that the hosts start with."""
        return self.runtime or RUNTIMES.get(self.type.partition("-")[0], OLD_RUNTIME)


@dataclasses.dataclass(frozen=True)
class Found:
    """What the cloud says of a request: its state, and the labels of its slice."""

    name: str
    state: str
    labels: dict[str, str]


def found_in(value: Any) -> Found:
    """Read a queued resource as gcloud writes it. Raises ValueError for what is none."""
    try:
        node = value["tpu"]["nodeSpec"][0]["node"]
        labels = dict(node.get("labels") or {})
        name = str(value["name"]).rpartition("/")[2]
        return Found(name, str(value["state"]["state"]), labels)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"no queued resource: {json.dumps(value)[:200]}") from error


def workdir_id(workdir: str) -> str:
    """Return a short name of a workdir (gs://…), for labels."""
    return hashlib.sha256(workdir.rstrip("/").encode()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True)
class Slice:
    """The slice of one population of a workdir, and the commands for it, each a list of arguments."""

    options: Options
    workdir: str  # gs://…
    population: str  # its name

    @property
    def name(self) -> str:
        """Its name in the cloud: that of its owner, workdir and population."""
        return f"lossgrid-{self.options.owner_name()}-{workdir_id(self.workdir)}-{self.population}"

    @property
    def folder(self) -> str:
        """Where in the bucket launcher and hosts talk to each other."""
        return f"{self.workdir.rstrip('/')}/slices/{self.name}"

    @property
    def labels(self) -> dict[str, str]:
        """What it bears, but for the attempt."""
        return {**labels_of(self.options, self.workdir), "lossgrid-population": self.population}

    @property
    def hosts(self) -> int:
        """How many hosts it has: four chips each, but for slices of up to eight chips of one host."""
        chips = machines.target(self.options.type).chips
        return max(1, chips // 4) if chips > 8 or self.options.type.startswith(("v4", "v5p")) else 1

    def is_ours(self, found: Found) -> bool:
        """Whether what the cloud has found bears our labels."""
        return self.labels.items() <= found.labels.items()

    def _queued(self, verb: str, *words: str, track: Sequence[str] = ()) -> list[str]:
        """A command about the queued resource: the request for the slice."""
        return _queued(self.options, verb, self.name, *words, track=track)

    def _tpu_vm(self, verb: str, *words: str) -> list[str]:
        """A command about the slice's hosts."""
        return _gcloud(self.options, "compute", "tpus", "tpu-vm", verb, *words)

    def create(self, attempt: str) -> list[str]:
        """Return the command that asks for the slice, with a label of its own for each attempt."""
        options = self.options
        labels = self.labels | {"lossgrid-attempt": attempt}
        spelt = ",".join(f"{name}={value}" for name, value in labels.items())
        metadata = {
            "lossgrid-name": self.name,
            "lossgrid-zone": options.zone,
            "lossgrid-beat": f"{self.folder}/keeper.json",
            "lossgrid-still-seconds": str(60 * options.still_minutes),
            "lossgrid-most-seconds": str(3600 * options.max_hours),
        }
        words = [
            f"--node-id={self.name}",
            f"--accelerator-type={options.type}",
            f"--runtime-version={options.runtime_version()}",
            f"--valid-until-duration={options.valid_hours}h",
            f"--labels={spelt}",
            "--metadata=" + ",".join(f"{name}={value}" for name, value in metadata.items()),
            f"--metadata-from-file=startup-script={DEAD_MAN}",
            f"--scopes={SCOPE}",
        ]
        if options.service_account:
            words.append(f"--service-account={options.service_account}")
        if options.spot:
            words.append("--spot")
        if options.reserved:
            words.append("--reserved")
        if options.flex_start:
            words += ["--provisioning-model=flex-start", f"--max-run-duration={options.max_hours}h"]
        return self._queued("create", *words, track=["alpha"] if options.flex_start else [])

    def describe(self) -> list[str]:
        """Return the command that says where the request stands, as JSON."""
        return self._queued("describe", "--format=json")

    def delete(self) -> list[str]:
        """Return the command that deletes the request and its slice."""
        return self._queued("delete", "--force")

    def copy(self, code: str) -> list[str]:
        """Return the command that copies an archive of the code to all hosts."""
        return self._tpu_vm("scp", code, f"{self.name}:{HOME}.tar.gz", self._zone, "--worker=all")

    @property
    def _zone(self) -> str:
        return f"--zone={self.options.zone}"

    def shell(self, *commands: Sequence[str]) -> list[str]:
        """Return the command that runs others on all hosts, one after the other."""
        line = " && ".join(shlex.join(command) for command in commands)
        return self._tpu_vm("ssh", self.name, self._zone, "--worker=all", f"--command={line}")

    def bootstrap(self) -> list[str]:
        """Return the command that makes every host ready. It may be run again."""
        setup = ["bash", f"{HOME}/{SETUP}"]
        if self.options.setup:
            setup.append(self.options.setup)
        return self.shell(["mkdir", "-p", HOME], ["tar", "-xzf", f"{HOME}.tar.gz", "-C", HOME], setup)

    def start(self, attempt: str) -> list[str]:
        """Return the command that starts the worker on all hosts and comes back at once.

        Where it runs already, the command changes nothing: gcloud repeats it after a lost connection.
        """
        host = [PYTHON, "-m", "sweeps.executors.support.slice_host"]
        population = f"{self.folder}/population.json"
        return self.shell(["cd", HOME], [*host, self.folder, attempt, population, self.workdir])


def labels_of(options: Options, workdir: str) -> dict[str, str]:
    """Return the labels of all slices of an owner for a workdir."""
    return {"lossgrid-owner": options.owner_name(), "lossgrid-workdir": workdir_id(workdir)}


def list_slices(options: Options) -> list[str]:
    """Return the command that lists all requests of the zone, as JSON."""
    return _queued(options, "list", "--format=json")


def delete_slice(options: Options, name: str) -> list[str]:
    """Return the command that deletes a request and its slice by name."""
    return _queued(options, "delete", name, "--force")


def sync(source: str, target: str, project: str = "") -> list[str]:
    """Return the command that copies one folder to another, one of them in a bucket.

    Claims are the launcher's, and stay where they are.
    """
    options = Options(project=project)
    return _gcloud(options, "storage", "rsync", source, target, "--recursive", r"--exclude=(.*/)?claim\.json$")


def _queued(options: Options, verb: str, *words: str, track: Sequence[str] = ()) -> list[str]:
    """A command about queued resources of the zone."""
    noun = ("compute", "tpus", "queued-resources")
    return _gcloud(options, *track, *noun, verb, *words, f"--zone={options.zone}")


def _gcloud(options: Options, *words: str) -> list[str]:
    """A gcloud command in the project of the options, which asks nothing back."""
    command = ["gcloud", *words]
    if options.project:
        command.append(f"--project={options.project}")
    return [*command, "--quiet"]


def archive(path: str) -> str:
    """Write the project's code as one file, without what git would not keep; return its path."""

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in info.name else info

    with tarfile.open(path, "w:gz") as out:
        for name in CODE:
            out.add(os.path.join(ROOT, name), name, filter=kept)
    return path
