"""Runs of one signature as one program: compiled functions of states that have an axis of slots, a trial in each.

The slot axis is split over the mesh's `trial` devices without communication. On each device the trials go one after
the other (packing "map": best on a CPU) or all at once ("vmap": fills an accelerator with small models): see slots.py.
How many steps each trial takes in one dispatch is an input of the program, so that runs of different lengths, finished
runs and runs resumed at different steps share it. A single run is a population of one on the same path.

What happens in time, and all files, are for loop.py.
"""

from collections.abc import Sequence
import functools
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
from experiments.training import compiling, offload, packing
from experiments.training.placement import Placement, device_bytes, place, without_slots
from experiments.training.slots import Slots, Values
from models import functional
from models.growing import masks
from models.mesh import mesh

Tokens = Integer[np.ndarray, "K S B T"]  # slots, batches, sequences, seq_len + 1
PerSlot = Integer[np.ndarray, "K"]
Masks = dict[str, np.ndarray]


def program(run: Run, slots: int, execution: Execution) -> "Program":
    """Return the Program of a run's signature on all devices; in one process equal ones are compiled once."""
    return _program(representative(run), slots, execution)


@functools.lru_cache(maxsize=4)
def _program(run: Run, slots: int, execution: Execution) -> "Program":
    return Program(run, slots, execution)


def _check_lengths(run: Run, split: int) -> None:
    """Check that sequences of all lengths can be split. Raises InputError naming the option."""
    lengths = run.evaluation.seq_lens
    if any(length % split for length in lengths):
        raise InputError(
            f"evaluation.seq_lens={lengths}: expected multiples of execution.mesh.sequence={split}, which splits them"
        )


