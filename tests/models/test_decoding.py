"""Position by position, every family gives the logits of its full pass; a recurrence remembers as much at every length."""

import dataclasses
import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import functional
from models.errors import InputError
from tests.support.families import LENGTH, SMOOTH, VARIANTS, configure, logits, make, tokens

PIECES = (9, 1, 1, 9, 1, 1, 1, 1)
NOT_CAUSAL = [("moe", "gshard"), ("moe", "expert_choice")]
QUICK = [
    ("dense", "gpt2"),
    ("dense", "lns"),
    ("dense", "linear"),
    ("moe", "switch"),
    ("min_gru", "default"),
    ("matmul_free", "code"),
    ("tokenformer", "published"),
]


def cases():
    for family, variants in VARIANTS.items():
        for variant in variants:
            if (family, variant) not in NOT_CAUSAL:
                marks = () if (family, variant) in QUICK else pytest.mark.slow
                yield pytest.param(family, variant, marks=marks)


@functools.cache
def step(run):
    return jax.jit(lambda params, state, x: functional.decode(run.family, run.model, params, state, x))


def decoded(run, params, x, pieces, length=LENGTH):
    """Logits of all positions, from one call for each piece of them."""
    state = functional.start(run.family, run.model, len(x), length)
    parts = []
    for piece in jnp.split(x, np.cumsum(pieces)[:-1], axis=1):
        part, state = step(run)(params, state, piece)
        parts.append(part)
    return jnp.concatenate(parts, axis=1)


@pytest.mark.parametrize(("family", "variant"), cases())
def test_position_by_position_is_the_full_pass(family, variant):
    run, params = make(family, variant, **SMOOTH.get(family, {}))
    x = tokens(3)
    np.testing.assert_allclose(decoded(run, params, x, PIECES), logits(run, params, x), atol=1e-5)


def test_documents_that_do_not_see_each_other_are_refused():
    run = configure("dense", document_mask=True, separator=0)
    with pytest.raises(InputError, match=r"model\.document_mask=True: a state that goes on"):
        functional.start("dense", run.model, 1, LENGTH)


# Options that are no choices, with values to draw from; rounding is left out, as in SMOOTH.
NUMBERS = {
    "kv_heads": (1, 2, 4),
    "head_size": (6, 16),
    "window": (1, 2, 5, 23),
    "chunk": (1, 4, 100),
    "rope_theta": (10.0, 1e6),
    "mix_share": (0.0, 0.5, 1.0),
    "base_width": (16,),
    "experts": (2, 4, 8),
    "top_k": (1, 2, 3),
    "shared_experts": (1, 2),
    "dense_first": (1, 2),
    "capacity_factor": (0.3, 1.0, 4.0),
    "n_group": (2, 4),
    "routed_scaling": (2.5,),
    "bias_rate": (1e-3,),
    "state": (8, 40),
    "rope_share": (0.0, 0.5, 1.0),
    "attention_tokens": (24, 40),
    "norm_eps": (1e-3,),
}


def random_options(family, seed):
    """Some options of a family at other values than their defaults: the first draw that can be, and that goes on causally."""
    draw = random.Random(f"{family} {seed}")
    while True:
        values = dict(SMOOTH.get(family, {}))
        for field in dataclasses.fields(models.load(family).Config):
            possible = NUMBERS.get(field.name, field.metadata["choices"])
            if isinstance(field.default, bool):
                possible = (True, False)
            computes = field.metadata["numerics"] and field.name not in (
                "dtype",
                "document_mask",
                *SMOOTH.get(family, {}),
            )
            if possible and computes and draw.random() < 0.4:
                values[field.name] = draw.choice(possible)
        try:
            if configure(family, **values).model.causal:
                return values
        except InputError:
            continue


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("family", models.family_names())
def test_random_options_go_on_as_the_full_pass(family, seed):
    run, params = make(family, **random_options(family, seed))
    x = tokens(2)
    full = logits(run, params, x)
    np.testing.assert_allclose(decoded(run, params, x, PIECES), full, atol=1e-5 * max(1, np.abs(full).max()))


@pytest.mark.parametrize(("family", "variant"), NOT_CAUSAL)
def test_routing_that_looks_ahead_is_refused(family, variant):
    with pytest.raises(InputError, match=r"model\.(mode|priority)='.*': a token's experts depend on later tokens"):
        functional.start(family, configure(family, variant).model, 1, LENGTH)


def test_a_window_is_kept_in_a_ring():
    run, params = make("dense", "lns")
    x = tokens(2, 600)
    pieces = (256, 256, *[1] * 88)
    np.testing.assert_allclose(decoded(run, params, x, pieces, 600), logits(run, params, x), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "variant"), [("min_gru", "default"), ("matmul_free", "code"), ("dense", "linear"), ("dense", "lns")]
)
def test_what_is_remembered_does_not_grow(family, variant):
    cfg = configure(family, variant).model
    sizes = []
    for length in (1_000, 100_000):
        state = jax.eval_shape(functools.partial(functional.start, family, cfg, 2, length))
        sizes.append(sum(array.size for array in state.arrays.values()))
    assert sizes[0] == sizes[1] > 0


def test_a_table_of_positions_ends():
    cfg = configure("dense", "gpt2").model
    with pytest.raises(
        InputError, match=f"model.positions={LENGTH} are fewer than {LENGTH + 1}; expected a shorter text"
    ):
        functional.start("dense", cfg, 1, LENGTH + 1)
