"""Sequence parallelism: split positions give the numbers of one device, by all-to-alls and with less memory."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import freeze
from experiments.training import program as population
import models
from models.mesh.mesh import MeshShape
from sweeps.cost import compiler, hlo, hlo_buffers, hlo_traffic, layouts, machines
from sweeps.study import grid
from tests.support.families import SMOOTH, VARIANTS
from tests.support.sharding import losses

needs_libtpu = pytest.mark.skipif(compiler.missing() is not None, reason=str(compiler.missing()))
MESHES = ({"sequence": 2}, {"sequence": 4}, {"fsdp": 2, "sequence": 2, "tensor": 2}, {"data": 2, "sequence": 4})
# Options of a family that treat positions in another way than its defaults.
OPTIONS = [
    ("dense", "gpt2"),
    ("dense", "lns"),
    ("dense", "linear"),
    ("min_gru", "default"),
    ("matmul_free", "paper"),
    ("tokenformer", "softmax"),
    ("moe", "deepseek"),
    ("moe", "rmoe"),
    ("moe", "gshard"),
    ("moe", "expert_choice"),
]


def on_mesh(mesh: dict[str, int]) -> dict[str, int]:
    return {f"execution.mesh.{name}": size for name, size in mesh.items()}


def agree(tiny, family: str, mesh: dict[str, int], options: dict, steps: int = 3) -> None:
    """Losses of a few steps, and of an evaluation, on the mesh and on one device."""
    heads = {"model.kv_heads": 4} if family in ("dense", "moe") else {}
    options = {"model.vocab": 264} | heads | {f"model.{n}": v for n, v in (SMOOTH.get(family, {}) | options).items()}
    one, state, program = losses([tiny(family, **options)], steps, jax.devices()[:1])
    many, state_many, program_many = losses([tiny(family, **options, **on_mesh(mesh))], steps)
    assert program_many.mesh.shape["sequence"] == mesh["sequence"]
    np.testing.assert_allclose(many, one, rtol=1e-5)
    tokens = np.random.default_rng(0).integers(0, 264, program.token_shape(1)).astype(np.uint16)
    pairs, counts = ((program, state), (program_many, state_many)), np.ones(1, np.int32)
    nats = [p.evaluate(s.params, tokens, counts) for p, s in pairs]
    np.testing.assert_allclose(nats[1], nats[0], rtol=1e-4)
    kernel = max(state_many.params.values(), key=lambda p: p.size)
    assert kernel.addressable_shards[0].data.size <= kernel.size / mesh["sequence"], "parameters are split as well"


def test_split_positions_give_the_same_numbers(tiny):
    agree(tiny, "dense", {"sequence": 4}, {"depth": 1}, steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("family", models.family_names())
def test_on_every_mesh(tiny, family, mesh):
    agree(tiny, family, mesh, {"depth": 2})


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), OPTIONS)
def test_options_that_look_along_positions(tiny, family, name):
    agree(tiny, family, {"data": 2, "sequence": 2, "tensor": 2}, {"depth": 2} | VARIANTS[family][name], steps=2)


@pytest.mark.slow
def test_experts_and_positions_both_split(tiny):
    """Rows of the experts' shards are those of whole devices, whichever axes split them."""
    agree(tiny, "moe", {"fsdp": 2, "expert": 2, "sequence": 2}, {"depth": 2}, steps=2)


def test_what_cannot_be_exchanged_is_an_error(tiny):
    for family, options, size, field in (
        ("dense", {"model.kv_heads": 2}, 2, r"\(model.kv_heads\)"),
        ("dense", {"model.heads": 2, "model.kv_heads": 2}, 2, r"\(model.heads\)"),
        ("dense", {"seq_len": 30, "batch_tokens": 240}, 30, r"\(seq_len\)"),
        ("min_gru", {"model.state": 30}, 30, "channels"),
    ):
        said = rf"of size {size} .* execution.mesh.sequence=4; .* {field}"
        run, execution = freeze.freeze(tiny(family, **{"model.vocab": 264, "execution.mesh.sequence": 4} | options))
        with pytest.raises(InputError, match=said):
            population.Program(run, 1, execution).compile()


