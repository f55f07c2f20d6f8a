"""A vocabulary of any size on any mesh: stored as it is, no device with more than its share, the numbers of one device."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import freeze
from experiments.training import program as population
from experiments.training import step
import models
from models import functional
from models.mesh import rules
from models.mesh.mesh import AXES, MeshShape, make_mesh
from sweeps.cost import hlo, hlo_traffic, layouts
from tests.support.families import SMOOTH
from tests.support.sharding import losses

# Of byte tokens there are 257: a prime, which no axis divides.
MESHES = (
    {"tensor": 2},
    {"tensor": 4},
    {"fsdp": 2, "tensor": 2},
    {"sequence": 2, "tensor": 2},
    {"data": 2, "tensor": 4},
)
HEADS = {"model.heads": 4, "model.kv_heads": 4}


def on_meshes():
    """Every family on every mesh; without the slow ones: dense by 4, the others by two axes at once."""
    for family in models.family_names():
        for mesh in MESHES:
            quick = mesh == ({"tensor": 4} if family == "dense" else {"fsdp": 2, "tensor": 2})
            name = "x".join(f"{axis}{size}" for axis, size in mesh.items())
            yield pytest.param(family, mesh, id=f"{family}-{name}", marks=() if quick else pytest.mark.slow)


def options_of(family, mesh=None, **options):
    """Options of a tiny run of a family, on a mesh."""
    heads = HEADS if family in ("dense", "moe") else {}
    smooth = {f"model.{name}": value for name, value in SMOOTH.get(family, {}).items()}
    sizes = {f"execution.mesh.{name}": size for name, size in (mesh or {}).items()}
    return heads | smooth | {"loss.z_loss": 1e-2} | sizes | options


def agree(tiny, family, mesh, steps=4, rtol=1e-5, **options):
    """Check losses and parameters of a few steps, and an evaluation, on a mesh against those of one device."""
    one, state, alone = losses([tiny(family, **options_of(family, **options))], steps, jax.devices()[:1])
    many, split, program = losses([tiny(family, **options_of(family, mesh, **options))], steps)
    assert math.prod(program.mesh.shape.values()) == math.prod(mesh.values())
    np.testing.assert_allclose(many, one, rtol=rtol)
    for path, value in state.params.items():
        assert split.params[path].shape == value.shape, path
        error = jnp.linalg.norm(np.asarray(split.params[path]) - np.asarray(value))
        assert error <= 100 * rtol * jnp.linalg.norm(value), path
    tokens = np.random.default_rng(0).integers(0, alone.run.model.vocab, program.token_shape(1)).astype(np.uint16)
    once = np.ones(1, np.int32)
    nats = [p.evaluate(s.params, tokens, once) for p, s in ((alone, state), (program, split))]
    np.testing.assert_allclose(nats[1], nats[0], rtol=10 * rtol)
    return split, program


@pytest.mark.parametrize(("family", "mesh"), on_meshes())
def test_a_prime_vocabulary_gives_the_numbers_of_one_device(tiny, family, mesh):
    state, program = agree(tiny, family, mesh, **{"model.depth": 1})
    shards = mesh["tensor"] * mesh.get("fsdp", 1) * mesh.get("sequence", 1)
    tables = [
        path
        for path, axes in functional.param_axes(family, program.run.model).items()
        if 257 in state.params[path].shape
    ]
    assert "embed" in tables
    for path in tables:
        shard = state.params[path].addressable_shards[0].data
        assert shard.size == state.params[path].size / shards, f"{path}: each device holds its share"


def value_and_gradients(run, params, tokens, mesh=None):
    """Return the objective, its terms and the gradients; on a mesh of all devices, with parameters as they lie there."""

    def function(params):
        total, (terms, _) = step.objective(run, run, params, tokens)
        return total, terms

    compute = jax.value_and_grad(function, has_aux=True)
    if mesh is None:
        return jax.jit(compute)(params)
    shards = {}
    for path, axes in functional.param_axes(run.family, run.model).items():
        shards[path] = jax.NamedSharding(mesh, rules.spec(axes, params[path].shape, mesh))
    with jax.set_mesh(mesh):
        return jax.jit(compute, out_shardings=((None, None), shards))(jax.device_put(params, shards))


def made(tiny, family, vocab, chunk, **options):
    """Make a tiny run with a vocabulary of its own, its parameters and a batch."""
    config = tiny(
        family, **options_of(family, **{"model.vocab": vocab, "model.depth": 1, "loss.chunk": chunk} | options)
    )
    run, _ = freeze.freeze(config)
    params = functional.init_params(run.family, run.model, run.seed)
    tokens = np.random.default_rng(0).integers(0, vocab, (run.batch, run.seq_len + 1))
    return run, params, jnp.asarray(tokens)


LARGE = {"model.width": 16, "batch_tokens": 128}
SIZES = [
    ("dense", 257, {"model.tied": True}),
    ("dense", 50_257, LARGE),
    ("dense", 1, {}),
    ("tokenformer", 257, {}),
    ("matmul_free", 257, {}),
    pytest.param("matmul_free", 50_257, LARGE, marks=pytest.mark.slow),
    pytest.param("min_gru", 50_257, LARGE | {"model.tied": True}, marks=pytest.mark.slow),
    pytest.param("moe", 1, {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize(("family", "vocab", "options"), SIZES)
def test_loss_and_gradients_are_those_of_one_device(tiny, family, vocab, options, chunk):
    """At a small vocabulary, a tokenizer's, and one of a single token; whole logits, and some at a time."""
    run, params, tokens = made(tiny, family, vocab, chunk, **options)
    mesh = make_mesh([{"fsdp": 2, "tensor": 4}.get(axis, 1) for axis in AXES])
    (total, terms), gradients = value_and_gradients(run, params, tokens)
    (other, parts), others = value_and_gradients(run, params, tokens, mesh)
    np.testing.assert_allclose(other, total, rtol=1e-5, atol=1e-7)
    for name, value in terms.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    for path, value in gradients.items():
        scale = float(jnp.abs(value).max()) + 1e-6
        assert others[path].shape == value.shape
        np.testing.assert_allclose(others[path] / scale, value / scale, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("sizes", [{"data": 2, "tensor": 4}, {"fsdp": 2, "tensor": 2}])
def test_bfloat16_agrees_with_one_device(tiny, sizes):
    run, params, tokens = made(tiny, "dense", 257, None, **{"model.dtype": "bfloat16"})
    mesh = make_mesh([sizes.get(axis, 1) for axis in AXES])
    (total, _), gradients = value_and_gradients(run, params, tokens)
    (other, _), others = value_and_gradients(run, params, tokens, mesh)
    np.testing.assert_allclose(other, total, rtol=1e-3)
    for path, value in gradients.items():
        assert jnp.linalg.norm(others[path] - value) < 0.03 * jnp.linalg.norm(value), path


def test_logits_have_the_size_of_the_vocabulary(tiny):
    """What is filled up is seen by no one who asks a model for logits."""
    run, params, tokens = made(tiny, "dense", 257, None)
    expected = functional.apply(run.family, run.model, params, tokens).logits_BLV
    with jax.set_mesh(make_mesh([{"tensor": 4}.get(axis, 1) for axis in AXES])):
        found = jax.jit(lambda params: functional.apply(run.family, run.model, params, tokens).logits_BLV)(params)
    assert found.shape[-1] == 257
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def compiled(tiny, mesh, vocab, **options):
    """Compile a step of a tiny dense run on a mesh."""
    options = options_of("dense", mesh, **{"model.vocab": vocab, "model.width": 64, "model.depth": 1} | options)
    run, execution = freeze.freeze(tiny("dense", **options))
    one_step = dataclasses.replace(execution, steps_per_dispatch=1)
    return population.Program(run, 1, one_step).compile()


@pytest.mark.parametrize("mesh", [{"tensor": 4}, {"fsdp": 2, "tensor": 4}])
def test_a_device_holds_and_sends_its_share(tiny, mesh):
    """Beside a vocabulary that divides: the same memory but for the few rows more, and the head traded in shares."""
    vocab = 2_053
    even = compiled(tiny, mesh, vocab + 3)
    odd = compiled(tiny, mesh, vocab)
    assert odd.memory_bytes < 1.01 * even.memory_bytes
    assert odd.device_bytes() < 1.001 * even.device_bytes()
    sent = [hlo_traffic.collective_bytes(hlo.Module(program.compiled.as_text())) for program in (even, odd)]
    for kind in ("all-gather", "all-reduce", "reduce-scatter"):
        assert sent[1].get(kind, 0) <= 1.01 * sent[0].get(kind, 0), kind
    # There and, as a gradient, back: all of a device's share but what stays with it.
    devices = math.prod(mesh.values())
    share = 4 * 64 * (vocab + 3) / devices
    traded = sent[1]["all-to-all"] - sent[0].get("all-to-all", 0)
    assert traded <= 2.01 * share


def test_a_mesh_that_divides_fills_nothing_up(tiny):
    """No operation of its program speaks of a vocabulary that is filled up, or masked."""
    run, params, _ = made(tiny, "dense", 264, None)
    mesh = make_mesh([{"tensor": 4}.get(axis, 1) for axis in AXES])
    with jax.set_mesh(mesh):
        model = functional.model(run.family, run.model, params)
        text = str(jax.make_jaxpr(lambda x: model.readout().logits(model.readout().params, x))(jnp.ones((8, 32, 32))))
    assert "pad" not in text and "-inf" not in text and "select" not in text


def test_every_mesh_that_a_plan_considers_is_allowed(tiny):
    """Of tokens of bytes as of any others, and each chip is guessed to hold what it does."""
    run, execution = freeze.freeze(tiny(**HEADS))
    assert run.model.vocab == 257
    considered = list(layouts.possible(run, 1, 8, dataclasses.replace(execution, mesh=MeshShape())))
    assert {layout.tensor for layout in considered} == {1, 2, 4}
    whole = sum(4 * math.prod(shape) for shape in functional.param_shapes(run.family, run.model).values())
    for layout in considered:
        placed = dataclasses.replace(execution, mesh=MeshShape(**layout.mesh))
        program = population.Program(run, 1, placed)
        assert program.device_bytes("params") < 1.1 * whole / layout.shards, (
            "the rest are vectors, which all devices have"
        )
