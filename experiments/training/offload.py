"""Optimizer state in the memory of the host, for models whose state does not fit beside the rest on the device.

What follows matrices lies in pinned host memory between steps (PINNED, in the shardings of experiments/training/program.py).
The update brings it to the device one parameter after the other: the next one's is fetched when that of the one before has
been written back, so that the device never holds more than one parameter's. Compilers would else fetch all of it early. The
numbers are those of state on the device.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from experiments.cli import InputError
from models.mesh.rules import is_axes
from models.numerics.parametrization import is_matrix

PINNED = "pinned_host"


def check(device: Any, option: str) -> None:
    """Check that a device reaches pinned memory of its host. Raises InputError, naming the option that needs it."""
    if device.platform == "tpu":  # one of a topology is nowhere, and cannot be asked
        return
    kinds = sorted(memory.kind for memory in device.addressable_memories())
    if PINNED not in kinds:
        raise InputError(
            f"{option} needs {PINNED} memory, which the backend {device.platform} has not "
            f"(it has {', '.join(kinds)}); expected another value"
        )


def placed(axes: Any, shardings: Any) -> Any:
    """Return the shardings of an optimizer's state with what follows matrices in the host's memory.

    `axes`: logical, by leaf. What follows vectors stays: it is no memory to speak of, and each transfer has a price.
    """

    def place(names: tuple[str, ...], sharding: jax.sharding.NamedSharding) -> jax.sharding.NamedSharding:
        return sharding.with_memory_kind(PINNED) if is_matrix(names) else sharding

    return jax.tree.map(place, axes, shardings, is_leaf=is_axes)


def is_away(x: Array) -> bool:
    """Say whether an array that is traced lies in the host's memory."""
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def in_turn(
    update: Callable[[str, tuple[Array, ...]], tuple[Array, tuple[Array, ...]]],
    params: dict[str, Array],
    states: dict[str, tuple[Array, ...]],
) -> tuple[dict[str, Array], dict[str, tuple[Array, ...]]]:
    """Update every parameter in turn, with state that may lie with the host: `update(path, its state)`.

    Returns changes and new states, by path. What lies with the host may have an axis of size 1 in front, which `update`
    has to take away: a TPU's compiler aborts on a change of shape in the host's memory.
    """
    changes: dict[str, Array] = {}
    kept: dict[str, tuple[Array, ...]] = {}
    written_last = None
    for path, state in states.items():
        if not any(map(is_away, state)):
            changes[path], kept[path] = update(path, state)
            continue
        # The barrier ties the fetch of this state to the write of the one before: it cannot start earlier.
        if written_last is not None:
            state, kept[written_last] = jax.lax.optimization_barrier((state, kept[written_last]))
        written_last = path
        fetched = jax.device_put(state, jax.memory.Space.Device)
        changes[path], after = update(path, fetched)
        stored = []
        for before, value in zip(state, after, strict=True):
            value = value.reshape(before.shape)
            stored.append(jax.device_put(value, jax.memory.Space.Host) if is_away(before) else value)
        kept[path] = tuple(stored)
    return changes, kept
