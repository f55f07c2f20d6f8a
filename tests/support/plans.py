"""Make studies and plans for tests, and say which tests need a compiler for TPUs."""

import pytest

from sweeps.cost import compiler
from sweeps.cost.signature_plan import SignaturePlan, ledger_fields
from sweeps.study.cells import Cell, freeze_points
from sweeps.study.file import Study
from sweeps.study.grid import Grid

needs_libtpu = pytest.mark.skipif(compiler.missing() is not None, reason=str(compiler.missing()))

SMALL = {"model.width": 128, "model.depth": 2, "model.heads": 2, "seq_len": 128, "batch_tokens": 1024, "tokens": 10_240}
LARGE = {"model.width": 2048, "model.depth": 20, "model.heads": 16, "seq_len": 2048, "batch_tokens": 2048 * 64}


def study_of(grid: Grid, name: str = "made") -> Study:
    """A study of a grid, as if it had been read from a file."""
    return Study(name, f"{name}.py", "", freeze_points(grid))


def planned(group: list[Cell], step_seconds: float, seconds: float = 1.0) -> SignaturePlan:
    """A signature as if it had been measured."""
    return SignaturePlan(
        **ledger_fields(group),
        fits=True,
        peak_bytes=1,
        step_seconds_bound=step_seconds,
        bound_by="measured",
        compile_seconds=1.0,
        seconds=seconds,
        mesh={},
        packing="map",
        trials_per_program=1,
        programs=1,
    )
