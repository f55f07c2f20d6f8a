"""One run on several processes with real collectives: stopped, saved by all, and resumed by another number of them."""

import json
import os
import pathlib
import shutil
import signal
import socket
import time

from etils import epath
import numpy as np
import pytest

from experiments.alive import hosts, lease, stops
from experiments.cli import InputError
from experiments.store import record, segments
from models.mesh.rules import NotDivisible
from tests.support.commands import Started, run_command

CONFIG = """
from experiments.configs import default

def get_config(arg=None):
    config = default.get_config()
    config.model.update({{"width": 32, "depth": 2, "heads": 4, "vocab": 264}})
    config.update({{"tokens": 256 * 40, "batch_tokens": 256, "seq_len": 32}})
    config.data.corpus = ({corpus!r},)
    config.evaluation.tokens = 2_048
    config.execution.update({{"data_root": {root!r}, "tensorboard": False, "compile_cache": {cache!r}}})
    config.execution.update({{"steps_per_dispatch": 1, "log_every_steps": 1}})
    config.execution.mesh.update({{"fsdp": 2, "data": 2}})
    return config
"""
DEVICES = 4


class Trainer:
    """The command of one run, by any number of processes on this machine that hold four devices together."""

    def __init__(self, config: pathlib.Path):
        self.config = config

    def start(
        self, workdir: pathlib.Path, processes: int, *flags: str, script: pathlib.Path | None = None
    ) -> list[Started]:
        """`script`: in the place of the module experiments.train."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        command = [script or "experiments.train", f"--config={self.config}", f"--workdir={workdir}", *flags]
        command.append(f"--config.execution.cpu_devices={DEVICES // processes}")
        each = ([f"--hosts=localhost:{port},{i},{processes}"] if processes > 1 else [] for i in range(processes))
        return [Started(*command, *join) for join in each]

    def finish(self, processes: list[Started]) -> tuple[list[int], str]:
        said = [process.communicate(timeout=300) for process in processes]
        return [process.returncode for process in processes], "\n".join(out + err for out, err in said)


def steps(workdir: pathlib.Path) -> list[int]:
    """Logged training steps; none while there is no log."""
    return [row["step"] for row in segments.read(workdir) if "loss" in row]


@pytest.mark.slow
def test_saved_by_two_processes_and_resumed_by_one_and_by_four(tmp_path: pathlib.Path, trainer: Trainer):
    """Parameters and batch are split over all processes. A signal to one of them stops and saves all; the run then goes on
    with one and with four to the losses of a run that nobody has stopped, and no step is taken twice.
    """
    codes, said = trainer.finish(trainer.start(tmp_path / "alone", 1))
    assert codes == [0], said

    two = trainer.start(tmp_path / "two", 2)
    end = time.monotonic() + 200
    while len(steps(tmp_path / "two")) < 10 and time.monotonic() < end and two[0].poll() is None:
        time.sleep(0.05)
    two[1].send_signal(signal.SIGTERM)
    codes, said = trainer.finish(two)
    assert codes == [75, 75], said
    taken = steps(tmp_path / "two")
    assert 10 <= len(taken) < 40 and not (tmp_path / "two" / "record.json").exists()
    (saved,) = (tmp_path / "two" / "checkpoints").iterdir()
    assert int(saved.name) == taken[-1]
    assert len(list(saved.glob("state/ocdbt.process_*"))) == 2, "each process has written its part"

    expected = record.read(tmp_path / "alone" / "record.json")
    for count in (1, 4):
        workdir = tmp_path / f"by{count}"
        shutil.copytree(tmp_path / "two", workdir)
        codes, said = trainer.finish(trainer.start(workdir, count))
        assert codes == [0] * count, said
        assert said.count("complete: held-out loss") == 1, "one process speaks"
        found = record.read(workdir / "record.json")
        assert found["columns"]["loss_nats"] == pytest.approx(expected["columns"]["loss_nats"], rel=1e-5)
        assert found["fingerprint"] == expected["fingerprint"] and found["environment"]["devices"] == DEVICES
        assert steps(workdir) == list(range(1, 41))


@pytest.fixture
def trainer(tmp_path: pathlib.Path, corpus: pathlib.Path, data_root: pathlib.Path) -> Trainer:
    values = {"corpus": str(corpus), "root": str(data_root), "cache": os.environ["JAX_COMPILATION_CACHE_DIR"]}
    (tmp_path / "config.py").write_text(CONFIG.format(**values))
    return Trainer(tmp_path / "config.py")


POISON = """
import runpy, sys
import numpy as np
from experiments.data import batches
plain = batches.Batches.records

