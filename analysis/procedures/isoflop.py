"""Minima per FLOP budget and the compute-optimal allocation that they give (approach 2)."""

import dataclasses
import math

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.allocation import IsoFlop
from analysis.procedures import allocation
from analysis.trust.certificate import WIDEST_CONSTANT, Certificate
from analysis.trust.interval import Interval
from experiments.cli import InputError

FEWEST_SIZES = {"quadratic": 3, "cubic": 4, "akima": 3}
BANDWIDTH = 0.04  # of ln C: budgets that jitter by a few per cent are one
SHARE_IN_BUDGETS = 0.5  # of the rows; below, clusters of C are chance and not a design
WIDEST = 0.16  # of ln C around the middle of a budget
AKIMA_STEPS = 25  # points per gap between sizes, Porian et al. 2024


@dataclasses.dataclass(frozen=True)
class Budget:
    """One IsoFLOP curve and its minimum.

    log_n, log_loss, log_d [sizes] are means over runs of one size, sorted by size. `curve` holds the polynomial in
    (ln N - middle), highest power first, or is None for Akima. Edge minima are kept, with a reason, and not used.
    """

    flops: float
    log_n: np.ndarray
    log_loss: np.ndarray
    log_d: np.ndarray
    repeats: np.ndarray  # runs behind each size
    rows: np.ndarray
    run_log_loss: np.ndarray  # [runs], carried to the budget's C
    minimum: float = math.nan  # ln N*
    loss: float = math.nan  # ln L*
    reason: str = ""  # why the minimum is not used

    @property
    def middle(self) -> float:
        return float(self.log_n.mean())

    def tokens(self, log_n: np.ndarray | float) -> np.ndarray | float:
        """ln D at ln N, along the budget."""
        return np.interp(log_n, self.log_n, self.log_d)


def fit_isoflop(columns: Columns, law: type[IsoFlop], spec: FitSpec) -> FitResult:
    """Fit approach 2. Raises InputError when fewer than two budgets have a minimum inside their sizes."""
    columns, groups = split_budgets(columns, FEWEST_SIZES[spec.interpolation])
    slopes = compute_slopes(columns, groups)
    budgets = [find_minimum(make_budget(columns, rows, slopes), spec.interpolation) for rows in groups]
    used = [budget for budget in budgets if not budget.reason]
    if len(used) < 2:
        why = "".join(f"; {budget.flops:.3g} FLOPs: {budget.reason}" for budget in budgets if budget.reason)
        raise InputError(
            f"GRID: {len(used)} of {len(budgets)} budgets have a minimum inside their sizes, isoflop needs 2{why}"
        )
    log_c = np.log([budget.flops for budget in used])
    minima = np.array([[budget.minimum, budget.tokens(budget.minimum), budget.loss] for budget in used])
    noise, freedom = noise_sd(columns, budgets, spec.interpolation)
    copies = bootstrap_minima(used, spec, noise, freedom) if noise > 0 else np.empty((0, len(used), 3))
    trust = precision(used, copies) if spec.weighted else np.ones(len(used))
    coefficients, objective = allocation.regress(log_c, minima[None], trust)
    enough = copies[np.isfinite(copies[:, :, 0]).sum(axis=1) >= 2]
    draws = allocation.regress(log_c, enough, trust)[0] if len(enough) else np.empty((0, len(law.names())))
    fitted = law(*map(float, coefficients[0]))
    residual = minima[:, 0] - (np.log(fitted.k_N) + fitted.a * log_c)
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=float(objective[0]),
        residual=residual,
        certificate=_certify(fitted, budgets, used, noise, draws, spec, freedom),
        draws=draws,
        details={
            "budgets": [_describe(budget) for budget in budgets],
            "noise_sd": noise,
            "interpolation": spec.interpolation,
            "weights": trust.tolist(),
        },
    )


