"""Measure how long a save keeps the training waiting, beside a save that makes its checksums first.

Two states of the same size are saved in turn. `blocked` is what the caller waits for; what goes on beside it until the
checkpoint is committed is measured as well.
"""

from collections.abc import Callable
import time
from typing import Any
import zlib

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from experiments.store.checkpoint import Checkpoints, Keep
from experiments.store.train_state import TrainState

BYTES = 600_000_000
ARRAYS = 15  # as many parameters, as three arrays each: themselves and Adam's moments


def _state(size: int) -> TrainState:
    """Return parameters and two moments of so many bytes in all."""
    rows = size // (ARRAYS * 3 * 4 * 1024)
    keys = jax.random.split(jax.random.key(0), ARRAYS)
    params = {str(number): jax.random.normal(key, (rows, 1024)) for number, key in enumerate(keys)}
    mu = {name: jnp.ones_like(leaf) for name, leaf in params.items()}
    nu = {name: jnp.ones_like(leaf) for name, leaf in params.items()}
    return TrainState(params, (mu, nu), jnp.int32(0))


def _checksums_first(state: TrainState) -> None:
    """Make the checksums of all arrays, from copies of their bytes."""
    for leaf in jax.tree.leaves(state):
        zlib.crc32(np.asarray(leaf).tobytes())


def _nothing_first(state: TrainState) -> None:
    """Let the checkpoint be sealed beside the training."""


def bench_saves(scratch: str, rounds: int, size: int = BYTES) -> list[dict[str, Any]]:
    """Measure the seconds that the caller waits, and those until the checkpoint is there; contestants in turn."""
    state = jax.block_until_ready(_state(size))
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    contestants: dict[str, Callable[[TrainState], None]] = {
        "checksums first": _checksums_first,
        "ours": _nothing_first,
    }
    blocked: dict[str, list[float]] = {label: [] for label in contestants}
    committed: dict[str, list[float]] = {label: [] for label in contestants}
    stores = {}
    for label in contestants:
        stores[label] = Checkpoints(epath.Path(scratch) / label.replace(" ", "_"), Keep(1), "benchmark")
    for step in range(rounds):
        for label, before in contestants.items():
            start = time.monotonic()
            before(state)
            stores[label].save(state, step, {})
            blocked[label].append(time.monotonic() - start)
            stores[label].wait()
            committed[label].append(time.monotonic() - start)
    base = np.array(blocked["checksums first"])
    rows = []
    for label in contestants:
        stores[label].close()
        share = float(np.median(np.array(blocked[label]) / base))
        rows.append(
            {
                "save": label,
                "gigabytes": total / 1e9,
                "blocked_seconds": float(np.median(blocked[label])),
                "committed_seconds": float(np.median(committed[label])),
                "blocked_share": share,
            }
        )
    return rows
