"""Guess what a layout takes before anything is compiled, and sort layouts by it: arithmetic on counts of FLOPs and arrays.

The same four that bound a compiled program (sweeps/cost/bound.py) are guessed: what a step multiplies, moves in HBM, sends
over the links of one torus axis, and moves to and from the host. The guess decides nothing that the compiler does not
confirm.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax

from experiments.benchmarks.chips import Chip
from experiments.run.identity import representative
from experiments.run.schema import Execution, Run
from experiments.store.record import ledger
from experiments.training import optimizer
from experiments.training import step as training_step
from models import functional
from models.accounting import Dispatch
from models.mesh.mesh import MeshShape
from models.mesh.rules import is_axes
from models.numerics.parametrization import is_matrix
from sweeps.cost.layouts import Layout, dispatch, divisors, possible

VALUE_BYTES = 4  # of a parameter, and of what is kept for it
GRADIENT_BYTES = 4
LANES = 128  # width of a TPU's matrix unit: narrower matmuls leave the rest idle
GRADIENT_PASSES = 16  # bytes that a step moves for each parameter besides its state: its gradient, made, read, clipped
ACTIVATION_PASSES = 60  # bytes that a token moves for each layer and unit of width
PART_PASSES = 16  # more of them for each further part of a batch: values and gradients again, and their sum
# Activations of a layer in units of width that are kept until its backward pass, by policy of recomputation.
KEPT = {"full": 2, "offload": 1, "attention": 3}
KEPT_ALL = 24
LOGIT_BYTES = 6  # of a logit and its gradient
MOST_CHOICES = 64
OTHER_BOUNDS = 0.05  # share of the bounds that do not bind: decides between layouts that are bound alike


@functools.lru_cache(maxsize=256)
def _ledger(run: Run) -> dict[str, float]:
    return ledger(run)


@dataclasses.dataclass(frozen=True)
class Guess:
    """A layout with what it is expected to take: bytes of a chip, seconds of a step, seconds of all runs' steps."""

    layout: Layout
    bytes: float
    step_seconds: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Step:
    """A step of one trial on a layout, as one chip sees it."""

    layout: Layout
    microbatches: int  # parts of the batch that are trained on one after the other
    params: float  # of the whole model
    params_here: float  # that the chip stores
    tokens: float  # of the batch, that are the chip's
    width: int  # of the model
    item_bytes: int  # of an activation
    activation_bytes: float  # one value for each of the tokens, layer and unit of width


def _step_of(run: Run, layout: Layout, execution: Execution) -> _Step:
    """Guess from the ledger what a step computes, moves and sends."""
    model = run.model
    params = _ledger(run)["params_total"]
    tokens = run.batch_tokens / layout.batch_shards
    width = getattr(model, "width", 128)
    depth = getattr(model, "depth", 1)
    item_bytes = 2 if getattr(model, "dtype", "float32") == "bfloat16" else 4
    return _Step(
        layout=layout,
        microbatches=execution.microbatches,
        params=params,
        params_here=params / layout.shards,
        tokens=tokens,
        width=width,
        item_bytes=item_bytes,
        activation_bytes=tokens * depth * width * item_bytes,
    )


def _flops(step: _Step, run: Run) -> float:
    """Return what the chip multiplies for its tokens, the lanes that narrow matmuls leave idle included."""
    waste = max(1.0, LANES * step.layout.tensor / max(1, step.width))
    per_token = _ledger(run)["flops_per_token"] / step.layout.tensor
    return per_token * step.tokens * waste


def _hbm_bytes(step: _Step, run: Run) -> float:
    """Return what is read and written: state and activations."""
    read_and_written = 2 * state_bytes(run)
    state_passes = read_and_written + GRADIENT_PASSES + PART_PASSES * (step.microbatches - 1)
    activations = step.activation_bytes / 4 / step.layout.tensor
    return state_passes * step.params_here + ACTIVATION_PASSES * activations


def _sent_bytes(step: _Step, run: Run) -> float:
    """Return what the chip sends: gradients, matrices that are gathered, activations, rows of experts."""
    layout = step.layout
    fully_sharded = layout.fsdp * layout.sequence
    dispatched = dispatch(run) if layout.expert > 1 else Dispatch()
    # Gradients that are summed over `data`, there and back.
    gradients = 2 * GRADIENT_BYTES * step.params_here if layout.data > 1 else 0.0
    # Matrices twice and gradients once, over all chips that store them; of experts that stay, over those of `fsdp`.
    gathered = (step.params - dispatched.params) / layout.tensor
    gathered *= _others(fully_sharded * layout.expert)
    experts = dispatched.params / layout.expert / layout.tensor
    experts *= _others(fully_sharded)
    weights = gradients + 3 * step.item_bytes * (gathered + experts)
    # Rows to their experts, three times there and back; other activations, four times there and back.
    activations = 6 * dispatched.rows * _others(layout.expert)
    activations += 8 * _others(layout.tensor)
    activations += 8 * _others(layout.sequence) / layout.tensor
    return weights * step.microbatches + step.activation_bytes * activations


