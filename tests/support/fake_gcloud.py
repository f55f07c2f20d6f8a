"""A Google Cloud of one zone, as its command sees it: slices on this machine that are paid for, and that fail at random.

Runs as `gcloud WORDS…`; nothing but the standard library, since it is called often. Its folder (LOSSGRID_FAKE_CLOUD) holds

    slices/NAME.json    the requests that there are; what is here is paid for
    hosts/NAME/ID/RANK  the disk of a slice's host. Its processes are known by LOSSGRID_FAKE_SLICE in their environment
    calls               every call, a line of JSON each
    injected            every fault, a line each
    faults.json         {"seed": …, "rate": …}: a share of the calls fails, which and how follows from the seed
    script              lines `VERB COUNT CODE TEXT`: the next COUNT calls of a verb fail in that way
    quota               how many slices there may be

A slice is ACTIVE a second after it was asked for, whoever looks, and then its startup script runs. Buckets are those of the emulator at
STORAGE_EMULATOR_HOST. Time on a slice passes LOSSGRID_FAKE_SPEED times as fast, as far as its metadata go.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid

HERE = pathlib.Path(os.environ["LOSSGRID_FAKE_CLOUD"])
SPEED = float(os.environ.get("LOSSGRID_FAKE_SPEED", "100"))
REAL_PYTHON = os.environ["LOSSGRID_FAKE_PYTHON"]
MARK = "LOSSGRID_FAKE_SLICE"
FAULTS = {
    "create": ("unheard", "heard", "quota"),
    "describe": ("unheard",),
    "list": ("unheard",),
    "delete": ("unheard", "heard"),
    "scp": ("unheard",),
    "ssh": ("unheard", "heard"),
    "rsync": ("unheard",),
    "cat": ("unheard",),
}
OF_ALL = ("preempted", "slow")


class Failed(Exception):
    """The command ends with a status and says why."""

    def __init__(self, code: int, text: str):
        super().__init__(text)
        self.code = code


@contextlib.contextmanager
def locked():
    """One at a time."""
    with open(HERE / "lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def append(name: str, text: str) -> None:
    with open(HERE / name, "a") as file:
        file.write(text + "\n")


# --- slices


def path_of(name: str) -> pathlib.Path:
    return HERE / "slices" / f"{name}.json"


def read(name: str) -> dict:
    with contextlib.suppress(FileNotFoundError):
        return json.loads(path_of(name).read_text())
    raise Failed(1, f"NOT_FOUND: Resource 'queuedResources/{name}' was not found")


def write(name: str, value: dict) -> None:
    temporary = path_of(name).with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path_of(name))


def host_folder(name: str, value: dict, rank: int) -> pathlib.Path:
    return HERE / "hosts" / name / value["id"] / str(rank)


def end_processes(value: dict) -> None:
    """Kill all that runs on a slice, but not this command."""
    mark = f"{MARK}={value['id']}".encode()
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def environment(value: dict, rank: int, folder: pathlib.Path) -> dict[str, str]:
    """What a process on a host has: commands of the image, and nothing of the launcher's."""
    path = os.pathsep.join([str(HERE / "image"), str(HERE), "/usr/bin", "/bin"])
    own = {MARK: value["id"], "TPU_WORKER_ID": str(rank), "HOME": str(folder), "PATH": path}
    kept = {
        name: text for name, text in os.environ.items() if name.startswith(("LOSSGRID_FAKE", "XLA_", "JAX_", "OMP"))
    }
    stores = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "LOSSGRID_SLICE_LOOK_SECONDS")
    kept |= {name: os.environ[name] for name in stores if name in os.environ}
    return kept | own | {"LOSSGRID_FAKE_NAME": value["name"], "LOSSGRID_FAKE_HOSTS": str(value["hosts"])}


def provision(name: str, identity: str) -> None:
    """Make a slice of a request that still waits, after a second."""
    time.sleep(1)
    with locked(), contextlib.suppress(Failed):
        value = read(name)
        if value["id"] == identity and value["state"] == "WAITING_FOR_RESOURCES":
            boot(value)
            write(name, {**value, "state": "ACTIVE"})