class Program:
    """The compiled functions of one signature for `slots` trials (a multiple of the mesh's trial axis).

    Trees that go in and out have a leading slot axis. `run` is any run of the signature: its runtime options are not
    looked at. `groups` of devices share the slots evenly; the devices of a group train the same trials.
    """

    def __init__(self, run: Run, slots: int, execution: Execution, devices: Sequence[Any] | None = None):
        devices = list(devices or jax.devices())
        backend = devices[0].platform
        microbatches = execution.microbatches
        sizes = mesh.fill(execution.mesh, len(devices), slots, run.batch, backend, microbatches)
        groups = sizes[0]
        self.run = run
        self.backend = backend
        self.mesh = mesh.make_mesh(sizes, devices)
        self.groups = groups
        self.slots = -(-slots // groups) * groups
        self.packing = packing.choose_packing(execution, backend)
        # Of one step: the devices of a group share it, and packed by vmap they take those of all its slots at once.
        slots_at_once = self.slots // groups if self.packing == "vmap" else 1
        share = slots_at_once * groups / len(devices)
        self.steps_per_dispatch = packing.steps_per_dispatch(run, execution, devices[0], share)
        _check_host_memory(self, execution, devices[0])
        _check_lengths(run, self.mesh.shape["sequence"])
        self._functions = Slots(run, self.packing, microbatches, execution.offload, execution.noise_scale)
        placement = place(run, self.slots, self.mesh, execution.offload)
        self._placement = placement
        self.slot_sharding = placement.slots
        self.state_sharding = placement.state
        self.state_shapes = placement.state_shapes
        _check_evaluations(self)
        # What `compile` sets: the train function, its peak memory, and how long that took.
        self.compiled: Any = None
        self.memory_bytes: int | None = None
        self.compile_seconds = 0.0

    # --- what goes in

    def stack_values(self, runs: Sequence[Run], added: Sequence[Masks | None] = ()) -> Values:
        """Return the runtime options of the run in each slot, by path, as arrays of the host.

        Where programs have masks, also under "added" what each run's growth has added (None: nothing).
        """
        of_runs = [runtime_values(run) for run in runs]
        values: Values = {}
        for path in of_runs[0]:
            column = [one[path] for one in of_runs]
            dtype = np.uint32 if path == "seed" else np.float32
            values[path] = np.asarray(column, dtype)
        if self.run.growth.masked:
            values["added"] = self._stack_masks(added or [None] * len(runs))
        return values

    def _stack_masks(self, added: Sequence[Masks | None]) -> Masks:
        """Stack the masks of grown trials; a trial that did not grow has none of its parameters new."""
        stacked = {}
        for path, shape in self._mask_shapes.items():
            nothing = np.zeros(shape, np.float32)
            masks = [one[path] if one else nothing for one in added]
            stacked[path] = np.stack(masks)
        return stacked

    @functools.cached_property
    def _mask_shapes(self) -> dict[str, tuple[int, ...]]:
        layout = functional.layout(self.run.family, self.run.model)
        return masks.mask_shapes(layout)

    def _abstract_values(self) -> Values:
        return jax.eval_shape(lambda: self.stack_values([self.run] * self.slots))

    def token_shape(self, batches: int | None = None) -> tuple[int, int, int, int]:
        """Return the shape of tokens that go in: slots, batches (those of a dispatch), sequences, seq_len + 1."""
        run = self.run
        return (self.slots, batches or self.steps_per_dispatch, run.batch, run.seq_len + 1)

    def next_steps(self, remaining: Sequence[int]) -> np.ndarray:
        """Return the steps of each slot in the next dispatch, `remaining[k]` being the most that slot k may take."""
        slots_per_device = self.slots // self.groups
        return packing.next_steps(remaining, self.steps_per_dispatch, slots_per_device, self.packing)

    # --- what is done

    def _put(self, values: Any) -> Any:
        """Put what is one value a slot on the devices."""
        return hosts.put(values, self.slot_sharding)

    def _put_tokens(self, tokens: Tokens) -> Any:
        return hosts.put(tokens, self._placement.tokens)

    def init(self, runs: Sequence[Run]) -> TrainState:
        """Return the initial state of the runs in all slots."""
        with jax.set_mesh(self.mesh):
            values = self._put(self.stack_values(runs))
            return self._init(values)

    def train(
        self, state: TrainState, values: Values, tokens: Tokens, steps: PerSlot
    ) -> tuple[TrainState, dict[str, Float[Array, "K S"]]]:
        """Take `steps[k]` optimizer steps of slot k; metrics are by slot and step, valid for the steps that were taken.

        `state` is used up.
        """
        with jax.set_mesh(self.mesh):
            tokens_KSBT = self._put_tokens(tokens)
            steps_K = self._put(steps)
            return self._train(state, values, tokens_KSBT, steps_K)

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

    def evaluate(self, params: Any, tokens: Tokens, batches: PerSlot, every_token: bool = False) -> np.ndarray:
        """Return summed nats of stretches [K, S, B, P], or with `every_token` [K, S, B, L], of the first `batches[k]` batches of slot k."""
        evaluate = self._token_nats if every_token else self._evaluate
        with jax.set_mesh(self.mesh):
            tokens_KSBT = self._put_tokens(tokens)
            batches_K = self._put(batches)
            return hosts.whole(evaluate(params, tokens_KSBT, batches_K))

    # --- the compiled functions

    def _on_all_devices(self, of_slots: Any) -> Any:
        """Run a function of one device's slots on all devices."""
        slots = P("trial")
        return jax.shard_map(
            of_slots,
            mesh=self.mesh,
            in_specs=slots,
            out_specs=slots,
            axis_names={"trial"},
            check_vma=False,
        )

    @functools.cached_property
    def _init(self) -> Any:
        init = self._on_all_devices(self._functions.init)
        options = compiling.quick_options(self.backend)
        return jax.jit(init, out_shardings=self.state_sharding, compiler_options=options)

    @functools.cached_property
    def _train(self) -> Any:
        """Return the compiled function that takes several steps of all trials."""
        slots, tokens, state, _ = self._placement
        return jax.jit(
            self._on_all_devices(self._functions.train),
            in_shardings=(state, slots, tokens, slots),
            out_shardings=(state, slots),
            donate_argnums=0,
            compiler_options=compiling.options(self.backend),
        )

    @functools.cached_property
    def _evaluate(self) -> Any:
        """Return the compiled function that evaluates all trials."""
        return _evaluation(self._on_all_devices(self._functions.evaluate), self._placement, self.backend)

    @functools.cached_property
    def _token_nats(self) -> Any:
        """Return the compiled function that gives the nats of every token: of tasks, not all count."""
        return _evaluation(self._on_all_devices(self._functions.token_nats), self._placement, self.backend)

    @functools.cached_property
    def _effective(self) -> Any:
        effective = self._on_all_devices(self._functions.effective)
        return jax.jit(effective, out_shardings=self.state_sharding.params)

    @functools.cached_property
    def _take(self) -> Any:
        """Return the compiled function that copies the state of one slot."""
        shardings = self.state_sharding

        def take_leaf(x: Array, sharding: NamedSharding, slot: Array) -> Array:
            # Nothing is computed in the host's memory: a leaf that lies there is fetched for it.
            if sharding.memory_kind == offload.PINNED:
                x = jax.device_put(x, jax.memory.Space.Device)
            return jax.lax.dynamic_index_in_dim(x, slot, keepdims=False)

        def take(state: TrainState, slot: Array) -> TrainState:
            return jax.tree.map(functools.partial(take_leaf, slot=slot), state, shardings)

        out_shardings = jax.tree.map(without_slots, shardings)
        return jax.jit(take, in_shardings=(shardings, None), out_shardings=out_shardings)

    # --- ahead of time

    def compile(self, dtype: Any = np.uint16) -> "Program":
        """Compile the train function ahead of its first use; sets `compiled`, `compile_seconds`, `memory_bytes` (peak).

        The devices need not be there: those of a topology (sweeps/cost/compiler.py) will do.
        """
        state = self._placement.state_shapes
        values = self._abstract_values()
        tokens = jax.ShapeDtypeStruct(self.token_shape(), dtype)
        start = time.monotonic()
        with jax.set_mesh(self.mesh):
            lowered = self._train.lower(state, values, tokens, self._abstract_counts())
            self.compiled = lowered.compile()
        self.compile_seconds = time.monotonic() - start
        self.memory_bytes = compiling.peak_bytes(self.compiled)
        return self

    def _abstract_counts(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.slots,), np.int32)

    def compile_rest(self, dtype: Any = np.uint16, batches: int = 1) -> dict[str, int | None]:
        """Compile what else runs beside the train function; return the peak bytes of each, all slots' states included.

        These are an evaluation on `batches` batches, and taking a slot's state for its checkpoint.
        """
        state = self._placement.state_shapes
        tokens = jax.ShapeDtypeStruct(self.token_shape(batches), dtype)
        slot = jax.ShapeDtypeStruct((), np.int32)
        with jax.set_mesh(self.mesh):
            evaluate = self._evaluate.lower(state.params, tokens, self._abstract_counts())
            take = self._take.lower(state, slot)
            evaluation = compiling.peak_bytes(evaluate.compile())
            checkpoint = compiling.peak_bytes(take.compile())
        if evaluation is not None:  # it is given the parameters: the rest of the state lies beside them
            evaluation += self.device_bytes() - self.device_bytes("params")
        return {"evaluation": evaluation, "checkpoint": checkpoint}

    def trace_evaluation(self, seq_len: int) -> None:
        """Trace an evaluation on sequences of so many tokens. Raises InputError where the model has none on these devices."""
        slots, batches, batch, _ = self.token_shape(1)
        tokens = jax.ShapeDtypeStruct((slots, batches, batch, seq_len + 1), np.uint16)
        with jax.set_mesh(self.mesh):
            self._evaluate.eval_shape(self.state_shapes.params, tokens, self._abstract_counts())

    def device_bytes(self, field: str | None = None) -> int:
        """Return the bytes of all slots' states on one device, or of one field; what lies with the host does not count."""
        shapes: Any = self._placement.state_shapes
        shardings: Any = self._placement.state
        if field is not None:
            shapes = getattr(shapes, field)
            shardings = getattr(shardings, field)
        return device_bytes(shapes, shardings)


