"""Fit any law to a loss grid: a formula as it stands, other laws by their procedure."""

from analysis.fitting.formula_fit import fit_formula, noted
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
    procedure = procedure_of(law)
    with newton.one_thread():
        if procedure is not None:
            result = procedure(columns, law, spec)
        elif issubclass(law, FormulaLaw):
            result = fit_formula(columns, law, spec)
        else:
            raise TypeError(f"{law.__name__} is neither a FormulaLaw nor has a procedure of its own")
    return noted(result, columns)
