"""Fit the compute-optimal allocation from the minimum of each FLOP budget (approach 2 of Hoffmann et al. 2022)."""

import dataclasses
import math

import numpy as np

from analysis.fitting.judging import WHY_NONE
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.allocation import IsoFlop
from analysis.laws.base import Array
from analysis.procedures import allocation
from analysis.procedures.budgets import Budget, compute_slopes, make_budget, split_budgets
from analysis.procedures.isoflop_noise import Noise, disturbances, estimate_noise
from analysis.procedures.parabola import refine_lowest, vertex
from analysis.procedures.unsearched import certify
from analysis.trust.certificate import Certificate
from analysis.trust.identification import WIDEST_CONSTANT
from analysis.trust.interval import FEWEST_SPARE, Interval
from experiments.cli import InputError

FEWEST_SIZES = {"quadratic": 3, "cubic": 4, "akima": 3}
FEWEST_MINIMA = 2
AKIMA_STEPS = 25  # points per gap between sizes, Porian et al. 2024
LEAST_SHARE_OF_SPACING = (
    0.33  # a minimum is never surer than this share of the spacing of the sizes (Porian et al. 2024)
)
MOST_SUM_OFF = 0.05  # of a + b from 1


def fit_isoflop(columns: Columns, law: type[IsoFlop], spec: FitSpec) -> FitResult:
    """Fit approach 2. Raises InputError when fewer than two budgets have a minimum inside their sizes."""
    fewest_sizes = FEWEST_SIZES[spec.interpolation]
    columns, groups = split_budgets(columns, fewest_sizes)
    slopes = compute_slopes(columns, groups)
    budgets = []
    for rows in groups:
        budget = make_budget(columns, rows, slopes)
        budgets.append(find_minimum(budget, spec.interpolation))
    used = _with_minimum(budgets)

    noise = estimate_noise(columns, budgets, spec.interpolation)
    disturbed = disturbances(columns, used, spec, noise)
    copies = bootstrap_minima(used, spec, disturbed)
    trust = precision(used, copies) if spec.weighted else np.ones(len(used))
    log_c = np.log([budget.flops for budget in used])
    found = []
    for budget in used:
        log_d = budget.tokens(budget.minimum)
        found.append([budget.minimum, log_d, budget.loss])
    minima = np.array(found)
    coefficients, squares = allocation.regress(log_c, minima[None], trust)
    fitted = law(*map(float, coefficients[0]))
    draws = _draws(log_c, copies, trust, len(law.names()))
    on_the_line = np.log(fitted.k_N) + fitted.a * log_c
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=float(squares[0]),
        residual=minima[:, 0] - on_the_line,
        certificate=_certify(fitted, budgets, noise, draws, spec),
        draws=draws,
        freedom=noise.freedom if noise.runs else None,
        details={
            "budgets": [_describe(budget) for budget in budgets],
            "noise_sd": noise.sd,
            "interpolation": spec.interpolation,
            "weights": trust.tolist(),
            **_why_none(noise),
        },
    )


def _why_none(noise: Noise) -> dict[str, str]:
    """Say why there are no intervals, where rows are of so few runs that nothing measures their scatter."""
    if not noise.runs or noise.freedom >= FEWEST_SPARE:
        return {}
    return {WHY_NONE: f"{noise.runs} independent runs: too few are left to measure the scatter by"}


def _with_minimum(budgets: list[Budget]) -> list[Budget]:
    """Return the budgets with a minimum inside their sizes. Raises InputError for fewer than two."""
    used = []
    why = ""
    for budget in budgets:
        if budget.reason:
            why += f"; {budget.flops:.3g} FLOPs: {budget.reason}"
        else:
            used.append(budget)
    if len(used) < FEWEST_MINIMA:
        raise InputError(
            f"GRID: {len(used)} of {len(budgets)} budgets have a minimum inside their sizes, isoflop needs 2{why}"
        )
    return used


def _draws(log_c: Array, copies: Array, trust: Array, coefficients: int) -> Array:
    """Regress noisy copies of the minima [replicates, budgets, 3]; copies that lost all but one minimum are left out."""
    has_minimum = np.isfinite(copies[:, :, 0])
    minima_found = has_minimum.sum(axis=1)
    enough = copies[minima_found >= FEWEST_MINIMA]
    if not len(enough):
        return np.empty((0, coefficients))
    draws, _ = allocation.regress(log_c, enough, trust)
    return draws


