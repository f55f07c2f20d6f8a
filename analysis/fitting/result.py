"""What a fit returns, and its JSON. Knows no law and no fitting."""

import base64
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import operator
from typing import Any

import numpy as np

from analysis.grid.table import Columns
from analysis.solve.objective import Objective
from experiments.cli import InputError, nearest

SCHEMA = 1
RESAMPLE = ("paired", "wild", "residual")
INTERPOLATIONS = ("quadratic", "cubic", "akima")


class FitError(RuntimeError):
    """A fit that did not end at an optimum. It has no numbers."""


@dataclasses.dataclass(frozen=True)
class FitSpec:
    """Every choice of a fit.

    bootstrap: replicates (0: none). level: of the intervals. seed: of the resampling; the stream is that of
    numpy's RandomState, so that seed 42 on 240 rows resamples as Besiroglu et al. 2024 did. starts: refined starts.
    interpolation, weighted: of IsoFLOP curves, and whether sure minima count more. resample: what a replicate is, see
    analysis.trust.bootstrap.refits. thorough: profiles and the jackknife too, which a fit on the way to something else
    does without.
    """

    objective: Objective | None = None  # the law's own where None
    bootstrap: int = 1000
    level: float = 0.9
    seed: int = 42
    interpolation: str = "quadratic"
    weighted: bool = False
    starts: int = 128
    resample: str = "paired"
    thorough: bool = True
    near_optimum: str = "0.0025"  # which runs of a cell are optima, see analysis.procedures.lr_batch.choice_of
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)  # coefficients that are not fitted

    def for_law(self, law: Any) -> "FitSpec":
        """The same with the law's own objective where none is given."""
        return self if self.objective is not None else dataclasses.replace(self, objective=law.OBJECTIVE)

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            hint = nearest(self.interpolation, INTERPOLATIONS, "choice")
            raise InputError(f"--interpolation: {self.interpolation!r} is not an interpolation; {hint}")
        if self.resample not in RESAMPLE:
            raise InputError(
                f"--resample: {self.resample!r} is not a bootstrap; {nearest(self.resample, RESAMPLE, 'choice')}"
            )
        if not 0 < self.level < 1:
            raise InputError(f"--level: {self.level} is not between 0 and 1")
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise InputError(f"--bootstrap: {self.bootstrap} is not 0 (no intervals) or at least 2 replicates")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed: {self.seed} is not between 0 and 2^32 - 1")


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval of bootstrap replicates and their standard deviation."""

    level: float
    low: float
    high: float
    se: float

    @classmethod
    def of(
        cls,
        draws: np.ndarray,
        level: float,
        estimate: float = math.nan,
        left_out: np.ndarray | None = None,
        freedom: int | None = None,
    ) -> "Interval | None":
        """From draws [replicates], those that are not finite left out; None when there are too few.

        Percentiles; with the `estimate` and its jackknife `left_out` [refits] bias-corrected and accelerated ones (BCa,
        Efron 1987), with quantiles of Student's distribution of `freedom` degrees in place of the normal ones (Hesterberg
        2015), which covers better where rows are few.
        """
        draws = np.asarray(draws, dtype=np.float64)
        draws = draws[np.isfinite(draws)]
        if len(draws) < 2:
            return None
        with np.errstate(all="ignore"):  # replicates that ran away
            low, high = np.quantile(draws, _ends(draws, level, float(estimate), left_out, freedom))
        with np.errstate(over="ignore"):
            se = float(draws.std(ddof=1))
        return cls(level, float(low), float(high), se if math.isfinite(se) else float(np.finfo(float).max))


def _ends(
    draws: np.ndarray, level: float, estimate: float, left_out: np.ndarray | None, freedom: int | None
) -> tuple[float, float]:
    """Which quantiles of the draws are the ends of the interval."""
    plain = 0.5 * (1 - level), 0.5 * (1 + level)
    if left_out is None or not math.isfinite(estimate):
        return plain
    left_out = left_out[np.isfinite(left_out)]
    if len(left_out) < 2:
        return plain
    from scipy.stats import norm, t

    below = (np.mean(draws < estimate) + np.mean(draws <= estimate)) / 2
    bias = norm.ppf(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
    pulls = left_out.mean() - left_out
    skew = (pulls**3).sum() / (6 * (pulls**2).sum() ** 1.5) if (pulls != 0).any() else 0.0
    reach = bias + (t.ppf(plain, freedom) if freedom and freedom > 0 else norm.ppf(plain))
    with np.errstate(divide="ignore"):
        low, high = norm.cdf(bias + reach / np.maximum(1 - skew * reach, 1e-3))
    return float(low), float(high)


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
class FitResult:
    """A law with how it was obtained.

    draws [replicates, coefficients] are bootstrap refits, left_out [refits, coefficients] those of the jackknife, freedom
    the rows that are left when each coefficient takes one. residual [rows] is ln predicted - ln observed of the rows in
    `columns`. details holds what a law's own procedure found (budget minima, hull), ready for JSON.
    """

    law: Any
    spec: FitSpec
    columns: Columns
    objective: float
    residual: np.ndarray
    certificate: Certificate
    draws: np.ndarray
    left_out: np.ndarray | None = None
    freedom: int | None = None
    profiles: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # analysis.trust.profile.Profile by coefficient
    flops_per_param_token: float = 6.0
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    additive: bool = False  # residuals are differences: the target may be negative

    def stacked(self) -> Any:
        """The law with its bootstrap replicates as coefficients."""
        return type(self.law).stack(self.draws)

    def interval(self, draws: np.ndarray) -> Interval | None:
        """Of replicates [replicates] of any number: percentiles."""
        return Interval.of(draws, self.spec.level)

    def interval_of(self, quantity: Callable[[Any], Any]) -> Interval | None:
        """Of a quantity that is a function of the law (and broadcasts over its coefficients)."""
        return interval_of(quantity, self.law, self.draws, self.left_out, self.spec.level, self.freedom)

    def intervals(self) -> dict[str, Interval]:
        """Intervals of the coefficients and of the optimum's exponents."""
        found = {name: self.interval_of(operator.attrgetter(name)) for name in self.law.names()}
        for name in self.law.optimum_exponents():
            found[name] = self.interval_of(lambda law, name=name: law.optimum_exponents()[name])
        return {name: interval for name, interval in found.items() if interval is not None}


