"""`sweeps.collect --evaluations`: a row an evaluation, checked against what the runs have logged themselves."""

import os
import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.grid.selection import select
from analysis.laws import LAWS, schedules
from experiments import train
from experiments.prepare import prepare
from experiments.store import segments
from sweeps.study import file
from sweeps.watch import evaluations, grid_table, lr_areas
from sweeps.work import workdir
from sweeps.work.workdir import Workdir
from tests.support.commands import run_command

STUDY = '''"""Where does a cooldown lead? A trunk of two pieces, and what cools down behind each."""
from sweeps.study.grid import branch, cases, chain, product, tag

def get_study(arg=None):
    base = cases({
        "model.width": 16, "model.depth": 1, "model.heads": 1, "batch_tokens": 256, "seq_len": 32, "opt.lr": 1e-2,
        "data.corpus": (%(corpus)r, "embedded:1"), "data.weights": (1.0, 1.0), "evaluation.tokens": 2048,
        "schedule.name": "wsd", "schedule.decay_tokens": 256, "schedule.final": 1.0,
        "tokens": 256 * 20, "schedule.warmup_tokens": 256 * 4,
        "execution.tensorboard": False, "execution.data_root": %(root)r, "execution.compile_cache": %(cache)r,
        "execution.log_every_steps": 1, "execution.eval_every_tokens": 256 * 6,
    })
    first = product(base, cases({}))
    second = branch(first, cases({"tokens": 256 * 12, "schedule.warmup_tokens": 0}))
    end = {"tokens": 256 * 10, "schedule.decay_tokens": 256 * 10, "schedule.final": 0.0}
    cooled = branch(second, cases(end))
    return chain(tag(chain(first, second), group="trunk"), tag(cooled, group="cooldown"))
'''


ROUNDED = (
    STUDY.replace("branch, cases", "branch, cases, over, reevaluate").partition("    second =")[0]
    + """
    return chain(first, reevaluate(first, over("model.quant_weight", "int2", "int3")))
"""
)