def records(self, start, stop):
    out = np.array(plain(self, start, stop))
    at = 30 * 8 - start
    if 0 <= at < len(out):
        out[at : at + 8] = np.random.default_rng(0).integers(0, 256, out[at : at + 8].shape)
    return out

batches.Batches.records = records
sys.argv[0] = "train"
runpy.run_module("experiments.train", run_name="__main__")
"""


@pytest.mark.slow
def test_a_spike_is_rewound_on_all_hosts(tmp_path: pathlib.Path, trainer: Trainer):
    """A batch of noise: two processes go back together, to the numbers of one, and take no step twice."""
    (tmp_path / "poison.py").write_text(POISON)
    flags = ["--config.spikes.factor=10.0", f"--config.spikes.every_tokens={256 * 10}"]
    flags.append("--config.opt.lr=1e-2")
    found = {}
    for count in (1, 2):
        workdir = tmp_path / f"by{count}"
        codes, said = trainer.finish(trainer.start(workdir, count, *flags, script=tmp_path / "poison.py"))
        assert codes == [0] * count, said
        assert "loss spike at step 31; back to step 30" in said, said
        found[count] = record.read(workdir / "record.json")["columns"]
        assert steps(workdir) == list(range(1, 41))
    for column in ("rewinds", "batches_left_out", "left_out"):
        assert found[1][column] == found[2][column]
    assert found[2]["rewinds"] == 1 and found[2]["left_out"] == "30:1"
    assert found[1]["loss_nats"] == pytest.approx(found[2]["loss_nats"], rel=1e-5)


FULL = """
import errno, os, runpy, sys
from experiments.alive import holding
from experiments.store import metrics, record

def full_for(name, owner, function, holds):
    plain = getattr(owner, function)

    def called(*args):
        if os.environ["FULL"] == name and holds(*args):
            raise OSError(errno.ENOSPC, "No space left on device", name)
        return plain(*args)

    setattr(owner, function, called)

full_for("claim.json", holding, "hold", lambda *_: True)
full_for("metrics.jsonl", metrics.Metrics, "append", lambda self, row: row["step"] == 15)
full_for("record.json", record, "write", lambda *_: True)
sys.argv[0] = "train"
runpy.run_module("experiments.train", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", ["claim.json", "metrics.jsonl", "record.json"])
def test_an_error_of_the_first_process_alone_ends_all(
    tmp_path: pathlib.Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, file: str
):
    """Only the first one writes these. Its full disk ends both in the same place: the other does not wait for ever."""
    (tmp_path / "full.py").write_text(FULL)
    monkeypatch.setenv("FULL", file)
    both = trainer.start(tmp_path / "two", 2, script=tmp_path / "full.py")
    codes, said = trainer.finish(both)
    assert codes == [1, 1], said
    assert f"error: {file}: no space left" in said
    assert said.count("error: ") == 2, "the other says that it has ended for this"
    assert "complete" not in said


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_ends_on_all_hosts(tmp_path: pathlib.Path, trainer: Trainer):
    """The request lies where only the first process looks; both end, evaluated, saved and censored at one step."""
    workdir, flags = tmp_path / "two", ["--config.tokens=512000", "--config.data.unique_tokens=200000"]
    two = trainer.start(workdir, 2, *flags)
    end = time.monotonic() + 200
    while len(steps(workdir)) < 10 and time.monotonic() < end and two[0].poll() is None:
        time.sleep(0.05)
    stops.ask(epath.Path(workdir), stops.Stop("complete", "seen enough"))
    codes, said = trainer.finish(two)
    assert codes == [0, 0], said
    found = record.read(workdir / "record.json")
    assert found["status"] == "complete" and found["reason"] == "seen enough"
    columns = found["columns"]
    assert columns["censored"] == 1 and 10 <= columns["steps_done"] == steps(workdir)[-1] < 2000
    assert columns["loss_nats"] > 0 and (workdir / "checkpoints" / str(columns["steps_done"])).is_dir()


@pytest.mark.slow
def test_resume_is_proven_for_two_processes(tmp_path: pathlib.Path, trainer: Trainer):
    """Killed one first, started again, compared bit for bit with two that nobody has killed."""
    flags = [f"--config={trainer.config}", f"--config.execution.cpu_devices={DEVICES // 2}", f"--workdir={tmp_path}/w"]
    flags += ["--steps=40", "--kills=2", "--processes=2", "--seed=3"]
    done = run_command("experiments.verify_resume", *flags, timeout=500)
    assert done.returncode == 0 and "bit-exact at step 40" in done.stdout, done.stdout + done.stderr
    value = json.loads((tmp_path / "w" / "resume_certificate.json").read_text())
    assert value["bit_exact"] and value["record_compared"] and value["processes"] == 2
    assert len(value["kills"]) == 2 and all(kill["after_step"] >= 1 for kill in value["kills"])
    ranks = list((tmp_path / "w" / "verify_resume" / "killed").glob("checkpoints/40/state/ocdbt.process_*"))
    assert len(ranks) == 2, "each process has written its part"


def test_a_bad_address_is_one_line():
    for spec in ("somewhere", "host:1,4,4", "host:port,0,2", "host:1,0"):
        with pytest.raises(InputError, match="expected auto, or HOST:PORT,INDEX,COUNT"):
            hosts.join(spec)


def test_with_one_process_everything_is_what_it_is():
    """No copies, no collectives."""
    value = {"a": [1, "b"]}
    assert hosts.told(value) is value and hosts.anywhere([True, False]) == [True, False]
    assert hosts.first() and hosts.count() == 1
    assert (hosts.whole(np.arange(3)) == np.arange(3)).all()
    assert hosts.Silence().append({"step": 1}) is None


def test_the_others_know_an_error_by_the_nearest_kind_they_have(monkeypatch: pytest.MonkeyPatch):
    """A size that does not divide is bad input on all of them, a missing file an error of the disk."""
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "_first_text", lambda text: f"{text} (of another process)")

    def fail(error: Exception):
        def work() -> None:
            raise error

        return work

    with pytest.raises(InputError, match="cannot be split"):
        hosts.together(fail(NotDivisible("heads", 3, ("tensor",), 2)))
    with pytest.raises(OSError, match="gone"):
        hosts.together(fail(FileNotFoundError("gone")))
    with pytest.raises(lease.Lost, match="taken"):
        hosts.together(fail(lease.Lost("taken")), lease.Lost)
    with pytest.raises(RuntimeError, match="what is this"):
        hosts.together(fail(ZeroDivisionError("what is this")))


