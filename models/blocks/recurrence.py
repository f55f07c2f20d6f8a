"""Compute a linear recurrence over positions in parallel, with a gradient of its own."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.mesh.current import backend
from models.mesh.exchange import exchange


def linear_recurrence(
    decay_BLR: Float[Array, "B L R"], update_BLR: Float[Array, "B L R"], chunk: int | None = None
) -> Float[Array, "B L R"]:
    """s_t = decay_t s_{t-1} + update_t along L from s_{-1} = 0, elementwise, in the type of its arguments.

    `chunk` 0 is one associative scan over the sequence; otherwise chunks of that length go side by side, step by step,
    and are then joined in order. None takes what is faster: on a CPU one chunk, the scan elsewhere. No form divides by a
    product of decays, so that a decay of 0 is as good as any. The backward pass keeps decays and states only. Where the
    mesh splits positions, channels are split instead.
    """
    length = decay_BLR.shape[1]
    if chunk is None:
        chunk = length if backend() == "cpu" else 0
    decay_BLR, update_BLR = (exchange(x, "ff") for x in (decay_BLR, update_BLR))
    return exchange(_recurrence(decay_BLR, update_BLR, min(chunk, length)), "ff", back=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _recurrence(decay_BLR: Array, update_BLR: Array, chunk: int) -> Array:
    batch, length, size = decay_BLR.shape
    if chunk == 0:
        return jax.lax.associative_scan(_then, (decay_BLR, update_BLR), axis=1)[1]
    pad = -length % chunk
    padded = (jnp.pad(x, ((0, 0), (0, pad), (0, 0))) for x in (decay_BLR, update_BLR))
    # [steps of a chunk, batch, chunks, R]: one step of all chunks at a time.
    steps = tuple(x.reshape(batch, -1, chunk, size).transpose(2, 0, 1, 3) for x in padded)
    zero = jnp.zeros_like(steps[1][0])
    if chunk == length:
        _, states = jax.lax.scan(lambda s, step: (step[0] * s + step[1],) * 2, zero, steps)
    else:
        start = (jnp.ones_like(zero), zero)
        _, (decay, local) = jax.lax.scan(lambda s, step: (_then(s, step),) * 2, start, steps)
        # [chunks, batch, R]: the state that each chunk hands to the next.
        ends = tuple(x[-1].transpose(1, 0, 2) for x in (decay, local))
        zero = jnp.zeros_like(ends[1][0])
        _, before = jax.lax.scan(lambda s, end: (end[0] * s + end[1], s), zero, ends)
        states = local + decay * before.transpose(1, 0, 2)
    return states.transpose(1, 2, 0, 3).reshape(batch, -1, size)[:, :length]


def _then(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two affine maps s -> a s + b, one after the other, as one."""
    return second[0] * first[0], second[0] * first[1] + second[1]


def _recurrence_forward(decay_BLR: Array, update_BLR: Array, chunk: int) -> tuple[Array, tuple[Array, Array]]:
    states_BLR = _recurrence(decay_BLR, update_BLR, chunk)
    return states_BLR, (decay_BLR, states_BLR)


def _recurrence_backward(chunk: int, saved: tuple[Array, Array], d_BLR: Array) -> tuple[Array, Array]:
    """The same recurrence from the end: G_t = d_t + decay_{t+1} G_{t+1}; G is d update, and G_t s_{t-1} d decay."""
    decay_BLR, states_BLR = saved
    later_BLR = jnp.pad(decay_BLR[:, 1:], ((0, 0), (0, 1), (0, 0)))
    total_BLR = jnp.flip(_recurrence(jnp.flip(later_BLR, 1), jnp.flip(d_BLR, 1), chunk), 1)
    return total_BLR * jnp.pad(states_BLR[:, :-1], ((0, 0), (1, 0), (0, 0))), total_BLR


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
