"""Programs compiled for TPUs that are elsewhere."""

import json
import pathlib

import pytest

from experiments.benchmarks.chips import load_chips, load_grid
from experiments.cli import InputError
from experiments.run.freeze import freeze
from experiments.store.record import ledger
from models.mesh import mesh
from sweeps.cost import bound, compiled, compiler, layouts, machines, plan_file
from sweeps.cost.compile_cache import CachedCompiler
from sweeps.cost.layouts import Layout
from sweeps.cost.study_plan import plan_study
from sweeps.study.cells import freeze_points
from sweeps.study.file import load
from sweeps.study.grid import cases, nest, over, product
from tests.support.commands import run_command
from tests.support.plans import LARGE, SMALL, needs_libtpu, study_of

pytestmark = [pytest.mark.tpu_aot, needs_libtpu, pytest.mark.slow]

CHIPS = load_chips()
GRID = load_grid()
KEYS = "name runs fits peak_bytes flops_per_step collective_bytes step_seconds_bound bound_by compile_seconds"


@pytest.fixture(scope="session")
def cached_compiler(tmp_path_factory: pytest.TempPathFactory) -> CachedCompiler:
    """For four v5e chips, with a cache of its own."""
    compiler.set_up()
    return CachedCompiler(machines.target("v5e-4"), str(tmp_path_factory.mktemp("plans")))


def test_nothing_is_compiled_twice(cached_compiler: CachedCompiler, tmp_path: pathlib.Path):
    """Two signatures in eight runs are two compilations; none the second time, also in another process."""
    base = {key: value for key, value in SMALL.items() if key != "model.width"}
    study = study_of(product(cases(base), over("model.width", 128, 256), over("seed", 1, 2, 3, 4)))
    target = machines.target("v5e-4")
    cache = cached_compiler.cache
    said = []
    first = plan_study(study, target, CHIPS, GRID, cache=cache, say=said.append)
    assert (first["totals"]["compiled"], first["totals"]["remembered"]) == (2, 0)
    assert len(said) == 2
    again = plan_study(study, target, CHIPS, GRID, cache=cache)
    assert (again["totals"]["compiled"], again["totals"]["remembered"]) == (0, 2)
    assert again["signatures"] == first["signatures"]
    assert again["hash"] == first["hash"]
    assert {"chip_hours", "price_usd", "flops"} <= first["totals"].keys()
    for signature in first["signatures"]:
        assert set(KEYS.split()) <= signature.keys()
        assert signature["fits"]
        assert signature["mesh"]["trial"] == signature["runs"] == 4
        assert signature["collective_bytes"] == {}, "trials do not speak to each other"
        assert 0 < signature["mfu_bound"] <= 1
        assert signature["bound_by"] in bound.BOUNDS
        state_bytes = 12 * signature["params_total"] / signature["mesh"]["fsdp"]
        assert signature["peak_checkpoint_bytes"] > state_bytes

    path = tmp_path / "s.py"
    path.write_text(
        f"from sweeps.study.grid import *\ndef get_study(): return product(cases({base!r}), over('model.width', 128, 256),"
        " over('seed', 1, 2, 3, 4))\n"
    )
    workdir = tmp_path / "w"
    flags = (f"--study={path}", "--target=v5e:2x2", f"--cache={cache}", f"--workdir={workdir}")
    done = run_command("sweeps.plan", *flags)
    assert done.returncode == 0, done.stderr
    assert "0 programs compiled, 2 known from before" in done.stdout
    assert "list price of" in done.stdout
    written = json.loads((workdir / "plan.json").read_text())
    assert written["hash"] == first["hash"]
    plan_file.check(written, load(str(path)), workdir)


