"""Judge whether families may share coefficients: least squares with shared ones against a law for each family."""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np

from analysis.fitting.result import FitError
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Array, FormulaLaw
from analysis.questions import fit as fitting
from analysis.questions.family import Sharing
from analysis.questions.joint_fit import join, optimum_of
from analysis.solve.objective import Objective, sided
from analysis.trust.information import aicc_penalty
from analysis.trust.residuals import row_counts
from experiments.cli import InputError

SIGNIFICANT = 0.05
TINY = 1e-300


def judge_sharing(
    parts: Mapping[str, Columns],
    columns: Columns,
    law: type[FormulaLaw],
    spec: FitSpec,
    shared: Sequence[str],
) -> tuple[Sharing | None, str]:
    """Test whether families may share coefficients. Returns the test, or why it cannot be made."""
    objective = Objective("least_squares", spec.settled_objective.residual)
    spec = dataclasses.replace(spec, bootstrap=0, objective=objective)
    rows = int((row_counts(columns) > 0).sum())
    free_of_one = len(law.names()) - len(spec.fixed)
    shared_and_free = [name for name in shared if name not in spec.fixed]
    without = free_of_one * len(parts)  # coefficients if each family has its own
    saved = len(shared_and_free) * (len(parts) - 1)
    if saved == 0 or rows <= without:
        return None, f"sharing is not tested: {rows} rows, {without} coefficients if each family has its own"

    problem, weight = join(parts, columns, law, spec, tuple(shared))
    together = 2 * optimum_of(problem, weight, spec).value
    try:
        residual = _residual_apart(parts, columns, law, spec)
    except (FitError, InputError) as error:
        return None, f"sharing is not tested: {error}"
    # A joint fit cannot be better than separate ones; where it seems so, the latter did not quite converge.
    used = sided(weight, residual, problem.above)  # a bound that holds adds nothing
    squares = float((used * residual**2).sum())
    apart = max(min(squares, together), TINY)
    return _f_test(together, apart, rows, without, saved), ""


def _residual_apart(parts: Mapping[str, Columns], columns: Columns, law: type[FormulaLaw], spec: FitSpec) -> Array:
    """Return the residuals [rows] of a law for each family."""
    label = columns["family"].astype(str)
    residual = np.empty(len(columns))
    for name, part in parts.items():
        fitted = fitting.fit(part, law, spec).law
        inputs = {role: part[role] for role in law.inputs()}
        predicted = np.asarray(fitted.predict(**inputs))
        observed = part[law.TARGET]
        is_raw = spec.settled_objective.residual == "raw"
        residual[label == name] = predicted - observed if is_raw else np.log(predicted / observed)
    return residual


def _f_test(together: float, apart: float, rows: int, without: int, saved: int) -> Sharing:
    """Compare two sums of squares: with shared coefficients, and with `saved` more, `without` in all."""
    from scipy import stats

    statistic = rows * math.log(max(together, TINY) / apart)
    noise = apart / (rows - without)
    ratio = (together - apart) / saved / noise
    p_value = float(stats.f.sf(ratio, saved, rows - without))
    aicc = None
    if rows > without + 2:
        # The noise is one more parameter.
        aicc = statistic + aicc_penalty(rows, without - saved + 1) - aicc_penalty(rows, without + 1)
    return Sharing(statistic, saved, p_value, aicc, p_value >= SIGNIFICANT)
