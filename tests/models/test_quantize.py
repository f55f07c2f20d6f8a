"""Number formats against the casts of ml_dtypes, rounded matmuls against their definition, and training with them."""

import dataclasses
import functools
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import ml_dtypes
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import freeze, identity, schema
from experiments.training import step
import models
from models import functional
from models.mesh.mesh import AXES, make_mesh
from models.numerics import formats, matmul
from models.numerics.formats import parse
from models.numerics.precision import Recipe
from models.option import describe
from tests.support.families import LENGTH, TINY, make, tokens
from tests.support.sharding import losses as train

# Text and ml_dtypes' type; those without infinity saturate.
TYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e5m10": np.float16,
    "e8m7": ml_dtypes.bfloat16,
}
TEXTS = [*TYPES, "e3m4", "e1m2", "e7m1", "e3m0", "e4m3b8", "e2m1b3", "int8", "int4", "int2", "int8b8", "int4b5"]
rounded = jax.jit(formats.quantize, static_argnums=(1, 2))
split = jax.jit(formats.values_and_scale, static_argnums=(1, 2))
FULL = {"quant_weight": "e4m3", "quant_act": "e4m3", "quant_grad": "e5m2", "quant_saved": "e4m3"}


def normal(*shape, seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def spread(seed, *shape):
    """Numbers of many magnitudes."""
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.normal(size=shape) * 2.0 ** draw.integers(-30, 30, shape), jnp.float32)


# --- formats


@pytest.mark.parametrize("text", TYPES)
def test_a_cast_is_bit_for_bit_that_of_ml_dtypes(text):
    """Over the whole range with subnormals, ties and what lies beyond; every value of the type is kept."""
    form, kind = parse(text), TYPES[text]
    info = ml_dtypes.finfo(kind)
    assert form.largest == float(info.max) and form.smallest_normal == float(info.smallest_normal)
    bits = (
        np.dtype(kind).itemsize * 8 if text in ("e4m3", "e5m2", "e5m10", "e8m7") else 1 + form.exponent + form.mantissa
    )
    codes = np.arange(2**bits, dtype=np.uint16 if bits > 8 else np.uint8)
    values = codes.view(kind).astype(np.float32)
    values = np.sort(values[np.isfinite(values)])
    if text == "e8m7":  # a CPU takes float32's subnormals for zero, as XLA allows
        values = values[(np.abs(values) >= 2.0**-126) | (values == 0)]
    np.testing.assert_array_equal(formats.cast(jnp.asarray(values), form), values)
    with np.errstate(over="ignore"):
        ties = values[:-1] / 2 + values[1:] / 2
        draw = np.random.default_rng(0)
        wide = draw.normal(size=20_000) * np.exp2(draw.uniform(np.log2(form.step) - 3, np.log2(form.largest), 20_000))
        x = np.concatenate([ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf), wide]).astype(np.float32)
        x = x[np.isfinite(x) & ((np.abs(x) >= 2.0**-126) | (x == 0))]
        theirs = np.asarray(x.astype(kind), np.float32)
    if text != "e8m7":  # saturation: ours for all formats, theirs for some
        theirs = np.where(np.abs(x) > form.largest, np.copysign(form.largest, x), theirs)
    np.testing.assert_array_equal(jax.jit(lambda x: formats.cast(x, form))(jnp.asarray(x)), theirs)


@pytest.mark.parametrize("text", TEXTS)
def test_rounding_what_is_rounded_changes_nothing(text):
    for axis in (0, 1):
        for scale in (1e-20, 1e-3, 1.0, 1e20):
            once = rounded(spread(1, 37, 24) * scale, parse(text), axis)
            np.testing.assert_array_equal(rounded(once, parse(text), axis), once, err_msg=f"{axis} {scale}")


@given(seed=st.integers(0, 10_000), power=st.integers(-60, 60))
@settings(max_examples=40)
def test_sixteen_bits_of_e8m7_are_bfloat16(seed, power):
    x = normal(5, 40, seed=seed) * 2.0**power
    np.testing.assert_array_equal(rounded(x, parse("e8m7"), 1), x.astype(jnp.bfloat16).astype(jnp.float32))


