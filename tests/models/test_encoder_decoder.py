"""An encoder and a decoder are what equations in float64 say, and see no more of a row than they should."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training import step
from models import functional
from models.accounting import ledger
from models.errors import InputError
from models.families import encoder_decoder
from tests.support.families import LENGTH, configure, logits, make, tokens

SEPARATOR = 3
SOURCE = LENGTH // 2


def rms(x, scale, eps=1e-5):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def turned(x_LHK):
    """Rotary positions from 0, by pairs of complex numbers."""
    length, _, size = x_LHK.shape
    angle = np.arange(length)[:, None] * 1e4 ** (-np.arange(0, size, 2) / size)
    point = (x_LHK[..., : size // 2] + 1j * x_LHK[..., size // 2 :]) * np.exp(1j * angle)[:, None]
    return np.concatenate([point.real, point.imag], axis=-1)


def heads(x, kernel, size=8):
    return (x @ kernel).reshape(len(x), -1, size)


def read(q_LHK, k_MGK, v_MGK, visible_LM):
    each = q_LHK.shape[1] // k_MGK.shape[1]
    out = []
    for head in range(q_LHK.shape[1]):
        score = q_LHK[:, head] @ k_MGK[:, head // each].T / np.sqrt(q_LHK.shape[2])
        weight = np.where(visible_LM, np.exp(score), 0)
        out.append(weight / weight.sum(1, keepdims=True) @ v_MGK[:, head // each])
    return np.concatenate(out, axis=1)


def reference(params, row, depth=3):
    """Logits of the target's positions of one row, by numpy in float64."""
    p = {path: np.asarray(value, np.float64) for path, value in params.items()}

    def in_layer(stack, layer):
        return lambda name: p[f"{stack}/{name}"][layer]

    def own(w, x, visible):
        y = rms(x, w("attention_norm/scale"))
        q, k, v = (heads(y, w(f"attention/{name}/kernel")) for name in ("query", "key", "value"))
        return x + read(turned(q), turned(k), v, visible) @ w("attention/out/kernel")

    def fed(w, x):
        y = rms(x, w("mlp_norm/scale"))
        gate = y @ w("mlp/gate/kernel")
        return x + (gate / (1 + np.exp(-gate)) * (y @ w("mlp/up/kernel"))) @ w("mlp/down/kernel")

    source, target = row[:SOURCE], row[SOURCE:]
    own_source = np.array([not (t == SEPARATOR and i > 0 and source[i - 1] == SEPARATOR) for i, t in enumerate(source)])
    x = p["embed"][source]
    for layer in range(depth):
        w = in_layer("encoder", layer)
        x = fed(w, own(w, x, own_source[:, None] == own_source))
    memory = rms(x, p["encoder_norm/scale"])
    x = p["embed"][target]
    for layer in range(depth):
        w = in_layer("blocks", layer)
        x = own(w, x, np.tri(len(target), dtype=bool))
        q = heads(rms(x, w("cross_norm/scale")), w("cross/query/kernel"))
        k, v = (heads(memory, w(f"cross/{name}/kernel")) for name in ("key", "value"))
        x = fed(w, x + read(q, k, v, np.broadcast_to(own_source, (len(target), SOURCE))) @ w("cross/out/kernel"))
    return rms(x, p["norm/scale"]) @ p["head/kernel"]


def rows():
    """Rows of pairs; the second source is short and filled up."""
    x = np.array(tokens(3))
    x[x == SEPARATOR] = 4
    x[1, 5:SOURCE] = SEPARATOR
    x[:, SOURCE - 1 : SOURCE + 1] = SEPARATOR
    x[1, SOURCE + 4 :] = SEPARATOR
    return x


def test_logits_are_those_of_the_equations():
    run, params = make("encoder_decoder", separator=SEPARATOR, init_std=0.2)
    x = rows()
    found = np.asarray(logits(run, params, jnp.asarray(x)))
    for row, of_row in zip(x, found, strict=True):
        np.testing.assert_allclose(of_row[SOURCE:], reference(params, row), rtol=2e-5, atol=2e-5)
    assert not found[:, :SOURCE].any()


def test_a_later_word_of_the_source_changes_the_first_prediction_and_what_fills_it_up_does_not():
    """A source that is filled up gives a target what it gives without: another row of the batch may be longer."""
    run, params = make("encoder_decoder", separator=SEPARATOR)
    x = rows()
    base = logits(run, params, jnp.asarray(x))
    x[0, SOURCE - 2] += 1
    changed = logits(run, params, jnp.asarray(x))
    assert not np.allclose(base[0, SOURCE], changed[0, SOURCE])
    short = dataclasses.replace(run.model, source=6)
    cut = np.concatenate([x[1:2, :6], x[1:2, SOURCE:]], axis=1)
    found = functional.apply(run.family, short, params, jnp.asarray(cut)).logits_BLV
    np.testing.assert_allclose(found[0, 6:], base[1, SOURCE:], rtol=1e-5, atol=1e-6)


def test_what_fills_a_row_up_counts_in_no_loss():
    run = configure("encoder_decoder", separator=SEPARATOR)
    x = rows()
    counted = run.model.is_counted(x)
    assert not counted[:, :SOURCE].any()
    # The given separator predicts the first word, and the last word predicts the end.
    assert counted[1, SOURCE:].tolist() == [True] * 4 + [False] * (LENGTH - SOURCE - 4)
    np.testing.assert_array_equal(counted, run.model.is_counted(jnp.asarray(x)))


def test_the_loss_is_the_mean_over_what_counts_however_it_is_computed():
    run, params = make("encoder_decoder", separator=SEPARATOR)
    x = np.concatenate([rows(), [[SEPARATOR]] * 3], axis=1)
    of_logits = logits(run, params, jnp.asarray(x[:, :-1]))
    nats = np.log(np.exp(of_logits).sum(-1)) - np.take_along_axis(np.asarray(of_logits), x[:, 1:, None], 2)[..., 0]
    counted = run.model.is_counted(x[:, :-1])
    expected = nats[counted].mean()
    for chunk in (None, 5):
        by_chunk = dataclasses.replace(run, loss=dataclasses.replace(run.loss, chunk=chunk))
        total, _ = step.objective(by_chunk, by_chunk, params, jnp.asarray(x))
        assert float(total) == pytest.approx(expected, rel=1e-5)
        found = step.token_nats(by_chunk, params, jnp.asarray(x))
        np.testing.assert_allclose(found, np.where(counted, nats, 0), rtol=1e-4, atol=1e-5)


def test_encoder_and_decoder_are_columns_of_their_own():
    run, params = make("encoder_decoder", encoder_depth=1)
    row = ledger(encoder_decoder.account(run.model, LENGTH), 1)
    in_encoder = sum(value.size for path, value in params.items() if path.startswith("encoder"))
    assert row["params_encoder"] == in_encoder
    assert row["params_encoder"] + row["params_decoder"] == row["params_no_embed"]
    assert row["params_decoder"] > row["params_encoder"] * 3


def test_a_source_without_a_target_is_refused():
    with pytest.raises(InputError, match=f"model.source={LENGTH} leaves no target in seq_len={LENGTH}"):
        configure("encoder_decoder", source=LENGTH)
