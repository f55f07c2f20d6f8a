"""Plan a study: the plans of its signatures, and what they come to together."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from experiments.benchmarks.chips import Chip, Grid
from experiments.run import identity
from sweeps.cost import compiler as compilers
from sweeps.cost import plan_file
from sweeps.cost.compile_cache import CACHE, CachedCompiler
from sweeps.cost.compiled import Say, be_silent, plan_on_tpu
from sweeps.cost.machines import Target
from sweeps.cost.measured import plan_on_cpu, plan_on_gpu
from sweeps.cost.signature_plan import SignaturePlan, by_signature
from sweeps.executors import local
from sweeps.study.cells import ancestry
from sweeps.study.file import Study

SCHEMA = 3


def plan_study(
    study: Study,
    target: Target,
    chips: Mapping[str, Chip],
    grid: Grid,
    layouts: int = 1,
    cache: str | None = CACHE,
    say: Say = be_silent,
) -> dict[str, Any]:
    """Return the plan of a study, as its JSON. Raises InputError for a target that cannot be planned for here.

    `layouts`: how many layouts of a signature are compiled and compared; `cache`: folder for results of compilations.
    """
    groups = by_signature(study.cells)
    chip = chips[target.chip] if target.chip else None
    workers = 1
    compilations = {"compiled": 0, "remembered": 0}
    if chip is None:
        planned = plan_on_cpu(groups)
        workers = len(local.available_cores())
    elif target.kind == "gpu":
        planned = plan_on_gpu(groups, target, chip)
    else:
        compilers.set_up()
        compiler = CachedCompiler(target, cache)
        planned = plan_on_tpu(groups, compiler, chip, layouts, say)
        compilations = {"compiled": compiler.compiled, "remembered": compiler.remembered}
    return {
        "schema": SCHEMA,
        "target": target.name,
        "topology": target.topology,
        "slices": target.slices,
        "study": study.spec,
        "hash": plan_file.study_hash(study),
        "chip": dataclasses.asdict(chip) if chip else None,
        "signatures": [dataclasses.asdict(one) for one in planned],
        "totals": totals(study, planned, target, chip, grid, workers) | compilations,
    }


def totals(
    study: Study, planned: Sequence[SignaturePlan], target: Target, chip: Chip | None, grid: Grid, workers: int
) -> dict[str, Any]:
    """Add up the signatures of a study. On a CPU, chip hours are those of cores, and nobody has told what they cost.

    The energy is that of chips which take the most that they can, with the data center around them.
    """
    longest, names = critical_path(study, planned)
    seconds = sum(one.seconds for one in planned)
    chip_hours = seconds * target.chips / 3600
    price = chip.price_usd if chip else None
    watts = chip.watts if chip else None
    energy_kwh = None if watts is None else chip_hours * watts / 1000 * grid.pue
    return {
        "runs": sum(one.runs for one in planned),
        "tokens": sum(one.tokens for one in planned),
        "flops": sum(one.flops for one in planned),
        "fits": all(one.fits for one in planned),
        "chips": target.chips,
        "chip_hours": chip_hours,
        "price_usd": None if price is None else chip_hours * price,
        "energy_kwh": energy_kwh,
        "co2e_kg": None if energy_kwh is None else energy_kwh * grid.kg_co2e_per_kwh,
        "checkpoint_storage_bytes": sum(one.checkpoint_storage_bytes for one in planned),
        "seconds": max(seconds / workers, longest),
        "critical_path_seconds": longest,
        "critical_path": names,
        "workers": workers,
    }


def critical_path(study: Study, planned: Sequence[SignaturePlan]) -> tuple[float, list[str]]:
    """Return the seconds of the longest line of runs that wait for each other, and their names, eldest first."""
    step_seconds = {one.signature: one.step_seconds_bound for one in planned}
    longest = 0.0
    names: list[str] = []
    for cell in study.cells:
        line = ancestry(cell)
        seconds = sum(one.run.steps * step_seconds.get(identity.signature(one.run), 0.0) for one in line)
        if seconds > longest:
            longest = seconds
            names = [one.name for one in line]
    return longest, names
