"""Decide how the arrays of a population lie on the devices of a mesh, and what of them lies with the host."""

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.run.schema import Run
from experiments.store.train_state import TrainState
from experiments.training import offload, step
from models.mesh import rules


class Placement(NamedTuple):
    """Shardings of everything that goes in and out of a program; all have slots in front.

    slots: of what is one value a slot.
    tokens: slots, batches, sequences, tokens.
    state: of every leaf of the states.
    state_shapes: shape and type of every leaf, and where the compiler has to know it the sharding.
    """

    slots: NamedSharding
    tokens: NamedSharding
    state: TrainState
    state_shapes: TrainState


def place(run: Run, slots: int, mesh: Mesh, offloaded: str) -> Placement:
    """Place the arrays of so many slots of a run. `offloaded`: what lies with the host, or "none".

    Raises InputError, naming the option, for a size that the mesh does not divide.
    """
    shapes = _state_shapes(run, slots)
    axes = step.state_axes(run)
    try:
        state = rules.shardings(axes, shapes, mesh)
    except rules.NotDivisible as error:
        raise error.set_by(run.model) from error
    if offloaded != "none":
        opt = offload.placed(axes.opt, state.opt)
        state = state._replace(opt=opt)
        shapes = jax.tree.map(_with_sharding, shapes, state)
    batch_axes = rules.split_by(["batch"])[0]
    by_slot = NamedSharding(mesh, P("trial"))
    tokens = NamedSharding(mesh, P("trial", None, batch_axes))
    return Placement(by_slot, tokens, state, shapes)


def _state_shapes(run: Run, slots: int) -> TrainState:
    """Return shape and type of every leaf of the states of all slots."""

    def of_all(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((slots, *leaf.shape), leaf.dtype)

    return jax.tree.map(of_all, step.abstract_state(run))


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def without_slots(sharding: NamedSharding) -> NamedSharding:
    """Return the sharding of one slot of an array."""
    spec = P(*sharding.spec[1:])
    return NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)


def device_bytes(shapes: Any, shardings: Any) -> int:
    """Return the bytes of a tree of arrays on one device; what lies with the host does not count."""
    total = 0
    for leaf, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True):
        if sharding.memory_kind != offload.PINNED:
            shard = sharding.shard_shape(leaf.shape)
            total += math.prod(shard) * leaf.dtype.itemsize
    return total
