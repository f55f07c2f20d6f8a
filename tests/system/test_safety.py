"""Files from elsewhere are data: nothing in them is run, no name in them leaves its folder, no secret gets into ours."""

import ast
import json
import os
import pathlib
import pickle
import shutil

from etils import epath
import jax
import numpy as np
import pytest

from analysis.grid import table
from experiments import prepare
from experiments.alive import claims, stops
from experiments.cli import InputError, WorkError
from experiments.data import manifest, tokenizer
from experiments.run import freeze
from experiments.store import inherit, record, segments, stored_state, weights
from models import functional
from sweeps.cost import plan_file
from sweeps.watch import overview
from sweeps.work import workdir
from tests.support.commands import run_command
from tests.support.paths import REPOSITORY
from tests.support.training import run, write_config

SOURCES = [p for folder in ("analysis", "experiments", "models", "sweeps") for p in (REPOSITORY / folder).rglob("*.py")]


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, place: str):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.fixture
def bomb(tmp_path: pathlib.Path):
    """Bytes of a pickle that would leave a trace; fails the test when it has."""
    trace = tmp_path / "it was run"
    content = pickle.dumps(Bomb(str(trace)))
    pickle.loads(content)
    assert trace.exists(), "the bomb works"
    trace.rmdir()
    yield content
    assert not trace.exists(), "a file was unpickled"


def test_no_pickle_eval_or_shell_in_the_sources():
    """By the syntax tree: what would read a file as code, or a word as a shell line, is nowhere imported or called."""
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    calls = {"eval", "exec", "system", "popen", "read_pickle", "getoutput", "create_subprocess_shell"}
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names: set[str] = set()
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} & modules
                names |= {getattr(node, "module", None) or ""} & modules
            elif isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                names = {name} & calls
                named = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                names |= {k for k in ("shell", "allow_pickle") if named.get(k)}
            found += [f"{path.relative_to(REPOSITORY)}:{node.lineno}: {name}" for name in names]
    assert not found, found


def test_a_pickle_in_the_place_of_any_file_of_a_workdir(bomb, tmp_path):
    """Records, claims, leases, studies, plans, logs: refused by name, or as if they were not there."""
    held, name = workdir.Workdir(tmp_path / "w"), "0" * 16
    folder = held.run_dir(name)
    folder.mkdir(parents=True)
    for file in (
        "record.json",
        "run.json",
        "metrics.jsonl",
        "claim.json",
        "machine.json",
        "attempts.jsonl",
        "stop.json",
    ):
        (folder / file).write_bytes(bomb)
    (held.root / "launchers").mkdir()
    (held.root / "launchers" / "abc.json").write_bytes(bomb)
    state = held.state(name)
    assert state.status == "lost" and "record.json is not a readable record" in state.reason
    assert held.claims.read(name) is None and held.attempts(name) == []
    with pytest.raises(InputError, match="stop.json cannot be understood"):
        stops.asked(folder)
    me = claims.Process.of(os.getpid())
    assert held.claims.alive(claims.Claim(name, me.__class__("far", "", 1, None), me, "p", 0.0, "abc"))
    held.claims.close()
    for file, read in (("study.json", held.read_study), ("plan.json", lambda: plan_file.read(held.root))):
        (held.root / file).write_bytes(bomb)
        with pytest.raises(InputError, match=file):
            read()
    with pytest.raises(InputError, match=r"run.json is damaged"):
        inherit.read(folder)
    assert segments.read(folder) == []
    population = tmp_path / "population.json"
    population.write_bytes(bomb)
    from experiments import train

    with pytest.raises(InputError, match="not a readable population"):
        train._train_population(str(population), str(tmp_path))


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_pickle_in_the_place_of_a_grid(bomb, tmp_path, ending):
    """Refused by the readers of tables."""
    (tmp_path / f"grid.{ending}").write_bytes(bomb)
    with pytest.raises(InputError, match="is a Python pickle, which is not opened"):
        table.load(tmp_path / f"grid.{ending}")


def test_a_pickle_in_the_place_of_a_fit_weights_or_a_tokenizer(bomb, tmp_path):
    """fit.json, *.safetensors, tokenizers' files."""
    (tmp_path / "fit.json").write_bytes(bomb)
    done = run_command("analysis.predict", f"{tmp_path}/fit.json", "--at=N=1e9,D=1e9")
    assert done.returncode == 2 and "fit.json" in done.stderr
    for name in ("tokenizer.json", "tokenizer.model"):
        (tmp_path / name).write_bytes(bomb)
        with pytest.raises(InputError, match=name):
            tokenizer.load(str(tmp_path / name))
    (tmp_path / "model.json").write_bytes(bomb)
    with pytest.raises(InputError, match="model.json"):
        weights.load(epath.Path(tmp_path))


