"""Which mesh and packing a signature gets on a TPU slice, whether it fits there, and what would make it fit.

Layouts are sorted by arithmetic (sweeps/cost/layouts.py) and compiled (sweeps/cost/compiler.py) until one fits; the compiler decides.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import itertools
from typing import Any

from experiments.cli import InputError
from experiments.run import check
from experiments.run.schema import Run
from sweeps.cost import compiler as aot
from sweeps.cost import layouts as roofline
from sweeps.cost.bound import Bound
from sweeps.cost.bound import bound as bound_
from sweeps.cost.machines import Chip
from sweeps.cost.row import Row, base, describe, mfu, program_steps
from sweeps.executors import local
from sweeps.study.file import Cell
from sweeps.work import populations

TRIES = 6  # layouts of one signature that are compiled before it is said not to fit
NEAR = 1.15  # a layout that is guessed to take so much longer than the first is compiled too, where --layouts allows
# Changes of options that make a program smaller, with what they cost, the cheapest first.
CHANGES: tuple[tuple[dict[str, Any], str], ...] = (
    (
        {"execution.microbatches": 4},
        "gathers split weights for each part; of mixtures, a forward pass more; same numbers",
    ),
    ({"model.remat": "dots"}, "computes everything but matmuls twice; same numbers"),
    ({"model.remat": "attention"}, "a second forward pass but for attention; same numbers"),
    ({"model.remat": "full"}, "a second forward pass; same numbers"),
    ({"model.remat": "offload"}, "and the inputs of layers go to the host and back; same numbers"),
    ({"model.remat": "offload", "execution.microbatches": 4}, "both; same numbers"),
    (
        {"model.remat": "offload", "execution.microbatches": 4, "execution.offload": "optimizer"},
        "and Adam's moments come from the host and go back; same numbers",
    ),
    ({"model.dtype": "bfloat16"}, "activations in bfloat16; other numbers"),
    ({"model.dtype": "bfloat16", "model.remat": "full"}, "both; other numbers"),
)
# Of an option, from the value that needs the most memory to the one that needs the least.
_SMALLER = {"model.remat": ("none", "dots", "attention", "full", "offload"), "model.dtype": ("float32", "bfloat16")}
_SMALLER |= {"execution.offload": ("none", "optimizer")}


@dataclasses.dataclass(frozen=True)
class Found:
    """The best layout of a signature among those compiled, and its bound; no bound where it does not fit."""

    layout: aot.Layout
    program: aot.Compiled
    bound: Bound | None
    seconds: float
    tried: tuple[dict[str, Any], ...] = ()  # every layout that was compiled


def search(
    group: Sequence[Cell], run: Run, compiler: aot.Compiler, chip: Chip, layouts: int, rest: bool = True
) -> Found:
    """Compile layouts of `run`, for as many runs as `group` has, until `layouts` fit; the one with the least time.

    A layout that is guessed to need more memory than one that did not fit is left out.
    """
    execution, target = group[0].execution, compiler.target
    steps = sum(cell.run.steps for cell in group) / len(group)
    guesses = roofline.choices(run, len(group), steps, target.devices, execution, chip)
    fitting: list[Found] = []
    refused: Found | None = None
    limit, tried, wrong = float("inf"), [], None
    for guess in guesses:
        if guess.bytes >= limit or (fitting and guess.seconds > NEAR * guesses[0].seconds):
            continue
        if len(fitting) >= layouts or len(tried) >= TRIES:
            break
        try:
            program = compiler(run, guess.layout, execution, rest)
        except InputError as error:  # an axis that does not divide: models/mesh/rules.py knows which ones there are
            wrong = error
            continue
        bound = bound_(program, chip, target.devices // target.chips) if _fits(program, chip) else None
        tried.append(_trial(guess.layout, program, bound))
        if bound:
            total = sum(program_steps(group, guess.layout.trials)) * bound.seconds
            fitting.append(Found(guess.layout, program, bound, total))
        else:
            limit = guess.bytes
            if refused is None or (program.peak_bytes or 0) < (refused.program.peak_bytes or 0):
                refused = Found(guess.layout, program, None, 0.0)
    if not fitting and refused is None:
        raise wrong or InputError(
            f"{describe(run)}: {run.batch} sequences cannot be shared by the chips of {target.name} on any mesh that "
            f"execution.mesh allows"
        )
    best = min(fitting, key=lambda found: found.seconds) if fitting else refused
    return dataclasses.replace(best, tried=tuple(tried))


def _trial(layout: aot.Layout, program: aot.Compiled, bound: Bound | None) -> dict[str, Any]:
    """A compiled layout, for the plan's JSON."""
    sizes = {"mesh": layout.mesh, "trials_per_program": layout.trials, "fits": bound is not None}
    return sizes | {"peak_bytes": program.peak_bytes, "step_seconds_bound": bound.seconds if bound else None}