@given(seed=st.integers(0, 10_000), exponent=st.integers(1, 8), block=st.sampled_from(["", "b5", "b16"]))
@settings(max_examples=40)
def test_no_element_is_worse_with_more_mantissa_bits(seed, exponent, block):
    x = normal(6, 40, seed=seed) * jnp.exp(normal(6, 40, seed=seed + 1))
    errors = [np.abs(rounded(x, parse(f"e{exponent}m{bits}{block}"), 1) - x) for bits in (0, 1, 2, 3, 4, 7, 10)]
    assert all((fine <= coarse).all() for coarse, fine in itertools.pairwise(errors))
    assert errors[-1].sum() < errors[0].sum()


@given(seed=st.integers(0, 10_000), text=st.sampled_from(["e4m3", "e2m1", "e3m0", "e5m2"]))
@settings(max_examples=40)
def test_the_scale_is_the_least_power_of_two_without_overflow(seed, text):
    form, x = parse(text), spread(seed, 9, 12)
    whole, scale = split(x, form, 1)
    most, scale = np.abs(x).max(axis=1, keepdims=True).astype(float), np.asarray(scale, float)
    assert (np.log2(scale) % 1 == 0).all() and (most / scale <= form.largest).all()
    assert (most / scale > form.largest / 2).all()
    np.testing.assert_array_equal(
        whole, formats.cast(jnp.asarray(np.asarray(x, float) / scale, jnp.float32), form), "a cast after scaling"
    )


def test_integers_use_all_their_levels_and_their_products_are_exact():
    for text, levels in (("int8", 127), ("int4", 7), ("int2", 1)):
        x = spread(2, 50, 16)
        whole, scale = split(x, parse(text), 1)
        np.testing.assert_array_equal(np.abs(whole).max(axis=1), levels)
        np.testing.assert_array_equal(whole, np.round(whole))
        exact = np.asarray(whole, float) * np.asarray(scale, float)
        np.testing.assert_array_equal(rounded(x, parse(text), 1), exact)
        assert (np.abs(exact - x) <= 0.5001 * np.asarray(scale)).all()


def test_blocks_are_rounded_by_themselves_and_the_last_may_be_short():
    x = spread(3, 4, 21)
    for text in ("e2m1", "int4"):
        whole = rounded(x, parse(f"{text}b8"), 1)
        parts = [rounded(x[:, i : i + 8], parse(text), 1) for i in (0, 8, 16)]
        np.testing.assert_array_equal(whole, jnp.concatenate(parts, axis=1))
        np.testing.assert_array_equal(rounded(x.T, parse(f"{text}b8"), 0), whole.T)
    small, large = normal(1, 32), 1e3 * normal(1, 32, seed=1)
    x = jnp.concatenate([small, large], axis=1)
    errors = [float(jnp.abs(rounded(x, parse(t), 1) - x)[:, :32].max()) for t in ("int8", "int8b32")]
    assert errors[1] < 0.1 * errors[0], "large neighbours no longer cost the small ones their digits"


@pytest.mark.parametrize("text", TEXTS)
def test_zeros_and_numbers_that_are_none(text):
    x = normal(3, 16).at[0].set(0).at[1, 3].set(jnp.inf).at[2, 2].set(jnp.nan)
    zero, infinite, none = rounded(x, parse(text), 1)
    np.testing.assert_array_equal(zero, 0)
    assert not np.isfinite(infinite).all() and not np.isfinite(none).all(), "divergence stays visible"


