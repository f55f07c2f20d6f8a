"""Runs of one signature as one program: compiled functions of states that have an axis of slots, a trial in each.

The slot axis is split over the mesh's `trial` devices without communication. On each device the trials go one after
the other (packing "map": best on a CPU) or all at once ("vmap": fills an accelerator with small models): see slots.py.
How many steps each trial takes in one dispatch is an input of the program, so that runs of different lengths, finished
runs and runs resumed at different steps share it. A single run is a population of one on the same path.

What happens in time, and all files, are for loop.py.
"""

from collections.abc import Sequence
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Integer
import numpy as np

from experiments.alive import hosts
from experiments.cli import InputError
from experiments.run.identity import representative, runtime_values
from experiments.run.schema import Execution, Run
from experiments.store.train_state import TrainState
from experiments.training import compiling, offload, packing, step
from experiments.training.slots import Slots, Values
from models import functional
from models.growing import operators
from models.mesh import mesh, rules


def program(run: Run, slots: int, execution: Execution) -> "Program":
    """Return the Program of a run's signature on all devices; in one process equal ones are compiled once."""
    return _program(representative(run), slots, execution)


@functools.lru_cache(maxsize=4)
def _program(run: Run, slots: int, execution: Execution) -> "Program":
    return Program(run, slots, execution)