def _others(chips: int) -> float:
    """Return the share that the other chips have of what `chips` share evenly."""
    return 1 - 1 / chips


class _Kept(NamedTuple):
    """Bytes for each parameter of a run, on average: of its whole state, of what may lie with the host, beside the state."""

    state: float
    away: float
    beside: float


def _kept(run: Run) -> _Kept:
    """Count a run's state, array by array; nothing is computed."""
    return _kept_by(representative(run))


@functools.lru_cache(maxsize=256)
def _kept_by(run: Run) -> _Kept:
    state = training_step.abstract_state(run)
    axes = jax.tree.leaves(training_step.state_axes(run).opt, is_leaf=is_axes)
    away = 0
    for leaf, names in zip(jax.tree.leaves(state.opt), axes, strict=True):
        if is_matrix(names):
            away += _bytes(leaf)
    infos = functional.param_info(run.family, run.model)
    # Gradients of a mean of iterates are taken at a point of their own, which a step holds as long as the model runs.
    is_mean = optimizer.chain_of(run, infos).mean_share is not None
    params = sum(math.prod(leaf.shape) for leaf in state.params.values())
    whole = sum(map(_bytes, jax.tree.leaves(state)))
    return _Kept(whole / params, away / params, VALUE_BYTES if is_mean else 0.0)


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def state_bytes(run: Run) -> float:
    """Return how many bytes a run's state has for each parameter: itself, the optimizer's, means of it."""
    return _kept(run).state


def step_bytes(run: Run) -> float:
    """Return how many bytes a step holds for each parameter: its state, its gradient, and where that is taken."""
    kept = _kept(run)
    return kept.state + GRADIENT_BYTES + kept.beside


def _memory_bytes(step: _Step, run: Run, moments_away: float) -> float:
    """Return what has to lie in HBM: state, gradients (and their sum over parts), logits, kept activations."""
    sums = GRADIENT_BYTES if step.microbatches > 1 else 0
    state = (step_bytes(run) + sums) * step.params_here - moments_away
    logits = LOGIT_BYTES * step.tokens * (run.model.vocab or 0)
    remat = getattr(run.model, "remat", "none")
    kept = step.activation_bytes * KEPT.get(remat, KEPT_ALL)
    return state + (logits + kept) / step.layout.tensor / step.microbatches


def guess(run: Run, layout: Layout, runs: int, steps: float, chip: Chip, execution: Execution = Execution()) -> Guess:
    """Guess what a layout takes for `runs` runs of `steps` steps on average."""
    step = _step_of(run, layout, execution)
    moments_away = _kept(run).away * step.params_here if execution.offload == "optimizer" else 0.0
    bounds = (
        _flops(step, run) / chip.peak_flops,
        _hbm_bytes(step, run) / chip.hbm_bytes_per_second,
        _sent_bytes(step, run) / chip.ici_bytes_per_second,
        moments_away / (chip.host_bytes_per_second or float("inf")),
    )
    step_seconds = layout.trials_per_device * (max(bounds) + OTHER_BOUNDS * sum(bounds))
    programs = -(-runs // layout.trials)
    memory = layout.trials_per_device * _memory_bytes(step, run, moments_away)
    return Guess(layout, memory, step_seconds, programs * steps * step_seconds)


def best_guesses(run: Run, runs: int, steps: float, devices: int, execution: Execution, chip: Chip) -> list[Guess]:
    """Return layouts that can be expected to fit, the fastest first; if none can, those that need the least memory.

    Of equals, the one with fewer programs and less communication comes first. A slice that the batch cannot be split over
    is used in part.
    """
    guesses: list[Guess] = []
    for used in reversed(divisors(devices)):
        for layout in possible(run, runs, used, execution):
            guesses.append(guess(run, layout, runs, steps, chip, execution))
        if guesses and execution.mesh != MeshShape():
            break
    fitting = [one for one in guesses if one.bytes <= chip.hbm_bytes]
    if fitting:
        return sorted(fitting, key=_fastest)[:MOST_CHOICES]
    return sorted(guesses, key=lambda one: one.bytes)[:MOST_CHOICES]


def _fastest(one: Guess) -> tuple[float, ...]:
    """Order guesses by their time to three digits, then by what they communicate, then by the number of programs."""
    layout = one.layout
    seconds = float(f"{one.seconds:.3g}")
    return (seconds, layout.tensor, layout.expert, layout.fsdp, layout.data, -layout.trials)
