"""Fit any law to a loss grid: a formula as it stands, other laws by their procedure."""

import dataclasses

from analysis.fitting.formula_fit import fit_formula, noted
from analysis.fitting.judging import judge_by_rows
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw, Law
from analysis.procedures.registry import procedure_of
from analysis.solve import newton


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
    if procedure is not None:
        result = procedure(columns, law, spec)
        return dataclasses.replace(result, verdict=judge_by_rows(result))
    if issubclass(law, FormulaLaw):
        return fit_formula(columns, law, spec)
    raise TypeError(f"{law.__name__} is neither a FormulaLaw nor has a procedure of its own")
