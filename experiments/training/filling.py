"""Put states of single trials into their slots on the devices, a part of the leaves at a time.

States come from checkpoints or from parents. Each leaf goes into the sharding that it is trained in, and what comes in is
at most a tenth of what a device holds in the end (but always a whole leaf): a model that fills its devices can be restored
on them.
"""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Integer

from experiments.alive import hosts
from experiments.store.train_state import TrainState, from_names, named_leaves
from experiments.training import offload
from experiments.training.placement import device_bytes, without_slots
from experiments.training.program import Program

Leaves = dict[str, Any]  # by name
Shapes = dict[str, jax.ShapeDtypeStruct]

PARTS = 10  # at least: what a device holds in the end against what comes in at a time


class Filling:
    """The states of a program's slots while they are put together.

    state: those that are there already; None where all slots are to be filled. It is used up.
    """

    def __init__(self, program: Program, state: TrainState | None = None):
        self._program = program
        self._shardings: dict[str, NamedSharding] = named_leaves(program.state_sharding)
        if state is None and program.slots > 1:
            state = _zeros(program)
        self._leaves = {} if state is None else named_leaves(state)

    def parts(self) -> list[Shapes]:
        """Return shapes, types and shardings of one slot's leaves, in parts that may come in at a time."""
        limit = self._program.device_bytes() / PARTS
        parts: list[Shapes] = []
        room = 0.0
        for name, shape in _slot_shapes(self._program).items():
            size = device_bytes(shape, shape.sharding)
            if not parts or size > room:
                parts.append({})
                room = limit
            parts[-1][name] = shape
            room -= size
        return parts

    def put(self, slot: int, leaves: Mapping[str, Any]) -> None:
        """Put some leaves of a slot's state, which lie as `parts` says, into their place. They are used up."""
        names = tuple(leaves)
        with jax.set_mesh(self._program.mesh):
            if self._program.slots == 1:
                self._leaves |= self._alone(names)(leaves)
            else:
                before = {name: self._leaves[name] for name in names}
                self._leaves |= self._among(names)(before, leaves, jnp.int32(slot))

    def put_host(self, slot: int, state: TrainState) -> None:
        """Put a slot's state, which all processes hold as numpy arrays, into its place."""
        on_host = named_leaves(state)
        for shapes in self.parts():
            part = {}
            for name, shape in shapes.items():
                assert shape.sharding is not None
                part[name] = hosts.put(on_host[name], shape.sharding)
            self.put(slot, part)

    def state(self) -> TrainState:
        """Return the states of all slots. Raises KeyError for a leaf that was never put."""
        return from_names(self._program.state_sharding, self._leaves)

    # --- compiled functions

    def _of(self, names: tuple[str, ...]) -> dict[str, NamedSharding]:
        return {name: self._shardings[name] for name in names}

    @functools.cache  # noqa: B019 (a Filling lives as long as its cache is of use)
    def _alone(self, names: tuple[str, ...]) -> Any:
        """Return a function that gives leaves the axis of the only slot."""

        def alone(leaves: dict[str, Array]) -> dict[str, Array]:
            return {name: _on_device(leaf)[None] for name, leaf in leaves.items()}

        return jax.jit(alone, out_shardings=self._of(names))

    @functools.cache  # noqa: B019 (as above)
    def _among(self, names: tuple[str, ...]) -> Any:
        """Return a function that replaces leaves of one slot among those of all."""
        shardings = self._of(names)
        each = P("trial")
        everywhere = P()
        put = jax.shard_map(
            self._put_on_one_device,
            mesh=self._program.mesh,
            in_specs=(each, everywhere, everywhere),
            out_specs=each,
            axis_names={"trial"},
            check_vma=False,
        )
        return jax.jit(put, out_shardings=shardings, donate_argnums=0)

    def _put_on_one_device(
        self, states: dict[str, Array], leaves: dict[str, Array], slot: Integer[Array, ""]
    ) -> dict[str, Array]:
        """Replace the leaves of a slot where it is one of this device's."""
        count = self._program.slots // self._program.groups
        own = slot - jax.lax.axis_index("trial") * count
        is_here = (own >= 0) & (own < count)
        at = jnp.clip(own, 0, count - 1)
        replaced = {}
        for name, all_slots in states.items():
            fetched = _on_device(all_slots)
            before = jax.lax.dynamic_index_in_dim(fetched, at, keepdims=False)
            after = jnp.where(is_here, _on_device(leaves[name]), before)
            replaced[name] = jax.lax.dynamic_update_index_in_dim(fetched, after, at, 0)
        return replaced


def _zeros(program: Program) -> TrainState:
    """Return states of zeros, for slots that are filled before they are used."""

    def zeros() -> TrainState:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), program.state_shapes)

    with jax.set_mesh(program.mesh):
        return jax.jit(zeros, out_shardings=program.state_sharding)()


def _on_device(leaf: Array) -> Array:
    """Return an array in the memory of the device: nothing is computed in the host's."""
    return jax.device_put(leaf, jax.memory.Space.Device) if offload.is_away(leaf) else leaf


def _slot_shapes(program: Program) -> Shapes:
    """Return shapes, types and shardings of the leaves of one slot."""
    shapes = {}
    shardings = named_leaves(program.state_sharding)
    for name, leaf in named_leaves(program.state_shapes).items():
        sharding = without_slots(shardings[name])
        shapes[name] = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=sharding)
    return shapes
