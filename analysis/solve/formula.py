"""Pose the fit of a law that is any formula.

Derivatives come from the formula itself at complex arguments: with a step of i h along u, the imaginary part is
h times the slope along u, and the real part falls by h^2/2 times the curvature along u (Squire & Trapp 1998). No law
states a derivative, and none is approximated by a difference. A formula must therefore be written in analytic functions
(numpy's exp, log and powers; np.where, np.minimum and np.maximum choose by the real part).
Axes: batch b, rows r, free parameters p.
"""

from collections.abc import Mapping
import dataclasses
import itertools
import math

import numpy as np

from analysis.laws.base import FormulaLaw
from analysis.solve.expansion import assemble, row_terms, weighted_products
from analysis.solve.least_squares import non_negative
from analysis.solve.newton import CHUNK_ELEMENTS
from analysis.solve.objective import sided
from analysis.solve.parameters import LawParameters
from analysis.solve.problem import Local, worked_out_once
from analysis.solve.slopes import check_slopes
from analysis.solve.starting import best_and_spread, slices
from experiments.cli import InputError

STEP = 1e-5  # of the complex derivative, of a parameter's scale: slopes to 1e-10, curvatures to 1e-6
TINY_STEP = 1e-30  # of the same where only slopes are asked for
MOST_STARTS = 20_000
LEAST_SOLVED = 1e-4  # share of the data that the term of a positive coefficient which was solved for starts with
CHECKED = 3  # starts at which slopes are compared


def real_if_exact(values: np.ndarray) -> np.ndarray:
    """Drop imaginary parts that are zero: along one coefficient, most of a formula stays real and fast."""
    if np.iscomplexobj(values) and not np.imag(values).any():
        return np.real(values)
    return values


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
        coefficients = [real_if_exact(self.by_row(values, name)) for name in self.law.names()]
        law = self.law(*coefficients)
        with np.errstate(all="ignore"):
            found = law.predict(**self.inputs)
        return np.broadcast_to(found, (len(values), self.target.shape[-1]))

    def predicted(self, theta: np.ndarray) -> np.ndarray:
        """Return the law [b, r], or its logarithm for log residuals; NaN where that does not exist."""
        value = self.evaluate(self.values(theta))
        if self.raw:
            return value
        exists = np.real(value) > 0
        with np.errstate(all="ignore"):
            return np.where(exists, np.log(np.where(exists, value, 1.0)), np.nan)

    def residuals(self, theta: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
        """Return predicted minus observed [b, r]."""
        observed = self.target if target is None else target
        return np.real(self.predicted(theta)) - observed

    def along(self, theta: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the slope of `predicted` along `direction` [p], and its real part a complex step away: [b, r] each."""
        moved = self.predicted(theta + 1j * STEP * direction)
        return np.imag(moved) / STEP, np.real(moved)

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """Return the slopes of `predicted` [b, p, r], exact but for rounding: their step is too small for a curvature."""
        scale = self.scale
        slopes = []
        for at, direction in enumerate(np.diag(scale)):
            moved = self.predicted(theta + 1j * TINY_STEP * direction)
            slopes.append(np.imag(moved) / (TINY_STEP * scale[at]))
        return np.stack(slopes, axis=1)

    @worked_out_once
    def holds(self) -> np.ndarray:
        """Whether a row depends on a parameter: [p, r]."""
        rows = self.target.shape[-1]
        member = np.zeros(rows, int) if self.member is None else self.member
        holding = [np.full(rows, True) if copy is None else member == copy for _, copy in self.parameters]
        return np.array(holding)

    def expand(self, theta: np.ndarray, weight: np.ndarray, target: np.ndarray, delta: float) -> Local:
        """Expand sum_r weight * huber_delta(residual) to second order around [b] points.

        Copies of the law cost no more than one: no row belongs to two, so all copies of a coefficient move at once.
        """
        here = np.real(self.predicted(theta))
        residual = here - target
        rows = row_terms(residual, sided(weight, residual, self.above), delta)
        moves = self._moves()

        def bend_at(moved: np.ndarray) -> np.ndarray:
            """Pull times curvature along a step, from the real part at its end [b, r]."""
            with np.errstate(all="ignore"):  # where the formula has no value, the step is not taken
                return rows.pull * (here - moved) * 2 / STEP**2

        slopes: dict[str, np.ndarray] = {}
        bends: dict[tuple[str, str], np.ndarray] = {}
        for name, move in moves.items():
            slopes[name], moved = self.along(theta, move)
            bends[name, name] = bend_at(moved)
        for one, other in itertools.combinations(moves, 2):
            _, moved = self.along(theta, moves[one] + moves[other])
            # Along u + v the curvature is that along u, that along v, and twice the mixed one.
            mixed = (bend_at(moved) - bends[one, one] - bends[other, other]) / 2
            bends[one, other] = mixed
            bends[other, one] = mixed

        jacobian = np.stack(
            [slopes[name] * held for name, held in zip(self.names, self.holds, strict=True)],
            axis=1,
        )
        jacobian /= self.scale[:, None]
        curvature = weighted_products(jacobian, rows.inside) + self._sum_bends(bends, len(theta))
        return assemble(rows, jacobian, curvature)

    def _moves(self) -> dict[str, np.ndarray]:
        """The direction [p] that moves every copy of a coefficient by its scale, by the coefficient's name."""
        moves = {}
        for name in dict.fromkeys(self.names):
            is_copy = [other == name for other in self.names]
            moves[name] = np.where(is_copy, self.scale, 0.0)
        return moves

    def _sum_bends(self, bends: Mapping[tuple[str, str], np.ndarray], batch: int) -> np.ndarray:
        """Sum what rows bend to a matrix [b, p, p]: a row counts for the parameters that it depends on."""
        scale = self.scale
        names = self.names
        found = np.empty((batch, self.size, self.size))
        for j, k in itertools.product(range(self.size), repeat=2):
            counting = self.holds[j] & self.holds[k]
            found[:, j, k] = bends[names[j], names[k]] @ counting / (scale[j] * scale[k])
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