ONE_CANNOT_READ = """
import os, runpy, sys
import jax
import numpy as np
from experiments.store import checkpoint
from models.errors import AgainError
plain = checkpoint.read_leaves

def read_leaves(folder, shapes):
    if jax.process_index() != 1 or os.environ["FAULT"] == "none":
        return plain(folder, shapes)
    if os.environ["FAULT"] == "disk":
        raise AgainError(f"{folder} cannot be read now")
    leaves = plain(folder, shapes)
    if folder.name == "40":
        name = next(name for name in leaves if not leaves[name].is_fully_replicated)
        shards = [shard.data + 1 for shard in leaves[name].addressable_shards]
        leaf = leaves[name]
        leaves[name] = jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)
    return leaves

checkpoint.read_leaves = read_leaves
sys.argv[0] = "train"
runpy.run_module("experiments.train", run_name="__main__")
"""


@pytest.mark.slow
def test_all_hosts_restore_one_step_or_none(tmp_path: pathlib.Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    """What one of two processes cannot read stops both, and what it finds damaged sends both to the step before."""
    (tmp_path / "faulty.py").write_text(ONE_CANNOT_READ)
    flags = [f"--config.execution.checkpoint_every_tokens={256 * 10}"]
    folder = tmp_path / "run"
    monkeypatch.setenv("FAULT", "none")
    codes, said = trainer.finish(trainer.start(folder, 2, *flags, script=tmp_path / "faulty.py"))
    assert codes == [0, 0], said
    whole = record.read(folder / "record.json")["columns"]["loss_nats"]
    (folder / "record.json").unlink()

    monkeypatch.setenv("FAULT", "disk")
    codes, said = trainer.finish(trainer.start(folder, 2, *flags, script=tmp_path / "faulty.py"))
    assert codes == [75, 75], said
    assert said.count("cannot be read now") == 2
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"30", "40"}

    monkeypatch.setenv("FAULT", "bits")
    codes, said = trainer.finish(trainer.start(folder, 2, *flags, script=tmp_path / "faulty.py"))
    assert codes == [0, 0], said
    assert said.count("checkpoints/40 is damaged") == 1, said
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"30", "40", "40.damaged"}
    assert record.read(folder / "record.json")["columns"]["loss_nats"] == pytest.approx(whole, rel=1e-6)
