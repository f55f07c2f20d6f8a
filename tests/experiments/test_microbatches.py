"""A batch in parts gives the numbers of the whole; optimizer state in host memory and every remat policy change nothing."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import freeze
from experiments.training import offload, step
from experiments.training import program as population
import models
from models import functional
from models.growing import masks as growth_masks
from models.growing.options import Growth
from models.numerics.parametrization import is_matrix
from sweeps.cost import hlo, hlo_flops
from tests.support.families import SMOOTH, VARIANTS
from tests.support.training import assert_same_run, run

STEPS = 3
# With Adam's usual eps a parameter whose gradient is all rounding error moves by a whole learning rate.
TAME = {"opt.eps": 1e-3, "loss.z_loss": 1e-3, "model.unroll": False}


def trained(config, devices=1, runs=1, steps=STEPS):
    """Metrics of every step, held-out nats, final states and the program, on tokens that are drawn."""
    frozen, execution = freeze.freeze(config)
    program = population.Program(frozen, runs, execution, jax.devices()[:devices])
    rows = [frozen] * program.slots
    state, values = program.init(rows), program.stack_values(rows)
    draw, metrics = np.random.default_rng(0), []
    for _ in range(steps):
        tokens = np.zeros(program.token_shape(), np.uint16)
        tokens[:, 0] = draw.integers(0, 257, tokens[:, 0].shape)
        state, found = program.train(state, values, tokens, np.ones(program.slots, np.int32))
        metrics.append({name: np.asarray(value)[:, 0] for name, value in found.items()})
    tokens = draw.integers(0, 257, program.token_shape(1)).astype(np.uint16)
    nats = program.evaluate(program.effective(state, values), tokens, np.ones(program.slots, np.int32))
    return {name: np.array([row[name] for row in metrics]) for name in metrics[0]} | {"nats": nats}, state, program


def same(one, other, rtol=2e-6):
    """Every metric of every step."""
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=rtol, atol=3e-6, err_msg=name)


# Of a model that drops some of its activations the parts lose what the whole loses.
DROPPING = {"dropout": 0.2}
QUICK = {("dense", "llama"), ("moe", "deepseek"), ("dense", "dropping")}
SEPARABLE = [(f, v) for f in models.family_names() for v in VARIANTS.get(f, {"default": {}}) if v != "expert_choice"]
SEPARABLE += [(family, "dropping") for family in models.family_names()]


@pytest.mark.parametrize(
    ("family", "variant"),
    [pytest.param(*one, id="-".join(one), marks=() if one in QUICK else pytest.mark.slow) for one in SEPARABLE],
)
def test_parts_of_a_batch_give_the_whole(tiny, family, variant):
    """Loss, z-loss, balance terms, norm of the gradient, selection biases: of 1, 2 and 4 parts."""
    options = (DROPPING if variant == "dropping" else VARIANTS[family][variant]) | SMOOTH.get(family, {})
    frozen = freeze.freeze(tiny(family, **TAME | {f"model.{name}": value for name, value in options.items()}))[0]
    draw = np.random.default_rng(0)
    tokens = [draw.integers(0, 257, (frozen.batch, frozen.seq_len + 1)).astype(np.uint16) for _ in range(STEPS)]
    start = jax.jit(lambda: step.init_state(frozen, frozen))()

    def train(parts):
        take, state, rows = jax.jit(lambda s, x: step.train_step(frozen, frozen, s, x, None, parts)), start, []
        for batch in tokens:
            state, metrics = take(state, batch)
            rows.append(metrics)
        return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]} | state.params

    whole = train(1)
    for parts in (2, 4):
        same(whole, train(parts))


@pytest.mark.parametrize(
    "mesh", [pytest.param({"data": 1}, marks=pytest.mark.slow, id="one"), pytest.param({"fsdp": 2}, id="split")]
)
def test_offloaded_moments_lie_with_the_host_and_change_no_number(tiny, mesh):
    options = TAME | {f"execution.mesh.{axis}": size for axis, size in mesh.items()}
    devices = mesh.get("fsdp", 1)
    beside, state, program = trained(tiny(**options), devices)
    away, host_state, offloaded = trained(tiny(**options, **{"execution.offload": "optimizer"}), devices)
    for name, values in beside.items():
        np.testing.assert_allclose(away[name], values, rtol=1e-6, err_msg=name)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(host_state), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-7)
    kinds = [leaf.sharding.memory_kind for leaf in jax.tree.leaves((host_state.opt[1].mu, host_state.opt[1].nu))]
    assert (
        kinds.count("pinned_host")
        == 2 * sum(map(is_matrix, functional.param_axes(program.run.family, program.run.model).values()))
        > 10
    )
    assert host_state.params["embed"].sharding.memory_kind == "device"
    moments = program.device_bytes("opt")
    assert offloaded.device_bytes("opt") < 0.01 * moments, "vectors and counters only"
    one = offloaded.take(host_state, 0)
    assert one.opt[1].mu["embed"].sharding.memory_kind == "pinned_host"
    np.testing.assert_array_equal(np.asarray(one.opt[1].mu["embed"]), np.asarray(host_state.opt[1].mu["embed"])[0])


def frozen_step(tiny, parts, added=None, options=(), family="dense"):
    """Metrics and parameters of one step."""
    frozen = freeze.freeze(tiny(family, **TAME | dict(options)))[0]
    if added is not None:
        frozen = dataclasses.replace(frozen, growth=Growth(width="random", ramp_tokens=10_000))
        masks = growth_masks.mask_shapes(functional.layout(frozen.family, frozen.model))
        added = {path: jnp.asarray(added.integers(0, 2, shape), jnp.float32) for path, shape in masks.items()}
    tokens = np.random.default_rng(0).integers(0, 257, (frozen.batch, frozen.seq_len + 1)).astype(np.uint16)
    state = step.init_state(frozen, frozen)
    state, metrics = jax.jit(lambda s, x: step.train_step(frozen, frozen, s, x, added, parts))(state, tokens)
    return {name: np.asarray(value) for name, value in (metrics | state.params).items()}


@pytest.mark.slow
def test_parts_behind_the_masks_of_a_growth(tiny):
    whole, halves = (frozen_step(tiny, parts, np.random.default_rng(1)) for parts in (1, 2))
    same(whole, halves)
    plain = frozen_step(tiny, 1)
    assert abs(float(plain["loss"] - whole["loss"])) > 1e-6, "masks do something"


@pytest.mark.slow
def test_scales_per_block_of_a_sequence_do_not_see_the_cut(tiny):
    options = {"model.quant_grad": "e4m3b32", "model.quant_act": "e4m3"}
    same(frozen_step(tiny, 1, options=options), frozen_step(tiny, 4, options=options))


def compiled(config, devices):
    frozen, execution = freeze.freeze(config)
    text = population.Program(frozen, 1, execution, jax.devices()[:devices]).compile().compiled.as_text()
    return hlo.Module(text), text


def test_parts_on_eight_devices(tiny):
    """The numbers of one device; each device takes its own rows of a part; as many FLOPs, counted through the loop."""
    mesh = {"execution.mesh.data": 2, "execution.mesh.fsdp": 4, "batch_tokens": 512, "model.depth": 2}
    cut = mesh | {"execution.microbatches": 2}
    one = trained(tiny(**TAME | {"batch_tokens": 512, "model.depth": 2}))[0]
    same(one, trained(tiny(**TAME | cut), devices=8)[0], rtol=1e-5)
    (whole, text), (parts, cut_text) = compiled(tiny(**TAME | mesh), 8), compiled(tiny(**TAME | cut), 8)
    assert cut_text.count("all-to-all(") <= text.count("all-to-all(")
    assert hlo_flops.flops(parts) == pytest.approx(hlo_flops.flops(whole), rel=1e-3)


@pytest.mark.slow
def test_packed_trials_in_parts_with_moments_at_the_host(tiny):
    """Two trials on a device at once: what each would do alone."""
    options = TAME | {"execution.microbatches": 2, "execution.offload": "optimizer", "model.depth": 2}
    alone = trained(tiny(**TAME | {"model.depth": 2, "batch_tokens": 256}))[0]
    both, state, program = trained(tiny(**options), runs=2)
    assert program.packing == "vmap" and both["loss"].shape == (STEPS, 2)
    np.testing.assert_allclose(both["loss"][0, 0], alone["loss"][0, 0], rtol=1e-3)
    assert program.take(state, 1).opt[1].mu["embed"].sharding.memory_kind == "pinned_host"


def interrupted(at):
    def report(event):
        if event["event"] == "progress" and event["done"] >= at:
            raise KeyboardInterrupt

    return report


def test_an_offloaded_run_resumes_to_the_bit_and_has_children(tiny, tmp_path):
    """Stopped, resumed, and continued by a child that keeps its optimizer state."""
    options = TAME | {"execution.offload": "optimizer", "execution.microbatches": 2, "model.depth": 2}
    options |= {"execution.checkpoint_every_tokens": 256 * 5, "execution.steps_per_dispatch": 5, "tokens": 256 * 15}
    options |= {"schedule.name": "constant", "model.dropout": 0.1, "model.attention_dropout": 0.1}
    whole = run(tiny(**options), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tiny(**options), tmp_path / "again", interrupted(10))
    run(tiny(**options), tmp_path / "again")
    assert_same_run(tmp_path / "whole", tmp_path / "again")
    child = {"parent": whole["fingerprint"], "execution.parent_workdir": str(tmp_path / "whole"), "tokens": 256 * 5}
    beside = run(tiny(**options | child | {"execution.offload": "none"}), tmp_path / "beside")
    away = run(tiny(**options | child), tmp_path / "child")
    assert away["columns"]["loss_nats"] == pytest.approx(beside["columns"]["loss_nats"], rel=1e-6)
    assert away["fingerprint"] == beside["fingerprint"], "where moments lie is no part of a run"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"execution.microbatches": 0}, "execution.microbatches=0 must be at least 1"),
        ({"execution.microbatches": 3}, r"batch_tokens / seq_len = 8 .* execution.microbatches=3"),
        (
            {"execution.microbatches": 2, "model.quant_grad": "e4m3"},
            r"model.quant_grad='e4m3' .* execution.microbatches",
        ),
        ({"execution.microbatches": 2, "model.quant_saved": "e4m3b24"}, r"model.quant_saved='e4m3b24' .* e4m3b32"),
        ({"execution.offload": "all"}, "execution.offload='all' is not known"),
    ],
)
def test_what_cannot_be_is_one_line(tiny, options, said):
    with pytest.raises(InputError, match=said):
        freeze.freeze(tiny(**options))


def test_what_cannot_be_on_these_devices_is_one_line(tiny):
    with pytest.raises(InputError, match="model.mode='expert_choice' .* execution.microbatches"):
        freeze.freeze(tiny("moe", **{"model.mode": "expert_choice", "execution.microbatches": 2}))
    with pytest.raises(InputError, match=r"data=4 x execution.mesh.fsdp=1 x execution.microbatches=4; .* 16"):
        trained(tiny(**{"execution.mesh.data": 4, "execution.microbatches": 4}), devices=4)
    with pytest.raises(InputError, match="execution.packing='map' .* expected 'vmap'"):
        trained(tiny(**{"execution.packing": "map", "execution.offload": "optimizer"}), runs=2)
    elsewhere = types.SimpleNamespace(
        platform="abacus", addressable_memories=lambda: [types.SimpleNamespace(kind="beads")]
    )
    with pytest.raises(InputError, match="execution.offload='optimizer' needs pinned_host .* abacus .*beads"):
        offload.check(elsewhere, "execution.offload='optimizer'")  # a device of a kind that nobody has here
