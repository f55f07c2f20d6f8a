"""Adam's moments in the memory of the host, for models whose optimizer state does not fit beside the rest on the device.

The moments lie in pinned host memory between steps (PINNED, in the shardings of experiments/training/program.py). The update
brings them to the device one parameter after the other: the next one is fetched when the one before has been written
back, so that the device never holds more than one parameter's. Compilers would else fetch all of them early. The numbers
are those of moments on the device.
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
    """Raises InputError, naming the option that needs it, where a device cannot reach pinned memory of its host."""
    if device.platform == "tpu":  # one of a topology is nowhere, and cannot be asked
        return
    kinds = sorted(memory.kind for memory in device.addressable_memories())
    if PINNED not in kinds:
        raise InputError(
            f"{option} needs {PINNED} memory, which the backend {device.platform} has not "
            f"(it has {', '.join(kinds)}); expected another value"
        )


def placed(axes: Any, shardings: Any) -> Any:
    """Shardings of an optimizer's state with the moments of matrices in the host's memory. `axes`: logical, by leaf.

    What belongs to vectors stays: it is no memory to speak of, and each transfer has a price.
    """
    move = lambda names, s: s.with_memory_kind(PINNED) if is_matrix(names) else s  # noqa: E731
    return jax.tree.map(move, axes, shardings, is_leaf=is_axes)


def is_away(x: Any) -> bool:
    """Whether an array that is traced lies in the host's memory."""
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def in_turn(
    update: Callable[[str, tuple[Array, ...]], tuple[Array, tuple[Array, ...]]],
    params: dict[str, Array],
    moments: dict[str, tuple[Array, ...]],
) -> tuple[dict[str, Array], dict[str, tuple[Array, ...]]]:
    """`update(path, its moments)` -> (change, new moments) of every parameter, with moments that may lie with the host.

    There they may have an axis of size 1 in front: a TPU's compiler aborts on a change of shape in the host's memory.
    """
    changes, kept, before = {}, {}, None
    for path, here in moments.items():
        if not is_away(here[0]):
            changes[path], kept[path] = update(path, here)
            continue
        if before is not None:
            here, kept[before] = jax.lax.optimization_barrier((here, kept[before]))
        shape, before = here[0].shape, path
        here = jax.device_put(here, jax.memory.Space.Device)
        changes[path], after = update(path, tuple(x.reshape(params[path].shape) for x in here))
        kept[path] = jax.device_put(tuple(x.reshape(shape) for x in after), jax.memory.Space.Host)
    return changes, kept
