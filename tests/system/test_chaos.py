"""A study of 24 runs among random kills for minutes: the grid is that of the undisturbed study, bit for bit.

In a bucket, requests fail at random as well: the store is busy, or connections break before or after the work is done.

LOSSGRID_CHAOS_SECONDS and LOSSGRID_CHAOS_SEED set how long, and which kills (default: 240 s, a fresh seed, printed).
"""

import collections
from collections.abc import Iterator
import io
import os
import pathlib
import random
import signal
import subprocess
import time
from typing import Any

import pandas as pd
import pytest

from experiments.alive import claims
from experiments.store import record
from tests.support.commands import run_command
from tests.support.faults import FaultyProxy
from tests.support.launching import Launch

STUDY = '''"""Does it survive? 24 runs of two signatures."""
from sweeps.study.grid import cases, over, product

def get_study():
    base = cases({
        "model.depth": 2, "model.heads": 2, "batch_tokens": 512, "seq_len": 64, "data.unique_tokens": 200_000,
        "data.corpus": (%(corpus)r,), "evaluation.tokens": 8192, "execution.tensorboard": False,
        "execution.data_root": %(root)r, "execution.compile_cache": %(cache)r, "execution.steps_per_dispatch": 32,
        "execution.checkpoint_every_seconds": 2.0,
    })
    runs = product(over("model.width", 32, 48), over("opt.lr", 3e-3, 1e-2, 3e-2), over("seed", 0, 1))
    return product(base, runs, over("tokens", 512 * 400, 512 * 800))
'''
# What depends on how runs were packed, or says what happened; but for what a clock has measured, all else is compared.
OF_THE_CASE = {"packing", "packing_trials", "packing_mesh", "reason"}


class Chaos:
    """Kills launchers and workers of one workdir at random, and starts launchers again."""

    def __init__(self, launch: Launch, draw: random.Random):
        self.launch, self.draw, self.done = launch, draw, collections.Counter()
        self.launchers: list[subprocess.Popen[str]] = []
        self.codes: collections.Counter[int] = collections.Counter()
        self.said = ""

    def workers(self) -> list[int]:
        """Process ids of workers that live."""
        found = [claims.Process(**claim["worker"]) for claim in self.launch.claimed()]
        return sorted({worker.pid for worker in found if worker.alive})

    def keep_launching(self) -> None:
        """One launcher at least; now and then two."""
        for process in [p for p in self.launchers if p.poll() is not None]:
            self.reap(process)
        while not self.launchers or (len(self.launchers) < 2 and self.draw.random() < 0.2):
            self.launchers.append(self.launch.start())

    def reap(self, process: subprocess.Popen[str]) -> None:
        """Hear what a launcher said at the end."""
        out, err = process.communicate(timeout=900)
        self.launchers.remove(process)
        self.codes[process.returncode] += 1
        self.said += out + err

    def strike(self) -> None:
        """One random mishap."""
        what = self.draw.choice(
            ["launcher", "launcher and workers", "stop launcher", "worker", "worker", "stop worker"]
        )
        workers, launcher = self.workers(), self.draw.choice(self.launchers)
        if "worker" in what and not workers:
            return
        if "launcher" in what:
            launcher.send_signal(signal.SIGTERM if "stop" in what else signal.SIGKILL)
        for pid in (
            workers if what == "launcher and workers" else [self.draw.choice(workers)] if "worker" in what else []
        ):
            try:
                os.kill(pid, signal.SIGTERM if "stop" in what else signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.done[what] += 1


def grid(workdir: Any) -> pd.DataFrame:
    """The collected grid, by fingerprint."""
    done = run_command("sweeps.collect", f"--workdir={workdir}", f"--out={workdir / 'grid.parquet'}")
    assert done.returncode == 0, done.stderr
    content = io.BytesIO((workdir / "grid.parquet").read_bytes())
    return pd.read_parquet(content).set_index("fingerprint").sort_index()


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A workdir on a disk, or in a bucket whose store fails for one of forty requests of every process."""
    if request.param == "disk":
        yield tmp_path / "chaos"
        return
    emulator = request.getfixturevalue("emulator")
    folder = request.getfixturevalue("store_folder")
    with FaultyProxy(emulator.url, 1 / 40, seed=random.SystemRandom().randrange(10**6)) as proxy:
        for name in emulator.environment:
            monkeypatch.setenv(name, proxy.url)
        yield folder
        print(f"{proxy.passed} requests, failed: {dict(proxy.injected)}")
        assert proxy.injected.total() > 50


@pytest.mark.slow
def test_random_kills_change_nothing(corpus: pathlib.Path, data_root: pathlib.Path, tmp_path: pathlib.Path, place: Any):
    """Launchers and workers are killed and stopped for minutes, sometimes two launchers at once."""
    seconds = float(os.environ.get("LOSSGRID_CHAOS_SECONDS", "240"))
    seed = int(os.environ.get("LOSSGRID_CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    values = {"corpus": str(corpus), "root": str(data_root), "cache": str(tmp_path / "xla")}
    (tmp_path / "study.py").write_text(STUDY % values)
    calm = Launch(tmp_path / "study.py", tmp_path / "calm", None)
    start = time.monotonic()
    done = calm(timeout=900)
    assert done.returncode == 0 and "24 complete" in done.stdout, done.stdout + done.stderr
    calm_seconds = time.monotonic() - start

    launch = Launch(tmp_path / "study.py", place, None)
    chaos, end = Chaos(launch, random.Random(seed)), time.monotonic() + seconds
    while time.monotonic() < end and len(list(launch.workdir.glob("runs/*/record.json"))) < 24:
        chaos.keep_launching()
        time.sleep(chaos.draw.uniform(4, 16))
        chaos.strike()
    struck = seconds - max(0.0, end - time.monotonic())
    for process in list(chaos.launchers):
        chaos.reap(process)
    last = launch(timeout=900)
    assert last.returncode == 0, last.stdout + last.stderr
    print(
        f"seed {seed}: calm {calm_seconds:.0f} s; {sum(chaos.done.values())} mishaps in {struck:.0f} s: "
        f"{dict(chaos.done)}; exit codes of launchers {dict(chaos.codes)}"
    )
    assert sum(chaos.done.values()) >= seconds / 30, "the chaos was too short to mean anything"
    expected, found = grid(calm.workdir), grid(launch.workdir)
    columns = [name for name in expected.columns if name not in OF_THE_CASE and not record.is_of_the_day(name)]
    assert len(found) == 24 and set(found["status"]) == {"complete"}
    pd.testing.assert_frame_equal(found[columns], expected[columns], check_exact=True)
    assert launch.steps_logged() == calm.steps_logged(), "every step was logged once"
    assert launch.claimed() == [] and not list((launch.workdir / "launchers").iterdir())