class Program:
    """The compiled functions of one signature for `slots` trials (a multiple of the mesh's trial axis).

    Trees that go in and out have a leading slot axis. `run` is any run of the signature: its runtime options are not
    looked at. `groups` of devices share the slots evenly; the devices of a group train the same trials.
    """

    def __init__(self, run: Run, slots: int, execution: Execution, devices: Sequence[Any] | None = None):
        devices = list(devices or jax.devices())
        self.run = run
        self.backend = devices[0].platform
        sizes = mesh.fill(execution.mesh, len(devices), slots, run.batch, self.backend, execution.microbatches)
        self.mesh = mesh.make_mesh(sizes, devices)
        self.groups = sizes[0]
        self.slots = -(-slots // self.groups) * self.groups
        self.packing = packing.choose_packing(execution, self.backend)
        self.steps_per_dispatch = packing.steps_per_dispatch(run, execution, self.backend)
        self._check_host_memory(execution, devices[0])
        self._functions = Slots(run, self.packing, execution.microbatches, execution.offload)
        self._lay_out(execution.offload)
        self.compile_seconds = 0.0
        self.compiled: Any = None  # the train function, once `compile` has been called
        self.memory_bytes: int | None = None

    def _check_host_memory(self, execution: Execution, device: Any) -> None:
        """Check that what is to lie with the host can. Raises InputError naming the option."""
        if execution.offload != "none":
            offload.check(device, "execution.offload='optimizer'")
            if self.packing == "map" and self.slots > self.groups:
                raise InputError(
                    "execution.packing='map' cannot pick one trial's state out of the host's memory; expected 'vmap'"
                )
        if getattr(self.run.model, "remat", "none") == "offload":
            offload.check(device, "model.remat='offload'")

    def _lay_out(self, where: str) -> None:
        """Decide how every array lies on the devices. `where`: what lies with the host (execution.offload)."""
        batch_axes = rules.split_by(["batch"])[0]
        self.slot_sharding = NamedSharding(self.mesh, P("trial"))
        self.tokens_sharding = NamedSharding(self.mesh, P("trial", None, batch_axes))
        shapes = self._functions.abstract_init(self._abstract_values())
        axes = step.state_axes(self.run)
        sharding = rules.shardings(axes, shapes, self.mesh)
        if where != "none":
            sharding = sharding._replace(opt=offload.placed(axes.opt, sharding.opt))
            shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sharding)
        self.state_shapes: TrainState = shapes
        self.state_sharding: TrainState = sharding

    # --- what goes in

    def stack_values(self, runs: Sequence[Run], added: Sequence[dict[str, np.ndarray] | None] = ()) -> Values:
        """Return the runtime options of the run in each slot, by path.

        Where programs have masks, also under "added" what each run's growth has added (None: nothing).
        """
        of_runs = [runtime_values(run) for run in runs]
        values: Values = {}
        for path in of_runs[0]:
            dtype = jnp.uint32 if path == "seed" else jnp.float32
            values[path] = jnp.asarray([one[path] for one in of_runs], dtype)
        if self.run.growth.masked:
            nothing = {path: np.zeros(shape, np.float32) for path, shape in self._mask_shapes.items()}
            masks = [one or nothing for one in added or [None] * len(runs)]
            values["added"] = {path: jnp.asarray(np.stack([one[path] for one in masks])) for path in nothing}
        return values

    @functools.cached_property
    def _mask_shapes(self) -> dict[str, tuple[int, ...]]:
        return operators.mask_shapes(functional.layout(self.run.family, self.run.model))

    def _abstract_values(self) -> Values:
        return jax.eval_shape(lambda: self.stack_values([self.run] * self.slots))

    def token_shape(self, batches: int | None = None) -> tuple[int, int, int, int]:
        """Return the shape of tokens that go in: slots, batches (those of a dispatch), sequences, seq_len + 1."""
        return (self.slots, batches or self.steps_per_dispatch, self.run.batch, self.run.seq_len + 1)

    def next_steps(self, remaining: Sequence[int]) -> np.ndarray:
        """Return the steps of each slot in the next dispatch, `remaining[k]` being the most that slot k may take."""
        return packing.next_steps(remaining, self.steps_per_dispatch, self.slots // self.groups, self.packing)

    # --- what is done

    def init(self, runs: Sequence[Run]) -> TrainState:
        """Return the initial state of the runs in all slots."""
        with jax.set_mesh(self.mesh):
            return self._init(hosts.put(self.stack_values(runs), self.slot_sharding))

    def train(
        self, state: TrainState, values: Values, tokens: Integer[np.ndarray, "K S B T"], steps: Integer[np.ndarray, "K"]
    ) -> tuple[TrainState, dict[str, Float[Array, "K S"]]]:
        """Take `steps[k]` optimizer steps of slot k. `state` is used up. Metrics are valid for the steps that were taken."""
        with jax.set_mesh(self.mesh):
            tokens_KSBT = hosts.put(tokens, self.tokens_sharding)
            return self._train(state, values, tokens_KSBT, hosts.put(steps, self.slot_sharding))

    def take(self, state: TrainState, slot: int) -> TrainState:
        """Return the state of one slot, without the slot axis."""
        with jax.set_mesh(self.mesh):
            return self._take(state, jnp.int32(slot))

    def effective(self, state: TrainState, values: Values) -> Any:
        """Return the parameters of all slots that their models compute with: see step.effective."""
        if not self.run.growth.masked:
            return state.params
        with jax.set_mesh(self.mesh):
            return self._effective(state, values)

    def evaluate(
        self, params: Any, tokens: Integer[np.ndarray, "K S B T"], batches: Integer[np.ndarray, "K"]
    ) -> Float[np.ndarray, "K S B"]:
        """Return the summed nats of each sequence, for the first `batches[k]` batches of slot k."""
        with jax.set_mesh(self.mesh):
            tokens_KSBT = hosts.put(tokens, self.tokens_sharding)
            nats_KSB = self._evaluate(params, tokens_KSBT, hosts.put(batches, self.slot_sharding))
            return hosts.whole(nats_KSB)

    # --- the compiled functions

    def _on_all_devices(self, of_slots: Any) -> Any:
        """Run a function of one device's slots on all devices."""
        slots = P("trial")
        return jax.shard_map(
            of_slots, mesh=self.mesh, in_specs=slots, out_specs=slots, axis_names={"trial"}, check_vma=False
        )

    @functools.cached_property
    def _init(self) -> Any:
        return jax.jit(
            self._on_all_devices(self._functions.init),
            out_shardings=self.state_sharding,
            compiler_options=compiling.quick_options(self.backend),
        )

    @functools.cached_property
    def _train(self) -> Any:
        return jax.jit(
            self._on_all_devices(self._functions.train),
            in_shardings=(self.state_sharding, self.slot_sharding, self.tokens_sharding, self.slot_sharding),
            out_shardings=(self.state_sharding, self.slot_sharding),
            donate_argnums=0,
            compiler_options=compiling.options(self.backend),
        )

    @functools.cached_property
    def _evaluate(self) -> Any:
        return jax.jit(
            self._on_all_devices(self._functions.evaluate),
            in_shardings=(self.state_sharding.params, self.tokens_sharding, self.slot_sharding),
            out_shardings=self.slot_sharding,
            compiler_options=compiling.options(self.backend),
        )

    @functools.cached_property
    def _effective(self) -> Any:
        return jax.jit(self._on_all_devices(self._functions.effective), out_shardings=self.state_sharding.params)

    @functools.cached_property
    def _take(self) -> Any:
        def without_slots(sharding: NamedSharding) -> NamedSharding:
            return NamedSharding(sharding.mesh, P(*sharding.spec[1:]), memory_kind=sharding.memory_kind)

        def take_leaf(x: Array, sharding: NamedSharding, slot: Array) -> Array:
            # Nothing is computed in the host's memory: a leaf that lies there is fetched for it.
            if sharding.memory_kind == offload.PINNED:
                x = jax.device_put(x, jax.memory.Space.Device)
            return jax.lax.dynamic_index_in_dim(x, slot, keepdims=False)

        def take(state: TrainState, slot: Array) -> TrainState:
            return jax.tree.map(functools.partial(take_leaf, slot=slot), state, self.state_sharding)

        return jax.jit(
            take,
            in_shardings=(self.state_sharding, None),
            out_shardings=jax.tree.map(without_slots, self.state_sharding),
        )

    # --- ahead of time

    def compile(self, dtype: Any = np.uint16) -> "Program":
        """Compile the train function ahead of its first use; sets `compiled`, `compile_seconds`, `memory_bytes` (peak).

        The devices need not be there: those of a topology (sweeps/cost/compiler.py) will do.
        """
        tokens = jax.ShapeDtypeStruct(self.token_shape(), dtype)
        steps = jax.ShapeDtypeStruct((self.slots,), np.int32)
        values = self._abstract_values()
        start = time.monotonic()
        with jax.set_mesh(self.mesh):
            self.compiled = self._train.lower(self.state_shapes, values, tokens, steps).compile()
        self.compile_seconds = time.monotonic() - start
        self.memory_bytes = compiling.peak_bytes(self.compiled)
        return self

    def compile_rest(self, dtype: Any = np.uint16, batches: int = 1) -> dict[str, int | None]:
        """Compile what else runs beside the train function; return the peak bytes of each, all slots' states included.

        These are an evaluation on `batches` batches, and taking a slot's state for its checkpoint.
        """
        tokens = jax.ShapeDtypeStruct(self.token_shape(batches), dtype)
        batch_counts = jax.ShapeDtypeStruct((self.slots,), np.int32)
        slot = jax.ShapeDtypeStruct((), np.int32)
        with jax.set_mesh(self.mesh):
            evaluate = self._evaluate.lower(self.state_shapes.params, tokens, batch_counts).compile()
            take = self._take.lower(self.state_shapes, slot).compile()
        evaluation = compiling.peak_bytes(evaluate)
        if evaluation is not None:  # it is given the parameters: the rest of the state lies beside them
            evaluation += self.device_bytes() - self.device_bytes("params")
        return {"evaluation": evaluation, "checkpoint": compiling.peak_bytes(take)}

    def device_bytes(self, field: str | None = None) -> int:
        """Return the bytes of all slots' states on one device, or of one field; what lies with the host does not count."""
        shapes: Any = self.state_shapes if field is None else getattr(self.state_shapes, field)
        shardings: Any = self.state_sharding if field is None else getattr(self.state_sharding, field)

        def size(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> int:
            if sharding.memory_kind == offload.PINNED:
                return 0
            return math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize

        return sum(jax.tree.leaves(jax.tree.map(size, shapes, shardings)))
