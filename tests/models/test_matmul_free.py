"""The MatMul-free family: its references, its closed-form gradient, its invariants, and the packed form."""

import dataclasses
import json

from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.extend
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import check, schema
from experiments.training import loss as losses
from experiments.training import schedule, transformations
from models import functional
from models.blocks import layers, recurrence
from models.convert import ternary
from models.families import matmul_free
from models.mesh.mesh import AXES, make_mesh
from tests.support.paths import GOLDEN
from tests.support.sharding import losses as train

FORWARD = {"rtol": 1e-4, "atol": 1e-5}
GRADIENT = {"rtol": 1e-3, "atol": 1e-5}


def normal(*shape, seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


# --- BitLinear


def straight_through(x, norm, kernel, eps, bits):
    """The same layer as its paper writes it: rounding behind stop_gradient, differentiated by jax."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=1, keepdims=True) + eps) * norm
    if bits == 8:
        s = 127 / jnp.maximum(jnp.abs(y).max(axis=1, keepdims=True), 1e-5)
        y = y + jax.lax.stop_gradient(jnp.clip(jnp.round(y * s), -128, 127) / s - y)
    c = 1 / jnp.maximum(jnp.abs(kernel).mean(), 1e-5)
    w = kernel + jax.lax.stop_gradient(jnp.clip(jnp.round(kernel * c), -1, 1) / c - kernel)
    return jnp.tensordot(y, w, axes=(1, 0)).astype(x.dtype)


@pytest.mark.parametrize(("name", "eps"), [("eps1e8", 1e-8), ("eps1e6", 1e-6)])
def test_bit_linear_equals_the_reference(name, eps):
    golden = np.load(GOLDEN / "mmfree_bitlinear.npz")
    x, norm, kernel = golden["x"], golden["norm_weight"], golden["weight"].T
    y, pull = jax.vjp(lambda *a: matmul_free.bit_linear(*a, eps, 8), *map(jnp.asarray, (x, norm, kernel)))
    dx, dnorm, dkernel = pull(jnp.asarray(golden["cotangent"]))
    np.testing.assert_allclose(y, golden[f"y_{name}"], **FORWARD)
    for ours, theirs in ((dx, f"dx_{name}"), (dnorm, f"dnorm_{name}"), (dkernel.T, f"dw_{name}")):
        np.testing.assert_allclose(ours, golden[theirs], **GRADIENT, err_msg=theirs)


def test_quantisers_equal_the_reference():
    golden = np.load(GOLDEN / "mmfree_bitlinear.npz")
    whole, mean = matmul_free.ternary(jnp.asarray(golden["weight"]))
    np.testing.assert_array_equal(whole, golden["weight_tern"])
    np.testing.assert_allclose(mean, golden["weight_absmean"], rtol=1e-6)
    whole, steps = matmul_free.quantise(jnp.asarray(golden["x_norm"]), 8)
    np.testing.assert_array_equal(whole, golden["act_int"])
    np.testing.assert_allclose(whole * steps, golden["act_quant"], **FORWARD)


@pytest.mark.parametrize("outputs", [(20,), (2, 10)], ids=str)
@pytest.mark.parametrize(("bits", "eps", "dtype"), [(8, 1e-6, "float32"), (16, 1e-2, "float32"), (8, 1e-6, "bfloat16")])
def test_the_closed_form_is_the_gradient_of_the_straight_through_layer(bits, eps, dtype, outputs):
    """Also where the scale of the norm has both signs and inputs are small beside eps."""
    x, norm = normal(9, 16, scale=0.1).astype(dtype), normal(16, seed=1)
    kernel, cotangent = normal(16, *outputs, seed=2, scale=0.05), normal(9, *outputs, seed=3).astype(dtype)
    results = []
    for layer in (matmul_free.bit_linear, straight_through):
        y, pull = jax.vjp(lambda *a, layer=layer: layer(*a, eps, bits), x, norm, kernel)
        results.append((y, *pull(cotangent)))
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 0.02, "atol": 0.02}
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours.astype(float) / scale, theirs.astype(float) / scale, **tolerance)


def test_weights_and_activations_really_are_rounded_in_the_gradient():
    """A layer that used the unrounded factors would give another gradient, by far more than the tolerance above."""
    x, norm, kernel, cotangent = normal(9, 16), jnp.ones(16), normal(16, 20, seed=2), normal(9, 20, seed=3)
    y, pull = jax.vjp(lambda *a: matmul_free.bit_linear(*a, 1e-6, 8), x, norm, kernel)
    dx, _, dkernel = pull(cotangent)
    plain, plain_pull = jax.vjp(lambda x, n, w: layers.normalise(x, "rms", 1e-6) * n @ w, x, norm, kernel)
    plain_dx, _, plain_dkernel = plain_pull(cotangent)
    for ours, theirs, least in ((y, plain, 0.1), (dx, plain_dx, 0.1), (dkernel, plain_dkernel, 1e-3)):
        assert float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs)) > least


@given(seed=st.integers(0, 1000), power=st.integers(-6, 6))
@settings(max_examples=15)
def test_scales_of_a_bit_linear(seed, power):
    """Three values; scaling the matrix scales the output; scaling a row does not; a zero row gives zeros."""
    x, kernel, a = normal(5, 12, seed=seed).at[2].set(0), normal(12, 7, seed=seed + 1, scale=0.1), 2.0**power
    whole, mean = matmul_free.ternary(kernel)
    assert set(np.unique(whole)) <= {-1, 0, 1}
    np.testing.assert_array_equal(whole != 0, np.abs(kernel) > mean / 2)
    out = matmul_free.bit_linear(x, jnp.ones(12), kernel, 1e-12, 8)
    np.testing.assert_array_equal(out[2], 0)
    np.testing.assert_allclose(matmul_free.bit_linear(x, jnp.ones(12), a * kernel, 1e-12, 8), a * out, rtol=1e-6)
    np.testing.assert_allclose(matmul_free.bit_linear(a * x, jnp.ones(12), kernel, 1e-12, 8), out, rtol=1e-5, atol=1e-6)


def test_halves_round_to_even():
    whole, _ = matmul_free.quantise(jnp.array([[127.0, 0.5, 1.5, -2.5]]), 8)
    np.testing.assert_array_equal(whole, [[127, 0, 2, -2]])


def test_the_scale_is_one_number_for_the_whole_matrix_of_each_trial():
    """Sharded over eight devices in three ways, and mapped over trials: never a mean of a part."""
    kernel = normal(16, 32) * jnp.logspace(-3, 0, 32) * jnp.logspace(-2, 0, 16)[:, None]
    x, norm, cotangent = normal(8, 16, seed=1), normal(16, seed=2), normal(8, 32, seed=3)

    def both(x, norm, kernel):
        y, pull = jax.vjp(lambda *a: matmul_free.bit_linear(*a, 1e-6, 8), x, norm, kernel)
        return y, *pull(cotangent)

    alone = jax.jit(both)(x, norm, kernel)
    for axis, x_spec, kernel_spec in (
        ("data", ("data",), ()),
        ("fsdp", ("fsdp",), ("fsdp",)),
        ("tensor", (), (None, "tensor")),
    ):
        mesh = make_mesh([8 if name == axis else 1 for name in AXES])
        placed = [
            jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))
            for value, spec in ((x, x_spec), (norm, ()), (kernel, kernel_spec))
        ]
        with jax.set_mesh(mesh):
            many = jax.jit(both)(*placed)
        for ours, theirs in zip(many, alone, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=axis)
    mapped = jax.vmap(both, in_axes=(None, None, 0))(x, norm, jnp.stack([100 * kernel**3, kernel]))
    for ours, theirs in zip(mapped, alone, strict=True):
        np.testing.assert_allclose(ours[1], theirs, rtol=1e-5, atol=1e-6)


# --- The recurrence


def loop(decay, update):
    state, out = np.zeros_like(update[:, 0]), []
    for t in range(decay.shape[1]):
        state = decay[:, t] * state + update[:, t]
        out.append(state)
    return np.stack(out, axis=1)


@pytest.mark.parametrize("chunk", [None, 0, 1, 4, 5, 16, 40])
@pytest.mark.parametrize("length", [1, 13, 37])
def test_recurrence_equals_a_loop(chunk, length):
    """Forward and gradient (SPECS 3.2: G_t = do_t + f_{t+1} G_{t+1}), at lengths that no chunk divides; decays 0 and 1."""
    decay = jax.nn.sigmoid(normal(2, length, 6, scale=3.0)).at[:, ::5].set(0.0).at[:, 1::5].set(1.0)
    update, cotangent = normal(2, length, 6, seed=1), normal(2, length, 6, seed=2)

    @jax.jit
    def both_ways(decay, update, cotangent):
        out, pull = jax.vjp(lambda *a: recurrence.linear_recurrence(*a, chunk), decay, update)
        return out, pull(cotangent)

    out, (d_decay, d_update) = both_ways(decay, update, cotangent)
    expected = loop(np.asarray(decay), np.asarray(update))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    later = np.concatenate([decay[:, 1:], np.zeros_like(decay[:, :1])], axis=1)[:, ::-1]
    total = loop(later, np.asarray(cotangent)[:, ::-1])[:, ::-1]
    before = np.concatenate([np.zeros_like(expected[:, :1]), expected[:, :-1]], axis=1)
    np.testing.assert_allclose(d_update, total, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d_decay, total * before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [None, 0, 4])
def test_recurrence_equals_the_reference(chunk):
    golden = np.load(GOLDEN / "mmfree_hgrn_scan.npz")

    def rows(name):  # [B, H, T, D] -> [B, T, H D]
        array = golden[name]
        return jnp.asarray(array.transpose(0, 2, 1, 3).reshape(array.shape[0], array.shape[2], -1))

    start = golden["h0"].reshape(golden["h0"].shape[0], -1)

    def states(x, f):
        return recurrence.linear_recurrence(f, x.at[:, 0].add(f[:, 0] * start), chunk)

    @jax.jit
    def both_ways(x, f, cotangent):
        out, pull = jax.vjp(states, x, f)
        return out, pull(cotangent)

    out, gradients = both_ways(rows("x"), rows("f"), rows("cotangent"))
    np.testing.assert_allclose(out, rows("o"), **FORWARD)
    np.testing.assert_allclose(out[:, -1], golden["h_final"].reshape(start.shape), **FORWARD)
    for ours, theirs in zip(gradients, ("dx", "df"), strict=True):
        np.testing.assert_allclose(ours, rows(theirs), **GRADIENT, err_msg=theirs)


@given(seed=st.integers(0, 1000), sharp=st.floats(0, 30))
@settings(max_examples=15)
def test_the_state_is_an_average(seed, sharp):
    """|s| <= max |silu(i)| for any gate, since the new part enters with weight 1 - f; f = 0 keeps nothing, f = 1 all."""
    f, v = jax.nn.sigmoid(normal(2, 19, 4, seed=seed, scale=sharp)), jax.nn.silu(normal(2, 19, 4, seed=seed + 1))
    state = recurrence.linear_recurrence(f, v * (1 - f))
    assert float(jnp.abs(state).max()) <= float(jnp.abs(v).max()) * (1 + 1e-5)
    zero, one = jnp.zeros_like(f), jnp.ones_like(f)
    np.testing.assert_array_equal(recurrence.linear_recurrence(zero, v), v)
    held = recurrence.linear_recurrence(one, zero.at[:, 0].set(v[:, 0]))
    np.testing.assert_array_equal(held, jnp.broadcast_to(v[:, :1], v.shape))


def test_lower_bounds_rise_with_depth():
    depth = 5
    np.testing.assert_allclose(
        matmul_free.floors(jnp.zeros((depth, 3)))[:, 0], np.arange(depth) / depth, rtol=1e-6, atol=1e-7
    )
    gamma = normal(depth, 7, scale=3.0)
    bounds = matmul_free.floors(gamma)
    np.testing.assert_array_equal(bounds[0], 0)
    np.testing.assert_allclose(bounds[-1], 1 - jax.nn.softmax(gamma, axis=0)[0], rtol=1e-5, atol=1e-6)
    assert (jnp.diff(bounds, axis=0) > 0).all() and float(bounds[-1].max()) < 1


# --- The model

TINY = matmul_free.Config(width=32, depth=3, ff=48)


def rngs():
    return nnx.Rngs(params=0)


def make(**options):
    cfg = dataclasses.replace(TINY, **options).resolve(96, 12)
    cfg.check(12)
    run = schema.Run("matmul_free", cfg, seq_len=12, batch_tokens=24)
    return run, jax.jit(lambda: functional.init_params(run.family, run.model, run.seed))()


def reference(golden, kind, at):
    """Names and layouts of the released code ([out, in]; gate rows before up rows) to ours, layers `at` stacked."""
    linear = {"mixer/candidate": "attn.i_proj", "mixer/forget": "attn.f_proj", "mixer/gate": "attn.g_proj"}
    linear |= {"mixer/out": "attn.o_proj", "mlp/gate_up": "mlp.gate_proj", "mlp/down": "mlp.down_proj"}
    norms = {"mixer_norm": "attn_norm", "mlp_norm": "mlp_norm", "mixer/gate_norm": "attn.g_norm"}
    out = {"embed": golden[f"{kind}/model.embeddings.weight"], "gamma": golden[f"{kind}/model.lower_bounds"]}
    out |= {
        "head/kernel": golden[f"{kind}/lm_head.weight"].T,
        "head/norm": golden[f"{kind}/lm_head.norm.weight"],
    }

    def stacked(name):
        return np.stack([golden[f"{kind}/model.layers.{i}.{name}"] for i in at])

    for ours, theirs in linear.items():
        kernel = stacked(f"{theirs}.weight").swapaxes(1, 2)
        if ours == "mlp/gate_up":
            kernel = kernel.reshape(*kernel.shape[:2], 2, -1)
        out[f"blocks/{ours}/kernel"], out[f"blocks/{ours}/norm"] = kernel, stacked(f"{theirs}.norm.weight")
    return out | {f"blocks/{ours}/scale": stacked(f"{theirs}.weight") for ours, theirs in norms.items()}


@pytest.mark.parametrize("unroll", [False, True])
def test_model_equals_the_reference(unroll):
    golden = np.load(GOLDEN / "mmfree_model_tiny.npz")
    config = json.loads(str(golden["config"]))
    assert (config["rms_norm_eps"], config["bitlinear_norm_eps"]) == (TINY.norm_eps, TINY.bit_eps)
    run, own = make(unroll=unroll)
    params = {"norm/scale": golden["param/model.norm.weight"]} | reference(golden, "param", range(3))
    params = {path: jnp.asarray(value) for path, value in params.items()}
    assert {p: v.shape for p, v in params.items()} == {p: v.shape for p, v in own.items()}
    assert sum(p.size for p in params.values()) == 33_328 == sum(matmul_free.account(run.model, 12).params.values())
    ids = jnp.asarray(golden["input_ids"])

    def objective(params):
        logits = functional.apply(run.family, run.model, params, ids).logits_BLV
        return losses.cross_entropy(logits[:, :-1], ids[:, 1:])[0].mean(), logits

    (loss, logits), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    np.testing.assert_allclose(logits, golden["logits"], **FORWARD)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    np.testing.assert_allclose(matmul_free.floors(params["gamma"]), golden["effective_lower_bounds"], **FORWARD)
    expected = reference(golden, "grad", [1])
    assert len(expected) == 19
    for path, grad in expected.items():
        ours = grads[path][1:2] if path.startswith("blocks/") else grads[path]
        np.testing.assert_allclose(ours, grad, **GRADIENT, err_msg=path)


def test_paper_gate_and_no_lower_bounds():
    """sigmoid(g) s and no norm on it; without bounds every layer is computed as the first."""
    run, params = make(gate_form="paper", lower_bounds=False)
    assert "gamma" not in params and not any("gate_norm" in path for path in params)
    cfg = run.model
    mixer = matmul_free.Mlgru(rngs(), cfg, matmul_free.BitLinear)
    x = normal(2, 9, 32)
    f, v = jax.nn.sigmoid(mixer.forget(x)), jax.nn.silu(mixer.candidate(x))
    state = jnp.asarray(loop(np.asarray(f), np.asarray(v * (1 - f))))
    np.testing.assert_allclose(mixer(x, None), mixer.out(jax.nn.sigmoid(mixer.gate(x)) * state), rtol=1e-4, atol=1e-6)
    bounded = mixer(x, jnp.full(32, 0.9))
    assert float(jnp.abs(bounded - mixer(x, None)).max()) > 1e-3
    np.testing.assert_array_equal(mixer(x, jnp.zeros(32)), mixer(x, None))


def test_initial_values():
    """SPECS 3.3: mixer uniform (Xavier, gain 2^-2.5), the rest normal 0.02, down over sqrt(2 L); bounds 0.

    Another init_std scales all of them alike.
    """
    _, params = make(width=64, ff=128, init_std=0.05)
    bound = 0.05 / 0.02 * 2**-2.5 * (6 / 128) ** 0.5
    for name in ("candidate", "forget", "gate", "out"):
        kernel = params[f"blocks/mixer/{name}/kernel"]
        assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound
        assert float(kernel.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    for path, std in (("embed", 0.05), ("head/kernel", 0.05), ("blocks/mlp/gate_up/kernel", 0.05)):
        assert float(params[path].std()) == pytest.approx(std, rel=0.05), path
        assert float(jnp.abs(params[path]).max()) > 2.5 * std, "normal, not uniform"
    assert float(params["blocks/mlp/down/kernel"].std()) == pytest.approx(0.05 / 6**0.5, rel=0.05)
    assert all(
        (p == (path != "gamma")).all() for path, p in params.items() if path.endswith(("norm", "scale", "gamma"))
    )


@pytest.mark.parametrize(
    ("width", "depth", "millions", "share"), [(1024, 24, 374.1, 341.0), (2048, 24, 1365, None), (2560, 32, 2702, None)]
)
def test_published_sizes(width, depth, millions, share):
    cfg = matmul_free.Config(width=width, depth=depth).resolve(32_000, 2048)
    account = matmul_free.account(cfg, 2048)
    assert sum(account.params.values()) / 1e6 == pytest.approx(millions, abs=0.05 if share else 0.5)
    assert sum(account.matmul.values()) == 2 * ternary.ternary_params(cfg)
    if share:
        assert ternary.ternary_params(cfg) / 1e6 == pytest.approx(share, abs=0.05)


def test_ternary_params_are_the_kernels():
    run, params = make()
    kernels = sum(p.size for path, p in params.items() if path.endswith("kernel"))
    assert ternary.ternary_params(run.model) == kernels
    decayed = {
        path for path, on in transformations.decay_mask(functional.param_axes(run.family, run.model)).items() if on
    }
    assert decayed == {path for path in params if path.endswith("kernel")} | {"embed"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tied": True}, "model.tied=True"),
        ({"act_bits": 4}, "model.act_bits=4"),
        ({"bit_eps": 0.0}, "model.bit_eps=0.0"),
        ({"gate_form": "papers"}, "did you mean 'paper'"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(InputError, match=words):
        make(**options)


class Naive(matmul_free.BitLinear):
    """The layer with rounding behind stop_gradient: what the closed form saves memory against."""

    def product(self, x, norm_I, kernel, sums=None):
        del sums
        out = straight_through(x.reshape(-1, x.shape[-1]), norm_I, kernel, self.eps, self.bits)
        return out.reshape(*x.shape[:-1], *kernel.shape[1:])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_copy_of_a_matrix_waits_for_the_backward_pass(dtype):
    """What jax.vjp of a scanned model keeps: of arrays as large as a matrix only the matrices themselves."""
    run, params = make(unroll=False, dtype=dtype)
    ids = jnp.zeros((2, 7), jnp.int32)
    shapes = {p.shape for path, p in params.items() if path.endswith("kernel")}
    shapes |= {shape[1:] for shape in shapes}

    def kept(linear):
        graphdef, state = nnx.split(matmul_free.Model(run.model, rngs(), linear))
        jaxpr = jax.make_jaxpr(lambda s: jax.vjp(lambda s: nnx.merge(graphdef, s)(ids).logits_BLV, s)[1])(state).jaxpr
        kept_by_it = {v for v in jaxpr.outvars if isinstance(v, jax.extend.core.Var)}
        copies = [v.aval.shape for v in kept_by_it - set(jaxpr.invars)]
        assert copies.count((3, 2, 7, 32)) > 5, "rows of all layers are kept"
        return [shape for shape in copies if shape in shapes]

    assert not kept(matmul_free.BitLinear)
    assert len(kept(Naive)) >= 7


def test_rate_is_halved_after_the_middle():
    plain = schema.Run("matmul_free", TINY, schedule=schema.Schedule(final=0.1, warmup_tokens=10), tokens=100)
    halved = dataclasses.replace(plain, schedule=dataclasses.replace(plain.schedule, name="cosine_halved"))
    check.check(dataclasses.replace(halved, batch_tokens=10, seq_len=5))
    tokens = jnp.arange(0.0, 101.0)
    cosine, ours = (jax.vmap(lambda t, run=run: schedule.schedule(run, t))(tokens) for run in (plain, halved))
    np.testing.assert_allclose(ours, cosine * np.where(np.arange(101) > 50, 0.5, 1.0), rtol=1e-6)
    assert float(ours[50]) > 1.8 * float(ours[51]) and float(ours[100]) == pytest.approx(0.05)


@pytest.mark.slow
def test_rounded_activations_when_sharded(tiny):
    """Where a sum in another order moves an activation across a half, its step shows, but no more than that."""
    one, _, _ = train([tiny("matmul_free")], devices=jax.devices()[:1])
    many, _, program = train([tiny("matmul_free", **{"execution.mesh.data": 8})])
    assert program.mesh.shape["data"] == 8
    np.testing.assert_allclose(many, one, rtol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["map", "vmap"])
def test_packed_trials_equal_solo(tiny, packing):
    """The closed-form gradients of matrices and recurrence, inside the population's two ways of mapping."""
    options = {"model.act_bits": 16, "execution.packing": packing}
    runs = [tiny("matmul_free", seed=seed, **options) for seed in (0, 1, 2)]
    packed, _, program = train(runs, 6, jax.devices()[:2])
    assert program.groups == 2 and program.packing == packing
    solo = [train([run], 6, jax.devices()[:1])[0][0] for run in runs[1:]]
    np.testing.assert_allclose(packed[1:], solo, rtol=1e-5)


# --- Two bits


@given(shape=st.lists(st.integers(1, 7), max_size=4).map(tuple), seed=st.integers(0, 1000))
@settings(max_examples=40)
def test_packing_round_trip(shape, seed):
    whole = np.random.default_rng(seed).integers(-1, 2, shape)
    packed = jax.jit(ternary.pack_ternary)(whole)
    assert packed.dtype == jnp.uint8 and packed.size == -(-whole.size // 4)
    back = jax.jit(ternary.unpack_ternary, static_argnums=1)(packed, shape)
    assert back.dtype == jnp.int8
    np.testing.assert_array_equal(back, whole)


def test_what_cannot_be_packed_is_an_error():
    for value in (2, -2, 0.5):
        with pytest.raises(ValueError, match="expected -1, 0 and 1"):
            ternary.pack_ternary(np.array([0, value, 1]))
    with pytest.raises(ValueError, match="3 bytes cannot hold shape .*expected 2"):
        ternary.unpack_ternary(jnp.zeros(3, jnp.uint8), (7,))


@pytest.mark.parametrize(
    "options", [{}, {"gate_form": "paper", "lower_bounds": False}, {"act_bits": 16}, {"dtype": "bfloat16"}], ids=str
)
def test_packed_file_gives_the_logits_of_training(options, tmp_path):
    run, params = make(**options)
    params = {path: p + normal(*p.shape, scale=0.05) for path, p in params.items()}
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 96, (2, 11)))
    ternary.export(params, run.model, tmp_path / "model.npz")
    packed, cfg = ternary.load_packed(tmp_path / "model.npz")
    assert cfg == run.model and not any(path.endswith("kernel") for path in packed)
    logits = jax.jit(lambda p, x: ternary.apply_packed(p, cfg, x))(packed, ids)
    expected = jax.jit(lambda p, x: functional.apply(run.family, run.model, p, x).logits_BLV)(params, ids)
    # In bfloat16 how XLA fuses decides what is rounded in between, and an int8 step may follow.
    tolerance = 1e-5 if cfg.dtype == "float32" else 0.05
    np.testing.assert_allclose(logits, expected, rtol=tolerance, atol=tolerance)


