"""What a fit returns, and its JSON. Knows no law and no fitting."""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from analysis.objective import Objective
from analysis.table import Columns
from experiments.cli import InputError, nearest

SCHEMA = 1
INTERPOLATIONS = ("quadratic", "cubic", "akima")


class FitError(RuntimeError):
    """A fit that did not end at an optimum. It has no numbers."""


@dataclasses.dataclass(frozen=True)
class FitSpec:
    """Every choice of a fit.

    bootstrap: replicates (0: none). level: of the intervals. seed: of the resampling; the stream is that of
    numpy's RandomState, so that seed 42 on 240 rows resamples as Besiroglu et al. 2024 did. starts: refined starts.
    """

    objective: Objective = Objective()
    bootstrap: int = 1000
    level: float = 0.9
    seed: int = 42
    interpolation: str = "quadratic"
    starts: int = 128

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            hint = nearest(self.interpolation, INTERPOLATIONS, "choice")
            raise InputError(f"--interpolation: {self.interpolation!r} is not an interpolation; {hint}")
        if not 0 < self.level < 1:
            raise InputError(f"--level: {self.level} is not between 0 and 1")
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise InputError(f"--bootstrap: {self.bootstrap} is not 0 (no intervals) or at least 2 replicates")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed: {self.seed} is not between 0 and 2^32 - 1")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A percentile interval of bootstrap replicates and their standard deviation."""

    level: float
    low: float
    high: float
    se: float

    @classmethod
    def of(cls, draws: np.ndarray, level: float) -> "Interval | None":
        """From finite draws [replicates]; None when there are too few."""
        draws = np.asarray(draws, dtype=np.float64)
        draws = draws[np.isfinite(draws)]
        if len(draws) < 2:
            return None
        low, high = np.percentile(draws, [50 * (1 - level), 50 * (1 + level)])
        with np.errstate(over="ignore"):
            se = float(draws.std(ddof=1))
        return cls(level, float(low), float(high), se if math.isfinite(se) else float(np.finfo(float).max))


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether to believe a fit.

    gradient: scaled gradient at the end, 0 at a stationary point and 1 far from one. agreeing_starts: share of the
    starts that ended at the best optimum. not_identified: coefficients that the grid does not determine, with reasons.
    """

    converged: bool
    agreeing_starts: float
    gradient: float
    not_identified: Mapping[str, str] = dataclasses.field(default_factory=dict)
    at_bound: tuple[str, ...] = ()
    condition: float | None = None  # of the scaled Jacobian
    rms_log_residual: float | None = None
    worst_row: int | None = None
    worst_log_residual: float | None = None
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A law with how it was obtained.

    draws [replicates, coefficients] are bootstrap refits. residual [rows] is ln predicted - ln observed of the rows in
    `columns`. details holds what a law's own procedure found (budget minima, hull), ready for JSON.
    """

    law: Any
    spec: FitSpec
    columns: Columns
    objective: float
    residual: np.ndarray
    certificate: Certificate
    draws: np.ndarray
    flops_per_param_token: float = 6.0
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def stacked(self) -> Any:
        """The law with its bootstrap replicates as coefficients."""
        return type(self.law).stack(self.draws)

    def interval(self, draws: np.ndarray) -> Interval | None:
        return Interval.of(draws, self.spec.level)

    def intervals(self) -> dict[str, Interval]:
        """Intervals of the coefficients and of the optimum's exponents."""
        if not len(self.draws):
            return {}
        columns = dict(zip(self.law.names(), self.draws.T, strict=True)) | self.stacked().optimum_exponents()
        found = {name: self.interval(values) for name, values in columns.items()}
        return {name: interval for name, interval in found.items() if interval is not None}


def ranges(columns: Columns, flops_per_param_token: float) -> dict[str, list[float]]:
    """Smallest and largest value of every numeric role that was used; C from N and D where no column gives it."""
    found = {
        role: [float(value.min()), float(value.max())]
        for role, value in columns.values.items()
        if value.dtype.kind == "f" and role != "weight"
    }
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
            "level": result.spec.level,
            "seed": result.spec.seed,
        },
        "columns": result.columns.sources,
        "notes": list(result.columns.notes),
        "ranges": ranges(result.columns, result.flops_per_param_token),
        "flops_per_param_token": result.flops_per_param_token,
        "details": result.details,
        "draws": pack(result.draws),
        "data_sha256": data_sha256,
        "command": command if isinstance(command, str) else " ".join(command),
    }


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for strict JSON: what is not finite becomes null."""
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