def test_a_pickle_in_a_prepared_corpus(bomb, tmp_path, tiny):
    """Token files are .npy, which can hold pickled objects: such a one is refused, and so is another manifest."""
    run_one, execution = freeze.freeze(tiny())
    (whole,) = prepare.prepare(run_one.data, epath.Path(execution.data_root), progress=False)
    folder = tmp_path / "copy"
    shutil.copytree(os.fspath(whole.directory), folder)
    for path in folder.rglob("*.npy"):
        np.save(path, np.array([Bomb(str(tmp_path / "it was run"))], object), allow_pickle=True)
        with pytest.raises(ValueError, match=r"[Oo]bject"):
            manifest._map(str(path), 0)
    for path in folder.rglob("*.json"):
        path.write_bytes(bomb)
    with pytest.raises(InputError):
        manifest.load(folder)


def test_a_pickle_in_a_checkpoint(bomb, tmp_path, tiny):
    """Each file of it in turn: reported as damaged, or not looked at; never run, never wrong values."""
    config = tiny(tokens=256 * 4)
    run(config, tmp_path / "run")
    frozen, _ = freeze.freeze(config)

    shapes = {
        path: leaf.shape
        for path, leaf in jax.eval_shape(
            lambda: functional.init_params(frozen.family, frozen.model, frozen.seed)
        ).items()
    }
    whole, _ = stored_state.read_params(tmp_path / "run" / "checkpoints", shapes)
    refused = 0
    for path in sorted(p for p in (tmp_path / "run" / "checkpoints" / "4").rglob("*") if p.is_file()):
        kept = path.read_bytes()
        path.write_bytes(bomb)
        try:
            found, _ = stored_state.read_params(tmp_path / "run" / "checkpoints", shapes)
            for name, values in whole.items():
                np.testing.assert_array_equal(values, found[name], err_msg=f"{path}: {name}")
        except (InputError, WorkError):
            refused += 1
        path.write_bytes(kept)
    assert refused >= 3, "at least the arrays, their index and their checksums matter"


def test_damaged_statistics_of_a_checkpoint_cost_nothing(tmp_path, tiny):
    """Orbax's file of times is of a wrong type: the arrays are sound by their checksums, and the run goes on from them."""
    config = tiny(tokens=256 * 4)
    before = run(config, tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()
    path = tmp_path / "run" / "checkpoints" / "4" / "_CHECKPOINT_METADATA"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_timestamp_nsecs": {}}))
    log = segments.read(tmp_path / "run")
    assert run(config, tmp_path / "run")["columns"]["loss_nats"] == before["columns"]["loss_nats"]
    assert segments.read(tmp_path / "run")[: len(log)] == log, "no step was taken again"


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "0123456789abcdeG", "0123456789abcdef0", "$(true)", "-rf"])
def test_names_that_become_paths_are_checked(name, tmp_path):
    """A fingerprint from a file cannot lead out of the workdir."""
    held = workdir.Workdir(tmp_path)
    with pytest.raises(InputError, match="expected 16 hexadecimal digits"):
        held.run_dir(name)
    point = {"name": "x", "fingerprint": name, "tags": {}, "run": {}}
    (tmp_path / "study.json").write_text(json.dumps({"schema": 1, "name": "x", "points": [point]}))
    with pytest.raises(InputError, match=r"study.json is damaged"):
        overview.look(held)
    if not set(name) <= set("0123456789abcdef"):
        with pytest.raises(ValueError, match="expected hexadecimal"):
            held.claims._lease_path(name)
    population = tmp_path / "p.json"
    population.write_text(json.dumps({"schema": 1, "runs": [], "execution": {}, "fingerprints": [name]}))
    done = (
        run_command("experiments.train", f"--population={population}", f"--workdir={tmp_path}/w")
        if name == "a/b"
        else None
    )
    assert done is None or (done.returncode == 2 and "'a/b' is no fingerprint" in done.stderr), done.stderr


def test_no_secret_of_the_environment_is_written_down(tiny, tmp_path):
    """What a worker's environment holds stays out of records, logs, checkpoints and metrics."""
    secret = "hunter2-" + "7f3a" * 6
    config = write_config(tiny, tmp_path / "config.py", tokens=256 * 5, **{"execution.tensorboard": True})
    names = ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "HF_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "MY_PASSWORD")
    flags = (f"--config={config}", f"--workdir={tmp_path}/run")
    done = run_command("experiments.train", *flags, **dict.fromkeys(names, secret))
    assert done.returncode == 0 and secret not in done.stdout + done.stderr
    written = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert len(written) > 5 and not [p for p in written if secret.encode() in p.read_bytes()]
    assert record.read(tmp_path / "run" / "record.json")["environment"].keys().isdisjoint(os.environ.keys())
