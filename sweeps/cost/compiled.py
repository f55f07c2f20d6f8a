"""Plan for a TPU slice by compiling: find the mesh and packing of each signature, whether it fits, what would make it fit.

Layouts are sorted by arithmetic (sweeps/cost/guess.py) and compiled (sweeps/cost/compiler.py) until one fits; the compiler
decides.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import itertools
from typing import Any

from experiments.benchmarks.chips import Chip
from experiments.cli import InputError
from experiments.run import check
from sweeps.cost import compiler as compilers
from sweeps.cost.bound import Bound, bound_step, mfu
from sweeps.cost.compile_cache import CachedCompiler
from sweeps.cost.compiler import Compiled
from sweeps.cost.guess import Guess, best_guesses
from sweeps.cost.layouts import Layout
from sweeps.cost.signature_plan import SignaturePlan, ledger_fields, no_layout, program_steps
from sweeps.cost.smaller import changed, smaller_options
from sweeps.executors import local
from sweeps.study.cells import Cell
from sweeps.work import populations

TRIES = 6  # layouts of one signature that are compiled before it is said not to fit
NEAR = 1.15  # a layout that is guessed to take so much longer than the first is compiled too, where --layouts allows

Say = Callable[[str], None]  # what a reader sees while programs are compiled


def be_silent(text: str) -> None:
    """Say nothing."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A layout that was compiled; its bound is None where the program does not fit."""

    layout: Layout
    program: Compiled
    bound: Bound | None

    def as_json(self) -> dict[str, Any]:
        """Return what the plan says of a layout that was tried."""
        return {
            "mesh": self.layout.mesh,
            "trials_per_program": self.layout.trials,
            "fits": self.bound is not None,
            "peak_bytes": self.program.peak_bytes,
            "step_seconds_bound": self.bound.seconds if self.bound else None,
        }


def plan_on_tpu(
    groups: Sequence[Sequence[Cell]],
    compiler: CachedCompiler,
    chip: Chip,
    layouts: int,
    say: Say = be_silent,
) -> list[SignaturePlan]:
    """Plan the signatures of a study, each compiled for a TPU slice; as many at a time as there are cores.

    The compiler takes one core for most of its time, and lets other threads run meanwhile. `layouts`: how many that fit
    are compiled and compared.
    """
    target = compiler.target
    assert target.chip and target.topology, "a TPU target is a slice"
    compilers.topology(target.chip, target.topology, target.slices)  # once, before there are threads
    numbers = itertools.count(1)

    def plan_one(group: Sequence[Cell]) -> SignaturePlan:
        planned = plan_signature(group, compiler, chip, layouts, say)
        verdict = "fits" if planned.fits else "does NOT fit"
        say(f"{next(numbers)} of {len(groups)}: {planned.name} {verdict}, {planned.compile_seconds:.0f} s")
        return planned

    with concurrent.futures.ThreadPoolExecutor(len(local.available_cores())) as threads:
        return list(threads.map(plan_one, groups))


def plan_signature(
    group: Sequence[Cell], compiler: CachedCompiler, chip: Chip, layouts: int, say: Say
) -> SignaturePlan:
    """Plan one signature with the layout that is best for its runs; if none fits, with changes that were tried."""
    run = group[0].run
    execution = group[0].execution
    fields = ledger_fields(group)
    best, tried = find_layout(group, compiler, chip, layouts)
    program = best.program
    layout = best.layout
    bound = best.bound
    steps = program_steps(group, layout.trials)
    step_seconds = bound.seconds if bound else 0.0
    overhead = len(steps) * (program.compile_seconds + populations.START_SECONDS)
    program_flops = fields["flops_per_step"] * layout.trials
    return SignaturePlan(
        **fields,
        fits=bound is not None,
        peak_bytes=program.peak_bytes,
        step_seconds_bound=step_seconds,
        bound_by=bound.by if bound else "memory size",
        compile_seconds=program.compile_seconds,
        seconds=sum(steps) * step_seconds + overhead,
        mesh=layout.mesh,
        packing="vmap" if execution.packing == "auto" else execution.packing,
        trials_per_program=layout.trials,
        programs=len(steps),
        collective_bytes=program.collective_bytes,
        ici_bytes=program.ici_bytes,
        dcn_bytes=program.dcn_bytes,
        peak_evaluation_bytes=program.evaluation_bytes,
        peak_checkpoint_bytes=program.checkpoint_bytes,
        flops_compiled=program.flops,
        hbm_bytes=program.hbm_bytes,
        bounds_seconds=dataclasses.asdict(bound) if bound else None,
        mfu_bound=mfu(program_flops, step_seconds, chip, compiler.target) if bound else None,
        largest_buffers=program.buffers if program.fits else compiler.roomy_buffers(run, layout, execution),
        layouts=[trial.as_json() for trial in tried],
        changes=[] if bound else try_changes(group, compiler, chip, say),
        opaque_kernels=program.opaque_kernels,
        error=program.error,
    )


