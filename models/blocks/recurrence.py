"""Compute a linear recurrence over positions in parallel, with a gradient of its own."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.mesh.current import backend
from models.mesh.exchange import exchange

Affine = tuple[Array, Array]  # a and b of a map s -> a s + b


def linear_recurrence(
    decay_BLR: Float[Array, "B L R"], update_BLR: Float[Array, "B L R"], chunk: int | None = None
) -> Float[Array, "B L R"]:
    """Compute s_t = decay_t s_{t-1} + update_t along L from s_{-1} = 0, elementwise, in the type of its arguments.

    `chunk` 0 is one associative scan over the sequence; otherwise chunks of that length go side by side, step by step,
    and are then joined in order. None takes what is faster: on a CPU one chunk, the scan elsewhere. No form divides by a
    product of decays, so that a decay of 0 is as good as any. The backward pass keeps decays and states only. Where the
    mesh splits positions, channels are split instead.
    """
    length = decay_BLR.shape[1]
    if chunk is None:
        chunk = length if backend() == "cpu" else 0
    decay_BLR = exchange(decay_BLR, "ff")
    update_BLR = exchange(update_BLR, "ff")
    states_BLR = _recurrence(decay_BLR, update_BLR, min(chunk, length))
    return exchange(states_BLR, "ff", back=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _recurrence(decay_BLR: Array, update_BLR: Array, chunk: int) -> Array:
    if chunk == 0:
        _, states_BLR = jax.lax.associative_scan(_then, (decay_BLR, update_BLR), axis=1)
        return states_BLR
    return _by_chunks(decay_BLR, update_BLR, chunk)


def _by_chunks(decay_BLR: Array, update_BLR: Array, chunk: int) -> Array:
    """The recurrence in chunks of that length, the last one padded."""
    batch, length, size = decay_BLR.shape
    pad = ((0, 0), (0, -length % chunk), (0, 0))

    # [steps of a chunk, batch, chunks, R]: one step of all chunks at a time.
    def by_step(x_BLR: Array) -> Array:
        return jnp.pad(x_BLR, pad).reshape(batch, -1, chunk, size).transpose(2, 0, 1, 3)

    steps = (by_step(decay_BLR), by_step(update_BLR))
    zero = jnp.zeros_like(steps[1][0])
    if chunk == length:
        _, states = jax.lax.scan(_next_state, zero, steps)
    else:
        states = _joined(steps, zero)
    return states.transpose(1, 2, 0, 3).reshape(batch, -1, size)[:, :length]


def _joined(steps: Affine, zero: Array) -> Array:
    """States of all chunks: of each by itself, and of what the chunk before hands on."""

    def compose(so_far: Affine, step: Affine) -> tuple[Affine, Affine]:
        composed = _then(so_far, step)
        return composed, composed

    _, (decay, local) = jax.lax.scan(compose, (jnp.ones_like(zero), zero), steps)
    # [chunks, batch, R]: the map of each whole chunk.
    ends = (decay[-1].transpose(1, 0, 2), local[-1].transpose(1, 0, 2))

    def state_before(state: Array, end: Affine) -> tuple[Array, Array]:
        return end[0] * state + end[1], state

    _, before = jax.lax.scan(state_before, jnp.zeros_like(ends[1][0]), ends)
    return local + decay * before.transpose(1, 0, 2)


def _next_state(state: Array, step: Affine) -> tuple[Array, Array]:
    state = step[0] * state + step[1]
    return state, state


def _then(first: Affine, second: Affine) -> Affine:
    """Two affine maps, one after the other, as one."""
    return second[0] * first[0], second[0] * first[1] + second[1]


def _recurrence_forward(decay_BLR: Array, update_BLR: Array, chunk: int) -> tuple[Array, tuple[Array, Array]]:
    states_BLR = jnp.asarray(_recurrence(decay_BLR, update_BLR, chunk))
    return states_BLR, (decay_BLR, states_BLR)


def _recurrence_backward(chunk: int, saved: tuple[Array, Array], d_BLR: Array) -> tuple[Array, Array]:
    """The same recurrence from the end: G_t = d_t + decay_{t+1} G_{t+1}; G is d update, and G_t s_{t-1} d decay."""
    decay_BLR, states_BLR = saved
    later_BLR = jnp.pad(decay_BLR[:, 1:], ((0, 0), (0, 1), (0, 0)))
    before_BLR = jnp.pad(states_BLR[:, :-1], ((0, 0), (1, 0), (0, 0)))
    total_BLR = jnp.flip(_recurrence(jnp.flip(later_BLR, 1), jnp.flip(d_BLR, 1), chunk), 1)
    return total_BLR * before_BLR, total_BLR


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