def find_minimum(budget: Budget, interpolation: str) -> Budget:
    """Return the budget with its minimum, or with the reason why it has none inside its sizes."""
    one_copy = budget.log_loss[:, None]
    log_n, log_loss = minimise_curves(budget, one_copy, interpolation)
    minimum = float(log_n[0])
    if not math.isnan(minimum):
        return dataclasses.replace(budget, minimum=minimum, loss=float(log_loss[0]))
    best = int(np.argmin(budget.log_loss))
    last = len(budget.log_n) - 1
    if best == 0:
        reason = "its minimum is on the edge: the smallest size is best"
    elif best == last:
        reason = "its minimum is on the edge: the largest size is best"
    else:
        reason = f"no {interpolation} minimum inside"
    return dataclasses.replace(budget, reason=reason)


def minimise_curves(budget: Budget, log_loss: Array, interpolation: str) -> tuple[Array, Array]:
    """Find the lowest points of curves through ln loss [sizes, copies].

    Returns ln N* and ln L* [copies]; NaN where the minimum is on the edge.
    """
    if interpolation == "akima":
        return _akima_minimum(budget.log_n, log_loss)
    degree = 2 if interpolation == "quadratic" else 3
    x = budget.log_n - budget.middle
    coefficients = _fit_polynomials(x, log_loss, budget.repeats, degree)
    with np.errstate(divide="ignore", invalid="ignore"):
        lowest = _parabola_minimum(coefficients) if degree == 2 else _cubic_minimum(coefficients)
    is_inside = (lowest > x[0]) & (lowest < x[-1])
    lowest = np.where(is_inside, lowest, np.nan)
    powers = np.vander(lowest, degree + 1).T
    least = np.sum(coefficients * powers, axis=0)
    return lowest + budget.middle, least


def _fit_polynomials(x: Array, y: Array, repeats: Array, degree: int) -> Array:
    """Fit polynomials to y [sizes, copies] over x [sizes]; coefficients [degree + 1, copies], highest power first.

    A size counts as much as its runs do together.
    """
    root = np.sqrt(repeats)[:, None]
    design = np.vander(x, degree + 1)
    coefficients, *_ = np.linalg.lstsq(design * root, y * root, rcond=None)
    return coefficients


def _parabola_minimum(coefficients: Array) -> Array:
    """Return where parabolas [3, copies] are lowest; NaN for one that bends downwards."""
    bend, tilt, _ = coefficients
    return np.where(bend > 0, vertex(bend, tilt), np.nan)


def _cubic_minimum(coefficients: Array) -> Array:
    """Return where cubics [4, copies] have their local minimum; NaN where they have none."""
    cubic, bend, tilt, _ = coefficients
    # Without its cubic term the curve is a parabola, and the formula of the cubic would divide by zero.
    size_of_bend = np.maximum(np.abs(bend), 1e-300)
    is_parabola = np.abs(cubic) < 1e-12 * size_of_bend
    # Of the two points without slope, the one with the positive root is the minimum.
    root = np.sqrt(bend * bend - 3 * cubic * tilt)
    of_cubic = (-bend + root) / (3 * cubic)
    of_parabola = vertex(bend, tilt)
    lowest = np.where(is_parabola, of_parabola, of_cubic)
    curvature = 6 * cubic * lowest + 2 * bend
    return np.where(curvature > 0, lowest, np.nan)


def _akima_minimum(log_n: Array, log_loss: Array) -> tuple[Array, Array]:
    """Find the minimum of Akima curves on 25 (k-1) log-spaced sizes (Porian et al. 2024), then refine by a parabola."""
    from scipy.interpolate import Akima1DInterpolator

    gaps = len(log_n) - 1
    grid = np.linspace(log_n[0], log_n[-1], AKIMA_STEPS * gaps)
    interpolate = Akima1DInterpolator(log_n, log_loss, axis=0)
    curve = interpolate(grid)
    lowest = np.argmin(curve, axis=0)
    last = len(grid) - 1
    is_inside = (lowest > 0) & (lowest < last)
    at = np.clip(lowest, 1, last - 1)  # the refinement needs a neighbour on either side
    copies = np.arange(log_loss.shape[1])
    before = curve[at - 1, copies]
    middle = curve[at, copies]
    after = curve[at + 1, copies]
    shift, value = refine_lowest(before, middle, after)
    spacing = grid[1] - grid[0]
    where = grid[at] + shift * spacing
    log_minimum = np.where(is_inside, where, np.nan)
    least = np.where(is_inside, value, np.nan)
    return log_minimum, least


