"""Runs of one signature as one program: a trial axis in front of the train state.

The trial axis is split over the mesh's `trial` devices without communication. On each device the trials go one after
the other (packing "map": a device does exactly what a solo run would; best on a CPU) or all at once ("vmap": fills an
accelerator with small models). How many steps each trial takes in one dispatch is an input of the program, so that
runs of different lengths, finished runs and runs resumed at different steps share it. A single run is a population
of one on the same path.
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
from experiments.run.identity import representative, runtime_values, with_runtime
from experiments.run.schema import Execution, Run
from experiments.store.record import ledger
from experiments.training import microbatches, offload
from experiments.training import step as steps
from models import functional
from models.growing import operators
from models.mesh import mesh, rules

# XLA's YNNPACK fusions make small steps about 1.1x slower than its own reductions and matmuls, and a scheduler that
# looks for concurrency costs a little more where there are as many devices as cores.
CPU_COMPILER = {"xla_cpu_experimental_ynn_fusion_type": "", "xla_cpu_enable_concurrency_optimized_scheduler": False}

# XLA for TPUs turns every gather of a split matrix before its matmul into a loop of permutations, which compiles three
# times longer and keeps the scheduler from prefetching the gather: only above so many MiB.
TPU_COMPILER = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
_COMPILERS = {"cpu": CPU_COMPILER, "tpu": TPU_COMPILER}

# FLOPs of one dispatch: about a quarter of a second's work, so that the host is idle and still answers.
_DISPATCH_FLOPS = {"cpu": 1.2e10, "gpu": 2e13, "tpu": 2e13}


def assign(remaining: Sequence[int], devices: int) -> list[list[int]]:
    """Trials of each device: longest first onto the least loaded, so that all devices finish together."""
    out: list[list[int]] = [[] for _ in range(devices)]
    load = [0] * devices
    for trial in sorted(range(len(remaining)), key=lambda t: -remaining[t]):
        device = min(range(devices), key=lambda d: (load[d], len(out[d])))
        out[device].append(trial)
        load[device] += remaining[trial]
    return out


@functools.lru_cache(maxsize=4)
def _program(run: Run, slots: int, execution: Execution) -> "Program":
    return Program(run, slots, execution)


def program(run: Run, slots: int, execution: Execution) -> "Program":
    """The Program of a run's signature on all devices; in one process equal ones are compiled once."""
    return _program(representative(run), slots, execution)


