"""Plans of studies: bounds, totals, the table that a reader sees."""

import dataclasses
import io
import math
from typing import Any

import pytest
from rich.console import Console

from experiments.benchmarks.chips import Grid as Electricity
from experiments.benchmarks.chips import load_chips, load_grid
from experiments.cli import InputError
from experiments.run import identity
from experiments.run.schema import Execution, Run
from models.mesh.mesh import MeshShape
from sweeps.cost import bound, compiled, machines, measured, study_plan, table
from sweeps.cost.compile_cache import CachedCompiler
from sweeps.cost.compiler import Compiled
from sweeps.cost.guess import Guess, best_guesses, guess
from sweeps.cost.layouts import Layout
from sweeps.cost.signature_plan import by_signature, program_steps
from sweeps.study.grid import Grid, Point, branch, cases, chain, over, product
from sweeps.work import populations
from tests.support.plans import SMALL, planned, study_of
from tests.support.studies import nodes_of

CHIPS = load_chips()
GRID = load_grid()


def test_a_bound_is_the_slowest_of_five():
    program = Compiled(
        fits=True,
        peak_bytes=1,
        evaluation_bytes=1,
        checkpoint_bytes=1,
        state_bytes=1,
        flops=197e12,
        hbm_bytes=819e9 / 2,
        collective_bytes={"all-gather": 20 * 10**9},
        ici_bytes={"x": 20e9},
        opaque_kernels={},
        compile_seconds=1.0,
        buffers=[],
    )
    pod = machines.target("v5e-256")
    found = bound.bound_step(program, CHIPS["v5e"], pod)
    assert (found.seconds, found.by) == (1.0, "compute")
    assert (found.memory, found.network) == (0.5, 0.2)
    small = bound.bound_step(program, CHIPS["v5e"], machines.target("v5e-16"))
    assert small.network == 0.4, "its axes are no rings"
    away = bound.bound_step(dataclasses.replace(program, host_bytes=32e9), CHIPS["v5e"], pod)
    assert (away.seconds, away.by) == (2.0, "host")
    several = dataclasses.replace(program, dcn_bytes=12.5e9)
    crossing = bound.bound_step(several, CHIPS["v5e"], machines.target("v5e-256x4"))
    assert (crossing.seconds, crossing.by) == (4.0, "slices")


def test_the_longest_line_of_runs_is_the_critical_path():
    """A trunk and its branch, not the many short runs beside them."""
    trunk = (Point(SMALL | {"tokens": 20_480, "schedule.name": "constant"}),)
    branches = branch(trunk, over("tokens", 5_120, 10_240))
    others = product(cases(SMALL), over("seed", 1, 2, 3))
    study = study_of(chain(trunk, branches, others))
    found = [planned(group, step_seconds=0.5) for group in by_signature(study.cells)]
    seconds, names = study_plan.critical_path(study, found)
    assert seconds == 0.5 * (20 + 10)
    assert len(names) == 2


def test_programs_take_the_steps_of_their_longest_run():
    sizes = {key: value for key, value in SMALL.items() if key != "tokens"}
    study = study_of(product(cases(sizes), over("tokens", 5_120, 20_480, 10_240)))
    (group,) = by_signature(study.cells)
    assert program_steps(group, 1) == [20, 10, 5]
    assert program_steps(group, 2) == [20, 5]


def test_a_bill_is_of_all_chips_for_all_signatures():
    """Two signatures of 900 and 2,700 seconds on 16 chips are 16 chip-hours."""
    study = study_of(chain(cases(SMALL), cases(SMALL | {"model.width": 256})))
    first, second = by_signature(study.cells)
    found = [planned(first, 0.5, seconds=900.0), planned(second, 0.5, seconds=2_700.0)]
    chip = dataclasses.replace(CHIPS["v5e"], price_usd=1.5)
    totals = study_plan.totals(study, found, machines.target("v5e-16"), chip, GRID, workers=1)
    assert totals["seconds"] == 3_600
    assert totals["chip_hours"] == 16
    assert totals["price_usd"] == 24
    without = study_plan.totals(study, found, machines.target("cpu"), None, GRID, workers=4)
    assert without["seconds"] == 900, "four cores share the work"
    assert without["chip_hours"] == 1
    assert without["price_usd"] is None


