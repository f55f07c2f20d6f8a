"""The least-squares problem of a law that is any formula: the same interface as analysis.solve.newton.Problem for sums.

Derivatives come from the formula itself at complex arguments: with a step of i h along u, the imaginary part is
h times the slope along u, and the real part falls by h^2/2 times the curvature along u (Squire & Trapp 1998). No law
states a derivative, and none is approximated by a difference. A formula must therefore be written in analytic functions
(numpy's exp, log and powers; np.where, np.minimum and np.maximum choose by the real part).
Axes: batch b, rows r, free parameters p, coefficients k (free and fixed, in the law's order).
"""

from collections.abc import Mapping
import dataclasses
import functools
import itertools
import math
from typing import Any

import numpy as np

from analysis.laws.base import FormulaLaw
from analysis.solve.newton import CHUNK_ELEMENTS, Local, non_negative
from analysis.solve.objective import sided, slope, smooth
from experiments.cli import InputError

STEP = 1e-5  # of the complex derivative, of a parameter's scale: slopes to 1e-10, curvatures to 1e-6
MOST_STARTS = 20_000
VANISHED = 1e-30  # smallest positive coefficient
LOG_LIMIT, PLAIN_LIMIT = 3.0, 0.5  # longest step of a logarithm, and of another parameter over its scale


def real_if_exact(values: np.ndarray) -> np.ndarray:
    """Complex numbers without imaginary parts as real ones: along one coefficient, most of a formula stays real and fast."""
    return values.real if np.iscomplexobj(values) and not values.imag.any() else values


