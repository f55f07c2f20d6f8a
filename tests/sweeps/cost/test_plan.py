"""Plans: targets, the arithmetic that sorts layouts, the lock that launch heeds, and programs compiled for TPUs."""

import dataclasses
import io
import json
import pathlib

import pytest
from rich.console import Console

from experiments.cli import InputError
from experiments.run import freeze, identity
from models.mesh import mesh
from sweeps import plan
from sweeps.cost import bound, compiled, layouts, machines, plan_file, table
from sweeps.cost import compiler as aot
from sweeps.cost import row as rows
from sweeps.study import file
from sweeps.study import grid as axes
from sweeps.study.grid import Point, branch, cases, chain, over, product
from sweeps.work import populations
from tests.support.commands import run_command

CHIPS = machines.load_chips()
KEYS = "name runs fits peak_bytes flops_per_step collective_bytes step_seconds_bound bound_by compile_seconds"
tpu_aot = pytest.mark.tpu_aot
needs_libtpu = pytest.mark.skipif(aot.available() is not None, reason=str(aot.available()))

SMALL = {"model.width": 128, "model.depth": 2, "model.heads": 2, "seq_len": 128, "batch_tokens": 1024, "tokens": 10_240}
LARGE = {"model.width": 2048, "model.depth": 20, "model.heads": 16, "seq_len": 2048, "batch_tokens": 2048 * 64}


def made(grid: axes.Grid, name: str = "made") -> file.Study:
    """A study of a grid, as if it had been read from a file."""
    return file.Study(name, f"{name}.py", "", file.freeze(grid))


def test_targets_are_named_as_they_are_sold():
    """v5p counts cores, v5e chips; topologies are in chips; jax sees two devices of a tpu7x."""
    chips = {
        name: machines.target(name).chips for name in ("v5e-16", "v6e-256", "v5p-128", "v4-8", "v5p:4x4x4", "h100-8")
    }
    assert chips == {"v5e-16": 16, "v6e-256": 256, "v5p-128": 64, "v4-8": 4, "v5p:4x4x4": 64, "h100-8": 8}
    assert machines.target("v5p-128").topology == "4x4x4" == machines.target("v5p:4x4x4").topology
    assert machines.target("v5litepod-16").topology == machines.target("v5e-16").topology == "4x4"
    assert machines.target("tpu7x:2x2x1").devices == 8 and machines.target("cpu").kind == "cpu"
    for name, said in (("v5e-17", "no slice; expected one of v5e-1"), ("v5p-3", "v5p-8"), ("v5e16", "mean 'v5e-16'")):
        with pytest.raises(InputError, match=said):
            machines.target(name)


def test_figures_and_prices_can_be_replaced(tmp_path: pathlib.Path):
    """Part of a row, or a chip that the table does not have; what is wrong is named with its file."""
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"chips": {"v5e": {"price_usd": 0.5, "price_date": "2026-01"}}}))
    mine = machines.load_chips(str(path))
    assert mine["v5e"].price_usd == 0.5 and mine["v5e"].peak_flops == 197e12 and mine["v6e"] == CHIPS["v6e"]
    for value, said in (
        ({"v5e": {"price": 1}}, "unknown field 'price'; did you mean 'price_usd'"),
        ({"v5e": {"peak_flops": "fast"}}, "peak_flops='fast' must be a positive number"),
        ({"new": {"peak_flops": 1e12}}, "chip 'new' has no hbm_bytes_per_second"),
        ([], "not a table"),
    ):
        path.write_text(json.dumps({"chips": value}))
        with pytest.raises(InputError, match=said):
            machines.load_chips(str(path))
    assert all(chip.source and chip.date for chip in CHIPS.values())


