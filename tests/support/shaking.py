"""Launch a study under random mishaps for a while, and compare its grid with that of the study left alone, bit for bit.

A study that is done before the time is over is launched again in another workdir.
"""

import collections
from collections.abc import Callable, Mapping
import os
import pathlib
import random
import subprocess
import sys
import time

from etils import epath
import pandas as pd
import psutil

from experiments.store import record
from sweeps.work.workdir import Workdir
from tests.support.commands import run_command
from tests.support.paths import REPOSITORY

# One run a program: how many runs share a program, which changes as runs are tried again, moves the last bits of all.
STUDY = '''"""Does it survive? 6 runs of as many signatures."""
from sweeps.study.grid import cases, over, product

def get_study():
    base = cases({
        "model.depth": 2, "model.heads": 2, "batch_tokens": 512, "seq_len": 64, "tokens": 512 * 600,
        "data.corpus": (%(corpus)r,), "data.unique_tokens": 200_000, "evaluation.tokens": 8192,
        "execution.data_root": %(root)r, "execution.compile_cache": %(cache)r, "execution.steps_per_dispatch": 32,
        "execution.checkpoint_every_seconds": 2.0, "execution.cpu_devices": 1, "execution.tensorboard": False,
    })
    return product(base, over("model.width", 16, 24, 32, 40, 48, 56))
'''
RUNS = 6
# What depends on how runs were packed, or says what happened; but for what a clock has measured, all else is compared.
OF_THE_CASE = {"packing", "packing_trials", "packing_mesh", "reason"}

Strike = Callable[[], bool]  # one mishap; whether there was something to strike


class Shaken:
    """A study, its workdirs one after the other, its launcher, and what has happened to it."""

    def __init__(self, study: pathlib.Path, workdir: epath.PathLike, executor: str, **environment: str):
        self.study = study
        self.workdir = epath.Path(workdir)  # the latest
        self.workdirs = [self.workdir]
        self.executor = executor
        self.environment = environment
        self.launcher: subprocess.Popen[str] | None = None
        self.struck: collections.Counter[str] = collections.Counter()
        self.codes: collections.Counter[int] = collections.Counter()
        self.seconds = 0.0

    def flags(self) -> list[str]:
        retries = "--retries=node=99,preempted=99,start=999"
        return [
            f"--study={self.study}",
            f"--workdir={self.workdir}",
            f"--executor={self.executor}",
            "--no-plan",
            retries,
        ]

    def start(self) -> None:
        """Start a launcher in the place of one that is over."""
        if self.launcher and self.launcher.poll() is not None:
            self.codes[self.launcher.returncode] += 1
            self.launcher = None
        if self.launcher is None:
            command = [sys.executable, "-m", "sweeps.launch", *self.flags()]
            out = subprocess.DEVNULL
            self.launcher = subprocess.Popen(
                command, cwd=REPOSITORY, env=os.environ | self.environment, stdout=out, stderr=out, text=True
            )

    def recorded(self) -> int:
        """How many runs have their record."""
        return len(list(self.workdir.glob("runs/*/record.json")))

    def shake(self, strikes: Mapping[str, Strike], draw: random.Random, seconds: float, pause: float) -> None:
        """Launch and strike at random for so long."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.recorded() == RUNS:
                self._launch_to_the_end()
                self.workdir = self.workdirs[0].parent / f"{self.workdirs[0].name}-{len(self.workdirs) + 1}"
                self.workdirs.append(self.workdir)
            self.start()
            time.sleep(draw.uniform(0.3 * pause, pause))
            name = draw.choice(sorted(strikes))
            if strikes[name]():
                self.struck[name] += 1
        self.seconds += time.monotonic() - began

    def finish(self) -> None:
        """Launch until every run has its record."""
        began = time.monotonic()
        self._launch_to_the_end()
        self.seconds += time.monotonic() - began

    def _launch_to_the_end(self) -> None:
        """Launch until a launcher says that all is done."""
        for _ in range(5):
            self.start()
            assert self.launcher
            self.launcher.wait(timeout=900)
            if self.launcher.returncode == 0:
                break
        assert self.launcher and self.launcher.returncode == 0, self.codes

    def children(self) -> list[psutil.Process]:
        """The processes that the launcher has started."""
        if self.launcher is None or self.launcher.poll() is not None:
            return []
        return psutil.Process(self.launcher.pid).children()

    def kill_launcher(self) -> bool:
        """The launcher, at once."""
        if self.launcher is None or self.launcher.poll() is not None:
            return False
        self.launcher.kill()
        self.launcher.wait()
        return True

    def grid(self, workdir: epath.Path, folder: pathlib.Path) -> pd.DataFrame:
        """The grid collected from a workdir, by fingerprint."""
        out = folder / "grid.parquet"
        done = run_command("sweeps.collect", f"--workdir={workdir}", f"--out={out}", "--overwrite")
        assert done.returncode == 0, done.stderr
        return pd.read_parquet(out).set_index("fingerprint").sort_index()


def steps_logged(workdir: epath.Path) -> dict[str, list[float]]:
    """The steps of each run's curve."""
    names = [path.parent.name for path in workdir.glob("runs/*/record.json")]
    return {name: list(Workdir(workdir).curve(name).steps) for name in sorted(names)}


def compare(calm: Shaken, shaken: Shaken, folder: pathlib.Path) -> dict[str, int]:
    """Assert that the grids are equal bit for bit; return the runs that were lost and those that were trained twice."""
    expected = calm.grid(calm.workdir, folder)
    steps = steps_logged(calm.workdir)
    columns = [name for name in expected.columns if name not in OF_THE_CASE and not record.is_of_the_day(name)]
    counts = {"runs lost": 0, "runs doubled": 0}
    for workdir in shaken.workdirs:
        found = shaken.grid(workdir, folder)
        counts["runs lost"] += len(expected) - int((found["status"] == "complete").sum())
        logged = steps_logged(workdir)
        counts["runs doubled"] += sum(logged.get(name) != taken for name, taken in steps.items())
        assert set(found["status"]) == {"complete"}, found["status"].to_dict()
        pd.testing.assert_frame_equal(found[columns], expected[columns], check_exact=True)
    return counts
