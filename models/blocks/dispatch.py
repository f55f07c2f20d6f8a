"""Move rows to their experts and back: dispatch and combine.

N rows, A = N C assignments of a row to one of its C choices, E experts, S slots per expert, R rows of experts. Numbers of
rows are static: what differs from batch to batch is only where they lie.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

PRIORITIES = ("token", "slot")


# --- where rows lie


def places(expert_A: Integer[Array, "A"], experts: int) -> tuple[Integer[Array, "A"], Integer[Array, "E"]]:
    """Count the assignments before each one that are to the same expert, and those of each expert: a stable sort."""
    # Not by comparing each assignment with each expert: with many of them that would be the largest array of a layer.
    order_A = jnp.argsort(expert_A, stable=True)
    number_A = jnp.arange(expert_A.size)
    rank_A = jnp.zeros_like(order_A)
    rank_A = rank_A.at[order_A].set(number_A, unique_indices=True)
    sorted_A = expert_A[order_A]
    expert_E = jnp.arange(experts)
    end_E = jnp.searchsorted(sorted_A, expert_E, side="right")
    end_E = end_E.astype(jnp.int32)
    chosen_E = jnp.diff(end_E, prepend=0)
    start_E = end_E - chosen_E
    return rank_A - start_E[expert_A], chosen_E


def slots(length: int, top_k: int, experts: int, factor: float) -> int:
    """Count rows that an expert takes of one sequence: `factor` times an even share (as MaxText rounds), at most all."""
    even = math.ceil(length * top_k / experts)
    wanted = int(max(even * factor, factor))
    return min(length, max(1, wanted))


def choice_slots(tokens: int, top_k: int, experts: int) -> int:
    """Count tokens that each expert chooses, so that a token has `top_k` experts on average; at least 1, at most all."""
    even = tokens * top_k // experts
    return min(tokens, max(1, even))


def seats(
    expert_LC: Integer[Array, "L C"],
    experts: int,
    count: int,
    priority: str,
    left_E: Integer[Array, "E"] | None = None,
) -> Integer[Array, "L C"]:
    """Return the row (expert times `count` plus slot) of each assignment of a sequence; E times `count` if dropped.

    Experts are filled in the order of tokens (priority "token", MaxText: causal), or with all first choices before any
    second ("slot", GShard and Switch: a later token's first choice can drop an earlier token's second). `left_E`: slots
    that earlier positions of the sequence have left, where these are a part of it.
    """
    L, C = expert_LC.shape
    if priority == "slot":
        expert_A = expert_LC.T.reshape(-1)
        place_A, _ = places(expert_A, experts)
        place_LC = place_A.reshape(C, L).T
    else:
        expert_A = expert_LC.reshape(-1)
        place_A, _ = places(expert_A, experts)
        place_LC = place_A.reshape(L, C)
    row_LC = expert_LC * count + place_LC
    dropped = experts * count
    left_LC = count if left_E is None else left_E[expert_LC]
    return jnp.where(place_LC < left_LC, row_LC, dropped)


# --- there, and back


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def take(x_ND: Float[Array, "N D"], row_NC: Integer[Array, "N C"], rows: int) -> Float[Array, "R D"]:
    """Fill `rows` rows: row r holds the token n that has it among `row_NC`, or zeros. Rows out of range hold nothing.

    No row is given twice, so that a token's gradient is gathered from its rows: nothing is scattered.
    """
    assignment_R = _assignments(row_NC, rows)
    choices = row_NC.shape[1]
    return _pick(x_ND, assignment_R // choices)


def _take_forward(x_ND: Array, row_NC: Array, rows: int) -> tuple[Array, Array]:
    return take(x_ND, row_NC, rows), row_NC


def _take_backward(rows: int, row_NC: Array, d_x_RD: Array) -> tuple[Array, None]:
    d_x_NCD = _pick(d_x_RD, row_NC)
    d_x_ND = jnp.sum(d_x_NCD, axis=1, dtype=jnp.float32)
    return d_x_ND.astype(d_x_RD.dtype), None


take.defvjp(_take_forward, _take_backward)


@jax.custom_vjp
def give_back(
    y_RD: Float[Array, "R D"],
    row_NC: Integer[Array, "N C"],
    weight_NC: Float[Array, "N C"],
) -> Float[Array, "N D"]:
    """Return each token's weighted sum of its rows, in float32; a row out of range counts as zeros.

    No row is given twice, so that a row's gradient is gathered from its token: nothing is scattered.
    """
    y_NCD = _pick(y_RD, row_NC)
    y_NCD = y_NCD.astype(jnp.float32)
    y_ND = jnp.sum(weight_NC[..., None] * y_NCD, axis=1)
    return y_ND.astype(y_RD.dtype)


class _Given(NamedTuple):
    """What `give_back` was given."""

    y_RD: Array
    row_NC: Array
    weight_NC: Array


def _give_back_forward(y_RD: Array, row_NC: Array, weight_NC: Array) -> tuple[Array, _Given]:
    y_ND = give_back(y_RD, row_NC, weight_NC)
    return y_ND, _Given(y_RD, row_NC, weight_NC)


def _give_back_backward(given: _Given, d_y_ND: Array) -> tuple[Array, None, Array]:
    y_RD, row_NC, weight_NC = given
    d_y_ND = d_y_ND.astype(jnp.float32)

    y_NCD = _pick(y_RD, row_NC)
    y_NCD = y_NCD.astype(jnp.float32)
    d_weight_NC = jnp.sum(y_NCD * d_y_ND[:, None], axis=-1)

    assignment_R = _assignments(row_NC, len(y_RD))
    choices = row_NC.shape[1]
    weight_A = weight_NC.reshape(-1)
    weight_R = _pick(weight_A, assignment_R)
    d_y_RD = _pick(d_y_ND, assignment_R // choices)
    d_y_RD = d_y_RD * weight_R[:, None]
    return d_y_RD.astype(y_RD.dtype), None, d_weight_NC.astype(weight_NC.dtype)


give_back.defvjp(_give_back_forward, _give_back_backward)


def _assignments(row_NC: Integer[Array, "N C"], rows: int) -> Integer[Array, "R"]:
    """Return the assignment (token times C plus choice) that each row holds; N C for a row that holds none."""
    row_A = row_NC.reshape(-1)
    number_A = jnp.arange(row_A.size)
    nobody_R = jnp.full(rows, row_A.size)
    # Not as unique: choices that were dropped share the row behind the last one.
    return nobody_R.at[row_A].set(number_A, mode="drop")


def _pick(rows: Array, index: Array) -> Array:
    """Return the rows at `index`, and zeros for those out of range."""
    return rows.at[index].get(mode="fill", fill_value=0)