def _fits(program: aot.Compiled, chip: Chip) -> bool:
    """Also while it evaluates and saves."""
    beside = (program.evaluation_bytes or 0, program.checkpoint_bytes or 0)
    return program.fits and max(beside) <= chip.hbm_bytes


def on_tpu(
    groups: Sequence[Sequence[Cell]],
    compiler: aot.Compiler,
    chip: Chip,
    layouts: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """The signatures of a study, each compiled for a TPU slice; as many at a time as there are cores.

    The compiler takes one core for most of its time, and lets other threads run meanwhile.
    """
    aot.topology(compiler.target.chip, compiler.target.topology)  # once, before there are threads
    numbers, total = itertools.count(1), len(groups)

    def one(group: Sequence[Cell]) -> Row:
        row = row_of(group, compiler, chip, layouts, say)
        say(
            f"{next(numbers)} of {total}: {row.name} {'fits' if row.fits else 'does NOT fit'}, {row.compile_seconds:.0f} s"
        )
        return row

    with concurrent.futures.ThreadPoolExecutor(len(local.available_cores())) as threads:
        return list(threads.map(one, groups))


def row_of(group: Sequence[Cell], compiler: aot.Compiler, chip: Chip, layouts: int, say: Callable[[str], None]) -> Row:
    """One signature, compiled with the layout that is best for its runs; if none fits, with changes that were tried."""
    run, execution, row, target = group[0].run, group[0].execution, base(group), compiler.target
    found = search(group, run, compiler, chip, layouts)
    program, bound, layout = found.program, found.bound, found.layout
    steps = program_steps(group, layout.trials)
    step = bound.seconds if bound else 0.0
    overhead = len(steps) * (program.compile_seconds + populations.START_SECONDS)
    return Row(
        **row,
        fits=bound is not None,
        peak_bytes=program.peak_bytes,
        step_seconds_bound=step,
        bound_by=bound.by if bound else "memory size",
        compile_seconds=program.compile_seconds,
        seconds=sum(steps) * step + overhead,
        mesh=layout.mesh,
        packing="vmap" if execution.packing == "auto" else execution.packing,
        trials_per_program=layout.trials,
        programs=len(steps),
        collective_bytes=program.collective_bytes,
        peak_evaluation_bytes=program.evaluation_bytes,
        peak_checkpoint_bytes=program.checkpoint_bytes,
        flops_compiled=program.flops,
        hbm_bytes=program.hbm_bytes,
        bounds_seconds=dataclasses.asdict(bound) if bound else None,
        mfu_bound=mfu(row["flops_per_step"] * layout.trials, step, chip, target) if bound else None,
        largest_buffers=program.buffers if program.fits else compiler.buffers(run, layout, execution),
        layouts=list(found.tried),
        changes=[] if bound else changes(group, compiler, chip, say),
        opaque_kernels=program.opaque_kernels,
        error=program.error,
    )


def changes(
    group: Sequence[Cell], compiler: aot.Compiler, chip: Chip, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Changes of options that were compiled to make a signature fit, the cheapest first, until one does."""
    out: list[dict[str, Any]] = []
    for options, cost in CHANGES:
        changed = {path: value for path, value in options.items() if _is_smaller(group[0], path, value)}
        text = " ".join(f"{path}={value}" for path, value in changed.items())
        if not changed or any(row["change"] == text for row in out):
            continue
        smaller = [_changed(cell, changed) for cell in group]
        say(f"    does not fit; trying {text}")
        try:
            check.check(smaller[0].run, smaller[0].execution)
            found = search(smaller, smaller[0].run, compiler, chip, 1)
        except InputError:  # this run's batch cannot be cut so
            continue
        out.append({"change": text, "cost": cost} | _trial(found.layout, found.program, found.bound))
        if found.bound is not None:
            break
    return out


def _is_smaller(cell: Cell, path: str, value: Any) -> bool:
    """Whether an option of a cell (its family may not have it) would take more memory than `value` does."""
    section, name = path.split(".")
    holder = cell.execution if section == "execution" else cell.run.model
    if not hasattr(holder, name):
        return False
    order, now = _SMALLER.get(path), getattr(holder, name)
    return now < value if order is None else now in order and order.index(now) < order.index(value)


def _changed(cell: Cell, options: dict[str, Any]) -> Cell:
    model = {path.split(".")[1]: value for path, value in options.items() if path.startswith("model.")}
    rest = {path.split(".")[1]: value for path, value in options.items() if path.startswith("execution.")}
    run = dataclasses.replace(cell.run, model=dataclasses.replace(cell.run.model, **model))
    return dataclasses.replace(cell, run=run, execution=dataclasses.replace(cell.execution, **rest))
