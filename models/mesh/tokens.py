"""Flatten a batch of sequences into rows of tokens for a matmul, and back, without moving one between devices.

Where positions are split over devices, the plain order of [B, L] would give a device rows of several others. The rows of
each device are put together instead, so that the order is another one: only `unflatten_tokens` knows it.
"""

from jaxtyping import Array

from models.mesh.current import shard_count


def flatten_tokens(x: Array, features: int = 1) -> Array:
    """Reshape [B, L, ...] to the rows [B L, ...] of a matmul, each device's rows together.

    `features`: how many of the last axes stay. Undone by `unflatten_tokens`.
    """
    lead = x.shape[: x.ndim - features]
    rest = x.shape[x.ndim - features :]
    shards = _shards(lead)
    if shards is None:
        return x.reshape(-1, *rest)
    B, L = lead
    b, s = shards
    blocks = x.reshape(b, B // b, s, L // s, *rest)
    return blocks.swapaxes(1, 2).reshape(B * L, *rest)


def unflatten_tokens(x: Array, lead: tuple[int, ...]) -> Array:
    """Put rows back as they were before `flatten_tokens`: `lead` are the axes that became one."""
    rest = x.shape[1:]
    shards = _shards(lead)
    if shards is None:
        return x.reshape(*lead, *rest)
    B, L = lead
    b, s = shards
    blocks = x.reshape(b, s, B // b, L // s, *rest)
    return blocks.swapaxes(1, 2).reshape(B, L, *rest)


def _shards(lead: tuple[int, ...]) -> tuple[int, int] | None:
    """Count the shards of B and of L; None where the plain order will do, or sizes do not divide."""
    of_length = shard_count("position")
    if of_length == 1 or len(lead) != 2 or lead[1] % of_length:
        return None
    of_batch = shard_count("batch")
    return (of_batch, of_length) if lead[0] % of_batch == 0 else None