def test_fsdp_for_a_tpu_has_its_flops_and_collectives(cached_compiler: CachedCompiler):
    """A mesh that the study sets: as many matmul FLOPs as the ledger has, with causal attention; the gathers of fsdp."""
    values = SMALL | {"model.width": 512, "model.heads": 4, "model.vocab": 1024, "batch_tokens": 4096}
    run, execution = freeze(nest(values | {"model.dtype": "bfloat16"}))
    found = cached_compiler(run, Layout(fsdp=4), execution, rest=False)
    assert found.fits
    assert found.flops and found.peak_bytes
    counts = ledger(run)
    flops = found.flops * 4 / run.batch_tokens
    assert 0.95 * counts["flops_causal"] / run.tokens < flops < 1.1 * counts["flops_per_token"]
    hidden = counts["params_total"] - 1024 * 512  # the table of embeddings is looked up where it lies
    least = 2 * (3 / 4) * 2 * hidden  # twice, in bfloat16
    assert 0.8 * least < found.collective_bytes["all-gather"] < 1.6 * least
    assert found.peak_bytes > found.state_bytes
    assert found.buffers[0]["bytes"] > 1e6
    paths = " ".join(buffer["path"] for buffer in found.buffers)
    assert any(name in paths for name in ("Attention", "Mlp", "logits"))


def test_slices_speak_of_gradients_through_the_data_center(tmp_path: pathlib.Path):
    """Two slices of four chips, the batch split between them: each chip sends its quarter of the sum, there and back."""
    compiler.set_up()
    values = SMALL | {"model.width": 512, "model.heads": 4, "model.vocab": 1024, "batch_tokens": 8192}
    run, execution = freeze(nest(values | {"model.dtype": "bfloat16"}))
    target = machines.target("v5e-4x2")
    found = CachedCompiler(target, str(tmp_path))(run, Layout(data=2, fsdp=4), execution, rest=False)
    params = ledger(run)["params_total"]
    assert 2 * params / 4 < found.dcn_bytes < 1.5 * 4 * params / 4, "gradients in bfloat16 or float32"
    bounded = bound.bound_step(found, CHIPS["v5e"], target)
    assert bounded.slices == pytest.approx(found.dcn_bytes / 3.125e9)
    with pytest.raises(InputError, match="expected a multiple of 2 of one of them"):
        compiler.build(run, Layout(fsdp=8), execution, compiler.topology("v5e", "2x2", 2))


@pytest.mark.parametrize(("chip", "topology"), [("v6e", "16x16"), ("v5p", "4x4x8")])
def test_every_layout_of_a_slice_has_a_mesh(chip: str, topology: str):
    """Also where an axis is a part of a dimension of the torus."""
    compiler.set_up()
    run, execution = freeze(nest(LARGE | {"family": "moe", "model.mode": "capacity"}))
    devices = compiler.topology(chip, topology)
    for layout in layouts.possible(run, 4, len(devices), execution):
        sizes = [getattr(layout, axis) for axis in mesh.AXES]
        assert mesh.make_mesh(sizes, devices).size == len(devices), layout


def test_what_does_not_fit_says_why_and_what_would_help(cached_compiler: CachedCompiler):
    """Without recomputation a layer's activations are kept; parts of a batch or remat make it fit."""
    values = {"model.width": 1024, "model.depth": 16, "model.heads": 8, "seq_len": 2048, "batch_tokens": 2048 * 32}
    group = freeze_points(cases(values))
    said = []
    (planned,) = compiled.plan_on_tpu([group], cached_compiler, CHIPS["v5e"], 1, said.append)
    assert not planned.fits
    assert planned.error and "HBM" in planned.error
    assert planned.peak_bytes and planned.peak_bytes > CHIPS["v5e"].hbm_bytes
    assert "Block" in " ".join(buffer["path"] for buffer in planned.largest_buffers)
    helpful = planned.changes[-1]
    assert helpful["fits"]
    assert any(name in helpful["change"] for name in ("microbatches", "remat"))
    assert helpful["peak_bytes"] < CHIPS["v5e"].hbm_bytes
