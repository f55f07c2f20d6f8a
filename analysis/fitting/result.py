"""What a fit returns, and its JSON. Knows no law and no fitting."""

import base64
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import operator
from typing import Any

import numpy as np

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.trust.certificate import Certificate
from analysis.trust.interval import Interval, interval_of

SCHEMA = 1


class FitError(RuntimeError):
    """A fit that did not end at an optimum. It has no numbers."""


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