def test_layouts_use_what_the_sizes_allow():
    """All chips, axes that divide what they split, and what the study has set."""
    run, execution = freeze.freeze(axes.nest(SMALL))
    found = list(layouts.layouts(run, 24, 16, execution))
    assert len(found) == len(set(found)) > 20 and all(layout.devices == 16 for layout in found)
    assert all(run.batch % (x.data * x.fsdp) == 0 and run.model.heads % x.tensor == 0 for x in found)
    assert {layout.trials for layout in found if layout.trial == 16} == {16, 32}
    run, execution = freeze.freeze(axes.nest(SMALL | {"execution.mesh.fsdp": 4, "execution.mesh.trial": 2}))
    assert {(x.trial, x.fsdp) for x in layouts.layouts(run, 24, 16, execution)} == {(2, 4)}
    for mode, sizes in (("dropless", {1}), ("capacity", {1, 2, 4})):
        mixture = {"family": "moe", "model.experts": 4, "model.mode": mode}
        run, execution = freeze.freeze(axes.nest(SMALL | mixture))
        assert {x.expert for x in layouts.layouts(run, 24, 16, execution)} == sizes, "rows travel only with a capacity"


def test_small_runs_share_the_slice_and_a_large_one_is_split():
    """Trials first, which do not communicate; a billion parameters are sharded; nothing that cannot fit comes first."""
    chip = CHIPS["v5e"]
    run, execution = freeze.freeze(axes.nest(SMALL))
    best = layouts.choices(run, 32, 100, 16, execution, chip)[0].layout
    assert (best.trial, best.trials) == (16, 32), "no communication, and one program for all"
    run, execution = freeze.freeze(axes.nest(LARGE | {"model.remat": "full", "model.dtype": "bfloat16"}))
    guesses = layouts.choices(run, 1, 100, 16, execution, chip)
    assert guesses[0].layout.fsdp * guesses[0].layout.tensor >= 4
    assert all(guess.bytes <= chip.hbm_bytes for guess in guesses)
    run, execution = freeze.freeze(axes.nest(SMALL | {"batch_tokens": 128 * 3}))
    used = layouts.choices(run, 1, 100, 16, execution, chip)[0].layout.devices
    assert used in (2, 4), "three sequences: of 16 chips only the heads can use some"


def test_a_bound_is_the_slowest_of_three():
    chip = CHIPS["v5e"]
    program = aot.Compiled(True, 1, 1, 1, 1, 197e12, 819e9 / 2, {"all-gather": 20 * 10**9}, {}, 1.0, [])
    found = bound.bound(program, chip)
    assert (found.seconds, found.by) == (1.0, "compute") and found.memory == 0.5 and found.network == 0.2
    away = bound.bound(dataclasses.replace(program, host_bytes=32e9), chip)
    assert (away.seconds, away.by) == (2.0, "host")


def test_parts_and_offloading_are_guessed_and_proposed_where_they_save():
    """Less memory, more to send; a plan proposes nothing that a run has already, or has something smaller for."""
    chip, layout = CHIPS["v5e"], aot.Layout(fsdp=16)
    run, execution = freeze.freeze(axes.nest(LARGE | {"model.remat": "full"}))
    plain, parts, away = (
        layouts.guess(run, layout, 1, 1, chip, dataclasses.replace(execution, **options))
        for options in ({}, {"microbatches": 2}, {"offload": "optimizer"})
    )
    assert parts.bytes < plain.bytes and parts.step_seconds > plain.step_seconds
    assert plain.bytes - away.bytes == pytest.approx(8 * rows.base(made(cases(LARGE)).cells)["params_total"] / 16)
    cut = dataclasses.replace(execution, microbatches=2)
    assert all(run.batch % (2 * x.data * x.fsdp) == 0 for x in layouts.layouts(run, 1, 16, cut))
    cell = made(cases(LARGE | {"model.remat": "full", "execution.microbatches": 4})).cells[0]
    proposed = {
        path: compiled._is_smaller(cell, path, value)
        for options, _ in compiled.CHANGES[:5]
        for path, value in options.items()
        if (path, value) != ("model.remat", "offload")
    }
    assert proposed == {"execution.microbatches": False, "model.remat": False}
    assert compiled._is_smaller(cell, "model.remat", "offload") and compiled._is_smaller(
        cell, "model.dtype", "bfloat16"
    )
    changed = compiled._changed(cell, {"model.remat": "offload", "execution.offload": "optimizer"})
    assert (changed.run.model.remat, changed.execution.offload, changed.execution.microbatches) == (
        "offload",
        "optimizer",
        4,
    )