def test_energy_is_that_of_all_chips_with_the_data_center_around_them():
    """Half an hour on 8 GPUs of 700 W is 2.8 kWh; at a PUE of 1.5 that is 4.2 kWh, and 1.68 kg at 0.4 kg each."""
    study = study_of(cases(SMALL))
    (group,) = by_signature(study.cells)
    found = [planned(group, 0.5, seconds=1_800.0)]
    grid = Electricity(pue=1.5, kg_co2e_per_kwh=0.4, pue_source="made up", co2e_source="made up")
    totals = study_plan.totals(study, found, machines.target("h100-8"), CHIPS["h100"], grid, workers=1)
    assert totals["chip_hours"] == 4
    assert totals["price_usd"] == pytest.approx(4 * 11.06)
    assert totals["energy_kwh"] == pytest.approx(4.2)
    assert totals["co2e_kg"] == pytest.approx(1.68)
    unknown = study_plan.totals(study, found, machines.target("v5e-16"), CHIPS["v5e"], grid, workers=1)
    assert unknown["energy_kwh"] is None, "nobody has published what a v5e takes"
    assert unknown["co2e_kg"] is None


def test_a_gpu_target_needs_its_gpus():
    with pytest.raises(InputError, match="needs a machine with 8 of them; here jax sees 0"):
        study_plan.plan_study(study_of(cases(SMALL)), machines.target("h100-8"), CHIPS, GRID)


def test_populations_are_no_larger_than_planned():
    nodes = nodes_of(product(cases(SMALL), over("seed", *range(10))))
    together = {identity.signature(nodes[0].run): 4}
    found = populations.arrange(nodes, 1, lambda _: False, together=together)
    assert sorted(len(population.nodes) for population in found) == [3, 3, 4]


# --- the table

FITTING = {
    "name": "dense 2048x20, 64 x 2048",
    "runs": 3,
    "params_total": 1.14e9,
    "trials_per_program": 1,
    "fits": True,
    "mesh": {"trial": 1, "data": 2, "fsdp": 8, "tensor": 1},
    "peak_bytes": 3.22e9,
    "peak_evaluation_bytes": 1.46e9,
    "peak_checkpoint_bytes": 1.72e9,
    "flops_per_step": 9.77e14,
    "flops_compiled": 7.5e13,
    "compile_seconds": 36,
    "collective_bytes": {"all-gather": 3906e6, "reduce-scatter": 2016e6},
    "step_seconds_bound": 0.377,
    "bound_by": "compute",
    "mfu_bound": 0.82,
    "seconds": 57_600.0,
    "opaque_kernels": {},
}
UNKNOWN = ("step_seconds_bound", "bound_by", "mfu_bound", "flops_compiled", "peak_evaluation_bytes", "seconds")
TOO_LARGE = {
    **FITTING,
    **dict.fromkeys(UNKNOWN),
    "name": "moe 4096x40, 64 x 2048",
    "fits": False,
    "error": "too large",
    "peak_bytes": 99e9,
    "collective_bytes": {},
    "largest_buffers": [],
    "layouts": [],
    "changes": [],
}
TOTALS = {
    "runs": 6,
    "tokens": 10,
    "flops": 5.1e20,
    "seconds": 1.0,
    "chips": 16,
    "chip_hours": 1.0,
    "price_usd": None,
    "energy_kwh": 12.5,
    "co2e_kg": 5.6,
    "checkpoint_storage_bytes": 1e9,
    "critical_path": [],
    "critical_path_seconds": 1.0,
    "compiled": 2,
    "remembered": 0,
}


def test_a_plan_is_printed_whole_on_a_narrow_terminal():
    """A row a signature with what it takes, what a chip sends by kind, and nothing invented for one that does not fit."""
    plan = {"target": "v5e-16", "topology": "4x4", "chip": {"date": "2025-06"}, "totals": TOTALS}
    plan["signatures"] = [FITTING, TOO_LARGE]
    with Console(width=60, file=io.StringIO(), record=True) as console:
        table.show(console, plan, "mine")
    text = console.export_text()
    for shown in (
        "3.22",
        "1.46",
        "1.72",
        "377.00",
        "compute",
        "82%",
        "16",
        "1.23",
        "3906",
        "2016",
        "99.00",
        "NO",
        "12.5",
        "kWh",
        "5.6",
    ):
        assert shown in text.split(), shown
    assert "moe" in text
    assert "does not fit: too large" in text