@dataclasses.dataclass(frozen=True)
class FormulaProblem:
    """Rows of one fit of `law`. Parameters are logarithms of positive coefficients and the others as they are.

    `shared` makes one law of several: `member` [r] says to which copy a row belongs, and coefficients that are not shared
    have one value a copy. `fixed` coefficients keep their value.
    """

    law: type[FormulaLaw]
    inputs: dict[str, np.ndarray]
    target: np.ndarray  # [r], ln of it for log residuals
    raw: bool
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    member: np.ndarray | None = None
    shared: tuple[str, ...] = ()
    above: np.ndarray | float | None = None  # [r], see Objective.shares

    @functools.cached_property
    def parameters(self) -> tuple[tuple[str, int | None], ...]:
        """(coefficient, copy) of each free parameter; copy is None where all rows share it."""
        copies = 0 if self.member is None else int(self.member.max()) + 1
        found: list[tuple[str, int | None]] = []
        for name in self.law.names():
            if name not in self.fixed:
                own = copies and name not in self.shared
                found += [(name, copy) for copy in range(copies)] if own else [(name, None)]
        return tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        """Coefficients of the free parameters."""
        return tuple(name for name, _ in self.parameters)

    @property
    def size(self) -> int:
        return len(self.parameters)

    @property
    def unit(self) -> float:
        """A typical size of what residuals are differences of."""
        return float(np.abs(self.target).max()) if self.raw else 1.0

    @property
    def logs(self) -> np.ndarray:
        """Which parameters are logarithms [p]."""
        return np.array([self.law.COEFFICIENTS[name].log for name in self.names])

    @property
    def scale(self) -> np.ndarray:
        """A typical size of each parameter [p]; 1 for logarithms."""
        sizes = [max(map(abs, self.law.COEFFICIENTS[name].start), default=0.0) for name in self.names]
        return np.where(self.logs, 1.0, np.where(np.array(sizes) > 0, sizes, 1.0))

    @property
    def limit(self) -> np.ndarray:
        """Longest step [p]."""
        return np.where(self.logs, LOG_LIMIT, PLAIN_LIMIT * self.scale)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest parameters [p]."""
        known = [self.law.COEFFICIENTS[name] for name in self.names]
        low, high = (np.array([getattr(c, side) for c in known], dtype=np.float64) for side in ("low", "high"))
        with np.errstate(divide="ignore", invalid="ignore"):
            return (
                np.where(self.logs, np.log(np.maximum(low, VANISHED)), low),
                np.where(self.logs, np.log(np.maximum(high, 1e-300)), high),
            )

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Free coefficients [b, p] from parameters; complex where these are."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(self.logs, np.exp(np.where(self.logs, theta, 0)), theta)

    def of_copy(self, values: np.ndarray, copy: int | None = None) -> np.ndarray:
        """All coefficients [b, k] of one copy of the law, in its order."""
        return np.stack([self._one(values, name, copy) for name in self.law.names()], axis=1)

    def coefficients(self, theta: np.ndarray) -> np.ndarray:
        """[b, k]; of the first copy, where there are several."""
        return self.of_copy(self.values(theta), None if self.member is None else 0)

    def _one(self, values: np.ndarray, name: str, copy: int | None) -> np.ndarray:
        if name in self.fixed:
            return np.full(len(values), self.fixed[name])
        at = self.parameters.index((name, copy if (name, None) not in self.parameters else None))
        return values[:, at]

    def _by_row(self, values: np.ndarray, name: str) -> np.ndarray:
        """One coefficient [b, 1], or [b, r] where copies of the law differ in it."""
        if self.member is None or name in self.fixed or (name, None) in self.parameters:
            return self._one(values, name, None)[:, None]
        first = self.parameters.index((name, 0))
        return values[:, first + self.member]

    def evaluate(self, values: np.ndarray) -> np.ndarray:
        """The law [b, r] at free coefficients [b, p]."""
        law = self.law(*(real_if_exact(self._by_row(values, name)) for name in self.law.names()))
        with np.errstate(all="ignore"):
            return np.broadcast_to(law.predict(**self.inputs), (len(values), self.target.shape[-1]))

    def predicted(self, theta: np.ndarray) -> np.ndarray:
        """The law [b, r], or its logarithm for log residuals; NaN where that does not exist."""
        value = self.evaluate(self.values(theta))
        if self.raw:
            return value
        with np.errstate(all="ignore"):
            return np.where(value.real > 0, np.log(np.where(value.real > 0, value, 1.0)), np.nan)

    def complexity(self, theta: np.ndarray) -> np.ndarray:
        """Which of equal fits to prefer [b]: the smallest exponents."""
        return np.where(self.logs, 0.0, (theta / self.scale) ** 2).sum(axis=1)

    def small_terms(self, theta: np.ndarray) -> np.ndarray:
        """Prefactors of [p] whose term is a small part of every row and may tend to zero."""
        linear = np.array([not self.law.COEFFICIENTS[name].start for name in self.names])
        effect = np.abs(self.jacobian(theta[None])[0]).max(axis=1)
        return np.flatnonzero(self.logs & linear & (effect < 0.2 * self.unit) & (theta > self.bounds()[0]))

    def sensitivity(self, theta: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Weighted slopes [r, p], each over the size that it has where it matters."""
        slopes = self.jacobian(theta[None])[0] * self.scale[:, None] * np.sqrt(weight) / self.unit
        size = np.linalg.norm(slopes, axis=1)
        return (slopes / np.where(size > 1e-9 * np.sqrt(weight.sum()), size, 1.0)[:, None]).T

    def residuals(self, theta: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
        """Predicted minus observed [b, r]."""
        return self.predicted(theta).real - (self.target if target is None else target)

    def along(self, theta: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slope and minus half the curvature of `predicted` along `direction` [p], in steps of it: [b, r] each."""
        moved = self.predicted(theta + 1j * STEP * direction)
        return moved.imag / STEP, moved.real

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """Slopes of `predicted` [b, p, r]."""
        unit = np.diag(self.scale)
        return np.stack([self.along(theta, unit[j])[0] / self.scale[j] for j in range(self.size)], axis=1)

    @functools.cached_property
    def holds(self) -> np.ndarray:
        """Whether a row depends on a parameter: [p, r]."""
        rows = np.zeros(self.target.shape[-1], int) if self.member is None else self.member
        return np.array([np.full(len(rows), True) if copy is None else rows == copy for _, copy in self.parameters])

    def expand(self, theta: np.ndarray, weight: np.ndarray, target: np.ndarray, delta: float) -> Local:
        """Second-order expansion of sum_r weight * huber_delta(residual) around [b] points.

        Copies of the law cost no more than one: no row belongs to two, so all copies of a coefficient move at once.
        """
        here, scale, names = self.predicted(theta).real, self.scale, self.names
        r = here - target
        weight = sided(weight, r, self.above)
        pull = weight * slope(r, delta)
        moves = {name: np.where([other == name for other in names], scale, 0.0) for name in dict.fromkeys(names)}

        def bent(moved: np.ndarray) -> np.ndarray:
            with np.errstate(all="ignore"):  # where the formula has no value, the step is not taken
                return pull * (here - moved) * 2 / STEP**2

        slopes, bends = {}, {}
        for name, move in moves.items():
            slopes[name], moved = self.along(theta, move)
            bends[name, name] = bent(moved)
        for one, other in itertools.combinations(moves, 2):
            both = bent(self.along(theta, moves[one] + moves[other])[1])
            bends[one, other] = bends[other, one] = (both - bends[one, one] - bends[other, other]) / 2
        jacobian = np.stack([slopes[name] * held for name, held in zip(names, self.holds, strict=True)], axis=1)
        jacobian /= scale[:, None]
        bend = np.empty((len(theta), self.size, self.size))
        for j, k in itertools.product(range(self.size), repeat=2):
            bend[:, j, k] = bends[names[j], names[k]] @ (self.holds[j] & self.holds[k]) / (scale[j] * scale[k])
        inside = weight * (np.abs(r) <= delta)
        reweighted = weight * np.minimum(1.0, delta / np.maximum(np.abs(r), 1e-300))
        rows = jacobian.transpose(0, 2, 1)
        return Local(
            value=(weight * smooth(r, delta)).sum(axis=1),
            gradient=(jacobian @ pull[:, :, None])[:, :, 0],
            gradient_size=(np.abs(jacobian) @ np.abs(pull)[:, :, None])[:, :, 0],
            curvature=(jacobian * inside[:, None]) @ rows + bend,
            metric=(jacobian * reweighted[:, None]) @ rows,
        )

    def starts(self, weight: np.ndarray, keep: int) -> np.ndarray:
        """Starts [keep, p]: every combination of the coefficients' start values, those without any solved for.

        A quarter of them is taken from the rest of the combinations, so that agreement between starts means something.
        """
        known = self.law.COEFFICIENTS
        axes = [known[name].start or (np.nan,) for name in self.names]
        first = {name: self.names.index(name) for name in self.names}  # copies of one coefficient start together
        axes = [
            axis if first[name] == at else axis[:1]
            for at, (name, axis) in enumerate(zip(self.names, axes, strict=True))
        ]
        size = math.prod(len(axis) for axis in axes)
        if size <= MOST_STARTS:
            points = np.array(list(itertools.product(*axes)))
        else:
            draw = np.random.default_rng(0)
            points = np.stack([draw.choice(axis, MOST_STARTS) for axis in axes], axis=1)
        points = points.astype(np.float64)[:, [first[name] for name in self.names]]
        solved = np.flatnonzero(np.isnan(points[0])) if len(points) else np.empty(0, int)
        chunk = max(1, 4 * CHUNK_ELEMENTS // self.target.shape[-1])
        if len(solved):
            for first in range(0, len(points), chunk):
                part = slice(first, first + chunk)
                points[part] = self._solve(points[part], solved, weight)
        theta = np.where(self.logs, np.log(np.maximum(np.where(self.logs, points, 1.0), 1e-300)), points)
        theta = np.clip(theta, *self.bounds())
        parts = [theta[first : first + chunk] for first in range(0, len(theta), chunk)]
        score = np.concatenate([(weight * np.abs(self.residuals(part))).sum(axis=1) for part in parts])
        order = np.argsort(np.where(np.isfinite(score), score, np.inf), kind="stable")
        order = order[np.isfinite(score[order])]
        if not len(order):
            raise InputError(f"{self.law.NAME}: its formula has no finite value at these rows from any start")
        near, far = order[: keep - keep // 4], order[keep - keep // 4 :]
        spread = far[np.linspace(0, len(far) - 1, keep // 4).astype(int)] if len(far) else far
        return theta[np.unique(np.r_[near, spread])]

    def _solve(self, points: np.ndarray, solved: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The coefficients [b, p] with the `solved` ones, which enter linearly, by weighted least squares."""

        def value(at: np.ndarray) -> np.ndarray:
            out = self.evaluate(at)
            return np.where(np.isfinite(out), out, 0.0)

        target = self.target if self.raw else np.exp(self.target)
        without = points.copy()
        without[:, solved] = 0.0
        rest = value(without)
        basis = []
        for at in solved:
            one = without.copy()
            one[:, at] = 1.0
            basis.append(value(one) - rest)
        size = np.abs(target) + 1e-300 if not self.raw else np.ones_like(target)  # log residuals are relative ones
        relative = np.stack(basis, axis=2) / size[:, None]  # [b, r, solved]
        goal = (target - rest) / size
        spread = np.broadcast_to(weight, goal.shape)
        answer = non_negative(relative, spread, goal, self.logs[solved])
        out = points.copy()
        floor = np.exp(self.bounds()[0][solved]) if self.logs[solved].all() else 1e-12
        out[:, solved] = np.where(self.logs[solved], np.maximum(answer, np.maximum(floor, 1e-12)), answer)
        return out


def problem(
    law: type[FormulaLaw],
    columns: Mapping[str, Any],
    raw: bool,
    fixed: Mapping[str, float],
    above: np.ndarray | float | None = None,
) -> FormulaProblem:
    """The problem of fitting `law` to columns that hold its roles."""
    target = np.asarray(columns[law.TARGET], dtype=np.float64)
    if not raw and not (target > 0).all():
        raise InputError(f"--residual=log: {law.TARGET} is not positive in every row; expected --residual=raw")
    inputs = {role: np.asarray(columns[role]) for role in law.inputs()}
    return FormulaProblem(law, inputs, target if raw else np.log(target), raw, dict(fixed), above=above)
