"""What is known of each signature of a study: one row of its plan. Here by measuring; sweeps/cost/compiled.py compiles for TPUs."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from experiments.run import identity
from experiments.run.schema import Run
from experiments.store.record import ledger
from sweeps.cost import layouts as roofline
from sweeps.cost.machines import Chip, Target
from sweeps.study.file import Cell


@dataclasses.dataclass(frozen=True)
class Row:
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
    peak_evaluation_bytes: int | None = None
    peak_checkpoint_bytes: int | None = None
    flops_compiled: float | None = None
    hbm_bytes: float | None = None
    bounds_seconds: dict[str, float] | None = None
    mfu_bound: float | None = None
    layouts: list[dict[str, Any]] = dataclasses.field(
        default_factory=list
    )  # compiled: more or less fsdp, smaller packing
    largest_buffers: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    changes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    opaque_kernels: dict[str, float] = dataclasses.field(default_factory=dict)
    error: str | None = None


def describe(run: Run) -> str:
    """A signature in a few words."""
    shape = "x".join(str(getattr(run.model, name)) for name in ("width", "depth") if hasattr(run.model, name))
    return f"{run.family} {shape}, {run.batch} x {run.seq_len}"


def distinct(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells by signature; points that are one run as far as can be known without preparing data are counted once."""
    unique = {identity.fingerprint(c.run, (str(c.run.data),)): c for c in cells}
    groups: dict[str, list[Cell]] = {}
    for cell in unique.values():
        groups.setdefault(identity.signature(cell.run), []).append(cell)
    return list(groups.values())


def base(group: Sequence[Cell]) -> dict[str, Any]:
    """What the ledger says of a signature, as fields of its Row."""
    run, execution = group[0].run, group[0].execution
    counts = [ledger(cell.run) for cell in group]
    kept = roofline.STATE_BYTES * counts[0]["params_total"] * execution.keep_checkpoints
    return {
        "name": describe(run),
        "signature": identity.signature(run),
        "runs": len(group),
        "steps": sum(cell.run.steps for cell in group),
        "tokens": sum(cell.run.steps * cell.run.batch_tokens for cell in group),
        "params_total": counts[0]["params_total"],
        "flops_per_step": counts[0]["flops_per_token"] * run.batch_tokens,
        "flops": sum(count["flops_total"] for count in counts),
        "checkpoint_storage_bytes": kept * len(group),
    }


def program_steps(group: Sequence[Cell], trials: int) -> list[int]:
    """Steps of each program when runs of about one length share one: those of its longest run."""
    steps = sorted((cell.run.steps for cell in group), reverse=True)
    return steps[::trials]


# --- this machine


def mfu(flops: float, seconds: float, chip: Chip, target: Target) -> float:
    """The ledger's FLOPs of a program's step over what all chips could do in that time."""
    return flops / (seconds * chip.peak_flops * target.chips)