def _peak_bytes(compiled: Any) -> int | None:
    """Memory of one device that a compiled function needs at its peak, where the backend says so."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    # Compilers count what lies with the host in the peak. State is there all the time; what comes and goes (remat) need
    # not be there when the device has most: then all of the device's arguments and temporaries bound its peak as well.
    host = memory.host_argument_size_in_bytes + memory.host_output_size_in_bytes - memory.host_alias_size_in_bytes
    peak = memory.peak_memory_in_bytes - host
    if memory.host_temp_size_in_bytes:
        beside = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = min(peak, beside + memory.temp_size_in_bytes)
    return int(peak)


def _index(tree: Any, i: Any) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


class Program:
    """The compiled functions of one signature for `slots` trials (a multiple of the mesh's trial axis).

    Trees that go in and out have a leading slot axis. `run` is any run of the signature: its runtime options are not
    looked at.
    """

    def __init__(self, run: Run, slots: int, execution: Execution, devices: Sequence[Any] | None = None):
        devices = list(devices or jax.devices())
        self.run, backend = run, devices[0].platform
        self.parts = execution.microbatches
        sizes = mesh.fill(execution.mesh, len(devices), slots, run.batch, backend, self.parts)
        self.mesh = mesh.make_mesh(sizes, devices)
        self.groups = sizes[0]
        self.slots = -(-slots // self.groups) * self.groups
        self.packing = execution.packing
        self.offload = execution.offload
        if self.packing == "auto":
            self.packing = "map" if backend == "cpu" and self.offload == "none" else "vmap"
        if self.offload != "none":
            offload.check(devices[0], "execution.offload='optimizer'")
            if self.packing == "map" and self.slots > self.groups:
                raise InputError(
                    "execution.packing='map' cannot pick one trial's state out of the host's memory; expected 'vmap'"
                )
        if getattr(run.model, "remat", "none") == "offload":
            offload.check(devices[0], "model.remat='offload'")
        flops = ledger(run)["flops_per_token"] * run.batch_tokens
        self.steps_per_dispatch = execution.steps_per_dispatch or int(
            np.clip(_DISPATCH_FLOPS.get(backend, 2e13) / flops, 1, 64)
        )
        self._compiler = _COMPILERS.get(backend)
        self._spec = P("trial")
        self._rows = rules.split_by(["batch"])[0]
        shapes = jax.eval_shape(functools.partial(self._map_init), self._abstract_values())
        self.state_shapes = shapes
        self.state_sharding = rules.shardings(steps.state_axes(run), shapes, self.mesh)
        if self.offload != "none":
            away = offload.placed(steps.state_axes(run).opt, self.state_sharding.opt)
            self.state_sharding = self.state_sharding._replace(opt=away)
            self.state_shapes = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.state_sharding
            )
        self.tokens_sharding = NamedSharding(self.mesh, P("trial", None, self._rows))
        self.slot_sharding = NamedSharding(self.mesh, self._spec)
        self.compile_seconds = 0.0

    # --- the functions of one device's slots

    def _abstract_values(self) -> dict[str, jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda: self.stack_values([self.run] * self.slots))

    def stack_values(self, runs: Sequence[Run], added: Sequence[dict[str, np.ndarray] | None] = ()) -> dict[str, Any]:
        """Runtime options of the run in each slot; under "added" what its growth has added, where programs mask that."""
        rows = [runtime_values(run) for run in runs]
        values: dict[str, Any] = {
            path: jnp.asarray([row[path] for row in rows], jnp.uint32 if path == "seed" else jnp.float32)
            for path in rows[0]
        }
        if self.run.growth.masked:
            nothing = {path: np.zeros(shape, np.float32) for path, shape in self._mask_shapes.items()}
            each = [one or nothing for one in added or [None] * len(runs)]
            values["added"] = {path: jnp.asarray(np.stack([one[path] for one in each])) for path in nothing}
        return values

    @functools.cached_property
    def _mask_shapes(self) -> dict[str, tuple[int, ...]]:
        return operators.mask_shapes(functional.layout(self.run.family, self.run.model))

    def _map_init(self, values: dict[str, Array]) -> steps.TrainState:
        return jax.lax.map(lambda v: steps.init_state(self.run, with_runtime(self.run, v)), values)

    def _each(self, one: Any, *trees: Any) -> Any:
        """Map over the slots of one device."""
        count = jax.tree.leaves(trees)[0].shape[0]
        if count == 1:  # what lies with the host keeps its axis (offload.in_turn)
            first = jax.tree.map(lambda x: x if offload.is_away(x) else x[0], trees)
            return jax.tree.map(lambda x: x if offload.is_away(x) else x[None], one(*first))
        if self.packing == "vmap":
            return jax.vmap(one)(*trees)
        return jax.lax.map(lambda args: one(*args), trees)

    def _train_slots(
        self, states: Any, values: dict, tokens_KSBT: Array, counts: Array
    ) -> tuple[Any, dict[str, Array]]:
        """Steps of one device's slots."""
        if counts.shape[0] == 1 or self.packing == "vmap":
            return self._each(self._train_slot, states, values, tokens_KSBT, counts)
        # Only the slots that have steps to take, in place: a pass over all states would cost more than small steps.
        slots = jnp.arange(counts.shape[0])
        stop = jnp.max(jnp.where(counts > 0, slots + 1, 0))
        start = jnp.min(jnp.where(counts > 0, slots, stop))
        inputs = (values, tokens_KSBT, counts)
        shapes = jax.eval_shape(self._train_slot, *_index((states, *inputs), 0))[1]
        logs = {name: jnp.zeros((counts.shape[0], *log.shape), log.dtype) for name, log in shapes.items()}

        def body(slot: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            done = self._train_slot(_index(carry[0], slot), *_index(inputs, slot))
            return jax.tree.map(lambda whole, one: whole.at[slot].set(one), carry, done)

        return jax.lax.fori_loop(start, stop, body, (states, logs))

    def _train_slot(self, state: Any, values: dict, tokens_SBT: Array, count: Array) -> tuple[Any, dict[str, Array]]:
        traced = with_runtime(self.run, values)
        take = functools.partial(steps.train_step, self.run, traced, parts=self.parts, offload=self.offload)
        take = functools.partial(take, added=values.get("added"))
        shapes = jax.eval_shape(lambda s, t: take(s, t)[1], state, tokens_SBT[0])
        log = {name: jnp.zeros(tokens_SBT.shape[0], jnp.float32) for name in shapes}

        def body(i: Array, carry: tuple[Any, dict[str, Array]]) -> tuple[Any, dict[str, Array]]:
            state, log = carry
            state, metrics = take(state, tokens_SBT[i])
            return state, {name: log[name].at[i].set(metrics[name]) for name in log}

        return jax.lax.fori_loop(0, count, body, (state, log))

    def _eval_slot(self, params: Any, tokens_SBT: Array, count: Array) -> Float[Array, "S B"]:
        one = functools.partial(steps.eval_step, self.run, params)

        def body(i: Array, nats_SB: Array) -> Array:
            return nats_SB.at[i].set(microbatches.each(one, tokens_SBT[i], self.parts))

        return jax.lax.fori_loop(0, count, body, jnp.zeros(tokens_SBT.shape[:2], jnp.float32))

    def _over_trials(self, device: Any) -> Any:
        """`device`, a function of one device's slots, on all devices."""
        return jax.shard_map(
            device, mesh=self.mesh, in_specs=self._spec, out_specs=self._spec, axis_names={"trial"}, check_vma=False
        )

    # --- the compiled functions

    @functools.cached_property
    def _init(self) -> Any:
        one = functools.partial(self._each, lambda v: steps.init_state(self.run, with_runtime(self.run, v)))
        # Runs once: on a CPU half of its time was compilation at the usual effort.
        quick = {"xla_backend_optimization_level": 0} if self.mesh.devices.flat[0].platform == "cpu" else None
        return jax.jit(self._over_trials(one), out_shardings=self.state_sharding, compiler_options=quick)

    @functools.cached_property
    def _train(self) -> Any:
        return jax.jit(
            self._over_trials(self._train_slots),
            in_shardings=(self.state_sharding, self.slot_sharding, self.tokens_sharding, self.slot_sharding),
            out_shardings=(self.state_sharding, self.slot_sharding),
            donate_argnums=0,
            compiler_options=self._compiler,
        )

    @functools.cached_property
    def _evaluate(self) -> Any:
        return jax.jit(
            self._over_trials(functools.partial(self._each, self._eval_slot)),
            in_shardings=(self.state_sharding.params, self.tokens_sharding, self.slot_sharding),
            out_shardings=self.slot_sharding,
            compiler_options=self._compiler,
        )

    @functools.cached_property
    def _effective(self) -> Any:
        def one(state: steps.TrainState, values: dict) -> Any:
            return steps.effective(self.run, with_runtime(self.run, values), state, values["added"])

        return jax.jit(self._over_trials(jax.vmap(one)), out_shardings=self.state_sharding.params)

    @functools.cached_property
    def _take(self) -> Any:
        whole = jax.tree.map(
            lambda s: NamedSharding(s.mesh, P(*s.spec[1:]), memory_kind=s.memory_kind), self.state_sharding
        )

        def one(x: Array, sharding: NamedSharding, slot: Array) -> Array:
            if sharding.memory_kind == offload.PINNED:
                x = jax.device_put(x, jax.memory.Space.Device)
            return jax.lax.dynamic_index_in_dim(x, slot, keepdims=False)

        def take(state: steps.TrainState, slot: Array) -> steps.TrainState:
            return jax.tree.map(functools.partial(one, slot=slot), state, self.state_sharding)

        return jax.jit(take, in_shardings=(self.state_sharding, None), out_shardings=whole)

    def compile(self, dtype: Any = np.uint16) -> "Program":
        """Compile the train function ahead of its first use; sets `compile_seconds` and `memory_bytes` (peak).

        The devices need not be there: those of a topology (sweeps/cost/compiler.py) will do.
        """
        tokens = self.token_shape()
        shapes = (self.state_shapes, self._abstract_values(), jax.ShapeDtypeStruct(tokens, dtype))
        start = time.monotonic()
        with jax.set_mesh(self.mesh):
            self.compiled = self._train.lower(*shapes, jax.ShapeDtypeStruct((self.slots,), np.int32)).compile()
        self.compile_seconds = time.monotonic() - start
        self.memory_bytes = _peak_bytes(self.compiled)
        return self

    def compile_rest(self, dtype: Any = np.uint16, batches: int = 1) -> dict[str, int | None]:
        """Compile what else runs beside the train function: an evaluation on `batches` batches, and taking a slot's state
        for its checkpoint. Peak bytes of each, all slots' states included.
        """
        tokens, counts = jax.ShapeDtypeStruct(self.token_shape(batches), dtype), (self.slots,)
        with jax.set_mesh(self.mesh):
            evaluate = self._evaluate.lower(self.state_shapes.params, tokens, jax.ShapeDtypeStruct(counts, np.int32))
            take = self._take.lower(self.state_shapes, jax.ShapeDtypeStruct((), np.int32))
            peaks = {"evaluation": _peak_bytes(evaluate.compile()), "checkpoint": _peak_bytes(take.compile())}
        if peaks["evaluation"] is not None:  # it is given the parameters: the rest of the state lies beside them
            peaks["evaluation"] += self.device_bytes() - self.device_bytes("params")
        return peaks

    def device_bytes(self, part: str | None = None) -> int:
        """Of the train state of all slots, or a part of it, on one device; what lies with the host is not."""
        shapes, split = self.state_shapes, self.state_sharding
        if part is not None:
            shapes, split = getattr(shapes, part), getattr(split, part)

        def size(x: Any, s: NamedSharding) -> int:
            return 0 if s.memory_kind == offload.PINNED else math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize

        return sum(jax.tree.leaves(jax.tree.map(size, shapes, split)))

    def token_shape(self, steps: int | None = None) -> tuple[int, int, int, int]:
        """Shape of the tokens of one dispatch: slots, steps, sequences, seq_len + 1."""
        return (self.slots, steps or self.steps_per_dispatch, self.run.batch, self.run.seq_len + 1)

    def init(self, runs: Sequence[Run]) -> steps.TrainState:
        """The initial state of the runs in all slots."""
        with jax.set_mesh(self.mesh):
            return self._init(hosts.put(self.stack_values(runs), self.slot_sharding))

    def train(
        self,
        state: steps.TrainState,
        values: dict[str, Any],
        tokens: Integer[np.ndarray, "K S B T"],
        counts: Integer[np.ndarray, "K"],
    ) -> tuple[steps.TrainState, dict[str, Float[Array, "K S"]]]:
        """`counts[k]` optimizer steps of slot k. `state` is used up. Metrics are valid for the steps that were taken."""
        with jax.set_mesh(self.mesh):
            return self._train(
                state, values, hosts.put(tokens, self.tokens_sharding), hosts.put(counts, self.slot_sharding)
            )

    def take(self, state: steps.TrainState, slot: int) -> steps.TrainState:
        """The state of one slot, without the slot axis."""
        with jax.set_mesh(self.mesh):
            return self._take(state, jnp.int32(slot))

    def effective(self, state: steps.TrainState, values: dict[str, Any]) -> Any:
        """The parameters of all slots that their models compute with: see step.effective."""
        if not self.run.growth.masked:
            return state.params
        with jax.set_mesh(self.mesh):
            return self._effective(state, values)

    def evaluate(
        self, params: Any, tokens: Integer[np.ndarray, "K S B T"], counts: Integer[np.ndarray, "K"]
    ) -> Float[np.ndarray, "K S B"]:
        """Summed nats of each sequence, for the first `counts[k]` batches of slot k."""
        with jax.set_mesh(self.mesh):
            return hosts.whole(
                self._evaluate(
                    params,
                    hosts.put(tokens, self.tokens_sharding),
                    hosts.put(counts, self.slot_sharding),
                )
            )

    def counts(self, remaining: Sequence[int]) -> np.ndarray:
        """Steps of each slot in the next dispatch, `remaining[k]` being the most that slot k may take.

        Packed by map, a device works on its first unfinished slot until it is done (its state stays in cache, and
        results come one by one); packed by vmap, all slots go on together.
        """
        capacity, per_device = self.steps_per_dispatch, self.slots // self.groups
        out = np.minimum(np.asarray(remaining, np.int32), capacity)
        if self.packing == "map":
            for first in range(0, self.slots, per_device):
                group = out[first : first + per_device]
                before = np.concatenate([[0], np.cumsum(group)[:-1]])
                out[first : first + per_device] = np.clip(capacity - before, 0, group)
        return out