def boot(value: dict) -> None:
    """Start the hosts of a slice, each with its startup script."""
    for rank in range(value["hosts"]):
        folder = host_folder(value["name"], value, rank)
        folder.mkdir(parents=True)
        (folder / "startup.sh").write_text(value["startup"])
        with open(folder / "startup.log", "w") as log:
            subprocess.Popen(
                ["bash", "startup.sh"],
                cwd=folder,
                env=environment(value, rank, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def option(words: list[str], name: str) -> str:
    for word in words:
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    raise Failed(2, f"argument --{name}: Must be specified.")


def pairs(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split(","))


def hosts_of(type_: str) -> int:
    """Four chips a host; slices of up to eight chips of v5e and v6e have one."""
    chip, _, count = type_.partition("-")
    if chip in ("v4", "v5p"):
        return max(1, int(count) // 8)
    return int(count) // 4 if int(count) > 8 else 1


def create(words: list[str]) -> None:
    name = words[words.index("create") + 1]
    if path_of(name).exists():
        raise Failed(1, f"ALREADY_EXISTS: Resource 'queuedResources/{name}' already exists")
    quota = HERE / "quota"
    if quota.exists() and len(list((HERE / "slices").glob("*.json"))) >= int(quota.read_text()):
        raise Failed(1, "RESOURCE_EXHAUSTED: Quota limit 'TPUSPerProject' has been exceeded")
    identity = uuid.uuid4().hex[:8]
    startup = pathlib.Path(pairs(option(words, "metadata-from-file"))["startup-script"]).read_text()
    write(
        name,
        {
            "name": name,
            "id": identity,
            "state": "WAITING_FOR_RESOURCES",
            "labels": pairs(option(words, "labels")),
            "metadata": pairs(option(words, "metadata")),
            "startup": startup,
            "hosts": hosts_of(option(words, "accelerator-type")),
            "words": words,
        },
    )
    nothing = subprocess.DEVNULL
    later = [sys.executable, "-S", "-E", __file__, "provision", name, identity]
    subprocess.Popen(later, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)


def shown(value: dict) -> dict:
    node = {"labels": value["labels"], "acceleratorType": "x"}
    return {
        "name": f"projects/p/locations/z/queuedResources/{value['name']}",
        "state": {"state": value["state"]},
        "tpu": {"nodeSpec": [{"nodeId": value["name"], "node": node}]},
    }


def describe(words: list[str]) -> None:
    name = words[words.index("describe") + 1]
    print(json.dumps(shown(read(name))))


def delete(words: list[str]) -> None:
    name = words[words.index("delete") + 1]
    value = read(name)
    path_of(name).unlink()
    append("deleted", name)
    shutil.rmtree(HERE / "hosts" / name / value["id"], ignore_errors=True)
    end_processes(value)


def preempt(value: dict) -> None:
    value["state"] = "SUSPENDED"
    write(value["name"], value)
    end_processes(value)


def active(name: str) -> dict:
    value = read(name)
    if value["state"] != "ACTIVE":
        raise Failed(1, f"NOT_FOUND: the slice of {name} is not there")
    return value


def scp(words: list[str]) -> None:
    source, target = words[words.index("scp") + 1 :][:2]
    name, _, file = target.partition(":")
    value = active(name)
    for rank in range(value["hosts"]):
        shutil.copy(source, host_folder(name, value, rank) / file)


def ssh(words: list[str]) -> list[subprocess.Popen]:
    """Start a line on all hosts; outside of the lock it is waited for."""
    name = words[words.index("ssh") + 1]
    value = active(name)
    line = option(words, "command")
    started = []
    for rank in range(value["hosts"]):
        folder = host_folder(name, value, rank)
        started.append(subprocess.Popen(["bash", "-c", line], cwd=folder, env=environment(value, rank, folder)))
    return started


# --- buckets


def address(url: str) -> tuple[str, str]:
    bucket, _, name = url.removeprefix("gs://").partition("/")
    return bucket, name


def ask(path: str, data: bytes | None = None) -> bytes:
    request = urllib.request.Request(os.environ["STORAGE_EMULATOR_HOST"] + path, data)
    try:
        return urllib.request.urlopen(request, timeout=20).read()
    except OSError as error:
        raise Failed(1, f"{path}: {error}") from error


def cat(words: list[str]) -> None:
    bucket, name = address(words[words.index("cat") + 1])
    sys.stdout.buffer.write(ask(f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}?alt=media"))


def put(file: pathlib.Path, url: str) -> None:
    bucket, name = address(url)
    ask(f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={urllib.parse.quote(name, safe='')}", file.read_bytes())


def get_all(source: str, target: pathlib.Path, skip: re.Pattern[str]) -> None:
    bucket, prefix = address(source.rstrip("/") + "/")
    listed = json.loads(ask(f"/storage/v1/b/{bucket}/o?prefix={urllib.parse.quote(prefix, safe='')}"))
    for entry in listed.get("items", []):
        relative = entry["name"].removeprefix(prefix)
        if skip.match(relative) or entry["name"].endswith("/"):
            continue
        path = target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ask(f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(entry['name'], safe='')}?alt=media"))


def rsync(words: list[str]) -> None:
    source, target = words[words.index("rsync") + 1 :][:2]
    skip = re.compile(option(words, "exclude"))
    if source.startswith("gs://"):
        get_all(source, pathlib.Path(target), skip)
        return
    if not os.path.isdir(source):
        raise Failed(1, f"no such folder: {source}")
    for file in sorted(pathlib.Path(source).rglob("*")):
        relative = file.relative_to(source).as_posix()
        if file.is_file() and not skip.match(relative):
            put(file, f"{target.rstrip('/')}/{relative}")


# --- faults


def verb_of(words: list[str]) -> str:
    return next((word for word in words if word in FAULTS), "")


def scripted(verb: str) -> tuple[int, str] | None:
    """The fault that a test has asked for, if one is left."""
    path = HERE / "script"
    if not path.exists():
        return None
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        asked, count, code, text = line.split(" ", 3)
        if asked == verb and int(count) > 0:
            lines[number] = f"{asked} {int(count) - 1} {code} {text}"
            path.write_text("\n".join(lines) + "\n")
            return int(code), text
    return None


def drawn(verb: str, number: int) -> str:
    """The kind of the fault of a call, "" for none."""
    path = HERE / "faults.json"
    if not path.exists():
        return ""
    faults = json.loads(path.read_text())
    draw = random.Random(f"{faults['seed']} {number}")
    if draw.random() >= faults["rate"]:
        return ""
    kind = draw.choice([*FAULTS.get(verb, ()), *OF_ALL])
    append("injected", f"{verb} {kind}" if kind not in OF_ALL else kind)
    return kind


def harm(kind: str) -> None:
    """Do what a fault does before the command."""
    if kind == "unheard":
        raise Failed(255, "UNAVAILABLE: the connection was reset")
    if kind == "quota":
        raise Failed(1, "RESOURCE_EXHAUSTED: Quota limit 'TPUSPerProject' has been exceeded")
    if kind == "preempted":
        there = [json.loads(path.read_text()) for path in sorted((HERE / "slices").glob("*.json"))]
        for value in there:
            if value["state"] == "ACTIVE":
                preempt(value)
                return


def run(words: list[str]) -> int:
    """Do what is asked; return the exit status."""
    verb = verb_of(words)
    started = []
    with locked():
        calls = HERE / "calls"
        number = len(calls.read_text().splitlines()) if calls.exists() else 0
        append("calls", json.dumps(words))
        fault = scripted(verb)
        if fault is not None:
            if fault[1] == "PREEMPTED":
                harm("preempted")
            raise Failed(*fault)
        kind = drawn(verb, number)
        harm(kind)
        if verb == "create":
            create(words)
        elif verb == "describe":
            describe(words)
        elif verb == "list":
            there = [json.loads(path.read_text()) for path in sorted((HERE / "slices").glob("*.json"))]
            print(json.dumps([shown(value) for value in there]))
        elif verb == "delete":
            delete(words)
        elif verb == "scp":
            scp(words)
        elif verb == "ssh":
            started = ssh(words)
    if kind == "slow":
        time.sleep(2)
    if verb == "cat":
        cat(words)
    elif verb == "rsync":
        rsync(words)
    codes = [process.wait() for process in started]
    if kind == "heard":
        raise Failed(255, "DEADLINE_EXCEEDED: no answer")
    return next((code for code in codes if code != 0), 0)


def main() -> int:
    if sys.argv[1:2] == ["provision"]:
        provision(*sys.argv[2:])
        return 0
    try:
        return run(sys.argv[1:])
    except Failed as error:
        print(f"ERROR: (gcloud) {error}", file=sys.stderr)
        return error.code


if __name__ == "__main__":
    sys.exit(main())
