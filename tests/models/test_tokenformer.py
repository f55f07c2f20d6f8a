"""TokenFormer: the reference's Pattention, and growth by parameter tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import schema
from models import functional
from models.families import tokenformer
from tests.support.families import TINY
from tests.support.paths import GOLDEN

KINDS = {"l2_gelu": "l2_norm_gelu", "gelu_l2": "gelu_l2_norm", "softmax": "softmax"}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "tokenformer_pattention.npz")


def pattention(x, key, value, tau, kind):
    rows = x.reshape(-1, x.shape[-1])
    return (tokenformer.scores(rows, key, tau, kind) @ value).reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("kind", KINDS)
def test_pattention_equals_the_reference(golden, kind):
    arrays = {
        name: jnp.asarray(golden[f"{KINDS[kind]}/{name}"]) for name in ("key", "value", "y", "dx", "dkey", "dvalue")
    }
    x, cotangent = jnp.asarray(golden["x"]), jnp.asarray(golden["cotangent"])
    y, pull = jax.vjp(lambda x, k, v: pattention(x, k, v, 4.0, kind), x, arrays["key"], arrays["value"])
    np.testing.assert_allclose(y, arrays["y"], rtol=1e-4, atol=1e-5)
    for ours, name in zip(pull(cotangent), ("dx", "dkey", "dvalue"), strict=True):
        np.testing.assert_allclose(ours, arrays[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_keys_preserve_only_with_the_old_tau(golden, kind):
    key, value = (jnp.asarray(golden[f"{KINDS[kind]}/{name}"]) for name in ("key", "grown_value"))
    x, y = jnp.asarray(golden["x"]), golden[f"{KINDS[kind]}/y"]
    grown = jnp.concatenate([key, jnp.zeros((8, key.shape[1]))])
    recomputed = pattention(x, grown, value, 24**0.5, kind)
    np.testing.assert_allclose(recomputed, golden[f"{KINDS[kind]}/y_grown_code"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(recomputed, y, atol=1e-2)
    kept = pattention(x, grown, value, 4.0, kind)
    if kind == "softmax":
        assert not np.allclose(kept, y, atol=1e-2)
    else:
        np.testing.assert_allclose(kept, y, rtol=1e-5, atol=1e-6)


def test_scores_do_not_see_the_scale_of_a_row_nor_the_order_of_tokens(golden):
    x = jnp.asarray(golden["x"]).reshape(-1, 12)
    key = jnp.asarray(golden["l2_norm_gelu/key"])
    base = tokenformer.scores(x, key, 4.0, "l2_gelu")
    np.testing.assert_allclose(tokenformer.scores(7 * x, key, 4.0, "l2_gelu"), base, rtol=1e-4, atol=1e-6)
    order = jnp.asarray(np.random.default_rng(0).permutation(16))
    np.testing.assert_allclose(tokenformer.scores(x, key[order], 4.0, "l2_gelu"), base[:, order], rtol=1e-5)


def test_a_row_of_zeros_is_finite_and_has_a_gradient():
    key = jnp.asarray(np.random.default_rng(0).normal(size=(16, 12)), jnp.float32)
    for kind in KINDS:
        value, grad = jax.value_and_grad(lambda x, kind=kind: tokenformer.scores(x, key, 4.0, kind).sum())(
            jnp.zeros((1, 12))
        )
        assert np.isfinite(value) and np.isfinite(grad).all()


def test_a_model_with_more_tokens_of_zero_key_is_the_same_function():
    """Added rows with zero keys and any values, tau kept: the same logits from 1.5 times the parameters."""
    small = tokenformer.Config(**TINY["tokenformer"]).resolve(61, 24)
    more = {"attention_tokens": 3 * small.attention_tokens // 2, "ff_tokens": 3 * small.ff_tokens // 2}
    large = dataclasses.replace(small, **more)
    run, grown = (schema.Run("tokenformer", cfg, seq_len=24, batch_tokens=48) for cfg in (small, large))
    params = functional.init_params(run.family, run.model, run.seed)
    target = dict(functional.init_params(grown.family, grown.model, grown.seed))
    for path, array in target.items():
        if (rows := params[path].shape) != array.shape:
            extra = array[:, rows[1] :] * (0 if path.endswith("key") else 1)
            target[path] = jnp.concatenate([params[path], extra], axis=1)
        else:
            target[path] = params[path]
    x = jnp.asarray(np.random.default_rng(0).integers(0, 61, (2, 24)))
    before, after = (
        functional.apply(run.family, run.model, params, x).logits_BLV,
        functional.apply(grown.family, grown.model, target, x).logits_BLV,
    )
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)
    recomputed = dataclasses.replace(
        grown, model=dataclasses.replace(large, attention_tau=None, ff_tau=None).resolve(61, 24)
    )
    assert not np.allclose(
        before, functional.apply(recomputed.family, recomputed.model, target, x).logits_BLV, atol=1e-4
    )


def test_counts_of_the_published_sizes():
    """SPECS section 5: 12 layers of width 768, vocabulary 50,304, tied."""
    for tokens, ff, expected in ((576, 2_304, 124e6), (2_140, 8_560, 354e6), (4_850, 19_400, 757e6)):
        cfg = tokenformer.Config(width=768, depth=12, heads=12, attention_tokens=tokens, ff_tokens=ff).resolve(
            50_304, 1_024
        )
        assert sum(tokenformer.account(cfg, 1_024).params.values()) == pytest.approx(expected, rel=0.01)
