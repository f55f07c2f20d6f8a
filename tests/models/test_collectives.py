"""What devices send: matrices gathered and gradients scattered once, logits never whole, and the same numbers."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import freeze, identity
from experiments.store.record import ledger
from experiments.training import loss as losses
from experiments.training import program as population
from experiments.training import step
from models import functional
from models.mesh import gather, rules, shards
from models.mesh.mesh import AXES, make_mesh
from sweeps.cost import compiler, hlo, hlo_flops, hlo_traffic, layouts

SIZE = {"model.vocab": 264}


def gradients(run, params, tokens, mesh=None):
    """Loss, terms and gradients of a batch; on a mesh of all devices, as parameters lie there."""

    def function(params):
        total, (terms, _) = step.objective(run, run, params, tokens)
        return total, terms

    if mesh is None:
        return jax.jit(jax.value_and_grad(function, has_aux=True))(params)
    axes = functional.param_axes(run.family, run.model)
    split = {
        path: jax.sharding.NamedSharding(mesh, rules.spec(axes[path], value.shape, mesh))
        for path, value in params.items()
    }
    with jax.set_mesh(mesh):
        return jax.jit(jax.value_and_grad(function, has_aux=True), out_shardings=((None, None), split))(
            jax.device_put(params, split)
        )


def chunked(run, size):
    return dataclasses.replace(run, loss=dataclasses.replace(run.loss, chunk=size))


def batch_of(run):
    return jnp.asarray(np.random.default_rng(0).integers(0, 250, (run.batch, run.seq_len + 1)))


@pytest.mark.parametrize("size", [16, 37, 1])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("dense", {"loss.z_loss": 0.1}),
        ("dense", {"model.tied": True, "model.logit_multiplier": 0.5}),
        ("matmul_free", {"model.act_bits": 16}),
        pytest.param("moe", {"loss.z_loss": 0.01}, marks=pytest.mark.slow),
    ],
)
def test_the_loss_in_chunks_is_the_loss(tiny, family, options, size):
    """Also where chunks do not divide the tokens; gradients of everything, the head included."""
    run, _ = freeze.freeze(tiny(family, **SIZE | options))
    if size == 1 and family != "dense":
        pytest.skip("one token at a time is tried once")
    params, tokens = functional.init_params(run.family, run.model, run.seed), batch_of(run)
    (total, terms), grads = gradients(run, params, tokens)
    (other, parts), others = gradients(chunked(run, size), params, tokens)
    np.testing.assert_allclose(other, total, rtol=1e-6)
    for name, value in terms.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-6, err_msg=name)
    for path, value in grads.items():
        scale = float(jnp.abs(value).max()) + 1e-12
        np.testing.assert_allclose(others[path] / scale, value / scale, atol=3e-6, err_msg=path)
    np.testing.assert_allclose(
        step.eval_step(chunked(run, size), params, tokens), step.eval_step(run, params, tokens), rtol=1e-6
    )


@pytest.mark.parametrize(
    "mesh", [{"fsdp": 4, "data": 2}, {"data": 2, "fsdp": 2, "tensor": 2}, {"sequence": 4, "fsdp": 2}]
)
def test_the_loss_in_chunks_on_eight_devices(tiny, mesh):
    run, _ = freeze.freeze(tiny(**SIZE, **{"loss.z_loss": 0.1, "model.heads": 4, "model.kv_heads": 4}))
    params, tokens = functional.init_params(run.family, run.model, run.seed), batch_of(run)
    (total, _), grads = gradients(run, params, tokens)
    sizes = [mesh.get(axis, 1) for axis in AXES]
    (other, _), others = gradients(chunked(run, 16), params, tokens, make_mesh(sizes))
    np.testing.assert_allclose(other, total, rtol=1e-6)
    for path, value in grads.items():
        scale = float(jnp.abs(value).max())
        np.testing.assert_allclose(others[path] / scale, value / scale, atol=3e-6, err_msg=path)


def test_logits_of_the_whole_batch_do_not_exist(tiny):
    """Neither forward nor backward, nor in an evaluation: no array of the program has B L V elements."""
    run, _ = freeze.freeze(tiny(**SIZE))
    whole = run.batch * run.seq_len * 264

    def largest(run, function):
        text = (
            jax.jit(function)
            .lower(jax.eval_shape(lambda: functional.init_params(run.family, run.model, run.seed)))
            .compile()
            .as_text()
        )
        return max(np.prod(shape.dims, initial=1) for one, *_ in hlo.Module(text).executed() for shape in one.shapes)

    tokens = batch_of(run)
    for function in (
        lambda run: jax.grad(lambda p: step.objective(run, run, p, tokens)[0]),
        lambda run: lambda p: step.eval_step(run, p, tokens),
    ):
        assert largest(run, function(run)) >= whole
        assert largest(chunked(run, 16), function(chunked(run, 16))) < whole / 2


def test_a_chunk_must_be_a_size(tiny):
    with pytest.raises(InputError, match=r"loss.chunk=0 must be at least 1"):
        freeze.freeze(tiny(**{"loss.chunk": 0}))


def test_without_a_mesh_nothing_changes(tiny):
    run, _ = freeze.freeze(tiny())
    assert identity.fingerprint(run, ()) == identity.fingerprint(chunked(run, 16), ())
    assert not gather.fully_sharded()
    assert run.batch * run.seq_len * 264 < losses.LOGITS  # tiny runs keep their bits


def sent(tiny, family, mesh, **options):
    """Bytes that a device sends in a step, by kind, and the parameters by path."""
    sizes = {f"execution.mesh.{name}": size for name, size in mesh.items()}
    run, execution = freeze.freeze(tiny(family, **SIZE | options | sizes))
    program = population.Program(run, 1, dataclasses.replace(execution, steps_per_dispatch=1)).compile()
    return hlo_traffic.collective_bytes(hlo.Module(program.compiled.as_text())), run


@pytest.mark.parametrize("family", ["dense", "min_gru", "matmul_free", "moe"])
def test_no_gradient_of_a_matrix_is_summed_whole(tiny, family):
    """On a mesh of fsdp 8 the only all-reduces are of vectors, scalars and what is not split."""
    options = {"model.act_bits": 16} if family == "matmul_free" else {}
    found, run = sent(tiny, family, {"fsdp": 8}, **options)
    shapes = jax.eval_shape(lambda: functional.init_params(run.family, run.model, run.seed))
    matrices = sum(
        4 * v.size for path, v in shapes.items() if v.ndim - path.startswith("blocks") >= 2 and path != "embed"
    )
    assert found["reduce-scatter"] == pytest.approx(7 / 8 * matrices, rel=0.1)
    assert found.get("all-reduce", 0) < 0.2 * matrices


EXPERTS = {"execution.mesh.fsdp": 2, "execution.mesh.expert": 4, "execution.steps_per_dispatch": 1}


def compiled(tiny, family, **options):
    """A step on eight devices, what it should multiply and cost, and its run."""
    run, execution = freeze.freeze(tiny(family, **SIZE | EXPERTS | options))
    module = hlo.Module(population.Program(run, 1, execution).compile().compiled.as_text())
    return module, ledger(run), run


def table(run):
    """Bytes of columns of the embedding that become tokens, and back."""
    return 2 * 4 * 7 / 8 * run.batch_tokens / 8 * run.model.width


def test_the_axis_expert_splits_a_batch_and_no_work_is_done_twice(tiny):
    module, counts, run = compiled(tiny, "dense")
    assert 8 * hlo_flops.flops(module) == pytest.approx(counts["flops_per_token"] * run.batch_tokens, rel=0.01)
    assert hlo_traffic.collective_bytes(module)["all-to-all"] == pytest.approx(table(run))


def test_rows_travel_to_experts_with_a_capacity(tiny):
    """There and back, forward and backward; experts are gathered over fsdp alone, and none of their gradients whole."""
    capacity = {"model.experts": 8, "model.mode": "capacity", "model.capacity_factor": 1.0}
    module, counts, run = compiled(tiny, "moe", **capacity)
    cfg, found = run.model, hlo_traffic.collective_bytes(module)
    assert 8 * hlo_flops.flops(module) == pytest.approx(counts["flops_capacity"] / run.steps, rel=0.01)
    rows = 4 * cfg.top_k * run.batch_tokens / 8 * cfg.width
    assert found["all-to-all"] == pytest.approx(table(run) + 4 * cfg.depth * 3 / 4 * rows)
    experts = 4 * (counts["params_total"] - counts["params_active"]) * cfg.experts / (cfg.experts - cfg.top_k)
    others = 4 * counts["params_total"] - experts
    assert found["all-gather"] < 1.1 * 2 * (experts / 4 * 1 / 2 + others * 7 / 8)
    assert found["all-reduce"] < 0.1 * others


@pytest.mark.parametrize("family", ["dense", "moe", pytest.param("matmul_free", marks=pytest.mark.slow)])
def test_remat_dots_multiplies_no_matrix_again(tiny, family):
    """Also where a matmul has a gradient of its own, which jax's policy for matmuls does not see; only attention is."""
    policies = ({"model.remat": remat, "model.unroll": False, "model.depth": 2} for remat in ("none", "dots", "full"))
    none, dots, full = (hlo_flops.flops(compiled(tiny, family, **options)[0]) for options in policies)
    assert dots < 1.08 * none
    assert full > 1.15 * none


