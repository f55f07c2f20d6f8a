"""Train tiny runs, kill them, and compare what they leave."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from etils import epath
import numpy as np
import pytest

from experiments import prepare, train
from experiments.run import freeze
from experiments.store import record, segments
from tests.support.paths import REPOSITORY


def run(config, directory, report=lambda event: None):
    frozen, execution = freeze.freeze(config)
    train.train([frozen], [epath.Path(directory)], execution, report)
    return record.read(epath.Path(directory) / "record.json")


def rows(directory):
    """Metrics without what depends on the clock."""
    return [{k: v for k, v in row.items() if not record.is_of_the_day(k)} for row in segments.read(directory)]


def arrays(directory):
    import orbax.checkpoint as ocp

    folder = pathlib.Path(directory) / "checkpoints"
    newest = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    return newest, ocp.StandardCheckpointer().restore(folder / str(newest) / "state")


def assert_same_run(one, other):
    assert rows(one) == rows(other)
    (step, mine), (other_step, theirs) = arrays(one), arrays(other)
    assert step == other_step and mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(np.asarray(array), np.asarray(theirs[name]), err_msg=name)


def write_config(tiny, path, **options):
    """A config file for a process of its own; the corpus is prepared already."""
    run_one, execution = freeze.freeze(tiny())
    prepare.prepare(run_one.data, execution.data_root, progress=False)
    values = {"execution.checkpoint_every_tokens": 256 * 20, "execution.log_every_steps": 1} | options
    path.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config(arg=None):\n    return ConfigDict({tiny(**values).to_dict()!r}).lock()\n"
    )
    return path


OFTEN = {"execution.steps_per_dispatch": 7, "execution.checkpoint_every_tokens": 256 * 12}


def assert_kills_change_nothing(config, tmp_path, steps):
    """kill -9 of a real process at each of `steps`, and the same command again: bit-identical losses and parameters."""
    command = [sys.executable, "-m", "experiments.train", f"--config={config}", f"--workdir={tmp_path}/killed"]
    kills = 0
    for target in steps:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(segments.read(tmp_path / "killed")) >= target:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.wait()
    assert kills == len(steps)
    assert not (tmp_path / "killed" / "record.json").exists()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    whole = [c.replace("killed", "whole") for c in command]
    assert subprocess.run(whole, cwd=REPOSITORY, capture_output=True).returncode == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    both = [record.read(tmp_path / name / "record.json") for name in ("killed", "whole")]
    assert both[0]["fingerprint"] == both[1]["fingerprint"]
    assert both[0]["columns"]["loss_nats"] == both[1]["columns"]["loss_nats"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 900 kB, and what makes it larger or read-only. Skips where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode

    if os.name != "posix" or not shutil.which("mount") or mount("size=900k"):
        pytest.skip("needs the right to mount a tmpfs")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", folder])