def split_budgets(columns: Columns, fewest: int) -> tuple[Columns, list[np.ndarray]]:
    """Rows of each budget (positions in the returned columns), from the `group` role or from clusters of ln C.

    Rows of no budget with at least `fewest` sizes are dropped with a reason. Raises InputError when none is left, or
    when most rows belong to none (clusters of C by chance).
    """
    total = len(columns)
    if "group" in columns:
        _, label = np.unique(columns["group"].astype(str), return_inverse=True)
        near = np.ones(len(columns), dtype=bool)
    else:
        label, near = cluster(np.log(columns["C"]))
    columns, label = columns.take(near, "its C is not near an IsoFLOP budget"), label[near]
    sizes = {one: len(_sizes(np.log(columns["N"][label == one]))[0]) for one in np.unique(label)}
    enough = np.array([sizes[one] >= fewest for one in label], dtype=bool)
    if not enough.any() or ("group" not in columns and enough.sum() < SHARE_IN_BUDGETS * total):
        most = max(sizes.values(), default=0)
        raise InputError(
            f"GRID: {int(enough.sum())} of {total} rows lie in FLOP budgets of {fewest} or more sizes (the fullest has "
            f"{most}); isoflop needs budgets: mark them with --columns=group=COLUMN, or use --law=chinchilla"
        )
    columns, label = columns.take(enough, f"its budget has fewer than {fewest} sizes"), label[enough]
    groups = [np.flatnonzero(label == one) for one in np.unique(label)]
    return columns, sorted(groups, key=lambda rows: float(np.log(columns["C"][rows]).mean()))