def test_the_longest_line_of_runs_is_the_critical_path():
    """A trunk and its branch, not the many short runs beside them."""
    base = Point(SMALL | {"tokens": 20_480, "schedule.name": "constant"})
    trunk = (base,)
    grid = chain(trunk, branch(trunk, over("tokens", 5_120, 10_240)), product(cases(SMALL), over("seed", 1, 2, 3)))
    made_study = made(grid)
    found = [
        rows.Row(
            **rows.base(group),
            fits=True,
            peak_bytes=1,
            step_seconds_bound=0.5,
            bound_by="measured",
            compile_seconds=1,
            seconds=1,
            mesh={},
            packing="map",
            trials_per_program=1,
            programs=1,
        )
        for group in rows.distinct(made_study.cells)
    ]
    seconds, names = plan.critical_path(made_study, found)
    assert seconds == 0.5 * (20 + 10) and len(names) == 2
    assert rows.program_steps(rows.distinct(made_study.cells)[0], 2)[0] == 20


def test_a_plan_is_printed_whole_on_a_narrow_terminal():
    """A row a signature with what it takes, what a chip sends by kind, and nothing invented for one that does not fit."""
    row = {"name": "dense 2048x20, 64 x 2048", "runs": 3, "params_total": 1.14e9, "trials_per_program": 1, "fits": True}
    row |= {
        "mesh": {"trial": 1, "data": 2, "fsdp": 8, "tensor": 1},
        "peak_bytes": 3.22e9,
        "peak_checkpoint_bytes": 1.72e9,
    }
    row |= {"peak_evaluation_bytes": 1.46e9, "flops_per_step": 9.77e14, "flops_compiled": 7.5e13, "compile_seconds": 36}
    row |= {"collective_bytes": {"all-gather": 3906e6, "reduce-scatter": 2016e6}, "step_seconds_bound": 0.377}
    row |= {"bound_by": "compute", "mfu_bound": 0.82, "seconds": 57_600.0, "opaque_kernels": {}}
    none = dict.fromkeys(("step_seconds_bound", "bound_by", "mfu_bound", "flops_compiled", "peak_evaluation_bytes"))
    large = row | none | {"name": "moe 4096x40, 64 x 2048", "fits": False, "error": "too large", "peak_bytes": 99e9}
    large |= {"collective_bytes": {}, "largest_buffers": [], "layouts": [], "changes": [], "seconds": None}
    totals = {
        "runs": 6,
        "tokens": 10,
        "flops": 5.1e20,
        "seconds": 1.0,
        "chips": 16,
        "chip_hours": 1.0,
        "price_usd": None,
    }
    totals |= {"checkpoint_storage_bytes": 1e9, "critical_path": [], "critical_path_seconds": 1.0}
    totals |= {"compiled": 2, "remembered": 0}
    value = {"target": "v5e-16", "topology": "4x4", "chip": {"date": "2025-06"}, "signatures": [row, large]}
    with Console(width=60, file=io.StringIO(), record=True) as console:
        table.show(console, value | {"totals": totals}, "mine")
    text = console.export_text()
    for shown in ("3.22", "1.46", "1.72", "377.00", "compute", "82%", "16", "1.23", "3906", "2016", "99.00", "NO"):
        assert shown in text.split(), shown
    assert "moe" in text and "does not fit: too large" in text


