"""Plans of studies: bounds, totals, the table that a reader sees."""

import dataclasses
import io

import pytest
from rich.console import Console

from experiments.benchmarks.chips import Grid, load_chips, load_grid
from experiments.cli import InputError
from experiments.run import identity
from sweeps.cost import bound, machines, study_plan, table
from sweeps.cost.compiler import Compiled
from sweeps.cost.signature_plan import by_signature, program_steps
from sweeps.study.grid import Point, branch, cases, chain, over, product
from sweeps.work import populations
from tests.support.plans import SMALL, planned, study_of
from tests.support.studies import nodes_of

CHIPS = load_chips()
GRID = load_grid()


def test_a_bound_is_the_slowest_of_four():
    program = Compiled(
        fits=True,
        peak_bytes=1,
        evaluation_bytes=1,
        checkpoint_bytes=1,
        state_bytes=1,
        flops=197e12,
        hbm_bytes=819e9 / 2,
        collective_bytes={"all-gather": 20 * 10**9},
        opaque_kernels={},
        compile_seconds=1.0,
        buffers=[],
    )
    found = bound.bound_step(program, CHIPS["v5e"])
    assert (found.seconds, found.by) == (1.0, "compute")
    assert (found.memory, found.network) == (0.5, 0.2)
    away = bound.bound_step(dataclasses.replace(program, host_bytes=32e9), CHIPS["v5e"])
    assert (away.seconds, away.by) == (2.0, "host")


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
    grid = Grid(pue=1.5, kg_co2e_per_kwh=0.4, pue_source="made up", co2e_source="made up")
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