def cluster(log_c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cluster of each row by the peaks of a density of ln C, and whether the row lies near its cluster's middle."""
    ordered = np.sort(log_c)
    grid = np.arange(ordered[0] - 3 * BANDWIDTH, ordered[-1] + 4 * BANDWIDTH, BANDWIDTH / 8)
    density = np.exp(-0.5 * ((grid[:, None] - ordered) / BANDWIDTH) ** 2).sum(axis=1)
    valley = np.flatnonzero((density[1:-1] <= density[:-2]) & (density[1:-1] < density[2:])) + 1
    label = np.searchsorted(grid[valley], log_c)
    middle = np.array(
        [np.median(log_c[label == one]) if (label == one).any() else np.nan for one in range(len(valley) + 1)]
    )
    return label, np.abs(log_c - middle[label]) <= WIDEST


def _sizes(log_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start positions of different sizes in sorted ln N, 0.1% apart or more, and the size of each row."""
    order = np.argsort(log_n, kind="stable")
    new = np.r_[True, np.diff(log_n[order]) > 1e-3]
    label = np.empty(len(log_n), dtype=int)
    label[order] = np.cumsum(new) - 1
    return np.flatnonzero(new), label


def compute_slopes(columns: Columns, groups: list[np.ndarray]) -> np.ndarray:
    """d ln loss / d ln C at fixed size [rows], between -0.5 and 0, to carry the runs of a budget to one and the same C.

    Budgets of real grids jitter by a few per cent. The slopes are those of a quadratic surface of ln loss in ln N and
    ln C through all rows: good to a fifth or so, of a correction that is small.
    """
    log_n, log_c = np.log(columns["N"]), np.log(columns["C"])
    if max(np.ptp(log_c[rows]) for rows in groups) < 1e-6:
        return np.zeros(len(columns))
    n, c = log_n - log_n.mean(), log_c - log_c.mean()
    design = np.stack([np.ones_like(n), n, c, n * n, n * c, c * c], axis=1)
    surface = np.linalg.lstsq(design, np.log(columns["loss"]), rcond=None)[0]
    return np.clip(surface[2] + surface[4] * n + 2 * surface[5] * c, -0.5, 0.0)


def make_budget(columns: Columns, rows: np.ndarray, slopes: np.ndarray) -> Budget:
    """Average the runs of one size (seeds), in logs, carried to the budget's mean C along `slopes` [all rows]."""
    _, label = _sizes(np.log(columns["N"][rows]))
    repeats = np.bincount(label)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(label, weights=values) / repeats

    log_n = mean(np.log(columns["N"][rows]))
    log_c = mean(np.log(columns["C"][rows]))
    middle = float(np.mean(np.log(columns["C"][rows])))
    log_d = mean(np.log(columns["D"][rows])) if "D" in columns else log_c - np.log(6.0) - log_n
    log_d += middle - log_c  # at fixed size, tokens are proportional to compute
    log_loss = np.log(columns["loss"][rows]) + slopes[rows] * (middle - np.log(columns["C"][rows]))
    return Budget(math.exp(middle), log_n, mean(log_loss), log_d, repeats, rows, log_loss)


def find_minimum(budget: Budget, interpolation: str) -> Budget:
    """The budget with its minimum, or with the reason why it has none inside its sizes."""
    where, loss = minimise_curves(budget, budget.log_loss[:, None], interpolation)
    if np.isnan(where[0]):
        lowest = budget.log_n[np.argmin(budget.log_loss)]
        side = "smallest" if lowest == budget.log_n[0] else "largest" if lowest == budget.log_n[-1] else None
        reason = (
            f"its minimum is on the edge: the {side} size is best" if side else f"no {interpolation} minimum inside"
        )
        return dataclasses.replace(budget, reason=reason)
    return dataclasses.replace(budget, minimum=float(where[0]), loss=float(loss[0]))


def minimise_curves(budget: Budget, log_loss: np.ndarray, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Minimiser and minimum [copies] of curves through ln loss [sizes, copies]; NaN where it is on the edge."""
    if interpolation == "akima":
        return _akima_minimum(budget.log_n, log_loss)
    degree = 2 if interpolation == "quadratic" else 3
    x = budget.log_n - budget.middle
    root = np.sqrt(budget.repeats)[:, None]
    design = np.vander(x, degree + 1)
    coefficients = np.linalg.lstsq(design * root, log_loss * root, rcond=None)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        if degree == 2:
            at = np.where(coefficients[0] > 0, -coefficients[1] / (2 * coefficients[0]), np.nan)
        else:
            p, q, r, _ = coefficients
            straight = np.abs(p) < 1e-12 * np.maximum(np.abs(q), 1e-300)
            at = np.where(straight, -r / (2 * q), (-q + np.sqrt(q * q - 3 * p * r)) / (3 * p))
            at = np.where(6 * p * at + 2 * q > 0, at, np.nan)
    at = np.where((at > x[0]) & (at < x[-1]), at, np.nan)
    return at + budget.middle, np.sum(coefficients * np.vander(at, degree + 1).T, axis=0)


def _akima_minimum(log_n: np.ndarray, log_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minimum of the Akima curve on 25 (k-1) log-spaced sizes (Porian et al. 2024), then refined by a parabola."""
    from scipy.interpolate import Akima1DInterpolator

    grid = np.linspace(log_n[0], log_n[-1], AKIMA_STEPS * (len(log_n) - 1))
    curve = Akima1DInterpolator(log_n, log_loss, axis=0)(grid)
    lowest = np.argmin(curve, axis=0)
    inside = (lowest > 0) & (lowest < len(grid) - 1)
    at = np.clip(lowest, 1, len(grid) - 2)
    copies = np.arange(log_loss.shape[1])
    left, here, right = curve[at - 1, copies], curve[at, copies], curve[at + 1, copies]
    bend = left - 2 * here + right
    shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1.0), 0.0)
    where = grid[at] + shift * (grid[1] - grid[0])
    return np.where(inside, where, np.nan), np.where(inside, here - 0.25 * (left - right) * shift, np.nan)


def noise_sd(columns: Columns, budgets: list[Budget], interpolation: str) -> tuple[float, int]:
    """Standard deviation of ln loss of one run, and its degrees of freedom.

    From repeated sizes (seeds) where the budgets hold at least 4 repeats; else from the scatter around each budget's
    polynomial: the curve that is fitted, or a cubic (a parabola for 4 sizes) for an Akima curve, which has no scatter.
    """
    squares, freedom = 0.0, 0
    for budget in budgets:
        _, label = _sizes(np.log(columns["N"][budget.rows]))
        away = budget.run_log_loss - budget.log_loss[label]
        squares, freedom = squares + float(away @ away), freedom + len(away) - len(budget.log_n)
    if freedom >= 4:
        return math.sqrt(squares / freedom), freedom
    squares, freedom = 0.0, 0
    for budget in budgets:
        sizes = len(budget.log_n)
        degree = 2 if interpolation == "quadratic" or sizes <= 4 else 3
        if sizes <= degree + 1:
            continue
        root = np.sqrt(budget.repeats)
        design = np.vander(budget.log_n - budget.middle, degree + 1) * root[:, None]
        fitted = design @ np.linalg.lstsq(design, budget.log_loss * root, rcond=None)[0]
        squares += float(np.sum((budget.log_loss * root - fitted) ** 2))
        freedom += sizes - degree - 1
    return (math.sqrt(squares / freedom) if freedom else 0.0), freedom


def precision(used: list[Budget], copies: np.ndarray) -> np.ndarray:
    """Weight of each budget's minimum, 1/s^2 with mean 1: s is the deviation of ln N* over noisy copies of its curve.

    As Porian et al. 2024: never below a third of the spacing of the sizes, and the larger, the more of the copies have
    their minimum on an edge. Equal weights without copies.
    """
    if len(copies) < 2:
        return np.ones(len(used))
    s = np.empty(len(used))
    for at, budget in enumerate(used):
        there = np.isfinite(copies[:, at, 0])
        spacing = np.ptp(budget.log_n) / (len(budget.log_n) - 1)
        deviation = float(copies[there, at, 0].std()) if there.sum() > 1 else np.inf
        s[at] = max(deviation, 0.33 * spacing) / max(there.mean(), 1 / len(copies))
    weight = np.where(np.isfinite(s), 1 / s**2, 0.0)
    return weight / weight.mean() if weight.any() else np.ones(len(used))


def bootstrap_minima(used: list[Budget], spec: FitSpec, noise: float, freedom: int) -> np.ndarray:
    """Minima [replicates, budgets, 3] of copies of the curves with normal noise added to every size: ln N*, D*, L*.

    The copies are centred on the observed losses. Each replicate has a noise of its own, as uncertain as `freedom`
    degrees of freedom leave it. NaN marks a minimum on an edge.
    """
    stream = np.random.RandomState(spec.seed)
    minima = np.empty((spec.bootstrap, len(used), 3))
    sd = noise * np.sqrt(freedom / stream.chisquare(freedom, spec.bootstrap))
    for at, budget in enumerate(used):
        scale = sd / np.sqrt(budget.repeats)[:, None]
        copies = budget.log_loss[:, None] + scale * stream.standard_normal((len(budget.log_n), spec.bootstrap))
        where, loss = minimise_curves(budget, copies, spec.interpolation)
        minima[:, at] = np.stack([where, budget.tokens(where), loss], axis=1)
    return minima


def _describe(budget: Budget) -> dict[str, object]:
    known = not budget.reason
    return {
        "flops": budget.flops,
        "sizes": len(budget.log_n),
        "N": math.exp(budget.minimum) if known else None,
        "D": math.exp(float(budget.tokens(budget.minimum))) if known else None,
        "loss": math.exp(budget.loss) if known else None,
        "reason": budget.reason,
    }


def _certify(
    law: IsoFlop,
    budgets: list[Budget],
    used: list[Budget],
    noise: float,
    draws: np.ndarray,
    spec: FitSpec,
    freedom: int,
) -> Certificate:
    lost: dict[str, str] = {}
    if len(used) < 4:
        lost["E"] = f"{len(used)} budgets: the loss at the minima is fitted as a power law without a floor"
    found = [f"{budget.flops:.3g} FLOPs left out: {budget.reason}" for budget in budgets if budget.reason]
    floor = Interval.of(draws[:, law.names().index("E")], spec.level) if len(draws) else None
    if not lost and floor is not None and floor.high > WIDEST_CONSTANT * max(floor.low, 0.0):
        lost["E"] = f"its {floor.level:.0%} interval is {floor.low:.3g} to {floor.high:.3g}"
    if len(used) == 2:
        found.append("two budgets: the exponents go through both points and nothing checks them")
    if not len(draws):
        found.append("no scatter to learn the noise from: no intervals")
    elif len(draws) < 0.9 * spec.bootstrap:
        found.append(f"{1 - len(draws) / spec.bootstrap:.0%} of the replicates lost their minima on an edge")
    elif freedom < 5:
        found.append(f"the noise is estimated from {freedom} degrees of freedom")
    if abs(law.a + law.b - 1) > 0.05:
        found.append(f"a + b = {law.a + law.b:.3f}: C is not proportional to N D in this grid")
    return Certificate(
        converged=True,
        agreeing_starts=1.0,
        gradient=0.0,
        not_identified=lost,
        rms_log_residual=noise,
        warnings=tuple(found),
    )