# --- compiled for TPU slices


def least(run, mesh):
    """Bytes that a chip has to send in a step at best: matrices gathered twice (of the head once, its gradient comes with
    its loss) and gradients scattered once over fsdp, then summed over data; five sums of activations a layer over tensor
    (two forward, one of them again for the backward pass with remat=full, two backward), and one of the head's input. Over
    expert all matrices but those of experts are split too; rows go to these and back three times.
    """
    n, d, t, e = (mesh.get(axis, 1) for axis in ("fsdp", "data", "tensor", "expert"))
    shapes, cfg = jax.eval_shape(lambda: functional.init_params(run.family, run.model, run.seed)), run.model
    layers, experts = (
        sum(v.size for path, v in shapes.items() if path.startswith("blocks") and v.ndim == axes) / t for axes in (3, 4)
    )
    head, table = (shapes[path].size / t for path in ("head/kernel", "embed"))
    item, rows = 2, run.batch_tokens / (n * d * e)
    sharded = item * (1 - 1 / (n * e)) * (3 * layers + 2 * head) + item * (1 - 1 / n) * 3 * experts / e
    looked_up = 2 * item * (1 - 1 / (n * e)) * rows * cfg.width / t
    replicas = 2 * item * (1 - 1 / d) * (layers + experts + head + table) / (n * e)
    sums = 2 * item * (1 - 1 / t) * rows * cfg.width * (5 * cfg.depth + 1)
    served = cfg.top_k * cfg.capacity_factor if e > 1 else 0
    return sharded + looked_up + replicas + sums + 6 * item * (1 - 1 / e) * rows * served * cfg.width * cfg.depth


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize(
    ("chip", "topology", "mesh", "mode"),
    [
        ("v5e", "4x4", {"fsdp": 16}, None),
        ("v5e", "4x4", {"fsdp": 4, "tensor": 4}, None),
        ("v5e", "4x4", {"data": 4, "fsdp": 4}, None),
        ("v5e", "4x4", {"data": 16}, None),
        ("v5p", "4x4x4", {"fsdp": 64}, None),
        ("v6e", "8x8", {"fsdp": 16, "tensor": 4}, None),
        ("v5e", "16x16", {"fsdp": 256}, None),
        ("v5e", "4x4", {"fsdp": 16}, "dropless"),
        ("v5e", "4x4", {"fsdp": 8, "tensor": 2}, "dropless"),
        ("v5e", "4x4", {"fsdp": 4, "expert": 4}, "capacity"),
        ("v5p", "4x4x4", {"fsdp": 16, "expert": 4}, "capacity"),
    ],
    ids=lambda value: "x".join(f"{k}{v}" for k, v in value.items()) if isinstance(value, dict) else value or "dense",
)
def test_a_slice_sends_what_it_has_to(tiny, chip, topology, mesh, mode):
    """From 16 to 256 chips within a tenth of the least, the embedding included."""
    compiler.set_up()
    devices = compiler.topology(chip, topology)
    size = {"model.width": 2048, "model.depth": 2, "model.heads": 16, "model.kv_heads": 16, "model.vocab": 32_768}
    size |= {"model.dtype": "bfloat16", "model.remat": "full", "seq_len": 2048, "batch_tokens": 2048 * 4 * len(devices)}
    if mode is not None:
        size |= {"model.experts": 8, "model.expert_ff": 4096, "model.mode": mode}
    size |= {"tokens": 10**8, "execution.steps_per_dispatch": 1}
    run, execution = freeze.freeze(tiny("dense" if mode is None else "moe", **size))
    layout = layouts.Layout(**mesh)
    found = compiler.compile_for(devices, run, layout, execution, rest=False)
    assert found.fits
    assert sum(found.collective_bytes.values()) < 1.1 * least(run, mesh), found.collective_bytes


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_trials_send_each_other_nothing_and_experts_multiply_once(tiny):
    """Four trials of a mixture side by side, each on four chips: groups of four at most; FLOPs near the ledger's."""
    compiler.set_up()
    size = {"model.width": 512, "model.depth": 2, "model.heads": 4, "model.kv_heads": 4, "model.vocab": 8192}
    size |= {"model.experts": 8, "model.top_k": 2, "model.expert_ff": 1024, "model.dtype": "bfloat16"}
    size |= {"seq_len": 512, "batch_tokens": 512 * 16, "tokens": 10**7, "execution.steps_per_dispatch": 1}
    run, execution = freeze.freeze(tiny("moe", **size))
    program = compiler.build(run, layouts.Layout(trial=4, fsdp=4, trials=4), execution, compiler.topology("v5e", "4x4"))
    module = hlo.Module(program.compile().compiled.as_text())
    groups = [
        hlo_traffic.group_size(one.rest, module.partitions)
        for one, *_ in module.executed()
        if one.opcode.removesuffix("-start") in hlo_traffic.COLLECTIVES
    ]
    assert groups
    assert max(groups) <= 4
    assert not hlo_flops.uncounted_kernels(module)
    assert hlo_flops.flops(module) * 4 == pytest.approx(ledger(run)["flops_per_token"] * run.batch_tokens, rel=0.15)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_trials_that_are_mapped_scatter_their_sums(tiny):
    """Two on each four chips, of a size whose matrices fill no tiles: no matrix is summed whole."""
    compiler.set_up()
    size = {"model.width": 256, "model.depth": 2, "model.heads": 4, "model.kv_heads": 4, "model.vocab": 8192}
    size |= {"model.ff": 688, "model.dtype": "bfloat16", "seq_len": 512, "batch_tokens": 512 * 32, "tokens": 10**7}
    run, execution = freeze.freeze(tiny(**size))
    layout = layouts.Layout(trial=4, fsdp=4, trials=8)
    found = compiler.compile_for(compiler.topology("v5e", "4x4"), run, layout, execution, rest=False)
    assert found.collective_bytes["all-reduce"] < 0.02 * found.collective_bytes["reduce-scatter"]


