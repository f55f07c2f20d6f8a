"""Run the commands as a user does.

Most of a short command's time is the imports of its libraries. Here a command is a process that is forked from one that
has imported them (multiprocessing's forkserver): everything else, its own modules, arguments, signals, exit code, is
its own.
"""

import atexit
import multiprocessing
import multiprocessing.process
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile

from tests.support.paths import REPOSITORY

# None of this repository: that a command imports what it needs, and when, is for the command.
LIBRARIES = (
    "absl.app",
    "flax.nnx",
    "jax",
    "ml_collections",
    "optax",
    "orbax.checkpoint",
    "pandas",
    "pyarrow.parquet",
    "rich.progress",
    "rich.table",
    "scipy.optimize",
    "scipy.stats",
)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(LIBRARIES))


def launched(study: str, workdir: pathlib.Path, data_root: pathlib.Path, timeout: float = 900):
    """The grid of a study (FILE or FILE:ARG) that is launched and collected as a user does it."""
    import pandas as pd

    flags = (f"--study={study}", f"--workdir={workdir}", f"--data_root={data_root}")
    done = run_command("sweeps.launch", *flags, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run_command("sweeps.collect", f"--workdir={workdir}", f"--out={workdir / 'grid.csv'}")
    assert done.returncode == 0, done.stderr
    return pd.read_csv(workdir / "grid.csv")


def run_command(module: object, *arguments: object, timeout: float = 300, **environment: str):
    """Run `python -m …` from the repository as a user would, and return it with its exit code and what it said.

    With an environment of its own it is a process from the start, since libraries look at theirs when they are imported.
    """
    command = [str(part) for part in (module, *arguments)]
    if environment:
        env = os.environ | environment
        started = [sys.executable, "-m", *command]
        return subprocess.run(started, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=timeout)
    with tempfile.TemporaryDirectory() as folder:
        said = (pathlib.Path(folder) / "out", pathlib.Path(folder) / "err")
        process = _context.Process(target=_become, args=(command, dict(os.environ), *map(str, said)))
        process.start()
        process.join(timeout)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        out, err = (path.read_text() if path.exists() else "" for path in said)
    if late:
        raise subprocess.TimeoutExpired(command, timeout, out, err)
    return subprocess.CompletedProcess(command, process.exitcode, out, err)


command = run_command  # of the laboratory


class Started:
    """A command that runs in the background, with what is used of a subprocess.Popen."""

    def __init__(self, module: object, *arguments: object, **environment: str):
        """Start `python -m module`, or the file of a program, as `run_command` does.

        `environment` is for the command, not for its libraries.
        """
        self._folder = tempfile.TemporaryDirectory()
        self._said = [pathlib.Path(self._folder.name) / name for name in ("out", "err")]
        command = [str(part) for part in (module, *arguments)]
        self._process = _context.Process(
            target=_become, args=(command, os.environ | environment, *map(str, self._said))
        )
        self._process.start()
        self.pid: int = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0, *self.said())
        return self.poll()

    def said(self) -> list[str]:
        """What it has said so far, on stdout and on stderr."""
        return [path.read_text() if path.exists() else "" for path in self._said]

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        out, err = self.said()
        return out, err


def _become(command: list[str], environment: dict[str, str], out: str, err: str) -> None:
    """Become `python -m command`, in the repository, writing to files."""
    os.chdir(REPOSITORY)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.path[0] = str(REPOSITORY)
    sys.argv = command
    # A command's own children start as from anywhere, and it is nobody's child as far as multiprocessing knows.
    multiprocessing.process._parent_process = None
    multiprocessing.current_process()._config["daemon"] = False
    try:
        if command[0].endswith(".py"):
            runpy.run_path(command[0], run_name="__main__")
        else:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
