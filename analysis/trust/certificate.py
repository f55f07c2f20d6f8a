"""Whether to believe a fit: what the grid does not determine, and what a reader should be warned of."""

from collections.abc import Mapping, Set
import dataclasses
import math
from typing import Any

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw, SumLaw
from analysis.solve.objective import sided
from analysis.solve.optimum import DIFFERENT, Optimum
from analysis.trust import bootstrap
from analysis.trust.interval import Interval
from analysis.trust.profile import Profile

# An interval wider than this factor (high/low) means that the grid does not determine the number. Prefactors are
# extrapolations to N = 1 and always wide, so they count as determined when their exponent is.
WIDEST_EXPONENT = 4.0
WIDEST_CONSTANT = 2.5
RANK_TOLERANCE = 1e-6
FEW_ROWS = 5  # per coefficient; below, bootstrap intervals are known to cover too little
RARE = 0.01  # p-value of what a reader is warned of
MOST_NAMED = 5  # influential rows in the certificate
MOVES = 2.0  # standard errors by which one row or run may move a coefficient before a reader is warned


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether to believe a fit.

    gradient: scaled gradient at the end, 0 at a stationary point and 1 far from one. agreeing_starts: share of the
    starts that ended at the best optimum. not_identified: coefficients that the grid does not determine, with reasons.
    profile: profile likelihood intervals, an end that the rows do not bound is None. influential: rows whose absence moves
    a coefficient most. trends: rank correlations of the residuals with N, D, C. seed_noise: scatter of repeated rows.
    """

    converged: bool
    agreeing_starts: float
    gradient: float
    not_identified: Mapping[str, str] = dataclasses.field(default_factory=dict)
    at_bound: tuple[str, ...] = ()
    condition: float | None = None  # of the scaled Jacobian
    mean_changes: float | None = None  # largest relative change of a coefficient with the mean in place of the sum
    profile: Mapping[str, Mapping[str, float | None]] = dataclasses.field(default_factory=dict)
    influential: tuple[Mapping[str, Any], ...] = ()
    trends: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    seed_noise: Mapping[str, float] | None = None
    aicc: float | None = None
    rms_log_residual: float | None = None
    worst_row: int | None = None
    worst_log_residual: float | None = None
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a certificate rests on: a fitted law with its rows, residuals [rows] and refits.

    intervals and profiles by coefficient; left_out [refits, coefficients] of the jackknife; loss is the objective's;
    fixed: coefficients that were not fitted.
    """

    law: FormulaLaw
    columns: Columns
    residual: np.ndarray
    intervals: Mapping[str, Interval]
    left_out: np.ndarray
    profiles: Mapping[str, Profile]
    loss: str
    fixed: tuple[str, ...]


def certify(evidence: Evidence, found: Optimum, names: tuple[str, ...], row_leverage: np.ndarray) -> Certificate:
    """The certificate of a fit that reached a stationary point; `names` are the coefficients of the parameters [p]."""
    law, columns, residual = evidence.law, evidence.columns, evidence.residual
    weak, condition = weak_directions(found.problem, found.theta, found.weight)
    if len(found.rivals):
        weak = weak | (np.abs(found.rivals - found.theta).max(axis=0) > DIFFERENT)
    low, high = found.problem.bounds()
    ends = list(zip(names, found.theta, low, high, strict=True))
    bound = {name for name, at, a, b in ends if at <= a or at >= b}
    vanished = {name for name, at, a, _ in ends if at <= a and law.COEFFICIENTS[name].log}
    intervals = evidence.intervals
    worst = int(np.argmax(np.abs(residual)))
    influence = influential(evidence, row_leverage)
    trends, noise = residual_trends(columns, residual), seed_noise(evidence)
    lost = not_identified(law, {name for name, weak_ in zip(names, weak, strict=True) if weak_}, vanished, intervals)
    return Certificate(
        converged=True,
        agreeing_starts=found.agreeing,
        gradient=found.gradient,
        not_identified=lost,
        at_bound=tuple(name for name in law.names() if name in bound),
        condition=condition,
        mean_changes=found.invariance,
        profile={
            name: {"level": one.level, "low": one.low, "high": one.high} for name, one in evidence.profiles.items()
        },
        influential=influence,
        trends=trends,
        seed_noise=noise,
        aicc=aicc(evidence),
        rms_log_residual=float(np.sqrt(np.mean(residual**2))),
        worst_row=int(columns.row[worst]),
        worst_log_residual=float(residual[worst]),
        warnings=(
            *warnings(columns, len(found.theta), found.agreeing, residual),
            *_doubts(influence, trends, noise, set(lost)),
        ),
    )