def test_a_plan_is_a_lock(tmp_path: pathlib.Path):
    """Needed away from this machine, heeded here; for other runs, another slice or what does not fit: refused."""
    now = made(product(cases(SMALL), over("seed", 1, 2)))
    assert plan_file.check(now, tmp_path, "local") is None
    with pytest.raises(
        InputError, match=r"--executor=slurm: .* has no plan.json; make one with .*sweeps.plan.*--no-plan"
    ):
        plan_file.check(now, tmp_path, "slurm")
    row = {"name": "a", "signature": identity.signature(now.cells[0].run), "fits": True, "trials_per_program": 2}
    row |= {"mesh": {"trial": 2, "data": 2, "fsdp": 4, "expert": 1, "tensor": 1}, "packing": "vmap"}
    value = {"hash": plan_file.study_hash(now), "target": "v5e-16", "signatures": [row]}
    (tmp_path / "plan.json").write_text(json.dumps(value))
    assert plan_file.check(now, tmp_path, "slurm") == value == plan_file.check(now, tmp_path, "tpu-vm", "v5litepod-16")
    with pytest.raises(InputError, match="is for v5e-16, not for v5p-128"):
        plan_file.check(now, tmp_path, "tpu-vm", "v5p-128")
    renamed = made(axes.tag(product(cases(SMALL), over("seed", 2, 1)), note=1))
    assert plan_file.study_hash(renamed) == value["hash"], "names, tags and order are not what was planned"
    execution = ({"execution.mesh.fsdp": 2}, {"execution.microbatches": 2}, {"execution.offload": "optimizer"})
    for changed in ({"opt.lr": 1e-4}, {"model.remat": "full"}, *execution):
        other = made(product(cases(SMALL | changed), over("seed", 1, 2)))
        for executor in ("local", "ray"):
            with pytest.raises(InputError, match="made for other runs"):
                plan_file.check(other, tmp_path, executor)
    placed, together = plan_file.laid_out(now, value)
    assert {cell.execution.mesh.fsdp for cell in placed.cells} == {4} and together == {row["signature"]: 2}
    (tmp_path / "plan.json").write_text(json.dumps(value | {"signatures": [row | {"fits": False}]}))
    with pytest.raises(InputError, match="a does not fit on v5e-16"):
        plan_file.check(now, tmp_path, "tpu-vm", "v5e-16")
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="no plan that can be read"):
        plan_file.check(now, tmp_path, "local")


def test_launch_refuses_a_stale_plan(tmp_path: pathlib.Path):
    """One line, exit code 2, nothing started; and --no-plan is a flag that it knows."""
    path = tmp_path / "s.py"
    path.write_text(
        f"from sweeps.study.grid import *\ndef get_study(): return cases({SMALL | {'data.corpus': ('nowhere/*.txt',)}!r})\n"
    )
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "plan.json").write_text(json.dumps({"hash": "0", "target": "cpu", "signatures": []}))
    flags = ("sweeps.launch", f"--study={path}", f"--workdir={tmp_path / 'w'}", f"--data_root={tmp_path}")
    done = run_command(*flags)
    assert done.returncode == 2 and "made for other runs" in done.stderr and done.stderr.count("\n") == 1
    done = run_command(*flags, "--no-plan")
    assert done.returncode == 2 and "nowhere" in done.stderr, "it goes on to the corpus, which is not there"


def test_a_gpu_target_needs_its_gpus():
    with pytest.raises(InputError, match="needs a machine with 8 of them; here jax sees 0"):
        plan.plan(made(cases(SMALL)), machines.target("h100-8"), CHIPS)


def test_populations_are_no_larger_than_planned():
    from tests.support.studies import nodes_of

    nodes = nodes_of(product(cases(SMALL), over("seed", *range(10))))
    together = {identity.signature(nodes[0].run): 4}
    parts = populations.populations(nodes, 1, lambda _: False, together=together)
    assert sorted(len(p.nodes) for p in parts) == [3, 3, 4]


# --- compiled for TPUs


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> aot.Compiler:
    """For four v5e chips, with a cache of its own."""
    aot.set_up()
    return aot.Compiler(machines.target("v5e-4"), str(tmp_path_factory.mktemp("plans")))


