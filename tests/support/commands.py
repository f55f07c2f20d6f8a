"""Run the commands as a user does."""

import os
import pathlib
import subprocess
import sys

from tests.support.paths import REPOSITORY


def launched(study: str, workdir: pathlib.Path, data_root: pathlib.Path, timeout: float = 900):
    """The grid of a study (FILE or FILE:ARG) that is launched and collected as a user does it."""
    import pandas as pd

    flags = (f"--study={study}", f"--workdir={workdir}", f"--data_root={data_root}")
    done = run_command("sweeps.launch", *flags, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run_command("sweeps.collect", f"--workdir={workdir}", f"--out={workdir / 'grid.csv'}")
    assert done.returncode == 0, done.stderr
    return pd.read_csv(workdir / "grid.csv")


def run_command(*arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` from the repository as a user would."""
    env = os.environ | environment
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=timeout)


def command(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the laboratory, which needs no device."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