@pytest.fixture(scope="module")
def tree(write_study, tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """The study, trained."""
    return trained(write_study(STUDY), tmp_path_factory.mktemp("tree"))


def trained(study: pathlib.Path, folder: pathlib.Path, runs: int | None = None) -> Workdir:
    """A workdir with the runs of a study, or the first so many, trained."""
    loaded = file.load(str(study))
    manifests = {}
    for cell in loaded.cells:
        place = (cell.run.data, cell.execution.data_root)
        manifests[place] = tuple(prepare(cell.run.data, cell.execution.data_root, progress=False))
    nodes = workdir.identify(loaded, manifests)
    held = Workdir(folder)
    held.write_study(loaded, nodes)
    for node in nodes[:runs]:
        train.train([node.run], [held.run_dir(node.fingerprint)], node.execution, lambda event: None)
    return held


def logs(held: Workdir) -> list[pd.DataFrame]:
    """What the three runs of the line have logged, in order."""
    points = held.read_study()["points"]
    return [pd.DataFrame(segments.read(held.run_dir(point["fingerprint"]))) for point in points]


def test_a_curve_begins_where_its_line_does(tree: Workdir):
    """Steps, tokens, FLOPs, rates and areas count from the first ancestor's first step; each row is what was logged."""
    table = evaluations.build(tree)
    first, second, cooled = (point["fingerprint"] for point in tree.read_study()["points"])
    curve = table.frame[table.frame["run"] == cooled].reset_index(drop=True)
    assert list(curve["step"]) == [6, 12, 18, 20, 26, 32, 38, 42]
    assert list(curve["evaluated_by"]) == [first] * 4 + [second] * 2 + [cooled] * 2
    assert list(curve["inherited"]) == [1] * 6 + [0] * 2 and list(curve["last"]) == [0] * 7 + [1]
    assert list(curve["own_step"]) == [6, 12, 18, 20, 6, 12, 6, 10]
    assert list(curve["tokens"]) == [256 * step for step in curve["step"]] == list(curve["lineage_tokens"])
    assert set(curve["group"]) == {"cooldown"} and set(curve["batch_tokens"]) == {256}
    np.testing.assert_allclose(curve["flops_total"], curve["tokens"] * curve["flops_per_token"])

    logged = pd.concat(logs(tree), ignore_index=True)
    rates = logged["lr"].dropna().to_numpy()
    assert len(rates) == 42
    np.testing.assert_allclose(curve["lr"], rates[curve["step"] - 1], rtol=1e-5)
    S1, S2 = schedules.areas(rates)
    np.testing.assert_allclose(curve["S1"], S1[curve["step"] - 1], rtol=1e-5)
    np.testing.assert_allclose(curve["S2"], S2[curve["step"] - 1], rtol=1e-5, atol=1e-9)
    assert curve["S2"].iloc[-1] > 0 == curve["S2"].iloc[5]

    evaluated = logged[logged["eval_loss"].notna()]
    names = {"eval_loss": "loss_nats", "eval_loss_sem": "loss_nats_sem", "eval_loss_part_2": "loss_part_2"}
    for name, column in names.items():
        assert list(curve[column]) == list(evaluated[name])
    assert table.notes == [
        "10 rows repeat evaluations of parents, for curves that are whole: --where=inherited==0 has each evaluation once"
    ]


def test_a_run_that_takes_no_step_is_evaluated_where_its_parent_ended(write_study, tmp_path: pathlib.Path):
    """One has been, the other waits: both are shown, and what there is is in the tables."""
    held = trained(write_study(ROUNDED), tmp_path, runs=2)
    trunk, rounded, waiting = (point["fingerprint"] for point in held.read_study()["points"])
    grid, _ = grid_table.build(held)
    table = evaluations.build(held).frame
    last = table[table["last"] == 1].set_index("run")
    of_grid = grid.set_index("fingerprint")
    assert list(table[table["run"] == rounded]["step"]) == [6, 12, 18, 20, 20]
    assert last["loss_nats"][rounded] == of_grid["loss_nats"][rounded] != last["loss_nats"][trunk]
    assert last["added_loss"][rounded] == last["loss_nats"][rounded] - last["loss_nats"][trunk]
    for name in ("step", "tokens", "flops_lineage", "S1", "S2"):
        assert last[name][rounded] == last[name][trunk]
    assert waiting not in last.index
    shown = run_command("sweeps.status", f"--workdir={tmp_path}")
    assert shown.returncode == 0 and "2 complete" in shown.stdout and "1 waiting" in shown.stdout, shown


def test_the_last_row_is_that_of_the_grid(tree: Workdir):
    """All columns of the grid are there; the end of each run has all that its record says."""
    grid, _ = grid_table.build(tree)
    table = evaluations.build(tree).frame
    renamed = {"fingerprint", "steps_done"}  # the columns run, run_steps
    assert set(grid.columns) - set(table.columns) - {"steps"} == renamed
    ends = table[table["last"] == 1].set_index("run")
    grid = grid.set_index("fingerprint")
    same = [
        "loss_nats",
        "loss_nats_sem",
        "loss_part_1",
        "loss_part_2",
        "bits_per_byte",
        "wall_seconds",
        "flops_lineage",
    ]
    for name in [*same, "lineage_tokens", "group", "width", "params_total", "eval_tokens"]:
        assert list(ends[name]) == list(grid.loc[ends.index, name]), name
    assert list(ends["peak_lr"]) == list(grid["lr"]) and list(ends["run_tokens"]) == list(grid["tokens"])
    assert table[(table["last"] == 0) & (table["inherited"] == 0)]["wall_seconds"].isna().all()


def test_laws_of_curves_find_their_columns(tree: Workdir, tmp_path: pathlib.Path):
    """The command as a user types it; no --columns for any of them."""
    out = tmp_path / "curves.csv"
    grid_table.write(evaluations.build(tree).frame, out)  # a table of ours is replaced
    done = run_command("sweeps.collect", f"--workdir={tree.root}", f"--out={out}", "--evaluations")
    assert done.returncode == 0 and "18 evaluations of 3 runs" in done.stdout, done.stderr
    grid = analysis.read(str(out))
    wanted = {
        "annealing": {"S1": "S1", "S2": "S2", "loss": "loss_nats"},
        "annealing_curve": {"S": "step", "lr": "lr", "loss": "loss_nats", "run": "run"},
        "batch_trajectory": {"N": "params_total", "S": "step", "batch": "batch_tokens", "loss": "loss_nats"},
    }
    for law, roles in wanted.items():
        kind = LAWS[law]
        found = select(grid, kind.ROLES, optional=kind.OPTIONAL, signed=kind.SIGNED)
        assert {role: found.sources[role] for role in roles} == roles


@pytest.mark.parametrize(("steps", "fall"), [(1, 0.0), (300, 0.5), (3_000, 1.0)])
def test_areas_are_those_of_the_law(steps: int, fall: float):
    rate = np.minimum(np.arange(1, steps + 1) / 20, 1.0) * np.linspace(1, 1 - fall, steps)
    for ours, law in zip(lr_areas.areas(rate), schedules.areas(rate), strict=True):
        np.testing.assert_allclose(ours, law, rtol=1e-12)


def test_a_curve_whose_parents_are_elsewhere_says_so(tree: Workdir, tmp_path: pathlib.Path):
    """What is not known is empty, and named; the run's own counts are there."""
    shutil.copytree(os.fspath(tree.root), tmp_path / "w")
    held = Workdir(tmp_path / "w")
    first, second, cooled = (point["fingerprint"] for point in held.read_study()["points"])
    shutil.rmtree(tmp_path / "w" / "runs" / first)
    table = evaluations.build(held)
    assert set(table.frame["run"]) == {second, cooled}
    curve = table.frame[table.frame["run"] == cooled]
    assert curve[["step", "S1", "S2", "flops_total"]].isna().all(axis=None)
    assert list(curve["own_step"]) == [6, 12, 6, 10] and list(curve["tokens"] / 256) == [26, 32, 38, 42]
    assert any(second in note and cooled in note for note in table.notes)
    assert "1 runs have no evaluation yet, and no row" in table.notes
    (tmp_path / "w" / "runs" / second / "run.json").write_text("{")
    assert any("run.json cannot be read" in line for line in evaluations.build(held).damaged)


def test_evaluations_of_a_bucket_are_those_of_a_disk(tree: Workdir, store_folder):
    """Log, record and options are read where they lie."""
    paths = [tree.root / "study.json"]
    for pattern in ("run.json", "record.json", "metrics/*.jsonl"):
        paths += tree.root.glob(f"runs/*/{pattern}")
    for path in paths:
        (store_folder / os.path.relpath(path, tree.root)).write_bytes(path.read_bytes())
    pd.testing.assert_frame_equal(evaluations.build(Workdir(store_folder)).frame, evaluations.build(tree).frame)
