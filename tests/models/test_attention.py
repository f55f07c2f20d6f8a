"""Fused attention agrees with the matmuls that XLA compiles: the TPU's kernel interpreted here, and compiled for a TPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import freeze, identity
from experiments.training import program
from models.blocks import attention as attention_file
from models.blocks import attention_tpu
from models.blocks.attention import attention, unfused
from models.blocks.attention_tpu import blocks, visited
from models.blocks.context import Context
from models.mesh.mesh import make_mesh
from sweeps.cost import compiler, hlo, hlo_flops, hlo_traffic, layouts, machines
from tests.support.sharding import losses_of
from tests.support.training import run as train_one

needs_libtpu = pytest.mark.skipif(compiler.missing() is not None, reason=str(compiler.missing()))


def arrays(batch: int, length: int, heads: int, groups: int, size: int) -> list[jax.Array]:
    """Queries, keys, values, and a weight for each output."""
    draw = np.random.default_rng(length + size)
    shapes = [(batch, length, n, size) for n in (heads, groups, groups, heads)]
    return [jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in shapes]


def both(q, k, v, weigh, **options):
    """Output and the three gradients, with the kernel and without."""

    def run(q, k, v, weigh, kernel):
        call = functools.partial(attention, scale=q.shape[3] ** -0.5, kernel=kernel, **options)
        value, pull = jax.vjp(call, q, k, v)
        return value, *pull(weigh)

    return [jax.jit(run, static_argnums=4)(q, k, v, weigh, kernel) for kernel in ("interpret", "xla")]


SIZES = [
    # length, heads, groups, head size, window; blocks of 128 where there is a window, of 512 (and 1,024) where none is
    pytest.param(128, 4, 2, 64, None, id="64"),
    pytest.param(256, 2, 1, 128, 100, id="128-window"),
    pytest.param(1024, 2, 1, 64, None, id="blocks", marks=pytest.mark.slow),
    pytest.param(2048, 2, 2, 128, None, id="partial-sums", marks=pytest.mark.slow),
    pytest.param(1024, 4, 2, 64, 300, id="window-of-blocks", marks=pytest.mark.slow),
    pytest.param(640, 3, 3, 24, 640, id="odd", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("length", "heads", "groups", "size", "window"), SIZES)
def test_the_kernel_equals_matmuls(length, heads, groups, size, window):
    kernel, matmuls = both(*arrays(1, length, heads, groups, size), window=window)
    for ours, theirs in zip(kernel, matmuls, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)


def test_the_kernel_keeps_documents_apart():
    starts = jnp.zeros((1, 128), int).at[0, jnp.array([50, 51, 100])].set(1)
    context = Context(documents_BL=jnp.cumsum(starts, axis=1))
    kernel, matmuls = both(*arrays(1, 128, 2, 1, 64), window=40, context=context)
    for ours, theirs in zip(kernel, matmuls, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)
    assert "document_mask" in str(unfused("gpu", 128, 64, jnp.bfloat16, context))
    dropping = Context(keys=jax.random.split(jax.random.key(0), 1))
    assert "attention_dropout=0.1" in str(unfused("tpu", 128, 64, jnp.float32, dropping, 0.1))
    assert unfused("tpu", 128, 64, jnp.float32, Context(), 0.1) is None, "an evaluation drops nothing"


@pytest.mark.slow
def test_two_backward_kernels_equal_one(monkeypatch):
    """What a sequence too long for partial sums takes."""
    q, k, v, weigh = arrays(1, 1024, 2, 1, 64)
    one, _ = both(q, k, v, weigh)
    monkeypatch.setattr(attention_tpu, "MOST_PARTIALS", 0)
    assert not blocks(1024, 1024).fused
    two, matmuls = both(q, k, v, weigh)
    for a, b, c in zip(one, two, matmuls, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(b, c, rtol=1e-5, atol=2e-5)


FAMILIES = [
    pytest.param("dense", {"data": 2, "fsdp": 2, "tensor": 2}, {"model.remat": "full"}, id="dense"),
    pytest.param("dense", {"trial": 2, "data": 2, "tensor": 2}, {"model.window": 50}, id="trials"),
    pytest.param("tokenformer", {"data": 2, "sequence": 2}, {"model.remat": "dots"}, id="sequence"),
    pytest.param("moe", {"trial": 1, "fsdp": 2, "expert": 2}, {}, id="moe"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mesh", "options"), FAMILIES)
def test_a_population_trains_alike(tiny, family, mesh, options):
    """Two vmapped trials, layers in a scan with remat, each device with its own sequences and heads; two steps."""
    options |= {f"execution.mesh.{name}": n for name, n in mesh.items()}
    options |= {"seq_len": 128, "batch_tokens": 512, "model.depth": 2, "model.vocab": 264, "model.unroll": False}
    options |= {"execution.packing": "vmap", "execution.mesh.data": mesh.get("data", 1)}
    runs, execution = zip(*(freeze.freeze(tiny(family, seed=seed, **options)) for seed in (0, 1, 2, 3)), strict=True)
    found = []
    for kernel in ("interpret", "xla"):
        changed = [dataclasses.replace(r, model=dataclasses.replace(r.model, attention_kernel=kernel)) for r in runs]
        found.append(losses_of(changed, execution[0], 2)[0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_what_a_kernel_cannot_evaluate_is_refused_before_training(tiny, monkeypatch):
    """Its sizes are those of the device: of a TPU's program that trains, other lengths may have none."""
    monkeypatch.setattr(attention_file, "backend", lambda: "tpu")  # traced for, and not compiled
    options = {"seq_len": 128, "batch_tokens": 1024, "model.attention_kernel": "fused"}
    fits, execution = freeze.freeze(tiny(**options, **{"evaluation.seq_lens": (256, 384)}))
    program.Program(fits, 1, execution, jax.devices()[:1])
    run, _ = freeze.freeze(tiny(**options, **{"evaluation.seq_lens": (256, 200)}))
    with pytest.raises(
        InputError, match=r"evaluation.seq_lens=\(256, 200\): at 200 tokens model.attention_kernel='fused'"
    ):
        program.Program(run, 1, execution, jax.devices()[:1])


