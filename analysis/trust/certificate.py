"""Say whether to believe a fit: what the grid does not determine, and what a reader should be warned of."""

from collections.abc import Mapping, Sequence, Set
import dataclasses
from typing import Any

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw
from analysis.solve.optimum import DIFFERENT, Optimum
from analysis.solve.parameters import VANISHED
from analysis.trust import identification, influence, misfit
from analysis.trust.caution import RARE, warnings
from analysis.trust.clusters import warn_of_clusters
from analysis.trust.interval import Interval
from analysis.trust.profile import Profile
from analysis.trust.residuals import Residuals

MOVES = 2.0  # standard errors by which one row or run may move a coefficient before a reader is warned
EXACT = 1e-9  # root mean square of log residuals that are rounding
MOST_ROWS_NAMED = 8  # of a run that moves a coefficient


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Hold the reasons to believe a fit, or not to.

    gradient: scaled gradient at the end, 0 at a stationary point and 1 far from one. agreeing_starts: share of the
    starts that ended at the best optimum. All three are None for a law whose fit has no search. not_identified: coefficients that the grid does not determine, with reasons.
    profile: profile likelihood intervals, an end that the rows do not bound is None. influential: rows whose absence moves
    a coefficient most. trends: rank correlations of the residuals with N, D, C. seed_noise: scatter of repeated rows.
    """

    converged: bool | None
    agreeing_starts: float | None
    gradient: float | None
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

    @property
    def ending(self) -> str:
        """Say how near to a stationary point the search ended; nothing for a law whose fit has no search."""
        if self.gradient is None:
            return ""
        if self.gradient > 0:
            return f"scaled gradient {self.gradient:.0e}"
        if self.rms_log_residual is not None and self.rms_log_residual < EXACT:
            return "every row is met to rounding, where a gradient means nothing"
        return "no step lowers the objective by more than rounding"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Hold what a certificate rests on: a fitted law with its rows, their residuals and refits.

    intervals and profiles by coefficient; left_out [refits, coefficients] of the jackknife; loss is the objective's;
    fixed: coefficients that were not fitted.
    """

    law: FormulaLaw
    columns: Columns
    residuals: Residuals
    intervals: Mapping[str, Interval]
    left_out: np.ndarray
    profiles: Mapping[str, Profile]
    loss: str
    fixed: tuple[str, ...]


def certify(evidence: Evidence, found: Optimum, row_leverage: np.ndarray) -> Certificate:
    """Judge a fit that reached a stationary point."""
    law = evidence.law
    columns = evidence.columns
    residuals = evidence.residuals
    weak, condition = _weak_names(found)
    weak |= set(found.valley)
    rivalled = _rivalled(found, evidence.loss)
    at_bound, vanished = _bound_names(law, found)
    lost = identification.not_identified(law, weak, rivalled, vanished, evidence.intervals)
    moving = influence.influential(law, columns, evidence.left_out, evidence.intervals, row_leverage)
    trends = misfit.residual_trends(columns, residuals)
    noise = misfit.seed_noise(law, columns, residuals)
    free = len(law.names()) - len(evidence.fixed)
    worst = residuals.worst
    return Certificate(
        converged=True,
        agreeing_starts=found.agreeing,
        gradient=found.gradient,
        not_identified=lost,
        at_bound=tuple(name for name in law.names() if name in at_bound),
        condition=condition,
        mean_changes=found.invariance,
        profile={name: _ends(profile) for name, profile in evidence.profiles.items()},
        influential=moving,
        trends=trends,
        seed_noise=noise,
        aicc=misfit.aicc(residuals, free, evidence.loss),
        rms_log_residual=residuals.rms,
        worst_row=None if worst is None else int(columns.row[worst]),
        worst_log_residual=None if worst is None else float(residuals.value[worst]),
        warnings=(
            *_bound_warnings(law, at_bound),
            *warnings(columns, len(found.theta), found.agreeing, residuals),
            *(() if misfit.is_rounding(residuals.counted) else _influence_warning(moving, set(lost))),
            *_trend_warnings(trends),
            *_noise_warning(noise),
            *warn_of_clusters(columns, residuals, free),
        ),
    )


