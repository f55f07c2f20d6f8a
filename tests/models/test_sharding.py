"""Eight simulated devices and one give the same numbers; populations and solo runs too."""

import math

import jax
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import freeze, identity
from experiments.training import program as population
from experiments.training.packing import assign
import models
from models.mesh import rules
from models.mesh.mesh import AXES, make_mesh
from tests.support.families import SMOOTH, TINY
from tests.support.sharding import losses

MESHES = ({"data": 8}, {"fsdp": 4, "data": 2}, {"tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2})


def on_meshes():
    """Every family on every mesh; without the slow ones: dense on each axis, the others on all axes at once."""
    for family in models.family_names():
        for mesh in MESHES:
            quick = (len(mesh) == 3) == (family != "dense")
            name = "x".join(f"{axis}{size}" for axis, size in mesh.items())
            yield pytest.param(family, mesh, id=f"{family}-{name}", marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("family", "mesh"), on_meshes())
def test_sharded_equals_one_device(tiny, family, mesh):
    size = {"model.vocab": 264}  # of byte tokens there are 257, which no axis divides
    size |= {f"model.{name}": value for name, value in SMOOTH.get(family, {}).items()}
    one, _, _ = losses([tiny(family, **size)], devices=jax.devices()[:1])
    options = size | {f"execution.mesh.{name}": size for name, size in mesh.items()}
    many, state, program = losses([tiny(family, **options)])
    assert math.prod(program.mesh.shape.values()) == math.prod(mesh.values())
    np.testing.assert_allclose(many, one, rtol=1e-5)
    if mesh.get("fsdp", 1) * mesh.get("tensor", 1) > 1:
        kernel = max(state.params.values(), key=lambda p: p.size)
        assert kernel.addressable_shards[0].data.size < kernel.size, "parameters are really split"


def context(family):
    """Options of what a layer knows of its batch: words are documents, and some activations are dropped."""
    options = {"dropout": 0.2, "separator": ord(" ")} | SMOOTH.get(family, {})
    if family != "encoder_decoder":  # in which a row is one document
        options |= {"document_mask": True}
    if "heads" in TINY[family]:
        options |= {"attention_dropout": 0.3}
    return {f"model.{name}": value for name, value in options.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 2, "tensor": 2, "sequence": 2}], ids=str
)
@pytest.mark.parametrize("family", models.family_names())
def test_what_is_dropped_and_masked_does_not_depend_on_the_mesh(tiny, family, mesh):
    heads = {"model.kv_heads": 4} if "kv_heads" in TINY[family] else {}
    options = {"model.vocab": 264, "model.depth": 2} | context(family) | heads
    one, _, _ = losses([tiny(family, **options)], devices=jax.devices()[:1])
    many, _, _ = losses([tiny(family, **options, **{f"execution.mesh.{axis}": size for axis, size in mesh.items()})])
    np.testing.assert_allclose(many, one, rtol=1e-5)


def test_what_is_dropped_does_not_depend_on_the_mesh(tiny):
    options = {"model.vocab": 264, "model.depth": 1, "model.dropout": 0.2}
    one, _, _ = losses([tiny(**options)], 2, jax.devices()[:1])
    many, _, _ = losses([tiny(**options, **{"execution.mesh.data": 2, "execution.mesh.tensor": 2})], 2)
    np.testing.assert_allclose(many, one, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["map", "vmap"])
def test_what_is_dropped_does_not_depend_on_the_packing(tiny, packing):
    options = {"model.depth": 1} | context("dense")
    solo = [losses([tiny(seed=seed, **options)], 3, jax.devices()[:1])[0][0] for seed in (0, 1)]
    packed, _, _ = losses(
        [tiny(seed=seed, **options, **{"execution.packing": packing}) for seed in (0, 1)], 3, jax.devices()[:1]
    )
    np.testing.assert_allclose(packed, np.array(solo), rtol=1e-5)


@pytest.mark.parametrize("family", ["dense", "moe"])
def test_bfloat16_is_summed_over_two_axes(tiny, family):
    """XLA aborts the process on a CPU where a sum over devices is stated in bfloat16."""
    options = {"model.vocab": 264, "model.dtype": "bfloat16", "model.depth": 2}
    one, _, _ = losses([tiny(family, **options)], 2, jax.devices()[:1])
    mesh = {"execution.mesh.data": 2, "execution.mesh.fsdp": 2}
    many, _, _ = losses([tiny(family, **options, **mesh)], 2)
    np.testing.assert_allclose(many, one, rtol=1e-2)


@pytest.mark.parametrize("packing", ["map", "vmap"])
def test_packed_equals_solo_over_50_steps(tiny, packing):
    options = [{"seed": 0}, {"seed": 1, "opt.lr": 3e-3}, {"opt.weight_decay": 0.5, "loss.z_loss": 1e-3}]
    solo = [losses([tiny(**o)], 50, jax.devices()[:1])[0][0] for o in options]
    configs = [tiny(**o, **{"execution.packing": packing}) for o in options]
    packed, _, program = losses(configs, 50, jax.devices()[:2])
    assert program.groups == 2 and program.packing == packing
    np.testing.assert_allclose(packed, np.array(solo), rtol=1e-5)