def test_a_kernel_that_is_not_there_leaves_nothing_behind(tiny, tmp_path):
    with pytest.raises(InputError, match="attention_kernel='fused' cannot be: there is no kernel for cpu"):
        train_one(tiny(**{"model.attention_kernel": "fused", "execution.eval_every_tokens": 256}), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_what_has_no_kernel_says_why(tiny):
    """On a CPU there is none: auto goes without, and fused is refused in one line."""
    assert unfused("tpu", 2048, 128, jnp.float32) is None is unfused("gpu", 100, 64, jnp.bfloat16)
    assert "multiple of 128" in unfused("tpu", 100, 128, jnp.float32)
    assert "bfloat16" in unfused("gpu", 128, 64, jnp.float32)
    assert "at most 128" in unfused("gpu", 128, 256, jnp.bfloat16)
    q, k, v, _ = arrays(1, 16, 2, 1, 8)
    same = [attention(q, k, v, 1.0, kernel=kernel) for kernel in ("auto", "xla")]
    np.testing.assert_array_equal(*same)
    with pytest.raises(InputError, match=r"'fused' cannot be: there is no kernel for cpu; expected 'auto'"):
        attention(q, k, v, 1.0, kernel="fused")
    with pytest.raises(InputError, match="has an effect only where model.attention='softmax'"):
        freeze.freeze(tiny(**{"model.attention": "linear", "model.attention_kernel": "fused"}))
    with pytest.raises(InputError, match="attention_kernel='flash' is not known"):
        freeze.freeze(tiny(**{"model.attention_kernel": "flash"}))
    names = {identity.fingerprint(freeze.freeze(tiny(**o))[0], ("a",)) for o in ({}, {"model.attention_kernel": "xla"})}
    assert len(names) == 1, "the kernel does not name a run"


@pytest.mark.parametrize(("length", "window"), [(2048, 2048), (2048, 300), (640, 640), (1024, 1), (384, 130)])
def test_blocks_that_are_counted_are_those_not_masked(length, window):
    """By the mask itself, block by block."""
    b = blocks(length, window)
    back = np.arange(length)[:, None] - np.arange(length)
    mask = (back >= 0) & (back < window)
    for q, kv in ((b.q, b.kv), (b.q_back, b.kv_back)):
        assert length % q == 0 == length % kv
        parts = mask.reshape(length // q, q, length // kv, kv).any(axis=(1, 3))
        assert visited(length, window, q, kv) == parts.sum() * q * kv
        assert visited(length, window, q, kv) >= mask.sum()


# --- as compiled for a TPU


@pytest.mark.tpu_aot
@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(("window", "dtype"), [(None, jnp.bfloat16), (256, jnp.bfloat16), (None, jnp.float32)])
def test_flops_of_the_kernel_are_counted(window, dtype):
    """Heads and sequences of one device, blocks that are not masked; nothing is left that nobody counts."""
    compiler.set_up()
    target, length, size = machines.target("v5e-4"), 2048, 128
    mesh = make_mesh((1, 1, 2, 1, 1, 2), compiler.topology(target.chip, target.topology))
    q, k = (jax.ShapeDtypeStruct((8, length, n, size), dtype) for n in (4, 2))

    def loss(q, k, v):
        return (attention(q, k, v, 0.1, window=window, kernel="fused").astype(jnp.float32) ** 2).sum()

    with jax.set_mesh(mesh):
        module = hlo.Module(jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k).compile().as_text())
    b, each = blocks(length, window or length), 8 * 4 / 4 * 2 * size
    backward = (5 if b.fused else 7) * visited(length, window or length, b.q_back, b.kv_back)
    assert hlo_flops.flops(module) == each * (2 * visited(length, window or length, b.q, b.kv) + backward)
    least = each * 7 * (length * (length + 1) / 2 if window is None else length * window)
    assert least * 0.9 < hlo_flops.flops(module) < least * (1.5 if window is None else 3.5)
    assert hlo_flops.uncounted_kernels(module) == {}
    scores = 8 * 4 / 4 * length**2 * 4
    assert hlo_traffic.bytes_in_hbm(module) < scores, "less than the scores would be, written once"


@pytest.mark.tpu_aot
@needs_libtpu
@pytest.mark.slow
def test_vmapped_trials_compile_for_a_tpu(tiny):
    """Two trials a device, layers scanned with remat, sequences and heads split: kernels forward, again, and backward."""
    compiler.set_up()
    options = {
        "model.width": 256,
        "model.depth": 2,
        "model.vocab": 512,
        "model.dtype": "bfloat16",
        "model.remat": "full",
    }
    run, execution = freeze.freeze(tiny(seq_len=256, batch_tokens=1024, **options))
    target, layout = machines.target("v5e-8"), layouts.Layout(trial=2, data=2, tensor=2, trials=4)
    found = compiler.compile_for(compiler.topology(target.chip, target.topology), run, layout, execution, rest=False)
    assert found.fits and found.opaque_kernels == {}
    pairs = visited(256, 256, 256, 256)
    kernels = 2 * 2 * (2 + 2 + 5) * 2 * pairs * 64 * (4 // 2) * (4 // 2)  # trials, layers, products; sequences, heads
    assert kernels < found.flops


# --- as compiled for GPUs

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 threads_per_warp: 32
  threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  l2_cache_size: 52428800 memory_bandwidth: 3352320000000 device_memory_size: 84978434048
}
"""


def cudnn() -> bool:
    """Whether jax's plugin for CUDA is installed, with a cuDNN that it finds."""
    try:
        from jax_cuda12_plugin import _versions
    except ImportError:
        return False
    return bool(_versions.cudnn_get_version())


@pytest.mark.slow
@pytest.mark.skipif(not cudnn(), reason="jax's CUDA plugin and cuDNN are not installed")
@pytest.mark.parametrize(("size", "window"), [(64, None), (128, 300)])
def test_a_gpu_gets_cudnns_kernel(size, window):
    """For eight H100s that are not here: one kernel forward, one backward, nothing sent; trials are vmapped."""
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x8")
    q, k = (jax.ShapeDtypeStruct((2, 8, 1024, n, size), jnp.bfloat16) for n in (4, 2))

    def loss(q, k, v):
        out = jax.vmap(lambda q, k, v: attention(q, k, v, 0.1, window=window))(q, k, v)
        return (out.astype(jnp.float32) ** 2).sum()

    with jax.set_mesh(make_mesh((1, 2, 2, 1, 1, 2), list(topology.devices))):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k)
    calls = [line for line in lowered.as_text().splitlines() if "__cudnn$" in line]
    assert len(calls) == 2
    for line in calls:
        assert f"sliding_window_length\\22: {window or 0}," in line and "mask_type\\22: \\22CAUSAL\\22" in line
    module = hlo.Module(lowered.compile().as_text())
    assert hlo_traffic.collective_bytes(module) == {}
    assert sum("__cudnn$fmha" in one.rest for one, *_ in module.executed()) == 2