def leverage(found: Optimum) -> np.ndarray:
    """How much of its own prediction each row decides [rows]: the diagonal of the hat matrix, 0 to 1."""
    slopes = found.problem.jacobian(found.theta[None])[0]
    r = found.problem.residuals(found.theta[None])[0]
    rows = (slopes * np.sqrt(sided(found.weight, r, found.problem.above))).T
    size = np.linalg.norm(rows, axis=0)
    basis, values, _ = np.linalg.svd(rows / np.where(size > 0, size, 1.0), full_matrices=False)
    return (basis[:, values > RANK_TOLERANCE * values[0]] ** 2).sum(axis=1)


def influential(evidence: Evidence, row_leverage: np.ndarray) -> tuple[dict[str, Any], ...]:
    """The rows (or runs) whose absence moves a coefficient most, in its standard errors; where one is left out at a time."""
    columns, intervals = evidence.columns, evidence.intervals
    run = columns.values.get("run")
    member = bootstrap.units(len(columns), run)
    if not len(evidence.left_out) or len(evidence.left_out) != member.max() + 1:
        return ()
    errors = np.array([intervals[name].se if name in intervals else np.nan for name in evidence.law.names()])
    values = np.array([evidence.law.coefficients()[name] for name in evidence.law.names()])
    with np.errstate(divide="ignore", invalid="ignore"):
        moves = np.nan_to_num((evidence.left_out - values) / np.where(errors > 1e-9 * np.abs(values), errors, np.nan))
    most = np.argsort(-np.abs(moves).max(axis=1), kind="stable")[:MOST_NAMED]
    found = []
    for unit in map(int, most):
        rows = np.flatnonzero(member == unit)
        at = int(np.argmax(np.abs(moves[unit])))
        found.append({
            "rows": columns.row[rows].tolist(),
            "coefficient": evidence.law.names()[at],
            "standard_errors": float(moves[unit, at]),
            "leverage": float(row_leverage[rows].sum()),
        })  # fmt: skip
    return tuple(found)


def residual_trends(columns: Columns, residual: np.ndarray) -> dict[str, dict[str, float]]:
    """What the form does not follow: rank correlations (Spearman) of the residuals with ln N, ln D and ln C.

    rho is that with the quantity, bend that with its distance from the middle; p belongs to the clearer of the two.
    """
    from scipy.stats import spearmanr

    found = {}
    for role in ("N", "D", "C"):
        if role in columns and len(np.unique(columns[role])) > 3 and np.ptp(residual) > 1e-9:
            place = np.log(columns[role])
            away = np.abs(place - np.median(place))
            if np.ptp(away) == 0:
                continue
            slope, bend = (spearmanr(x, residual) for x in (place, away))
            p = min(1.0, 2 * min(float(slope.pvalue), float(bend.pvalue)))
            found[role] = {"rho": float(slope.statistic), "bend": float(bend.statistic), "p": p}
    return {role: trend for role, trend in found.items() if np.isfinite(trend["p"])}


def seed_noise(evidence: Evidence) -> dict[str, float] | None:
    """The scatter of rows with the same inputs (other seeds), and whether the law misses by more; None without such rows.

    p: of the F test for lack of fit, residuals of the law against those of the repeats' own means.
    """
    columns, law = evidence.columns, evidence.law
    inputs = [columns[role] for role in type(law).inputs() if role in columns]
    if not inputs or any(value.dtype.kind != "f" or value.ndim > 1 for value in inputs):
        return None
    _, label, count = np.unique(np.stack(inputs), axis=1, return_inverse=True, return_counts=True)
    label = label.ravel()
    repeats = len(label) - len(count)
    if repeats < 2:
        return None
    from scipy.stats import f

    mean = np.bincount(label, evidence.residual) / count
    pure = float(((evidence.residual - mean[label]) ** 2).sum())
    other, left = float((evidence.residual**2).sum()) - pure, len(count) - len(law.names())
    found = {"standard_deviation": math.sqrt(pure / repeats), "repeats": float(repeats)}
    if left > 0 and pure > 0:
        found["p"] = float(f.sf(other / left / (pure / repeats), left, repeats))
    return found


def aicc(evidence: Evidence) -> float | None:
    """Akaike's criterion for small samples, of log residuals (plain ones where the target may be negative).

    Least squares mean normal scatter; robust losses the double exponential one, which is what they turn into when their
    delta is small (Besiroglu et al. 2024). Comparable between laws that are fitted to the same rows with one loss.
    None with too few rows, or when the law goes through all of them.
    """
    rows, k = len(evidence.residual), len(evidence.law.names()) - len(evidence.fixed) + 1
    size = np.abs(evidence.residual)
    if rows <= k + 1 or size.max() < 1e-12:
        return None
    if evidence.loss == "least_squares":
        fit = rows * (math.log(2 * math.pi * float(np.mean(size**2))) + 1)
    else:
        fit = 2 * rows * (math.log(2 * float(np.mean(size))) + 1)
    return fit + 2 * k + 2 * k * (k + 1) / (rows - k - 1)


