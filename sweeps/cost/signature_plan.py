"""Hold what a plan says of one signature: the runs that one compiled program can train.

The values come from steps that are measured (sweeps/cost/measured.py) or from programs that are compiled for a TPU
(sweeps/cost/compiled.py); here are those that the ledger knows without either.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from experiments.run import identity
from experiments.run.schema import Run
from experiments.store.record import ledger
from sweeps.cost.guess import state_bytes
from sweeps.cost.machines import Target
from sweeps.study.cells import Cell, without_repeats


@dataclasses.dataclass(frozen=True)
class SignaturePlan:
    """One signature. Bytes, FLOPs of the compiler and collectives are of one chip and one step of all trials of a program.

    `flops_per_step` and `flops` are the ledger's, of one run's step and of all runs. `seconds`: of the whole machine (of
    one core on a CPU), for all runs. A step takes `step_seconds_bound`: measured, or at best.
    """

    name: str
    signature: str
    runs: int
    steps: int
    tokens: int
    params_total: int
    flops_per_step: float
    flops: float
    fits: bool
    peak_bytes: int | None
    step_seconds_bound: float
    bound_by: str
    compile_seconds: float
    seconds: float
    mesh: dict[str, int]
    packing: str
    trials_per_program: int
    programs: int
    checkpoint_storage_bytes: int
    collective_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    ici_bytes: dict[str, float] = dataclasses.field(default_factory=dict)  # by the torus axes that they may go over
    dcn_bytes: float = 0.0  # to other slices
    peak_evaluation_bytes: int | None = None
    peak_checkpoint_bytes: int | None = None
    flops_compiled: float | None = None
    hbm_bytes: float | None = None
    bounds_seconds: dict[str, float] | None = None
    mfu_bound: float | None = None
    # Layouts that were compiled: more or less fsdp, smaller packing.
    layouts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    largest_buffers: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    changes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    opaque_kernels: dict[str, float] = dataclasses.field(default_factory=dict)
    error: str | None = None


def label(run: Run) -> str:
    """Name a signature in a few words: family, width and depth, sequences and their length."""
    sizes = [str(getattr(run.model, name)) for name in ("width", "depth") if hasattr(run.model, name)]
    return f"{run.family} {'x'.join(sizes)}, {run.batch} x {run.seq_len}"


def no_layout(run: Run, target: Target) -> str:
    """Say that a run cannot be laid out on a machine at all."""
    return (
        f"{label(run)}: {run.batch} sequences cannot be shared by the chips of {target.name} on any mesh that "
        f"execution.mesh allows"
    )


def by_signature(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group cells by signature; points that are one run, as far as can be known without preparing data, count once."""
    groups: dict[str, list[Cell]] = {}
    for cell in without_repeats(cells):
        groups.setdefault(identity.signature(cell.run), []).append(cell)
    return list(groups.values())


def ledger_fields(group: Sequence[Cell]) -> dict[str, Any]:
    """Return what the ledger says of a signature, as fields of its SignaturePlan."""
    run = group[0].run
    ledgers = [ledger(cell.run) for cell in group]
    params = ledgers[0]["params_total"]
    checkpoints = len(group) * group[0].execution.keep_checkpoints
    return {
        "name": label(run),
        "signature": identity.signature(run),
        "runs": len(group),
        "steps": sum(cell.run.steps for cell in group),
        "tokens": sum(cell.run.steps * cell.run.batch_tokens for cell in group),
        "params_total": params,
        "flops_per_step": ledgers[0]["flops_per_token"] * run.batch_tokens,
        "flops": sum(counts["flops_total"] for counts in ledgers),
        "checkpoint_storage_bytes": round(state_bytes(run) * params * checkpoints),
    }


def program_steps(group: Sequence[Cell], trials: int) -> list[int]:
    """Return the steps of each program when runs of about one length share one: those of its longest run."""
    steps = sorted((cell.run.steps for cell in group), reverse=True)
    return steps[::trials]