# --- the layout


def find_layout(group: Sequence[Cell], compiler: CachedCompiler, chip: Chip, layouts: int) -> tuple[Trial, list[Trial]]:
    """Compile layouts until `layouts` fit; return the one with the least time, and all that were compiled.

    A layout that is guessed to need more memory than one that did not fit is left out. Where none fits, the one that
    needs the least memory is returned. Raises InputError where no layout can be built.
    """
    run = group[0].run
    execution = group[0].execution
    target = compiler.target
    mean_steps = sum(cell.run.steps for cell in group) / len(group)
    guesses = best_guesses(run, len(group), mean_steps, target.devices, execution, chip)
    tried: list[Trial] = []
    fitting: list[Trial] = []
    memory_limit = float("inf")  # the least that was guessed of a layout that did not fit
    unbuildable: InputError | None = None
    for guess in guesses:
        if guess.bytes >= memory_limit or (fitting and not _is_near(guess, guesses[0])):
            continue
        if len(fitting) >= layouts or len(tried) >= TRIES:
            break
        try:
            program = compiler(run, guess.layout, execution)
        except InputError as error:  # an axis that does not divide: models/mesh/rules.py knows which ones there are
            unbuildable = error
            continue
        bound = bound_step(program, chip, target) if _fits(program, chip) else None
        trial = Trial(guess.layout, program, bound)
        tried.append(trial)
        if bound:
            fitting.append(trial)
        else:
            memory_limit = guess.bytes
    if fitting:
        return min(fitting, key=lambda trial: _training_seconds(trial, group)), tried
    if tried:
        return min(tried, key=lambda trial: trial.program.peak_bytes or 0), tried
    raise unbuildable or InputError(no_layout(run, target))


def _is_near(guess: Guess, first: Guess) -> bool:
    """Whether a layout is guessed to take hardly longer than the first one."""
    return guess.seconds <= NEAR * first.seconds


def _fits(program: Compiled, chip: Chip) -> bool:
    """Whether a program fits, also while it evaluates and saves."""
    beside = max(program.evaluation_bytes or 0, program.checkpoint_bytes or 0)
    return program.fits and beside <= chip.hbm_bytes


def _training_seconds(trial: Trial, group: Sequence[Cell]) -> float:
    """Return the seconds of all steps of all programs."""
    assert trial.bound is not None, "only layouts that fit are compared"
    return sum(program_steps(group, trial.layout.trials)) * trial.bound.seconds


# --- what would make it fit


def try_changes(group: Sequence[Cell], compiler: CachedCompiler, chip: Chip, say: Say) -> list[dict[str, Any]]:
    """Compile a signature with changed options, the cheapest first, until one fits; return what each came to."""
    tried: list[dict[str, Any]] = []
    for options, cost in smaller_options(group[0]):
        text = " ".join(f"{path}={value}" for path, value in options.items())
        cells = [changed(cell, options) for cell in group]
        say(f"    does not fit; trying {text}")
        try:
            check.check(cells[0].run, cells[0].execution)
            best, _ = find_layout(cells, compiler, chip, layouts=1)
        except InputError:  # this run's batch cannot be cut so
            continue
        tried.append({"change": text, "cost": cost} | best.as_json())
        if best.bound is not None:
            break
    return tried
