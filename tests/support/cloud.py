"""A Google Cloud on this machine: a `gcloud` on PATH (tests/support/fake_gcloud.py), slices that are folders, a bucket."""

import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys

from tests.support.paths import REPOSITORY

TYPE = "v5litepod-4"
TPU = f"tpu-vm:zone=us-east5-b,type={TYPE},spot=true"

GCLOUD = """#!/bin/bash
exec {python} -S -E {program} "$@"
"""

# Of the image: a curl that knows the metadata server and where uv is to be had, and nothing else.
CURL = """#!/bin/bash
for word in "$@"; do
  case "$word" in
    http://metadata.google.internal/*) exec {python} -S -E -c '
import json, os, sys
path = os.path.join(os.environ["LOSSGRID_FAKE_CLOUD"], "slices", os.environ["LOSSGRID_FAKE_NAME"] + ".json")
key = sys.argv[1].rpartition("/")[2]
value = json.load(open(path))["metadata"][key]
speed = float(os.environ.get("LOSSGRID_FAKE_SPEED", "100"))
print(max(1, int(int(value) / speed)) if key.endswith("-seconds") else value)
' "$word" ;;
    https://astral.sh/uv/*/install.sh) cat {here}/image/install_uv.sh; exit 0 ;;
  esac
done
exit 6
"""
INSTALL_UV = """mkdir -p "$UV_UNMANAGED_INSTALL" && cp {here}/image/uv.sh "$UV_UNMANAGED_INSTALL/uv"
"""
# Makes an environment whose Python is this machine's, with the packages that it has. The hosts of a slice find each other.
UV = """#!/bin/bash
set -e
if [ "$1" = venv ]; then
  mkdir -p "${{@: -1}}/bin"
  cp {here}/image/python.sh "${{@: -1}}/bin/python"
elif [ "$1 $2" = "pip install" ]; then
  test -f "${{@: -1}}"
else
  exit 2
fi
"""
PYTHON = """#!/bin/bash
if [[ "$*" == *experiments.train* && -x {here}/image/worker ]]; then exec {here}/image/worker "$@"; fi
words=()
for word in "$@"; do
  if [ "$word" = --hosts=auto ]; then
    if [ "$LOSSGRID_FAKE_HOSTS" -gt 1 ]; then
      port=$((20000 + $(echo "$LOSSGRID_FAKE_SLICE" | cksum | cut -d" " -f1) % 20000))
      words+=("--hosts=127.0.0.1:$port,$TPU_WORKER_ID,$LOSSGRID_FAKE_HOSTS")
    fi
  else
    words+=("$word")
  fi
done
exec {python} "${{words[@]}}"
"""


class Cloud:
    """The stub, its calls and its faults. `bucket` is an address; `seconds`: what the keeper calls its poll interval."""

    def __init__(self, folder: pathlib.Path, bucket: str, seconds: float = 0.3):
        self.folder = folder
        self.bucket = bucket
        for name in ("slices", "hosts", "image"):
            (folder / name).mkdir(parents=True)
        program = REPOSITORY / "tests" / "support" / "fake_gcloud.py"
        values = {"python": sys.executable, "program": program, "here": folder}
        texts = {
            "gcloud": GCLOUD,
            "image/curl": CURL,
            "image/install_uv.sh": INSTALL_UV,
            "image/uv.sh": UV,
            "image/python.sh": PYTHON,
        }
        for name, text in texts.items():
            (folder / name).write_text(text.format(**values))
            (folder / name).chmod(0o755)
        self.environment = {
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "LOSSGRID_FAKE_CLOUD": str(folder),
            "LOSSGRID_FAKE_PYTHON": sys.executable,
            "LOSSGRID_FAKE_SPEED": "100",
            "LOSSGRID_GCLOUD_POLL_SECONDS": str(seconds),
            "LOSSGRID_SLICE_LOOK_SECONDS": "0.2",
            "JAX_PLATFORMS": "cpu",
        }

    def worker(self, text: str) -> None:
        """Let this shell script be what slices run in the place of experiments.train."""
        path = self.folder / "image" / "worker"
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def fail(self, *lines: str) -> None:
        """Let the next calls fail: `VERB COUNT CODE TEXT` each."""
        (self.folder / "script").write_text("\n".join(lines) + "\n")

    def fail_at_random(self, seed: int, rate: float) -> None:
        """Let a share of all calls fail from now on; rate 0 ends it."""
        (self.folder / "faults.json").write_text(json.dumps({"seed": seed, "rate": rate}))

    @property
    def injected(self) -> collections.Counter[str]:
        """The faults so far, by kind."""
        path = self.folder / "injected"
        return collections.Counter(path.read_text().splitlines() if path.exists() else [])

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def verbs(self) -> list[str]:
        """What was asked, without looking."""
        known = ("create", "delete", "scp", "ssh", "rsync")
        asked = [call for call in self.calls if "describe" not in call and "list" not in call and "cat" not in call]
        return [next(word for word in known if word in call) for call in asked]

    @property
    def left(self) -> list[str]:
        """The names of the requests that there are."""
        return sorted(path.stem for path in (self.folder / "slices").glob("*.json"))

    @property
    def paid(self) -> list[str]:
        """The names of those that cost, or will."""
        states = {}
        for name in self.left:
            with contextlib.suppress(FileNotFoundError):
                states[name] = json.loads((self.folder / "slices" / f"{name}.json").read_text())["state"]
        return [name for name, state in states.items() if state not in ("SUSPENDED", "FAILED")]

    def add(self, name: str, labels: dict[str, str], state: str = "ACTIVE") -> None:
        """Let there be a slice that somebody else has made."""
        value = {
            "name": name,
            "id": "other",
            "state": state,
            "labels": labels,
            "metadata": {},
            "startup": "",
            "hosts": 1,
        }
        (self.folder / "slices" / f"{name}.json").write_text(json.dumps(value))

    def close(self) -> None:
        """End whatever still runs on slices."""
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    variables = (entry / "environ").read_bytes().split(b"\0")
                    here = f"LOSSGRID_FAKE_CLOUD={self.folder}".encode() in variables
                    if here and any(variable.startswith(b"LOSSGRID_FAKE_SLICE=") for variable in variables):
                        os.kill(int(entry.name), signal.SIGKILL)
        shutil.rmtree(self.folder / "hosts", ignore_errors=True)
