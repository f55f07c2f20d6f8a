"""Compute a linear recurrence over positions in parallel, with a gradient of its own."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.blocks.past import empty
from models.mesh.current import backend
from models.mesh.exchange import exchange

# An affine map s -> a s + b of states, elementwise: (a, b).
Affine = tuple[Array, Array]


class LastState(nnx.Module):
    """The state that a recurrence has come to, [B, R] in float32: all that it needs of the positions before."""

    def __init__(self, lead: tuple[int, ...], size: int):
        self.state = empty(lead, {"ff": size})


def linear_recurrence(
    decay_BLR: Float[Array, "B L R"],
    update_BLR: Float[Array, "B L R"],
    chunk: int | None = None,
    past: LastState | None = None,
) -> Float[Array, "B L R"]:
    """Return s_t = decay_t s_{t-1} + update_t along L from s_{-1} = 0, elementwise, in the type of its arguments.

    With a `past`, s_{-1} is its state, and it moves on.

    `chunk` 0 is one associative scan over the sequence; otherwise chunks of that length go side by side, step by step,
    and are then joined in order. None takes what is faster: on a CPU one chunk, the scan elsewhere. No form divides by a
    product of decays, so that a decay of 0 is as good as any. The backward pass keeps decays and states only. Where the
    mesh splits positions, channels are split instead.
    """
    length = decay_BLR.shape[1]
    if chunk is None:
        chunk = length if backend() == "cpu" else 0
    if past is not None:
        first_BR = update_BLR[:, 0] + decay_BLR[:, 0] * past.state[...]
        update_BLR = update_BLR.at[:, 0].set(first_BR)
    decay_BLR = exchange(decay_BLR, "ff")
    update_BLR = exchange(update_BLR, "ff")
    states_BLR: Array = _recurrence(decay_BLR, update_BLR, min(chunk, length))
    if past is not None:
        past.state[...] = states_BLR[:, -1]
    return exchange(states_BLR, "ff", back=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _recurrence(decay_BLR: Array, update_BLR: Array, chunk: int) -> Array:
    """Return all states of the recurrence; `chunk` 0 scans in parallel, else chunk by chunk."""
    batch, length, size = decay_BLR.shape
    if chunk == 0:
        _, states_BLR = jax.lax.associative_scan(_then, (decay_BLR, update_BLR), axis=1)
        return states_BLR
    # [steps of a chunk, batch, chunks, R]: one step of all chunks at a time.
    decay = _in_chunks(decay_BLR, chunk)
    update = _in_chunks(update_BLR, chunk)
    if chunk == length:
        states = _states(decay, update)
    else:
        states = _joined_states(decay, update)
    states_BLR = states.transpose(1, 2, 0, 3).reshape(batch, -1, size)
    return states_BLR[:, :length]


def _in_chunks(x_BLR: Array, chunk: int) -> Array:
    """Cut positions into chunks, the last filled up with zeros: [step, batch, chunks, R]."""
    batch, length, size = x_BLR.shape
    padded = jnp.pad(x_BLR, ((0, 0), (0, -length % chunk), (0, 0)))
    return padded.reshape(batch, -1, chunk, size).transpose(2, 0, 1, 3)


def _states(decay: Array, update: Array) -> Array:
    """Return the states of chunks that each start from zero, step by step."""

    def step(state: Array, affine: Affine) -> tuple[Array, Array]:
        decay, update = affine
        state = decay * state + update
        return state, state

    _, states = jax.lax.scan(step, jnp.zeros_like(update[0]), (decay, update))
    return states


def _joined_states(decay: Array, update: Array) -> Array:
    """Return the states of chunks of which each starts from the last state of the one before."""

    def step(so_far: Affine, affine: Affine) -> tuple[Affine, Affine]:
        so_far = _then(so_far, affine)
        return so_far, so_far

    zero = jnp.zeros_like(update[0])
    identity = (jnp.ones_like(zero), zero)
    _, (decay_so_far, local) = jax.lax.scan(step, identity, (decay, update))

    def hand_over(state: Array, whole_chunk: Affine) -> tuple[Array, Array]:
        decay, local = whole_chunk
        return decay * state + local, state

    # [chunks, batch, R]: the map of each whole chunk, and then the state that each is handed.
    ends = (decay_so_far[-1].transpose(1, 0, 2), local[-1].transpose(1, 0, 2))
    _, before = jax.lax.scan(hand_over, jnp.zeros_like(ends[1][0]), ends)
    return local + decay_so_far * before.transpose(1, 0, 2)


def _then(first: Affine, second: Affine) -> Affine:
    """Join two affine maps s -> a s + b, one after the other, to one."""
    return second[0] * first[0], second[0] * first[1] + second[1]


def _recurrence_forward(decay_BLR: Array, update_BLR: Array, chunk: int) -> tuple[Array, tuple[Array, Array]]:
    states_BLR: Array = _recurrence(decay_BLR, update_BLR, chunk)
    return states_BLR, (decay_BLR, states_BLR)


def _recurrence_backward(chunk: int, saved: tuple[Array, Array], d_BLR: Array) -> tuple[Array, Array]:
    """Run the same recurrence from the end: G_t = d_t + decay_{t+1} G_{t+1}; G is d update, and G_t s_{t-1} d decay."""
    decay_BLR, states_BLR = saved
    later_BLR = jnp.pad(decay_BLR[:, 1:], ((0, 0), (0, 1), (0, 0)))
    from_end_BLR: Array = _recurrence(jnp.flip(later_BLR, 1), jnp.flip(d_BLR, 1), chunk)
    d_update_BLR = jnp.flip(from_end_BLR, 1)
    before_BLR = jnp.pad(states_BLR[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return d_update_BLR * before_BLR, d_update_BLR


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
