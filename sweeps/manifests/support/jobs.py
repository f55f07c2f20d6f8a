"""Share what all kinds of jobs need: commands of a host, uploads to the bucket, a script that runs them all.

The root is a folder of the bucket: populations/, data/ and runs/ lie in it.
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import re
import shlex
from typing import Any

from experiments.cli import InputError
from sweeps.executors.support import gcloud
from sweeps.work.populations import Population

BUCKET = r"gs://[a-z0-9][\w./-]+"

Line = Sequence[str] | str  # of a script: the words of a command, or shell text


@dataclasses.dataclass(frozen=True)
class JobsBase:
    """The populations of a study as jobs of one launcher."""

    options: Any
    root: str

    def files(self, population: Population) -> dict[str, str]:
        """Return files that a job needs besides its population, by name: none."""
        return {}

    def submit(self, level: Sequence[Population]) -> list[Line]:
        """Return the lines of the script that train populations of one level, none of which waits for another."""
        raise NotImplementedError

    def write_code(self, folder: pathlib.Path) -> list[str]:
        """Write the project's code into a folder, where jobs need it; return the names of the files: none."""
        return []


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


def sync(source: str, target: str) -> list[str]:
    """Return the command that copies one folder to another, one of them in the bucket."""
    return gcloud.Slice(gcloud.Options(), "").sync(source, target)


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
    commands = [sync(folder, f"{root}/populations")]
    commands += [sync(data_root, f"{root}/data") for data_root in data_roots]
    commands += [sync(os.path.join(workdir, "runs", name), f"{root}/runs/{name}") for name in sorted(trained)]
    return commands


def download(root: str, workdir: str) -> list[str]:
    """Return the command that brings runs back."""
    return sync(f"{root}/runs", os.path.join(workdir, "runs"))


def script(lines: Sequence[Line]) -> str:
    """Write a shell script that ends at the first command that fails."""
    text = [line if isinstance(line, str) else shlex.join(line) for line in lines]
    return "\n".join(["#!/usr/bin/env bash", "set -euo pipefail", *text, ""])
