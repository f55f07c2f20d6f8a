"""Keep what a layer needs of the positions before, so that a model goes on from there and does not read them again.

A layer that looks back has `remember(batch, length)`, which gives it an empty past: flax's nnx.Cache variables, [B, ...].
With a past, its `__call__` takes its input for the next positions and moves the past on; everything around it is the same
code as without. Whatever works position by position needs no past. models/functional.py hands pasts in and out by path,
models/blocks/stack.py through scans over layers.

A recurrence keeps its last state, of one size at every length; softmax attention keeps keys and values. Letters of the
axes: models/contract.py; M are slots.
"""

from typing import Any

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from models.blocks.attention import attend_within

MOST_AT_ONCE = 256  # positions that a model with a past takes in one call


def remember(model: nnx.Module, batch: int, length: int) -> None:
    """Give all of a model that looks back an empty past, for `batch` sequences of at most `length` positions."""
    for _, module in list(nnx.iter_modules(model)):
        begin = getattr(module, "remember", None)
        if begin is not None:
            begin(batch, length)


def leading(parameter: nnx.Param, batch: int) -> tuple[int, ...]:
    """Return the leading axes of a layer's past: those that stacking has given a `parameter` of it, and the sequences."""
    own = len(parameter.get_metadata()["axes"])
    shape = parameter.get_value().shape
    return (*shape[: len(shape) - own], batch)


def empty(lead: tuple[int, ...], axes: dict[str, int], dtype: Any = jnp.float32) -> nnx.Cache:
    """Make a variable of zeros of these leading and own axes. The last of the leading ones are the sequences."""
    shape = (*lead, *axes.values())
    return nnx.Cache(jnp.zeros(shape, dtype), axes=("batch", *axes))


class Reached(nnx.Module):
    """How many positions each sequence has behind it."""

    def __init__(self, lead: tuple[int, ...]):
        self.count = empty(lead, {}, jnp.int32)

    def next(self, number: int) -> Integer[Array, "B L"]:
        """Return the next positions, from 0, without moving on."""
        return self.count[...][:, None] + jnp.arange(number)

    def move(self, number: int) -> None:
        """Count so many positions more."""
        self.count[...] = self.count[...] + number


class Written(nnx.Module):
    """The tokens so far, for a model that reads a sequence anew for each position: what stands behind them is 0."""

    def __init__(self, lead: tuple[int, ...], length: int):
        self.reached = Reached(lead)
        self.tokens = empty(lead, {"slots": length}, jnp.int32)

    def extend(self, tokens_BL: Integer[Array, "B L"]) -> Integer[Array, "B M"]:
        """Write the next tokens, and return all."""
        batch, number = tokens_BL.shape
        sequence_B1 = jnp.arange(batch)[:, None]
        written = self.tokens[...].at[sequence_B1, self.reached.next(number)].set(tokens_BL)
        self.tokens[...] = written
        self.reached.move(number)
        return written


class KeyValues(nnx.Module):
    """The keys and values of attention. Position p lies in slot p mod M, so that a window needs few more than it shows."""

    def __init__(self, lead: tuple[int, ...], slots: int, axes: dict[str, int], dtype: str):
        """Make `slots` empty slots. `axes`: key-value heads and their size."""
        self.slots = slots
        self.reached = Reached(lead)
        of_slots = {"slots": slots, **axes}
        self.keys = empty(lead, of_slots, dtype)
        self.values = empty(lead, of_slots, dtype)

    def attend(
        self,
        q_BLHK: Float[Array, "B L H K"],
        k_BLGK: Float[Array, "B L G K"],
        v_BLGK: Float[Array, "B L G K"],
        scale: float,
        window: int | None,
    ) -> Float[Array, "B L H K"]:
        """Keep the keys and values of the next positions, and compute what their queries read of all kept ones."""
        number = q_BLHK.shape[1]
        position_BL = self.reached.next(number)
        self.reached.move(number)
        k_BMGK = self._kept(self.keys, k_BLGK, position_BL)
        v_BMGK = self._kept(self.values, v_BLGK, position_BL)

        # Of the positions that share a slot, it holds the last; a slot that has held none gets a negative number.
        last_B1 = position_BL[:, -1:]
        age_BM = (last_B1 - jnp.arange(self.slots)) % self.slots
        kept_BM = last_B1 - age_BM
        kept_B1M = kept_BM[:, None]
        back_BLM = position_BL[:, :, None] - kept_B1M
        visible_BLM = (kept_B1M >= 0) & (back_BLM >= 0)
        if window is not None:
            visible_BLM &= back_BLM < window
        return attend_within(q_BLHK, k_BMGK, v_BMGK, scale, visible_BLM)

    def _kept(self, cache: nnx.Cache, new_BLGK: Array, position_BL: Array) -> Float[Array, "B M G K"]:
        """Put what belongs to the next positions into their slots; return all slots."""
        batch = len(new_BLGK)
        sequence_B1 = jnp.arange(batch)[:, None]
        slot_BL = position_BL % self.slots
        kept = cache[...]
        kept = kept.at[sequence_B1, slot_BL].set(new_BLGK)
        cache[...] = kept
        return kept


def next_positions(past: Any, number: int, otherwise: Array | None = None) -> Integer[Array, "B L"] | None:
    """Return the next positions behind a past that counts them; where there is none `otherwise`: None begins at 0."""
    return otherwise if past is None else past.reached.next(number)


def slots(length: int, window: int | None) -> int:
    """Return how many slots attention needs: of a window also those that the positions of one call overwrite."""
    return length if window is None else min(length, window + MOST_AT_ONCE - 1)