@pytest.mark.parametrize(("layers", "experts"), [(6, None), (3, None), (4, 2)])
def test_matrices_of_a_stack_are_shared_out_among_devices(layers, experts):
    """Each is whole on one device, and no device gathers the stack; with more devices than layers some have none."""
    axes = ("layers", "embed", "ff")
    shape = (layers, 16, 32)
    sizes = {"fsdp": 2, "tensor": 2}
    if experts:
        axes = ("layers", "experts", "embed", "ff")
        shape = (layers, experts, 16, 32)
        sizes["expert"] = 2
    mesh = make_mesh(tuple(sizes.get(name, 1) for name in AXES), jax.devices()[: 8 if experts else 4])
    stored = jax.sharding.NamedSharding(mesh, rules.spec(axes, shape, mesh))
    stack = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    def cubes(x, scale):
        return scale * x @ jnp.swapaxes(x, -1, -2) @ x

    def shared_out(x):
        return shards.per_matrix(cubes, axes, ("layers", "experts"), (x,), jnp.float32(2.0))

    with jax.set_mesh(mesh):
        compiled = jax.jit(shared_out, in_shardings=stored).lower(stack).compile()
        found = compiled(jax.device_put(stack, stored))
    np.testing.assert_allclose(found, cubes(stack, 2.0), rtol=1e-4, atol=1e-3)
    text = compiled.as_text()
    assert "all-to-all" in text and "all-gather" not in text
    whole = ",".join(map(str, shape))
    assert f"f32[{whole}]" not in text, "no device has the stack"
