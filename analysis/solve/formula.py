"""Pose the fit of a law that is any formula.

Derivatives come from the formula itself, which is evaluated at coefficients that carry theirs (analysis/solve/jet.py):
no law states a derivative, and none is approximated. A formula must therefore be written in functions that a jet knows.
Axes: batch b, rows r, free parameters p.
"""

from collections.abc import Mapping
import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from analysis.laws.base import FormulaLaw
from analysis.solve.expansion import assemble, row_terms, weighted_products
from analysis.solve.jet import Jet, constant, variable
from analysis.solve.least_squares import non_negative
from analysis.solve.newton import CHUNK_ELEMENTS
from analysis.solve.objective import sided
from analysis.solve.parameters import LawParameters
from analysis.solve.problem import Local, worked_out_once
from analysis.solve.slopes import check_slopes
from analysis.solve.starting import best_and_spread, slices
from analysis.solve.workspace import keep_freed_memory
from experiments.cli import InputError

MOST_STARTS = 20_000
LEAST_SOLVED = 1e-4  # share of the data that the term of a positive coefficient which was solved for starts with
CHECKED = 3  # starts at which slopes are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormulaProblem(LawParameters):
    """Hold the rows of one fit of `law`, see LawParameters for its coefficients.

    A `Problem` (analysis/solve/problem.py), whose members are described there. inputs: role -> [r] or [r, parts].
    """

    inputs: Mapping[str, np.ndarray]
    target: np.ndarray  # [r], ln of it for log residuals
    raw: bool
    above: np.ndarray | float | None = None  # [r], see Objective.shares

    @property
    def unit(self) -> float:
        """A typical size of what residuals are differences of."""
        return float(np.abs(self.target).max()) if self.raw else 1.0

    def evaluate(self, values: np.ndarray) -> np.ndarray:
        """Evaluate the law [b, r] at free coefficients [b, p]."""
        return np.broadcast_to(self._law_at(values, {}), (len(values), self.target.shape[-1]))

    def predicted(self, theta: np.ndarray) -> np.ndarray:
        """Return the law [b, r], or its logarithm for log residuals; NaN where that does not exist."""
        return self._in_target(self.evaluate(self.values(theta)))

    def residuals(self, theta: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
        """Return predicted minus observed [b, r]."""
        observed = self.target if target is None else target
        return self.predicted(theta) - observed

    def jet(self, theta: np.ndarray, second: bool) -> Jet:
        """Return `predicted` [b, r] with its slopes, and bends if `second`, over the parameters of each coefficient.

        Copies of the law cost no more than one: no row belongs to two, so all copies of a coefficient count as one.
        """
        values = self.values(theta)
        is_log = dict(zip(self.names, self.logs, strict=True))
        variables = {}
        for name in dict.fromkeys(self.names):
            value = self.by_row(values, name)
            if is_log[name]:  # the parameter is the logarithm, over which the exponential is its own derivative
                variables[name] = variable(name, value, value, value, second)
            else:
                variables[name] = variable(name, value, np.ones_like(value), None, second)
        found = self._in_target(self._law_at(values, variables))
        shape = (len(theta), self.target.shape[-1])
        return found.spread(shape) if isinstance(found, Jet) else constant(found, shape, second)

    def law_coefficients(self, values: np.ndarray, variables: Mapping[str, Jet]) -> dict[str, Any]:
        """Return the law's coefficients by row from what is searched [b, p]; those of `variables` carry derivatives."""
        found: dict[str, Any] = {}
        for name in self.law.names():
            found[name] = variables[name] if name in variables else self.by_row(values, name)
        return found

    def _law_at(self, values: np.ndarray, variables: Mapping[str, Jet]) -> Any:
        """Evaluate the law at what is searched [b, p]; a jet where there are variables."""
        coefficients = self.law_coefficients(values, variables)
        with np.errstate(all="ignore"):
            return self.law(**coefficients).predict(**self.inputs)

    def _in_target(self, value: Any) -> Any:
        """Return a loss as residuals are differences of it: itself, or its logarithm where that exists."""
        if self.raw:
            return value
        exists = np.real(value) > 0
        if exists.all():
            return np.log(value)
        with np.errstate(all="ignore"):
            return np.where(exists, np.log(np.where(exists, value, 1.0)), np.nan)

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """Return the slopes of `predicted` [b, p, r]."""
        return self._slopes(self.jet(theta, second=False))

    def _slopes(self, here: Jet) -> np.ndarray:
        """Return slopes [b, p, r] from those over coefficients: a row counts for the parameters that it depends on."""
        zero = np.zeros(here.shape)
        slopes = [here.slopes.get(name, zero) * held for name, held in zip(self.names, self.holds, strict=True)]
        return np.stack(slopes, axis=1)

    @worked_out_once
    def holds(self) -> np.ndarray:
        """Whether a row depends on a parameter: [p, r]."""
        rows = self.target.shape[-1]
        member = np.zeros(rows, int) if self.member is None else self.member
        holding = [np.full(rows, True) if copy is None else member == copy for _, copy in self.parameters]
        return np.array(holding)

    def expand(self, theta: np.ndarray, weight: np.ndarray, target: np.ndarray, delta: float) -> Local:
        """Expand sum_r weight * huber_delta(residual) to second order around [b] points."""
        here = self.jet(theta, second=True)
        residual = here.value - target
        rows = row_terms(residual, sided(weight, residual, self.above), delta)
        jacobian = self._slopes(here)
        with np.errstate(all="ignore"):  # where the formula has no value, the step is not taken
            curvature = weighted_products(jacobian, rows.inside) + self._bends(here, rows.pull)
        return assemble(rows, jacobian, curvature)

    def _bends(self, here: Jet, pull: np.ndarray) -> np.ndarray:
        """Sum what rows bend, times their pull, to a matrix [b, p, p]."""
        found = np.zeros((len(pull), self.size, self.size))
        pulled = {pair: pull * bend for pair, bend in (here.bends or {}).items()}
        for j, k in itertools.combinations_with_replacement(range(self.size), 2):
            one, other = sorted((self.names[j], self.names[k]))
            if (one, other) in pulled:
                counting = self.holds[j] & self.holds[k]
                found[:, j, k] = pulled[one, other] @ counting
                found[:, k, j] = found[:, j, k]
        return found

    def complexity(self, theta: np.ndarray) -> np.ndarray:
        """Say which of equal fits to prefer [b]: the smallest exponents."""
        squares = (theta / self.scale) ** 2
        return np.where(self.logs, 0.0, squares).sum(axis=1)

    def small_terms(self, theta: np.ndarray) -> np.ndarray:
        """Return the prefactors of [p] whose term is a small part of every row and may tend to zero."""
        is_linear = np.array([not coefficient.start for coefficient in self.known])
        effect = np.abs(self.jacobian(theta[None])[0]).max(axis=1)
        low, _ = self.bounds()
        return np.flatnonzero(self.logs & is_linear & (effect < 0.2 * self.unit) & (theta > low))

    def sensitivity(self, theta: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return weighted slopes [r, p], each over the size that it has where it matters."""
        slopes = self.jacobian(theta[None])[0] * self.scale[:, None] * np.sqrt(weight) / self.unit
        size = np.linalg.norm(slopes, axis=1)
        matters = size > 1e-9 * np.sqrt(weight.sum())
        return (slopes / np.where(matters, size, 1.0)[:, None]).T

    def with_target(self, target: np.ndarray) -> "FormulaProblem":
        """Return the same rows with other observations."""
        return dataclasses.replace(self, target=target)

    def in_units(self, theta: np.ndarray, at: int) -> tuple["FormulaProblem", np.ndarray]:
        """Return problem and parameters as they are: they are coefficients, or logarithms of them."""
        del at
        return self, theta

    def starts(self, weight: np.ndarray, keep: int) -> np.ndarray:
        """Return starts [keep, p]: combinations of the coefficients' start values, the best and some of the rest."""
        return combined_starts(self, weight, keep)

    def approach(
        self, theta: np.ndarray, weight: np.ndarray, delta: float, steps: int, rows: int | None = None
    ) -> np.ndarray:
        """Return the points as they are: nothing is known of a formula that is quicker than Newton's steps."""
        del weight, delta, steps, rows
        return theta


def combined_starts(problem: FormulaProblem, weight: np.ndarray, keep: int) -> np.ndarray:
    """Try every combination of the coefficients' start values, those without any solved for: [keep, p].

    A quarter of them is taken from the rest of the combinations, so that agreement between starts means something.
    Raises InputError when the formula has no finite value at any.
    """
    points = np.vstack([_combinations(problem), _from_rows(problem)])
    chunk = max(1, 4 * CHUNK_ELEMENTS // problem.target.shape[-1])
    to_solve = np.flatnonzero(np.isnan(points).all(axis=0)) if len(points) else np.empty(0, int)
    if len(to_solve):
        for part in slices(len(points), chunk):
            points[part] = _solve_linear(problem, points[part], to_solve, weight)

    positive = np.where(problem.logs, points, 1.0)
    theta = np.where(problem.logs, np.log(np.maximum(positive, 1e-300)), points)
    theta = np.clip(theta, *problem.bounds())
    misfits = []
    for part in slices(len(theta), chunk):
        misfit = weight * np.abs(problem.residuals(theta[part]))
        misfits.append(misfit.sum(axis=1))
    score = np.concatenate(misfits)
    order = np.argsort(np.where(np.isfinite(score), score, np.inf), kind="stable")
    order = order[np.isfinite(score[order])]
    if not len(order):
        raise InputError(f"{problem.law.NAME}: its formula has no finite value at these rows from any start")
    check_slopes(problem, theta[order[:CHECKED]])
    return theta[np.unique(best_and_spread(order, keep))]


def _combinations(problem: FormulaProblem) -> np.ndarray:
    """Combine the start values of all free coefficients [starts, p]; NaN stands for one that is to be solved for.

    Copies of one coefficient start together. Of very many combinations a fixed random sample is drawn.
    """
    names = problem.names
    first_of = {name: names.index(name) for name in names}
    axes = []
    for at, (name, coefficient) in enumerate(zip(names, problem.known, strict=True)):
        axis = coefficient.start or (np.nan,)
        axes.append(axis if first_of[name] == at else axis[:1])
    count = math.prod(len(axis) for axis in axes)
    if count <= MOST_STARTS:
        points = np.array(list(itertools.product(*axes)))
    else:
        draw = np.random.default_rng(0)
        columns = [draw.choice(axis, MOST_STARTS) for axis in axes]
        points = np.stack(columns, axis=1)
    together = [first_of[name] for name in names]
    return points.astype(np.float64)[:, together]


def _from_rows(problem: FormulaProblem) -> np.ndarray:
    """Return the starts that the law finds from the rows [starts, p]; copies of a coefficient start together."""
    target = problem.target if problem.raw else np.exp(problem.target)
    with np.errstate(all="ignore"):
        points = problem.law.starting_points(problem.inputs, target)
    finite = ~np.isinf(points).any(axis=1)
    columns = [problem.law.names().index(name) for name in problem.names]
    return points[finite][:, columns]


def _solve_linear(
    problem: FormulaProblem,
    points: np.ndarray,
    to_solve: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """Return the coefficients [b, p] with those at `to_solve`, which enter linearly, by weighted least squares."""

    def finite_value(at: np.ndarray) -> np.ndarray:
        out = problem.evaluate(at)
        return np.where(np.isfinite(out), out, 0.0)

    # The formula is linear in these coefficients: it is its value without them, plus each one times its own effect.
    without = points.copy()
    without[:, to_solve] = 0.0
    rest = finite_value(without)
    effects = []
    for at in to_solve:
        alone = without.copy()
        alone[:, at] = 1.0
        effects.append(finite_value(alone) - rest)

    target = problem.target if problem.raw else np.exp(problem.target)
    size = np.ones_like(target) if problem.raw else np.abs(target) + 1e-300  # log residuals are relative ones
    basis = np.stack(effects, axis=1) / size  # [b, solved, r]
    goal = (target - rest) / size
    logs = problem.logs[to_solve]
    answer = non_negative(basis, np.broadcast_to(weight, goal.shape), goal, logs)
    # A positive one starts from a small part of the data at least, in whatever units: from zero no logarithm returns.
    effect = np.abs(basis).max(axis=2)
    floor = LEAST_SOLVED * (np.abs(goal).max() if problem.raw else 1.0) / np.maximum(effect, 1e-300)
    out = points.copy()
    out[:, to_solve] = np.where(logs, np.maximum(answer, floor), answer)
    return out


def problem(
    law: type[FormulaLaw],
    columns: Mapping[str, np.ndarray],
    raw: bool,
    fixed: Mapping[str, float],
    above: np.ndarray | float | None = None,
) -> FormulaProblem:
    """Pose the fit of `law` to columns that hold its roles. Raises InputError for logarithms of what is not positive."""
    target = np.asarray(columns[law.TARGET], dtype=np.float64)
    keep_freed_memory()
    if not raw and not (target > 0).all():
        raise InputError(f"--residual=log: {law.TARGET} is not positive in every row; expected --residual=raw")
    return FormulaProblem(
        law=law,
        inputs={role: np.asarray(columns[role]) for role in law.inputs()},
        target=target if raw else np.log(target),
        raw=raw,
        fixed=dict(fixed),
        above=above,
    )