def test_packed_file_is_as_small_as_its_bits_say(tmp_path):
    """2 bits for what was 32, plus scales, what stays float, and the names of the arrays."""
    run, params = make(width=128, ff=256)
    ternary.export(params, run.model, tmp_path / "model.npz")
    packed = ternary.ternary_params(run.model)
    total = sum(p.size for p in params.values())
    floats, scales = 4 * (total - packed), 4 * (6 * run.model.depth + 1)
    size = (tmp_path / "model.npz").stat().st_size
    assert 0 <= size - (packed / 4 + floats + scales) < 12_000
    assert size < 0.13 * 4 * total


def test_packed_inference_never_holds_all_float_weights():
    run, params = make(width=128, ff=256, depth=24)
    packed = ternary.pack(params, run.model)
    ids = jnp.zeros((1, 4), jnp.int32)
    compiled = jax.jit(lambda p, x: ternary.apply_packed(p, run.model, x)).lower(packed, ids).compile()
    memory = compiled.memory_analysis()
    floats = 4 * sum(p.size for path, p in params.items() if path.endswith("kernel"))
    layer = floats / 24
    assert memory.temp_size_in_bytes < 3 * layer < floats / 4
    assert memory.argument_size_in_bytes < floats / 6


def test_a_foreign_file_is_refused(tmp_path):
    run, params = make()
    for name, content in (("text", b"hello"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="expected an .npz written by"):
            ternary.load_packed(tmp_path / name)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="expected an .npz written by"):
        ternary.load_packed(tmp_path / "other.npz")
    ternary.export(params, run.model, tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "cut.npz", **arrays | {"gamma": arrays["gamma"][:2]})
    with pytest.raises(InputError, match="arrays do not fit"):
        ternary.load_packed(tmp_path / "cut.npz")