def precision(used: list[Budget], copies: Array) -> Array:
    """Weigh each budget's minimum by 1/s^2, with mean 1; s is the deviation of ln N* over noisy copies of its curve.

    As Porian et al. 2024: s is never below a third of the spacing of the sizes, and the larger, the more of the copies
    have their minimum on an edge. Weights are equal without copies.
    """
    equal = np.ones(len(used))
    if len(copies) < 2:
        return equal
    deviations = []
    for at, budget in enumerate(used):
        minima = copies[:, at, 0]
        inside = minima[np.isfinite(minima)]
        gaps = len(budget.log_n) - 1
        spacing = np.ptp(budget.log_n) / gaps
        deviation = float(inside.std()) if len(inside) > 1 else np.inf
        least = LEAST_SHARE_OF_SPACING * spacing
        share_inside = max(len(inside) / len(copies), 1 / len(copies))
        deviations.append(max(deviation, least) / share_inside)
    s = np.array(deviations)
    weight = np.where(np.isfinite(s), 1 / s**2, 0.0)
    return weight / weight.mean() if weight.any() else equal


def bootstrap_minima(used: list[Budget], spec: FitSpec, disturbed: list[Array]) -> Array:
    """Return the minima [replicates, budgets, 3] (ln N*, D*, L*) of copies of the curves with noise added to every size.

    disturbed: the noise of each budget [sizes, replicates]. The copies are centred on the observed losses. NaN marks a
    minimum on an edge. No replicates without noise.
    """
    if not disturbed:
        return np.empty((0, len(used), 3))
    minima = np.empty((spec.bootstrap, len(used), 3))
    for at, (budget, noise) in enumerate(zip(used, disturbed, strict=True)):
        copies = budget.log_loss[:, None] + noise
        log_n, log_loss = minimise_curves(budget, copies, spec.interpolation)
        minima[:, at] = np.stack([log_n, budget.tokens(log_n), log_loss], axis=1)
    return minima


def _describe(budget: Budget) -> dict[str, object]:
    """Describe a budget for JSON; numbers of a minimum that is not used are null."""
    described: dict[str, object] = {"flops": budget.flops, "sizes": len(budget.log_n)}
    if budget.reason:
        described |= {"N": None, "D": None, "loss": None}
    else:
        log_d = float(budget.tokens(budget.minimum))
        described["N"] = math.exp(budget.minimum)
        described["D"] = math.exp(log_d)
        described["loss"] = math.exp(budget.loss)
    described["reason"] = budget.reason
    return described


def _certify(law: IsoFlop, budgets: list[Budget], noise: Noise, draws: Array, spec: FitSpec) -> Certificate:
    """Say what the minima leave open."""
    found = []
    for budget in budgets:
        if budget.reason:
            found.append(f"{budget.flops:.3g} FLOPs left out: {budget.reason}")
    used = len(budgets) - len(found)
    if used == FEWEST_MINIMA:
        found.append("two budgets: the exponents go through both points and nothing checks them")
    if not len(draws):
        if spec.bootstrap:
            found.append("no scatter to learn the noise from: no intervals")
    elif len(draws) < 0.9 * spec.bootstrap:
        lost = 1 - len(draws) / spec.bootstrap
        found.append(f"{lost:.0%} of the replicates lost their minima on an edge")
    elif noise.freedom < 5:
        found.append(f"the noise is estimated from {noise.freedom} degrees of freedom")
    exponents = law.a + law.b
    if abs(exponents - 1) > MOST_SUM_OFF:
        found.append(f"a + b = {exponents:.3f}: C is not proportional to N D in this grid")
    return certify(noise.sd, found, _not_identified(law, used, draws, spec.level))


def _not_identified(law: IsoFlop, used: int, draws: Array, level: float) -> dict[str, str]:
    """Say why the floor E cannot be told, where it cannot."""
    if used < allocation.FEWEST_FOR_FLOOR:
        return {"E": f"{used} budgets: the loss at the minima is fitted as a power law without a floor"}
    if not len(draws):
        return {}
    column = law.names().index("E")
    floor = Interval.of(draws[:, column], level)
    if floor is None or floor.high <= WIDEST_CONSTANT * max(floor.low, 0.0):
        return {}
    return {"E": f"its {floor.level:.0%} interval is {floor.low:.3g} to {floor.high:.3g}"}