@tpu_aot
@needs_libtpu
@pytest.mark.slow
def test_nothing_is_compiled_twice(compiler: aot.Compiler, tmp_path: pathlib.Path):
    """Two signatures in eight runs are two compilations; none the second time, also in another process."""
    base = {key: value for key, value in SMALL.items() if key != "model.width"}
    grid = product(cases(base), over("model.width", 128, 256), over("seed", 1, 2, 3, 4))
    cache, said = str(compiler._folder), []
    target = machines.target("v5e-4")
    first = plan.plan(made(grid), target, CHIPS, cache=cache, say=said.append)
    assert (first["totals"]["compiled"], first["totals"]["remembered"]) == (2, 0) and len(said) == 2
    again = plan.plan(made(grid), target, CHIPS, cache=cache)
    assert (again["totals"]["compiled"], again["totals"]["remembered"]) == (0, 2)
    assert again["signatures"] == first["signatures"] and again["hash"] == first["hash"]
    assert all(set(KEYS.split()) <= row.keys() for row in first["signatures"])
    assert {"chip_hours", "price_usd", "flops"} <= first["totals"].keys()
    for row in first["signatures"]:
        assert row["fits"] and row["mesh"]["trial"] == row["runs"] == 4
        assert row["collective_bytes"] == {}, "trials do not speak to each other"
        assert 0 < row["mfu_bound"] <= 1 and row["bound_by"] in bound.BOUNDS
        assert row["peak_checkpoint_bytes"] > 12 * row["params_total"] / row["mesh"]["fsdp"]
    path = tmp_path / "s.py"
    path.write_text(
        f"from sweeps.study.grid import *\ndef get_study(): return product(cases({base!r}), over('model.width', 128, 256),"
        " over('seed', 1, 2, 3, 4))\n"
    )
    flags = (f"--study={path}", "--target=v5e:2x2", f"--cache={cache}", f"--workdir={tmp_path / 'w'}")
    done = run_command("sweeps.plan", *flags)
    assert done.returncode == 0, done.stderr
    assert "0 programs compiled, 2 known from before" in done.stdout and "list price of" in done.stdout
    written = json.loads((tmp_path / "w" / "plan.json").read_text())
    assert written["hash"] == first["hash"]
    assert plan_file.check(file.load(str(path)), tmp_path / "w", "tpu-vm", "v5litepod-4") == written


@tpu_aot
@needs_libtpu
@pytest.mark.slow
def test_fsdp_for_a_tpu_has_its_flops_and_collectives(compiler: aot.Compiler):
    """A mesh that the study sets: as many matmul FLOPs as the ledger has, with causal attention; the gathers of fsdp."""
    values = SMALL | {"model.width": 512, "model.heads": 4, "model.vocab": 1024, "batch_tokens": 4096}
    run, execution = freeze.freeze(axes.nest(values | {"model.dtype": "bfloat16"}))
    found = compiler(run, aot.Layout(fsdp=4), execution, rest=False)
    ledger = rows.ledger(run)
    flops = found.flops * 4 / run.batch_tokens
    assert 0.95 * ledger["flops_causal"] / run.tokens < flops < 1.1 * ledger["flops_per_token"]
    hidden = ledger["params_total"] - 1024 * 512  # the table of embeddings is looked up where it lies
    least = 2 * (3 / 4) * 2 * hidden  # twice, in bfloat16
    assert 0.8 * least < found.collective_bytes["all-gather"] < 1.6 * least
    assert found.peak_bytes > found.state_bytes and found.buffers[0]["bytes"] > 1e6
    assert any("Attention" in b["path"] or "Mlp" in b["path"] or "logits" in b["path"] for b in found.buffers)


@tpu_aot
@needs_libtpu
@pytest.mark.slow
def test_every_layout_of_a_slice_has_a_mesh():
    """Also where an axis is a part of a dimension of the torus."""
    aot.set_up()
    run, execution = freeze.freeze(axes.nest(LARGE | {"family": "moe", "model.mode": "capacity"}))
    for chip, topology in (("v6e", "16x16"), ("v5p", "4x4x8")):
        devices = aot.topology(chip, topology)
        for found in layouts.layouts(run, 4, len(devices), execution):
            sizes = [getattr(found, axis) for axis in mesh.AXES]
            assert mesh.make_mesh(sizes, devices).size == len(devices), found


@tpu_aot
@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_says_why_and_what_would_help(compiler: aot.Compiler):
    """Without recomputation a layer's activations are kept; parts of a batch or remat make it fit."""
    values = {"model.width": 1024, "model.depth": 16, "model.heads": 8, "seq_len": 2048, "batch_tokens": 2048 * 32}
    group = file.freeze(cases(values))
    said = []
    row = compiled.on_tpu([group], compiler, CHIPS["v5e"], 1, said.append)[0]
    assert not row.fits and "HBM" in row.error and row.peak_bytes > CHIPS["v5e"].hbm_bytes
    assert row.largest_buffers and "Block" in " ".join(b["path"] for b in row.largest_buffers)
    assert row.changes[-1]["fits"] and any(n in row.changes[-1]["change"] for n in ("microbatches", "remat"))
    assert row.changes[-1]["peak_bytes"] < CHIPS["v5e"].hbm_bytes
