"""Let several processes train one program together: the hosts of a TPU slice, or of a few GPU machines.

Every process runs the same loop on the same runs and holds its part of each array (models/mesh/rules.py says which). The
first one speaks and writes metrics and records; checkpoints are written by all, each its own part. What a process alone
can see, such as a signal or the clock, is made known to all before it decides anything, or they would wait for each
other for ever. With one process, nothing here costs anything.
"""

from collections.abc import Callable, Collection, Sequence
import json
import re
from typing import Any, TypeVar

import numpy as np

from experiments.cli import AgainError, InputError, WorkError

Result = TypeVar("Result")


class Failed(OSError):
    """Another process has failed, so that this one cannot go on. Launchers look for the cause in what that one says."""

    def __init__(self) -> None:
        super().__init__("another process has failed, and says why")


def join(spec: str | None) -> None:
    """Join the other processes, before jax is used. None: there are none.

    "auto": as the slice or cluster tells (TPU VMs, GKE, Slurm); "HOST:PORT,INDEX,COUNT": process INDEX of COUNT, of which
    the first one listens on HOST:PORT. Raises InputError for anything else.
    """
    if spec is None:
        return
    import jax

    if spec == "auto":
        jax.distributed.initialize()
        return
    found = re.fullmatch(r"([\w.:\[\]-]+:\d{1,5}),(\d+),(\d+)", spec)
    if found is None or int(found[2]) >= int(found[3]):
        raise InputError(f"--hosts={spec}: expected auto, or HOST:PORT,INDEX,COUNT such as 10.0.0.2:8476,0,4")
    address, index, processes = found.groups()
    jax.distributed.initialize(address, num_processes=int(processes), process_id=int(index))


def count() -> int:
    """Return how many processes there are."""
    import jax

    return jax.process_count()


def first() -> bool:
    """Tell whether this is the one that speaks and writes."""
    import jax

    return jax.process_index() == 0


def put(tree: Any, shardings: Any) -> Any:
    """Put values that all processes hold whole on the mesh: each keeps its part. `shardings`: one, or a tree."""
    import jax

    if count() == 1:
        return jax.device_put(tree, shardings)

    def one(value: Any, sharding: Any) -> Any:
        host = np.asarray(value)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda value: one(value, shardings), tree)
    return jax.tree.map(one, tree, shardings)


def whole(array: Any) -> np.ndarray:
    """Return all of an array, on every process. All have to ask for it."""
    import jax

    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def anywhere(flags: Sequence[bool]) -> list[bool]:
    """Return which of some facts hold on at least one process."""
    if count() == 1:
        return list(flags)
    from jax.experimental import multihost_utils

    seen = np.asarray(multihost_utils.process_allgather(np.asarray(flags, np.int32)))
    somewhere = seen.reshape(count(), -1).max(axis=0)
    return [bool(fact) for fact in somewhere]


def told(value: Any) -> Any:
    """Return the first process's value, on all of them. It has to be a JSON value."""
    if count() == 1:
        return value
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    # All have to send arrays of one size: that of the first process's text.
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: min(size, len(text))] = text[:size]
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return json.loads(received.astype(np.uint8).tobytes())


def together(work: Callable[[], Result], *kinds: type[Exception]) -> Result:
    """Do something on every process, and raise on all of them what it raises on any: all go on, or none does.

    An error is known to the others by its text and its kind: InputError, WorkError, AgainError, OSError or one of `kinds`, or
    what it is a special case of among these; any other becomes a RuntimeError there.
    """
    if count() == 1:
        return work()
    known = {kind.__name__: kind for kind in (InputError, WorkError, AgainError, OSError, *kinds)}
    result: Any = None
    raised: Exception | None = None
    try:
        result = work()
    except Exception as error:  # whatever it is, the others have to know
        raised = error
    own = "" if raised is None else _described(raised, known)
    found = _first_text(own)
    if raised is not None and own == found:
        raise raised
    if found:
        name, _, text = found.partition("\n")
        raise known.get(name, RuntimeError)(text) from raised
    return result


def _described(error: Exception, known: Collection[str]) -> str:
    """Return the nearest known kind of an error and its text, in two lines."""
    name = type(error).__name__
    for kind in type(error).mro():
        if kind.__name__ in known:
            name = kind.__name__
            break
    return f"{name}\n{error}"


def _first_text(text: str) -> str:
    """Return the text of the first process that has one, on all of them."""
    from jax.experimental import multihost_utils

    message = text.encode()
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(message)))).reshape(-1)
    if not sizes.any():
        return ""
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    messages = np.asarray(multihost_utils.process_allgather(padded)).reshape(count(), -1)
    first = int(np.flatnonzero(sizes)[0])
    content = messages[first, : sizes[first]]
    return content.astype(np.uint8).tobytes().decode()


class Silence:
    """Takes the place of a log on processes that do not write."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None
