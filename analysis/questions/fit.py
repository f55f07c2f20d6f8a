"""Fit any law to a loss grid: a formula as it stands, other laws by their procedure."""

import dataclasses

from analysis.fitting.formula_fit import fit_formula, noted
from analysis.fitting.judging import judge_by_rows
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.allocation import Envelope, IsoFlop
from analysis.laws.base import FormulaLaw, Law
from analysis.procedures.registry import procedure_of
from analysis.solve import newton
from experiments.cli import InputError


def fit(columns: Columns, law: type[Law], spec: FitSpec = FitSpec()) -> FitResult:
    """Fit a law to the rows of a grid.

    Raises InputError when there are fewer rows than coefficients, FitError when no optimum was reached.
    """
    spec = spec.for_law(law)
    law = law.of(columns.parts)
    with newton.one_thread():
        result = _fit(columns, law, spec)
    return noted(result, columns)


def _fit(columns: Columns, law: type[Law], spec: FitSpec) -> FitResult:
    """Fit by the law's procedure, or as the formula that it is."""
    procedure = procedure_of(law)
    _check_used(law, spec)
    if procedure is not None:
        result = procedure(columns, law, spec)
        return dataclasses.replace(result, verdict=judge_by_rows(result))
    if issubclass(law, FormulaLaw):
        return fit_formula(columns, law, spec)
    raise TypeError(f"{law.__name__} is neither a FormulaLaw nor has a procedure of its own")


def _check_used(law: type[Law], spec: FitSpec) -> None:
    """Raise InputError for an option that the fit of this law has no use for: nothing is written down that was not done."""
    given = {
        "--loss, --residual, --huber_delta, --above": spec.objective != law.OBJECTIVE,
        "--fix": bool(spec.fixed),
        "--resample": spec.resample != FitSpec.resample,
        "--interpolation": spec.interpolation != FitSpec.interpolation,
        "--weighted": spec.weighted,
    }
    unused: tuple[str, ...] = ()
    if issubclass(law, (IsoFlop, Envelope)):
        unused = ("--loss, --residual, --huber_delta, --above", "--fix", "--resample")
    elif procedure_of(law) is None:
        unused = ("--interpolation", "--weighted")
    for option in unused:
        if given[option]:
            raise InputError(f"{option}: {law.NAME} has no use for it; expected it to be left out")
