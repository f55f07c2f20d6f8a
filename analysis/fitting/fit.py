"""Fit a law to a loss grid.

    python -m analysis.fit GRID --columns=N=params_total,D=tokens,loss=loss --where="a==1 and b<2" --out=fit.json

A formula is fitted from every combination of start values, with what enters linearly solved for, all starts together
(analysis.solve.newton); laws with a procedure of their own bring it. A fit that does not end at a stationary point raises
FitError.
"""

import dataclasses

from analysis.fitting.formula_fit import fit_formula, flops_factor
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid import units
from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw, Law
from analysis.solve import newton


def fit(columns: Columns, law: type[Law], spec: FitSpec = FitSpec()) -> FitResult:
    """Fit a law to the rows of a grid.

    Raises InputError when there are fewer rows than coefficients, FitError when no optimum was reached.
    """
    spec, law = spec.for_law(law), law.of(columns.parts)
    estimate = getattr(law, "estimate", None)
    with newton.one_thread():
        if estimate is not None:
            result = estimate(columns, spec)
        elif issubclass(law, FormulaLaw):
            result = fit_formula(columns, law, spec)
        else:
            raise TypeError(f"{law.__name__} is neither a FormulaLaw nor has an estimate of its own")
    factor, note = flops_factor(result.columns)
    columns = dataclasses.replace(
        result.columns, notes=(*result.columns.notes, *filter(None, [note]), *units.doubts(columns))
    )
    return dataclasses.replace(result, columns=columns, flops_per_param_token=factor)