def compiled(tiny, mesh: dict[str, int], **options) -> tuple[population.Program, hlo.Module]:
    """A long sequence for each row of data."""
    options = {"model.vocab": 264, "model.kv_heads": 4, "seq_len": 1024, "model.depth": 2} | options
    options |= {"model.unroll": False, "model.remat": "full"}
    run, execution = freeze.freeze(tiny(batch_tokens=2048, **options, **on_mesh(mesh)))
    program = population.Program(run, 1, execution).compile()
    return program, hlo.Module(program.compiled.as_text())


def test_attention_is_exchanged_and_nothing_else_is_whole(tiny):
    """Queries, keys, values and outputs, forward, again when it is recomputed, and backward; parameters alone are gathered,
    and outside of attention no array holds a whole sequence at full width.
    """
    length, width, heads, size, depth, n = 1024, 32, 4, 8, 2, 4
    whole, _ = compiled(tiny, {"data": 2})
    program, module = compiled(tiny, {"data": 2, "sequence": n})
    assert program.memory_bytes < whole.memory_bytes / 2.5
    sent, exchanged = hlo_traffic.collective_bytes(module), depth * 3 * 4 * length / n * heads * size * 4 * (n - 1) / n
    assert exchanged <= sent["all-to-all"] < 1.5 * exchanged
    for one, _, _, _ in module.executed():
        place = hlo_buffers.source_path(module, one)
        if one.opcode.startswith("all-gather") and "look_up" not in place:
            assert all(s.bytes <= 4 * 264 * width for s in one.shapes), f"only parameters are gathered: {one.type}"
        if one.opcode in hlo.FREE or "ttention" in place or "look_up" in place:
            continue
        for shape in one.shapes:
            if length in shape.dims and "/" in place:
                assert math.prod(shape.dims) < length * width, f"{shape} in {place}"


def test_layouts_have_the_axis_where_a_study_sets_it():
    """It divides heads and chips; and is never chosen."""
    base = {"model.width": 128, "model.depth": 2, "model.heads": 8, "seq_len": 512, "batch_tokens": 4096}
    run, execution = freeze.freeze(grid.nest(base))
    assert {layout.sequence for layout in layouts.possible(run, 4, 16, execution)} == {1}
    run, execution = freeze.freeze(grid.nest(base | {"execution.mesh.sequence": 4}))
    found = list(layouts.possible(run, 4, 16, execution))
    assert found and all(x.sequence == 4 and x.devices == 16 and x.tensor <= 2 for x in found)
    assert "sequence 4" in str(found[0]) and MeshShape(**found[0].mesh).sequence == 4


@pytest.mark.tpu_aot
@needs_libtpu
@pytest.mark.slow
def test_memory_of_long_sequences_falls_on_a_tpu():
    """Two sequences of 32,768 tokens on 16 chips: shared by eight chips each, or by none."""
    compiler.set_up()
    values = {"model.width": 1024, "model.depth": 4, "model.heads": 8, "model.vocab": 1024, "model.dtype": "bfloat16"}
    values |= {"model.remat": "full", "seq_len": 32_768, "batch_tokens": 2 * 32_768, "tokens": 10**8}
    run, execution = freeze.freeze(grid.nest(values))
    target = machines.target("v5e-16")
    devices, found = compiler.topology(target.chip, target.topology), []
    for layout in (layouts.Layout(fsdp=2), layouts.Layout(fsdp=2, sequence=8)):
        found.append(
            compiler.compile_for(devices, run, layout, dataclasses.replace(execution, packing="vmap"), rest=False)
        )
    one, many = found
    assert many.fits and one.fits and many.peak_bytes < one.peak_bytes / 4
    assert many.flops == pytest.approx(one.flops / 8, rel=0.05) and many.opaque_kernels == {}
    exchanged = 4 * 3 * 4 * 32_768 / 8 * 1024 * 2 * 7 / 8  # forward, again in the backward pass, and backward
    assert 0.8 * exchanged < many.collective_bytes["all-to-all"] < 2 * exchanged