def _doubts(
    influence: tuple[dict[str, Any], ...],
    trends: dict[str, dict[str, float]],
    noise: dict[str, float] | None,
    lost: Set[str],
) -> list[str]:
    found = []
    strongest = next((one for one in influence if one["coefficient"] not in lost), None)
    if strongest and abs(strongest["standard_errors"]) > MOVES:
        which = "row" if len(strongest["rows"]) == 1 else "run of rows"
        found.append(
            f"{which} {', '.join(map(str, strongest['rows'][:8]))} alone moves {strongest['coefficient']} by "
            f"{abs(strongest['standard_errors']):.1f} standard errors"
        )
    for role, trend in trends.items():
        if trend["p"] < RARE:
            found.append(
                f"residuals follow {role} (rank correlation {trend['rho']:+.2f}, with the distance from the middle "
                f"{trend['bend']:+.2f}): the form misses something"
            )
    if noise and noise.get("p", 1.0) < RARE:
        found.append(
            f"the law misses by more than the scatter between seeds ({noise['standard_deviation']:.2%}; lack of fit p = "
            f"{noise['p']:.1g})"
        )
    return found


def weak_directions(problem: Any, theta: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Parameters [p] (booleans) that the rows leave undetermined to first order, and the condition of the rest.

    A column of zeros (one N only) and proportional columns (a term that is constant) both show.
    """
    _, values, vectors = np.linalg.svd(problem.sensitivity(theta, weight), full_matrices=False)
    weak = values <= RANK_TOLERANCE * values[0]
    involved = (np.abs(vectors[weak]) > 0.05).any(axis=0) if weak.any() else np.zeros(problem.size, bool)
    strong = values[~weak]
    return involved, float(strong[0] / strong[-1])


def not_identified(
    law: FormulaLaw, weak: Set[str], vanished: Set[str], intervals: Mapping[str, Interval]
) -> dict[str, str]:
    """Coefficient -> why the grid does not determine it. `weak` and `vanished` are names."""
    reasons = dict.fromkeys(weak, "the rows do not separate it from other coefficients")
    terms = law.TERMS if isinstance(law, SumLaw) else ()
    for term in terms:
        if term.prefactor in vanished:
            reasons |= {name: f"the term {term.prefactor} is zero at the optimum" for _, _, name in term.powers}
    for name, known in law.COEFFICIENTS.items():
        interval = intervals.get(name)
        if known.log or known.low < 0 or name in reasons or interval is None:
            continue  # of a coefficient of either sign, an interval around zero is an answer
        size = sorted((abs(interval.low), abs(interval.high)))
        if interval.low * interval.high <= 0 or size[0] <= 1e-6 or size[1] > WIDEST_EXPONENT * size[0]:
            reasons[name] = f"its {interval.level:.0%} interval is {interval.low:.3g} to {interval.high:.3g}"
    for term in terms:
        lost = [name for _, _, name in term.powers if name in reasons]
        if lost and term.prefactor not in reasons:
            reasons[term.prefactor] = f"{', '.join(lost)} is not identified"
        interval = intervals.get(term.prefactor)
        if not term.powers and interval is not None and term.prefactor not in reasons:
            scale = float(getattr(law, term.prefactor))
            if scale > 0 and interval.high > WIDEST_CONSTANT * max(interval.low, 0.0) and interval.se > 1e-6 * scale:
                reasons[term.prefactor] = (
                    f"its {interval.level:.0%} interval is {interval.low:.3g} to {interval.high:.3g}"
                )
    return {name: reasons[name] for name in law.names() if name in reasons}


def warnings(columns: Columns, coefficients: int, agreeing: float, log_residual: np.ndarray) -> tuple[str, ...]:
    """What a reader should know before using the numbers."""
    found = []
    rows = len(columns)
    if rows == coefficients:
        found.append(
            f"{rows} rows for {coefficients} coefficients: the law goes through every row and nothing checks it"
        )
    elif rows < FEW_ROWS * coefficients:
        found.append(f"{rows} rows for {coefficients} coefficients: bootstrap intervals are too narrow on so few")
    if agreeing < 0.05:
        found.append(f"only {agreeing:.1%} of the starts ended at the best optimum")
    numbers = [value for role, value in columns.values.items() if role != "weight" and value.dtype.kind == "f"]
    repeated = rows - len(np.unique(np.column_stack(numbers), axis=0))
    if repeated:
        found.append(f"{repeated} rows repeat another row exactly; repeated rows count twice and narrow the intervals")
    spread = 1.4826 * np.median(np.abs(log_residual - np.median(log_residual)))
    far = int((np.abs(log_residual) > 8 * spread).sum()) if spread > 1e-9 else 0
    if far:
        found.append(f"{far} of {rows} rows lie more than 8 robust standard deviations from the law")
    for role, what in (("N", "parameters"), ("D", "tokens")):
        if role not in columns:
            continue
        span = math.log10(columns[role].max() / columns[role].min())
        if span < 1:
            found.append(f"{what} span a factor of {10**span:.3g} only; the exponent rests on less than a decade")
    return tuple(found)