@pytest.mark.parametrize("text", ["e4m3", "e5m2b32", "e8m7", "int8", "int4b16", "e3m0"])
def test_a_format_is_read_and_written(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", ["", "fp8", "e9m2", "e0m3", "e4", "int1", "int16", "e4m3b0", "e4m3b", "e4m23", "E4M3"])
def test_what_is_no_format_is_refused(text):
    with pytest.raises(InputError, match=r"model.quant_weight=.*expected such as e4m3"):
        make("dense", quant_weight=text)


# --- matmuls


@functools.partial(jax.jit, static_argnums=3)
def both(x, w, d_out, how: Recipe):
    """The product and its two gradients."""
    y, pull = jax.vjp(lambda x, w: matmul.quantized_matmul(x, w, how), x, w)
    return y, *pull(d_out)


def reference(x, w, how: Recipe, d_out):
    """Value and gradients by the definition, in float64."""

    def q(array, form, axis):
        return np.asarray(rounded(jnp.asarray(array, jnp.float32), form, axis), float)

    forward = q(x, how.act, 1), q(w, how.weight, 0)
    saved = forward if how.saved is None else (q(x, how.saved, 0), q(w, how.saved, 1))
    return forward[0] @ forward[1], q(d_out, how.grad, 1) @ saved[1].T, saved[0].T @ q(d_out, how.grad, 0)


RECIPES = {
    "forward": Recipe(parse("e4m3"), parse("int8")),
    "weights": Recipe(weight=parse("int4b8")),
    "activations": Recipe(act=parse("e2m1b16")),
    "gradients": Recipe(grad=parse("e5m2")),
    "all": Recipe(parse("e4m3"), parse("e4m3"), parse("e5m2"), parse("e4m3")),
    "blocks": Recipe(parse("e4m3b16"), parse("e2m3b8"), parse("e3m2b7"), parse("int8b5")),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_matmul_is_its_definition(name):
    x, w, d_out = normal(24, 40), normal(40, 16, seed=1, scale=0.1), normal(24, 16, seed=2)
    expected = reference(x, w, RECIPES[name], d_out)
    for ours, theirs in zip(both(x, w, d_out, RECIPES[name]), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    plain = (x @ w, d_out @ w.T, x.T @ d_out)
    assert max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(expected, plain, strict=True)) > 3e-3
    batched = both(*(array[None].repeat(2, 0) for array in (x, w, d_out)), RECIPES[name])
    for ours, theirs in zip(batched, expected, strict=True):
        np.testing.assert_allclose(ours[1], theirs, rtol=1e-5, atol=1e-5)


def test_without_a_saved_format_the_gradient_is_straight_through():
    """That of the rounded factors behind stop_gradient, differentiated by jax."""
    x, w, d_out = normal(24, 40), normal(40, 16, seed=1), normal(24, 16, seed=2)
    for name in ("forward", "weights", "activations"):
        how = RECIPES[name]

        def plain(x, w, how=how):
            return formats.straight_through(x, how.act, 1) @ formats.straight_through(w, how.weight, 0)

        ours = jax.vjp(lambda x, w, how=how: matmul.quantized_matmul(x, w, how), x, w)[1](d_out)
        theirs = jax.vjp(plain, x, w)[1](d_out)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_real_and_simulated_8_bit_matmuls_agree(dtype):
    """The same factors and scales: only the order of float32 sums may differ. The real one does multiply 8-bit floats."""
    x, w = spread(0, 48, 64).astype(dtype), normal(64, 32, seed=1)
    d_out, results = normal(48, 32, seed=2), {}
    for kernel in ("simulated", "real", "auto"):
        how = dataclasses.replace(RECIPES["all"], kernel=kernel)
        results[kernel] = both(x, w, d_out, how)
        text = both.lower(x, w, d_out, how).as_text()
        dots = [line for line in text.splitlines() if "dot_general" in line]
        assert len(dots) == 3 and all(("f8E4M3FN" in dot) == (kernel == "real") for dot in dots)
    for kernel in ("real", "auto"):
        for ours, theirs in zip(results[kernel], results["simulated"], strict=True):
            assert ours.dtype == theirs.dtype
            scale = np.abs(np.asarray(theirs, float)).max(axis=-1, keepdims=True)
            np.testing.assert_allclose(np.asarray(ours, float) / scale, np.asarray(theirs, float) / scale, atol=1e-6)


def test_a_mixed_or_blocked_product_is_always_simulated():
    x, w = normal(8, 32), normal(32, 16, seed=1)
    for act, weight in (("e4m3", "int8"), ("e4m3b16", "e4m3"), ("e4m3", "e3m2")):
        how = Recipe(parse(weight), parse(act), kernel="real")
        text = jax.jit(lambda x, w, how=how: matmul.quantized_matmul(x, w, how)).lower(x, w).as_text()
        assert "f8E" not in text


@pytest.mark.parametrize("name", ["all", "blocks", "weights"])
def test_sharded_over_any_axis_equals_one_device(name):
    """Blocks of 7 and 16 along axes split in eight: scales are those of the whole array, never of a shard."""
    x, w, d_out = spread(0, 32, 24), normal(24, 40, seed=1), normal(32, 40, seed=2)

    alone = both(x, w, d_out, RECIPES[name])
    for axis, x_spec, w_spec, d_spec in (
        ("data", ("data",), (), ("data",)),
        ("fsdp", ("fsdp",), ("fsdp",), ("fsdp",)),
        ("tensor", (None, "tensor"), ("tensor",), ()),
        ("tensor", (), (None, "tensor"), (None, "tensor")),
    ):
        mesh = make_mesh([8 if n == axis else 1 for n in AXES])
        placed = [
            jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))
            for value, spec in ((x, x_spec), (w, w_spec), (d_out, d_spec))
        ]
        with jax.set_mesh(mesh):
            many = both(*placed, RECIPES[name])
        for ours, theirs in zip(many, alone, strict=True):
            scale = np.abs(theirs).max()
            np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-6, err_msg=f"{axis} {w_spec}")