def _weak_names(found: Optimum) -> tuple[set[str], float]:
    """Return the coefficients that the rows leave open to first order, and the condition of the rest."""
    weak, condition = identification.weak_directions(found.problem, found.theta, found.weight)
    names = found.problem.names
    return {name for name, is_weak in zip(names, weak, strict=True) if is_weak}, condition


def _rivalled(found: Optimum, loss: str) -> dict[str, str]:
    """Return coefficient -> why it is open although the rows could tell it: other parameters fit as well.

    Where most residuals are larger than Huber's delta, the objective is nearly the sum of their sizes, and that is flat
    wherever as many rows lie above the law as below: between two groups of rows, for example.
    """
    if not len(found.rivals):
        return {}
    apart = np.abs(found.rivals - found.theta).max(axis=0)
    why = identification.RIVALLED
    size = np.abs(found.problem.residuals(found.theta[None])[0])
    beyond = float(np.mean(size > found.deltas[-1]))
    if loss == "lad" or (loss == "huber" and beyond > 0.5):
        why += (
            f": {beyond:.0%} of the residuals are larger than {found.deltas[-1]:.2g}, and this loss is flat between groups"
            " of rows; see what tells them apart (--by), or take --loss=least_squares"
        )
    names = found.problem.names
    return {name: why for name, distance in zip(names, apart, strict=True) if distance > DIFFERENT}


def _bound_names(law: FormulaLaw, found: Optimum) -> tuple[set[str], set[str]]:
    """Return the coefficients that lie at a bound, and those of them that are prefactors of terms that vanished."""
    low, high = found.problem.bounds()
    at_low = found.theta <= low
    at_high = found.theta >= high
    bound = set()
    vanished = set()
    for name, is_low, is_high in zip(found.problem.names, at_low, at_high, strict=True):
        if is_low or is_high:
            bound.add(name)
        if is_low and law.COEFFICIENTS[name].log:
            vanished.add(name)
    return bound, vanished


def _bound_warnings(law: FormulaLaw, at_bound: Set[str]) -> list[str]:
    """Warn of coefficients that lie at an end of their range: the rows ask for more than a fit looks at."""
    found = []
    for name in law.names():
        if name in at_bound:
            value = float(getattr(law, name))
            is_gone = abs(value) <= VANISHED
            found.append(f"{name} is 0, so that its term is gone" if is_gone else law.end_of_range(name))
    return found


def _ends(profile: Profile) -> dict[str, float | None]:
    return {"level": profile.level, "low": profile.low, "high": profile.high}


def _influence_warning(moving: Sequence[Mapping[str, Any]], lost: Set[str]) -> list[str]:
    """Warn of the row or run that moves a coefficient most, leaving out coefficients that are not identified anyway."""
    strongest = next((unit for unit in moving if unit["coefficient"] not in lost), None)
    if strongest is None:
        return []
    size = abs(strongest["standard_errors"])
    if size <= MOVES:
        return []
    rows = strongest["rows"]
    kind = "row" if len(rows) == 1 else "run of rows"
    named = ", ".join(map(str, rows[:MOST_ROWS_NAMED]))
    return [f"{kind} {named} alone moves {strongest['coefficient']} by {size:.1f} standard errors"]


def _trend_warnings(trends: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say along which quantities the residuals have a trend that chance would rarely give."""
    found = []
    for role, trend in trends.items():
        if trend["p"] < RARE:
            found.append(
                f"residuals follow {role} (rank correlation {trend['rho']:+.2f}, with the distance from the middle "
                f"{trend['bend']:+.2f}): the form misses something"
            )
    return found


def _noise_warning(noise: Mapping[str, float] | None) -> list[str]:
    """Say that the law misses by more than other seeds scatter, where it does."""
    if not noise or noise.get("p", 1.0) >= RARE:
        return []
    scatter = noise["standard_deviation"]
    return [f"the law misses by more than the scatter between seeds ({scatter:.2%}; lack of fit p = {noise['p']:.1g})"]
