"""The compiled functions of sampling: read a prompt, give its state a row, choose and read the next token of all rows."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from experiments.sampling.choice import Choice, choose
from models import functional
from models.functional import Params, State


@dataclasses.dataclass(frozen=True)
class Model:
    """What is compiled for: a family with its options, how many ids its tokenizer has, and how tokens are chosen."""

    family: str
    cfg: Any
    known: int
    choice: Choice


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Texts under way: the model's state, the logits of each next token, each text's key, and how many tokens it has."""

    state: State
    logits_BV: Array
    key_B: Array
    drawn_B: Array


def empty(model: Model, count: int, length: int) -> Rows:
    """Return rows that have read nothing, with room for `length` positions."""
    state = functional.start(model.family, model.cfg, count, length)
    logits_BV = jnp.zeros((count, model.cfg.vocab))
    key = jax.random.key(0)
    key_B = jax.random.split(key, count)
    drawn_B = jnp.zeros(count, jnp.int32)
    return Rows(state, logits_BV, key_B, drawn_B)


@functools.partial(jax.jit, static_argnames="model", donate_argnames="rows")
def read(model: Model, params: Params, rows: Rows, tokens_BL: Integer[Array, "B L"]) -> Rows:
    """Read the next tokens of each row."""
    logits_BLV, state = functional.decode(
        model.family,
        model.cfg,
        params,
        rows.state,
        tokens_BL,
    )
    last_BV = logits_BLV[:, -1]
    return dataclasses.replace(rows, state=state, logits_BV=last_BV)


@functools.partial(jax.jit, static_argnames="model", donate_argnames="rows")
def step(model: Model, params: Params, rows: Rows) -> tuple[Array, Rows]:
    """Choose the next token of each row and read it."""
    known_V = jnp.arange(model.cfg.vocab) < model.known
    logits_BV = jnp.where(known_V, rows.logits_BV, -jnp.inf)
    fold = jax.vmap(jax.random.fold_in)
    key_B = fold(rows.key_B, rows.drawn_B)
    token_B = choose(logits_BV, key_B, model.choice)
    after = read(model, params, rows, token_B[:, None])
    drawn_B = rows.drawn_B + 1
    return token_B, dataclasses.replace(after, drawn_B=drawn_B)


@functools.partial(jax.jit, static_argnames="model", donate_argnames="rows")
def put(model: Model, rows: Rows, row: int, prompt: Rows, key: Array) -> Rows:
    """Give a row to a text whose prompt has been read, in the only row of `prompt`."""
    axes = functional.batch_axes(model.family, model.cfg, rows.state)
    arrays = {}
    for path, array in rows.state.arrays.items():
        one = prompt.state.arrays[path]
        arrays[path] = jax.lax.dynamic_update_slice_in_dim(array, one, row, axes[path])
    state = State(arrays, rows.state.length)
    logits_BV = rows.logits_BV.at[row].set(prompt.logits_BV[0])
    key_B = rows.key_B.at[row].set(key)
    drawn_B = rows.drawn_B.at[row].set(0)
    return Rows(state, logits_BV, key_B, drawn_B)