@pytest.mark.parametrize("split", [{"data": 2, "tensor": 2}, {"fsdp": 2, "tensor": 2}, {"fsdp": 4}])
def test_packed_and_sharded_at_once(tiny, split):
    """Two trials mapped on each half of the devices, which share their work."""
    size = {"model.vocab": 264, "execution.packing": "vmap"}
    solo = losses([tiny(seed=3, **size)], 5, jax.devices()[:1])[0][0]
    mesh = {"execution.mesh.trial": 2} | {f"execution.mesh.{axis}": count for axis, count in split.items()}
    packed, _, program = losses([tiny(seed=s, **size, **mesh) for s in (0, 1, 2, 3)], 5)
    assert math.prod(program.mesh.shape.values()) == 8 and program.slots == 2 * program.groups
    np.testing.assert_allclose(packed[3], solo, rtol=1e-5)


def test_trials_do_not_communicate(tiny):
    configs = [tiny(seed=s) for s in range(4)]
    run, execution = freeze.freeze(configs[0])
    program = population.Program(run, 4, execution, jax.devices()[:4]).compile()
    assert program.groups == 4
    text = program.compiled.as_text()
    for collective in ("all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter"):
        assert collective not in text
    assert program.memory_bytes > 0


def test_one_executable_serves_a_signature(tiny):
    """Other rates, seeds, lengths, schedules: no second compilation."""
    configs = [tiny(), tiny(seed=5, tokens=256 * 20, **{"opt.lr": 1e-4, "schedule.warmup_tokens": 512})]
    (first, execution), (second, _) = map(freeze.freeze, configs)
    assert identity.signature(first) == identity.signature(second)
    program = population.Program(first, 1, execution, jax.devices()[:1])
    tokens = np.zeros(program.token_shape(), np.uint16)
    for run in (first, second):
        program.train(program.init([run]), program.stack_values([run]), tokens, np.array([2], np.int32))
    assert program._train._cache_size() == 1
    assert program._init._cache_size() == 1


def test_a_diverging_trial_leaves_its_neighbours_alone(tiny):
    alone = losses([tiny(seed=1)], 12, jax.devices()[:1])[0][0]
    for packing in ("map", "vmap"):
        options = {"execution.packing": packing}
        configs = [tiny(**{"opt.lr": 1e30} | options), tiny(seed=1, **options)]
        both = losses(configs, 12, jax.devices()[:1])[0]
        assert not np.isfinite(both[0]).all()
        np.testing.assert_allclose(both[1], alone, rtol=1e-5)


def test_assignment_balances_devices():
    groups = assign([8, 4, 2, 1, 1], 2)
    assert sorted(t for group in groups for t in group) == [0, 1, 2, 3, 4]
    assert sorted(sum([8, 4, 2, 1, 1][t] for t in group) for group in groups) == [8, 8]


def test_what_cannot_be_split_is_an_error(tiny):
    with pytest.raises(InputError, match=r"8 sequences .* execution.mesh.data=3"):
        losses([tiny(**{"execution.mesh.data": 3})])
    with pytest.raises(InputError, match=r"mesh.data=4 x tensor=4 asks for 16 devices; there are 8: .* at most 8"):
        losses([tiny(**{"execution.mesh.data": 4, "execution.mesh.tensor": 4})])
    with pytest.raises(InputError, match=r"axis 'heads' of size 4 .*mesh.tensor=8; .* 8 \(model.heads;"):
        losses([tiny(**{"execution.mesh.tensor": 8})])
    with pytest.raises(KeyError, match="no rule"):
        rules.spec(("nowhere",), (4,), make_mesh((1,) * len(AXES)))


@pytest.mark.parametrize(
    ("family", "sizes", "mesh", "expected"),
    [
        ("dense", {"width": 36, "head_size": 8, "ff": 64}, {"fsdp": 8}, r"of size 36 .*fsdp=8; .*40 \(model.width\)"),
        ("dense", {"ff": 50}, {"tensor": 4}, r"'ff' of size 50 .*tensor=4; .*52 \(model.ff\)"),
        ("moe", {"expert_ff": 50}, {"tensor": 4}, r"'ff' of size 50 .*tensor=4; .*52 \(model.expert_ff\)"),
        ("moe", {"experts": 6}, {"expert": 4}, r"'experts' of size 6 .*expert=4; .*8 \(model.experts\)"),
        ("min_gru", {"state": 33}, {"tensor": 2}, r"'ff' of size 33 .*tensor=2; .*34 \(model.state\)"),
        ("tokenformer", {"ff_tokens": 50}, {"tensor": 4}, r"'ff' of size 50 .*52 \(model.ff_tokens\)"),
        (
            "dense",
            {"width": 32, "head_size": 9, "position": "none"},
            {"tensor": 8},
            r"'kv_heads' of size 18 .*tensor=8; .*24 \(model.kv_heads",
        ),
        ("matmul_free", {"width": 36}, {"tensor": 8}, r"of size 36 .*tensor=8; .*40 \(model.width\)"),
    ],
)
def test_a_refusal_names_the_option_and_a_size_that_would_do(tiny, family, sizes, mesh, expected):
    options = {f"model.{name}": value for name, value in sizes.items()}
    options |= {f"execution.mesh.{name}": value for name, value in mesh.items()}
    run, execution = freeze.freeze(tiny(family, **options))
    with pytest.raises(InputError, match=expected):
        population.Program(run, 1, execution)
