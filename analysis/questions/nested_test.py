"""Test fixed values of a law's coefficients against the rows."""

import dataclasses

import numpy as np

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw
from analysis.questions.fit import fit
from experiments.cli import InputError


@dataclasses.dataclass(frozen=True)
class NestedTest:
    """Whether rows refuse fixed values of coefficients: F of the squares that freeing them saves, and its p-value."""

    fixed: dict[str, float]
    free: dict[str, float]  # the same coefficients where they are fitted
    statistic: float
    p_value: float


def nested_test(columns: Columns, law: type[FormulaLaw], **fixed: float) -> NestedTest:
    """Test coefficients of a law, for example nested_test(columns, Superposition, gamma=1.0).

    Both fits are least squares in the law's own residuals; the noise of the rows is taken to be normal and alike. Raises
    InputError where no rows are left to judge the noise by.
    """
    from scipy.stats import f as f_distribution

    if not fixed:
        raise InputError("fixed: no coefficient given; expected for example gamma=1.0")
    coefficients = len(law.names())
    objective = dataclasses.replace(law.OBJECTIVE, loss="least_squares")
    spec = FitSpec(objective=objective, bootstrap=0, thorough=False, judge=False)
    free_fit = fit(columns, law, spec)
    fixed_fit = fit(columns, law, dataclasses.replace(spec, fixed=fixed))
    freedom = free_fit.residuals.rows - coefficients
    if freedom < 1:
        raise InputError(f"GRID: {len(columns)} rows for {coefficients} coefficients; expected at least one more row")
    saved = max(fixed_fit.objective - free_fit.objective, 0.0)
    noise = max(free_fit.objective / freedom, np.finfo(float).tiny)
    statistic = float(saved / len(fixed) / noise)
    return NestedTest(
        fixed=dict(fixed),
        free={name: float(getattr(free_fit.law, name)) for name in fixed},
        statistic=statistic,
        p_value=float(f_distribution.sf(statistic, len(fixed), freedom)),
    )