def interval_of(
    quantity: Callable[[Any], Any],
    law: Any,
    draws: np.ndarray,
    left_out: np.ndarray | None,
    level: float,
    freedom: int | None,
) -> Interval | None:
    """Interval of a function of a law from its bootstrap refits and jackknife; None without refits."""
    if not len(draws):
        return None
    with np.errstate(all="ignore"):
        spread = np.asarray(quantity(type(law).stack(draws)), dtype=np.float64)
        if left_out is None or not len(left_out):
            return Interval.of(spread, level)
        without = np.asarray(quantity(type(law).stack(left_out)), dtype=np.float64)
        return Interval.of(spread, level, float(quantity(law)), without, freedom)


def ranges(columns: Columns, flops_per_param_token: float) -> dict[str, list[float]]:
    """Smallest and largest value of every numeric role that was used; C from N and D where no column gives it."""
    numbers = {role: value for role, value in columns.values.items() if value.dtype.kind == "f" and role != "weight"}
    for role, names in columns.parts.items():
        parts = numbers.pop(role).T
        numbers |= {f"{role}_{name}": part for name, part in zip(names, parts, strict=True)}
    found = {role: [float(value.min()), float(value.max())] for role, value in numbers.items()}
    if "C" not in found and "N" in columns and "D" in columns:
        compute = flops_per_param_token * columns["N"] * columns["D"]
        found["C"] = [float(compute.min()), float(compute.max())]
    return found


def pack(draws: np.ndarray) -> dict[str, Any]:
    """Replicates as one JSON string: little-endian float64, base64."""
    data = np.ascontiguousarray(draws, dtype="<f8")
    return {"dtype": "<f8", "shape": list(data.shape), "base64": base64.b64encode(data.tobytes()).decode()}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """The inverse of `pack`; ValueError when the text is damaged."""
    if packed["dtype"] != "<f8":
        raise ValueError(f"draws: dtype {packed['dtype']!r}, expected '<f8'")
    data = base64.b64decode(packed["base64"], validate=True)
    return np.frombuffer(data, dtype="<f8").reshape(packed["shape"]).copy()


def to_json(result: FitResult, data_sha256: str, command: Sequence[str] | str) -> dict[str, Any]:
    """fit.json as DESIGN names it: strict JSON, a schema version first."""
    law, certificate = result.law, result.certificate
    exponents = {name: float(value) for name, value in law.optimum_exponents().items()}
    fields = dataclasses.asdict(certificate)
    fields["not_identified"] = list(certificate.not_identified)
    fields["why_not_identified"] = dict(certificate.not_identified)
    return {
        "schema": SCHEMA,
        "law": law.NAME,
        "formula": law.FORMULA,
        "coefficients": finite(law.coefficients()),
        "objective": result.objective,
        "rows_used": len(result.columns),
        "rows_dropped": [dataclasses.asdict(row) for row in result.columns.dropped],
        "certificate": fields,
        "intervals": {name: dataclasses.asdict(interval) for name, interval in result.intervals().items()},
        "optimum": finite(exponents),
        "options": {
            **dataclasses.asdict(result.spec.objective),
            "interpolation": result.spec.interpolation,
            "bootstrap": result.spec.bootstrap,
            "resample": result.spec.resample,
            "fixed": dict(result.spec.fixed),
            "level": result.spec.level,
            "seed": result.spec.seed,
        },
        "columns": result.columns.sources,
        "parts": {role: list(names) for role, names in result.columns.parts.items()},
        "notes": list(result.columns.notes),
        "ranges": ranges(result.columns, result.flops_per_param_token),
        "flops_per_param_token": result.flops_per_param_token,
        "details": result.details,
        "draws": pack(result.draws),
        "left_out": None if result.left_out is None else pack(result.left_out),
        "freedom": result.freedom,
        "data_sha256": data_sha256,
        "command": command if isinstance(command, str) else " ".join(command),
    }


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for strict JSON: what is not finite becomes null."""
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