# --- families

CASES = [
    ("dense", FULL | {"quant_kv": "int8"}),
    pytest.param("min_gru", FULL, marks=pytest.mark.slow),
    pytest.param("tokenformer", FULL | {"quant_kv": "e5m2"}, marks=pytest.mark.slow),
    ("moe", {"quant_weight": "e4m3", "quant_act": "int8", "quant_kv": "e4m3"}),
    ("moe", {"quant_weight": "e4m3", "quant_act": "int8", "mode": "capacity", "shared_experts": 1}),
    pytest.param("moe", {"quant_weight": "e4m3", "quant_act": "int8", "kernel": "ragged"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("family", "options"), CASES)
def test_a_rounded_model_is_near_the_plain_one_and_causal(family, options):
    run, params = make(family, depth=1, **options)
    x = tokens()

    @functools.partial(jax.jit, static_argnums=0)
    def evaluate(run, x):
        def loss(params):
            logits = functional.apply(run.family, run.model, params, x).logits_BLV
            return jnp.square(logits - jnp.roll(logits, 1, axis=-1)).mean(), logits

        (_, logits), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return logits, grads

    logits, grads = evaluate(run, x)
    changed, _ = evaluate(run, x.at[:, 12].set((x[:, 12] + 7) % 61))
    np.testing.assert_array_equal(logits[:, :12], changed[:, :12])
    base = {name: None for name in options if name.startswith("quant_")}
    plain, plain_grads = evaluate(dataclasses.replace(run, model=dataclasses.replace(run.model, **base)), x)
    assert 1e-4 < float(jnp.abs(logits - plain).max()) / float(jnp.abs(plain).max()) < 0.5
    for path, grad in grads.items():
        assert grad.dtype == jnp.float32 and np.isfinite(grad).all()
        assert float(jnp.linalg.norm(grad - plain_grads[path])) <= float(jnp.linalg.norm(plain_grads[path]))


def test_scanned_remat_and_unrolled_agree():
    run, params = make("dense", **FULL)
    x = tokens(2, LENGTH)

    def evaluate(**options):
        other = dataclasses.replace(run, model=dataclasses.replace(run.model, **options))
        return jax.jit(
            jax.value_and_grad(
                lambda p: jnp.square(functional.apply(other.family, other.model, p, x).logits_BLV).mean()
            )
        )(params)

    loss, grads = evaluate()
    for options in ({"unroll": True}, {"remat": "full"}):
        other, other_grads = evaluate(**options)
        np.testing.assert_allclose(other, loss, rtol=1e-4)
        for path, grad in grads.items():  # a rounding that falls the other way is a whole step of one factor
            error = jnp.linalg.norm(grad - other_grads[path]) / (jnp.linalg.norm(grad) + 1e-12)
            assert float(error) < 0.02, path


@pytest.mark.parametrize("family", ["dense", pytest.param("moe", marks=pytest.mark.slow)])
def test_master_weights_stay_float32_and_learn(family):
    """In bfloat16 with rounded matmuls; weights take steps that are far below the resolution of either."""
    names = FULL if family == "dense" else {"quant_weight": "e4m3", "quant_act": "e4m3"}
    run, _ = make(family, dtype="bfloat16", **names)
    run = dataclasses.replace(run, opt=dataclasses.replace(run.opt, lr=1e-2))
    state = jax.jit(lambda: step.init_state(run, run))()
    update = jax.jit(lambda s, x: step.train_step(run, run, s, x))
    history, batches = [], [tokens(4, LENGTH + 1, seed=i) for i in range(3)]
    for i in range(60):
        state, metrics = update(state, batches[i % 3])
        history.append(float(metrics["loss"]))
    assert np.isfinite(history).all() and history[-1] < 0.8 * history[0]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((state.params, state.opt)) if leaf.ndim > 0)
    kernel = state.params["blocks/attention/query/kernel"]
    assert bool((kernel != kernel.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.9)


@pytest.mark.slow
def test_training_on_eight_devices_equals_one(tiny):
    """Loss, and through the second step's loss the gradient, before a rounding that falls the other way can add up."""
    size = {"model.vocab": 264} | {f"model.{name}": f"{text}b16" for name, text in FULL.items()}
    one, _, _ = train([tiny(**size)], 2, jax.devices()[:1])
    many, _, _ = train([tiny(**size | {f"execution.mesh.{name}": 2 for name in ("data", "fsdp", "tensor")})], 2)
    np.testing.assert_allclose(many, one, rtol=1e-5)
    plain, _, _ = train([tiny(**{"model.vocab": 264})], 2, jax.devices()[:1])
    assert np.abs(plain - one).max() > 10 * np.abs(many - one).max()


def test_runs_that_differ_in_a_format_are_different_runs(tiny):
    prints = set()
    both = {"model.quant_act": "e4m3", "model.quant_weight": "e4m3"}
    for options in (
        {},
        {"model.quant_act": "e4m3"},
        {"model.quant_act": "e4m3b32"},
        {"model.quant_grad": "e4m3"},
        both,
    ):
        run, _ = freeze.freeze(tiny(**options))
        prints.add(identity.fingerprint(run, ()))
    assert len(prints) == 5
    real, _ = freeze.freeze(tiny(**both | {"model.quant_kernel": "real"}))
    assert identity.fingerprint(real, ()) in prints, "where it is computed is not part of a run"


@pytest.mark.parametrize(
    ("family", "name", "why"),
    [
        ("matmul_free", "quant_weight", "ternary"),
        ("matmul_free", "quant_kv", "no keys"),
        ("min_gru", "quant_kv", "no keys"),
        ("moe", "quant_grad", "routing"),
        ("moe", "quant_saved", "routing"),
    ],
)
def test_a_family_refuses_what_it_has_not(family, name, why):
    with pytest.raises(InputError, match=rf"model.{name}='e4m3' cannot be: .*{why}.*expected None"):
        make(family, **{name: "e4m3"})


def test_every_family_rounds_or_refuses():
    """No family ignores an option: found by name, so that a new one cannot. Traced only, nothing runs."""

    def program(family: str, **options) -> str:
        values = TINY[family] | {"depth": 1, "unroll": False} | options
        run = schema.Run(family, models.load(family).Config(**values).resolve(61, LENGTH), seq_len=LENGTH)
        gradient = jax.grad(
            lambda p: jnp.square(functional.apply(run.family, run.model, p, tokens()).logits_BLV).mean()
        )
        return str(
            jax.make_jaxpr(gradient)(jax.eval_shape(lambda: functional.init_params(run.family, run.model, run.seed)))
        )

    for family in models.family_names():
        plain = program(family)
        assert program(family) == plain, "the text of a program says nothing else than what it computes"
        has = {row.name for row in describe(models.load(family).Config)}
        for name in (*FULL, "quant_kv"):
            assert name not in has or program(family, **{name: "e2m1"}) != plain, f"{family} ignores {name}"