def _check_host_memory(program: Program, execution: Execution, device: Any) -> None:
    """Check that what is to lie with the host can. Raises InputError naming the option."""
    if execution.offload != "none":
        offload.check(device, "execution.offload='optimizer'")
        if program.packing == "map" and program.slots > program.groups:
            raise InputError(
                "execution.packing='map' cannot pick one trial's state out of the host's memory; expected 'vmap'"
            )
    remat = getattr(program.run.model, "remat", "none")
    if remat == "offload":
        offload.check(device, "model.remat='offload'")


def _check_evaluations(program: Program) -> None:
    """Check that the model can be evaluated at other lengths as it is compiled for these devices.

    Kernels have sizes of their own, which depend on the device. Nothing is compiled. Raises InputError naming the option.
    """
    lengths = program.run.evaluation.seq_lens
    for length in lengths:
        try:
            program.trace_evaluation(length)
        except InputError as error:
            raise InputError(f"evaluation.seq_lens={lengths}: at {length} tokens {error}") from error


def _evaluation(evaluate: Any, placement: Placement, backend: str) -> Any:
    """Compile a function of parameters, tokens and numbers of batches, whose result every device has whole."""
    slots, tokens, state, _ = placement
    return jax.jit(
        evaluate,
        in_shardings=(state.params, tokens, slots),
        out_shardings=slots,
        compiler_options=compiling.options(backend),
    )
