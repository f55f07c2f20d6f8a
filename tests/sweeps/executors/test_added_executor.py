"""An executor that somebody adds is one file: found by its name, its options read, a study launched with it."""

import pathlib
import sys

import pytest

from experiments.cli import InputError
from sweeps import executors
from sweeps.study import file
from sweeps.work.launch import launch
from sweeps.work.workdir import Workdir

TOY = '''"""Workers that are plain subprocesses, as many at a time as one likes."""

import dataclasses

from sweeps.executors.support.protocol import Executor, train_command
from sweeps.executors.support.subprocess_worker import SubprocessWorker


@dataclasses.dataclass(frozen=True)
class Options:
    slots: int = 1


class ToyExecutor(Executor[SubprocessWorker]):
    def __init__(self, options):
        self.slots = options.slots

    def start(self, population, workdir, log):
        return SubprocessWorker(train_command(population, workdir), None, {}, log)


executor = ToyExecutor
'''

STUDY = '''"""Does it work? One tiny run."""
from sweeps.study.grid import cases

def get_study():
    return cases({
        "model.width": 16, "model.depth": 1, "model.heads": 1, "batch_tokens": 256, "seq_len": 32, "tokens": 256 * 20,
        "data.corpus": (%(corpus)r,), "evaluation.tokens": 2048, "execution.tensorboard": False,
        "execution.data_root": %(root)r, "execution.compile_cache": %(cache)r,
    })
'''


@pytest.fixture
def toy_executor(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """The file of an executor `my-toy` in a folder of somebody else's."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_toy.py").write_text(TOY)
    monkeypatch.setattr(executors, "__path__", [*executors.__path__, str(folder)])
    yield
    sys.modules.pop("sweeps.executors.my_toy", None)
    vars(executors).pop("my_toy", None)


def test_files_of_the_folder_are_the_executors():
    """Neither more nor less; what they share is not among them."""
    assert executors.executor_names() == ("local", "ray", "slurm", "tpu-vm")


@pytest.mark.usefixtures("toy_executor")
def test_an_added_executor_trains_a_study(write_study, tmp_path: pathlib.Path):
    """By its name and options, as --executor gives them; its run ends with a record."""
    assert "my-toy" in executors.executor_names()
    with pytest.raises(InputError, match="did you mean 'slots'"):
        executors.load("my-toy:slot=2")
    executor = executors.load("my-toy:slots=2")
    assert executor.slots == 2
    workdir = Workdir(tmp_path / "w")
    workdir.root.mkdir()
    outcome = launch(file.load(str(write_study(STUDY))), workdir, executor, progress=False)
    assert outcome.counts == {"complete": 1} and outcome.trained == 1
