"""Share what all kinds of jobs need: commands of a host, uploads to the bucket, a script that runs them all.

The root is a folder of the bucket: populations/, data/ and runs/ lie in it.
"""

from collections.abc import Sequence
import dataclasses
import os
import re
import shlex
from typing import Any

from experiments.cli import InputError
from sweeps.executors.support import gcloud
from sweeps.work.populations import Population

BUCKET = r"gs://[a-z0-9][\w./-]+"

Line = Sequence[str] | str  # of a script: the words of a command, or shell text

# `together SLOTS COMMAND...` runs commands side by side, SLOTS at a time (0: all). All are run to their end, whatever the
# others come to; one that failed is the script's status. A signal ends them all, and each cleans up behind itself.
HEAD = r"""#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")"

running=()
status=0

reap() {
  local code=0
  wait "$1" || code=$?
  if [ "$code" -ne 0 ]; then status=$code; fi
}

together() {
  local slots=$1 command
  shift
  for command in "$@"; do
    if [ "$slots" -gt 0 ] && [ "${#running[@]}" -ge "$slots" ]; then
      reap "${running[0]}"
      running=("${running[@]:1}")
    fi
    bash -c "$command" &
    running+=("$!")
  done
  while [ "${#running[@]}" -gt 0 ]; do
    reap "${running[0]}"
    running=("${running[@]:1}")
  done
  if [ "$status" -ne 0 ]; then exit "$status"; fi
}

stopped() {
  trap '' INT TERM HUP
  status=$((128 + $1))
  if [ "${#running[@]}" -gt 0 ]; then
    kill "${running[@]}" 2>/dev/null || true
    wait "${running[@]}" || true
  fi
  exit "$status"
}
trap 'stopped 2' INT
trap 'stopped 15' TERM
trap 'stopped 1' HUP
"""


@dataclasses.dataclass(frozen=True)
class JobsBase:
    """The populations of a study as jobs of one launcher."""

    options: Any
    root: str

    def files(self, population: Population) -> dict[str, str]:
        """Return files that a job needs besides its population, by name: none."""
        return {}

    def run(self, population: Population) -> str:
        """Return the shell command that trains a population and waits for its end. At SIGTERM it leaves nothing behind."""
        raise NotImplementedError

    def slots(self) -> int:
        """Return how many may run at a time; 0: all whose parents are trained."""
        return 0

    def job_name(self, population: Population) -> str:
        """Return the name of a population's job: nobody else's is called so, nor that of another bucket."""
        return f"lossgrid-{gcloud.workdir_id(self.root)}-{population.name}"


def check_patterns(options: Any, **patterns: str) -> None:
    """Raise InputError for an option that is missing, or cannot be a name. All kinds have a bucket."""
    for name, pattern in {"bucket": BUCKET, **patterns}.items():
        value = getattr(options, name)
        if not re.fullmatch(pattern, value):
            raise InputError(f"--options={name}={value}: expected {name}=… of the form {pattern}")


def population_path(root: str, population: Population) -> str:
    """Return where a job finds its population."""
    return f"{root}/populations/{population.name}.json"


def worker_command(root: str, population: Population) -> list[str]:
    """Return what each host of a job runs, but for how it finds the others."""
    given = f"--population={population_path(root, population)}"
    return ["python", "-m", "experiments.train", given, f"--workdir={root}"]


def upload(folder: str, root: str, populations: Sequence[Population], workdir: str) -> list[list[str]]:
    """Return the commands that bring to the bucket what jobs read: populations, corpora, parents that are trained.

    Raises InputError where the corpora lie in several folders.
    """
    nodes = [node for population in populations for node in population.nodes]
    data_roots = {os.path.abspath(node.execution.data_root) for node in nodes}
    if len(data_roots) > 1:
        raise InputError(f"the study has corpora in {', '.join(sorted(data_roots))}; expected one --data_root")
    parents = {node.run.parent for node in nodes if node.run.parent}
    trained = parents - {node.fingerprint for node in nodes}
    commands = [gcloud.sync(folder, f"{root}/populations")]
    commands += [gcloud.sync(data_root, f"{root}/data") for data_root in data_roots]
    commands += [gcloud.sync(os.path.join(workdir, "runs", name), f"{root}/runs/{name}") for name in sorted(trained)]
    return commands


def download(root: str, workdir: str) -> list[str]:
    """Return the command that brings runs back."""
    return gcloud.sync(f"{root}/runs", os.path.join(workdir, "runs"))


def together(slots: int, commands: Sequence[str]) -> str:
    """Return the line that runs shell commands side by side."""
    words = [shlex.quote(command) for command in commands]
    return " \\\n  ".join([f"together {slots}", *words])


def script(lines: Sequence[Line], at_the_end: Sequence[str]) -> str:
    """Write a shell script that ends at the first line that fails, and does `at_the_end` whatever has happened."""
    text = [line if isinstance(line, str) else shlex.join(line) for line in lines]
    bring_back = f"trap {shlex.quote(shlex.join(at_the_end))} EXIT"
    return "\n".join([HEAD, bring_back, "", *text, ""])