# --- signatures that are compiled for a slice, by a compiler that needs no libtpu


class MadeUpCompiler(CachedCompiler):
    """Says that a program fits that is guessed to take at most so many bytes, and has one run; a step takes a second."""

    def __init__(self, target: machines.Target, most_bytes: float):
        super().__init__(target, cache=None)
        self.most_bytes = most_bytes
        self.tried: list[Guess] = []

    def __call__(self, run: Run, layout: Layout, execution: Execution, rest: bool = True) -> Compiled:
        guessed = guess(run, layout, 1, 1, CHIPS["v5e"], execution)
        self.tried.append(guessed)
        fits = guessed.bytes <= self.most_bytes and layout.trials == 1
        return Compiled(
            fits=fits,
            peak_bytes=int(guessed.bytes),
            evaluation_bytes=1,
            checkpoint_bytes=1,
            state_bytes=1,
            flops=197e12,
            hbm_bytes=1.0,
            collective_bytes={},
            opaque_kernels={},
            compile_seconds=8.0,
            buffers=[],
            error=None if fits else "too large",
        )

    def roomy_buffers(self, run: Run, layout: Layout, execution: Execution) -> list[dict[str, Any]]:
        return []


def planned_for_v5e_16(grid: Grid, most_bytes: float) -> tuple[dict[str, Any], MadeUpCompiler]:
    """The only signature of a study and its compiler, and the plan's totals under "totals"."""
    study = study_of(grid)
    target = machines.target("v5e-16")
    compiler = MadeUpCompiler(target, most_bytes)
    (group,) = by_signature(study.cells)
    found = compiled.plan_signature(group, compiler, CHIPS["v5e"], 1, compiled.be_silent)
    totals = study_plan.totals(study, [found], target, CHIPS["v5e"], GRID, workers=1)
    return dataclasses.asdict(found) | {"totals": totals}, compiler


def test_a_bill_follows_from_steps_programs_and_chips():
    """Two runs of 10 and 20 steps of a second, each a program of its own; 8 s to compile and 12 to start, twice."""
    sizes = {key: value for key, value in SMALL.items() if key != "tokens"}
    alone = cases(sizes | {"execution.mesh.trial": 1, "execution.mesh.data": 8, "execution.mesh.fsdp": 1})
    grid = product(alone, over("tokens", 10_240, 20_480))
    found, _ = planned_for_v5e_16(grid, math.inf)
    assert (found["trials_per_program"], found["programs"]) == (1, 2)
    seconds = 10 + 20 + 2 * (8.0 + populations.START_SECONDS)
    assert found["seconds"] == seconds
    assert found["totals"]["chip_hours"] == pytest.approx(16 * seconds / 3600)
    assert found["totals"]["price_usd"] == pytest.approx(16 * seconds / 3600 * 1.20)


def test_a_layout_that_needs_more_than_one_that_did_not_fit_is_not_compiled():
    """Each that is tried after the first needs less than all before it, as long as none fits."""
    several = product(cases(SMALL | {"batch_tokens": 128 * 16}), over("seed", 1, 2, 3, 4))
    found, compiler = planned_for_v5e_16(several, most_bytes=0.0)
    assert not found["fits"]
    first = [one.bytes for one in compiler.tried[: len(found["layouts"])]]
    assert len(first) > 1
    assert first == sorted(first, reverse=True)
    assert len(set(first)) == len(first)


def test_a_run_that_no_mesh_can_hold_is_named_on_gpus_too():
    """Seven sequences do not divide over the devices that its mesh asks for."""
    (cell,) = study_of(cases(SMALL | {"batch_tokens": 128 * 8, "execution.mesh.fsdp": 8})).cells
    seven = dataclasses.replace(cell.run, batch_tokens=128 * 7)
    execution = dataclasses.replace(cell.execution, mesh=MeshShape(fsdp=8))
    assert best_guesses(seven, 1, 1, 8, execution, CHIPS["h100"]) == []
    with pytest.raises(InputError, match="7 sequences cannot be shared by the chips of h100-8"):
        measured.most_promising(seven, 1, 1.0, machines.target("h100-8"), execution, CHIPS["h100"])
