"""Hold what a fit returns, and write it as JSON. Knows no law and no fitting."""

import base64
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import operator
from typing import Any

import numpy as np

from analysis.fitting.spec import FitSpec
from analysis.grid import cost
from analysis.grid.table import Columns
from analysis.laws.allocation import Allocation
from analysis.trust.certificate import Certificate
from analysis.trust.design_check import Design
from analysis.trust.interval import Interval, interval_of
from analysis.trust.one_run import Noise
from analysis.trust.profile import Profile
from analysis.trust.region import Region
from analysis.trust.residuals import Residuals
from analysis.trust.verdict import Judged, Verdict

SCHEMA = 3


class FitError(RuntimeError):
    """Say that a fit did not end at an optimum. It has no numbers."""


@dataclasses.dataclass(frozen=True)
class FitResult:
    """Hold a law with how it was obtained.

    draws [replicates, coefficients] are bootstrap refits, left_out [refits, coefficients] those of the jackknife, freedom
    the rows that are left when each coefficient takes one. residual [rows] is ln predicted - ln observed of the rows in
    `columns`. verdict: which numbers the design supports; None only while a fit is being made. details holds what a law's own procedure found (budget minima, hull), ready for JSON.
    """

    law: Any  # a Law; its coefficients are attributes that only its own class has
    spec: FitSpec
    columns: Columns
    objective: float
    residual: np.ndarray
    certificate: Certificate
    draws: np.ndarray
    left_out: np.ndarray | None = None
    freedom: int | None = None
    profiles: Mapping[str, Profile] = dataclasses.field(default_factory=dict)  # by coefficient
    flops_per_param_token: float = 6.0
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    additive: bool = False  # residuals are differences: the target may be negative
    verdict: Verdict | None = None

    @property
    def cost(self) -> str:
        """Which count of FLOPs C is, in words; empty for a law without N and D."""
        return cost.in_words(self.columns.sources, self.flops_per_param_token)

    @property
    def residuals(self) -> Residuals:
        """The residuals with what each of them counts."""
        return Residuals.of(self.residual, self.columns, self.additive)

    @property
    def noise(self) -> Noise:
        """How far single runs lie from the law.

        Laws of the optimum have residuals of optima; their certificate holds the scatter of ln loss.
        """
        if isinstance(self.law, Allocation):
            return Noise.normal(self.certificate.rms_log_residual or 0.0)
        return Noise.of(self.residuals, len(self.law.names()) - len(self.spec.fixed))

    def stacked(self) -> Any:
        """Return the law with its bootstrap replicates as coefficients."""
        return type(self.law).stack(self.draws)

    def interval(self, draws: np.ndarray) -> Interval | None:
        """Build an interval from replicates [replicates] of any number: percentiles."""
        return Interval.of(draws, self.spec.level)

    def interval_of(self, quantity: Callable[[Any], Any], is_derived: bool = False) -> Interval | None:
        """Build the interval of a function of the law (that broadcasts over its coefficients); None where there is none."""
        return self.judged(quantity, is_derived).interval

    def judged(self, quantity: Callable[[Any], Any], is_derived: bool = False) -> Judged:
        """Build the interval of a function of the law as the verdict lets it be printed, or say why it does not.

        is_derived: see `Verdict.judge`.
        """
        interval = interval_of(quantity, self.law, self.draws, self.left_out, self.spec.level, self.freedom)
        if self.verdict is None:
            return Judged(interval)
        return self.verdict.judge(quantity, self.law, interval, is_derived)

    def values(self) -> dict[str, float | None]:
        """Return coefficients and exponents of the optimum; None for those that the rows do not tell."""
        withheld = {} if self.verdict is None else self.verdict.withheld
        every = self.law.coefficients() | self.law.optimum_exponents()
        found: dict[str, float | None] = {}
        for name, value in every.items():
            found[name] = None if name in withheld else float(value)
        return found

    def intervals(self) -> dict[str, Interval]:
        """Build the intervals of the coefficients and of the optimum's exponents, those that the verdict supports."""

        def exponent(name: str) -> Callable[[Any], Any]:
            return lambda law: law.optimum_exponents()[name]

        quantities: dict[str, Callable[[Any], Any]] = {}
        for name in self.law.names():
            quantities[name] = operator.attrgetter(name)
        for name in self.law.optimum_exponents():
            quantities[name] = exponent(name)
        withheld = {} if self.verdict is None else self.verdict.withheld
        found = {}
        for name, quantity in quantities.items():
            if name in withheld:
                continue
            interval = self.interval_of(quantity)
            if interval is not None:
                found[name] = interval
        return found


def ranges(columns: Columns, flops_per_param_token: float) -> dict[str, list[float]]:
    """Return the smallest and largest value of every numeric role that was used; C from N and D without a column."""
    numbers = {}
    for role, value in columns.values.items():
        if value.dtype.kind == "f" and role != "weight":
            numbers[role] = value
    for role, names in columns.parts.items():
        by_part = numbers.pop(role).T
        for name, part in zip(names, by_part, strict=True):
            numbers[f"{role}_{name}"] = part
    if "C" not in numbers and "N" in columns and "D" in columns:
        numbers["C"] = flops_per_param_token * columns["N"] * columns["D"]
    return {role: [float(value.min()), float(value.max())] for role, value in numbers.items()}


def pack(draws: np.ndarray) -> dict[str, Any]:
    """Write replicates as one JSON string: little-endian float64, base64."""
    data = np.ascontiguousarray(draws, dtype="<f8")
    text = base64.b64encode(data.tobytes()).decode()
    return {"dtype": "<f8", "shape": list(data.shape), "base64": text}


def noise_fields(noise: Noise) -> dict[str, Any]:
    """Write how far runs lie from a law; `noise_of` reads it."""
    return {
        "value": pack(noise.value),
        "weight": pack(noise.weight),
        "spare": noise.spare,
        "sd": noise.sd,
        "additive": noise.additive,
    }


def noise_of(fields: Mapping[str, Any]) -> Noise:
    """Read what `noise_fields` wrote; KeyError or ValueError when it is damaged."""
    return Noise(
        value=unpack(fields["value"]),
        weight=unpack(fields["weight"]),
        spare=int(fields["spare"]),
        sd=float(fields["sd"]),
        additive=bool(fields["additive"]),
    )


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """Read what `pack` wrote; ValueError when the text is damaged."""
    if packed["dtype"] != "<f8":
        raise ValueError(f"draws: dtype {packed['dtype']!r}, expected '<f8'")
    data = base64.b64decode(packed["base64"], validate=True)
    return np.frombuffer(data, dtype="<f8").reshape(packed["shape"]).copy()


def to_json(result: FitResult, data_sha256: str, command: Sequence[str] | str) -> dict[str, Any]:
    """Write fit.json as the commands read it: strict JSON, a schema version first."""
    law = result.law
    columns = result.columns
    verdict = judged_verdict(result)
    region = verdict.region
    return {
        "schema": SCHEMA,
        "verdict": verdict.to_json(),
        "law": law.NAME,
        "formula": law.FORMULA,
        "definition": law.DEFINITION,
        "coefficients": finite(_told(law.coefficients(), verdict)),
        "objective": result.objective,
        "rows_used": len(columns),
        "rows_dropped": [dataclasses.asdict(row) for row in columns.dropped],
        "certificate": _certificate_fields(result.certificate, verdict),
        "intervals": _intervals(result),
        "optimum": finite(_told(law.optimum_exponents(), verdict)),
        "one_point_of_a_valley": finite(_not_told(result)),
        "options": _options(result.spec),
        "columns": columns.sources,
        "parts": {role: list(names) for role, names in columns.parts.items()},
        "notes": list(columns.notes),
        "ranges": ranges(columns, result.flops_per_param_token),
        "flops_per_param_token": result.flops_per_param_token,
        "cost": result.cost,
        "details": result.details,
        "draws": pack(result.draws),
        "left_out": None if result.left_out is None else pack(result.left_out),
        "freedom": result.freedom,
        "noise": noise_fields(result.noise),
        "region": None if region is None else _pack_region(region),
        "data_sha256": data_sha256,
        "command": command if isinstance(command, str) else " ".join(command),
    }


def _told(values: Mapping[str, float], verdict: Verdict) -> dict[str, float]:
    """Return numbers of a fit with NaN for those that its verdict withholds."""
    return {name: math.nan if name in verdict.withheld else float(value) for name, value in values.items()}


def _not_told(result: FitResult) -> dict[str, float]:
    """Return the numbers that the verdict withholds: other values fit as well, and these are where the search ended."""
    every = result.law.coefficients() | result.law.optimum_exponents()
    return {name: float(value) for name, value in every.items() if name in judged_verdict(result).withheld}


def _intervals(result: FitResult) -> dict[str, dict[str, float] | None]:
    """Return the intervals of coefficients and exponents; null for those that the verdict withholds."""
    found: dict[str, dict[str, float] | None] = {}
    if len(result.draws):
        found = dict.fromkeys((*result.law.names(), *result.law.optimum_exponents()))
    for name, interval in result.intervals().items():
        found[name] = dataclasses.asdict(interval)
    return found


def _pack_region(region: Region) -> dict[str, Any]:
    """Write a likelihood region."""
    points = np.column_stack([region.rise, region.coefficients])
    return {
        "level": region.level,
        "one": region.one,
        "all": region.all,
        "replicates": region.replicates,
        "points": pack(points),
    }


def unpack_region(packed: Mapping[str, Any]) -> Region:
    """Read a likelihood region; KeyError or ValueError where it is damaged."""
    points = unpack(packed["points"])
    return Region(
        points[:, 1:],
        points[:, 0],
        float(packed["level"]),
        float(packed["one"]),
        float(packed["all"]),
        int(packed["replicates"]),
    )


def judged_verdict(result: FitResult) -> Verdict:
    """Return the verdict of a fit that is made."""
    assert result.verdict is not None, "a fit is judged before it is used"
    return result.verdict


def verdict_of(data: Mapping[str, Any]) -> Verdict:
    """Read the verdict of a fit.json. Raises KeyError, TypeError or ValueError where it is damaged."""
    written = data["verdict"]
    region = None if data["region"] is None else unpack_region(data["region"])
    return Verdict(Design.of_json(written["design"]), written["nothing"] or "", written["withheld"], region)


def _certificate_fields(certificate: Certificate, verdict: Verdict) -> dict[str, Any]:
    """Return the certificate's fields; what is not identified is a list of names, the reasons stand beside it.

    The ends of a profile are an interval, which a coefficient that the verdict withholds does not have.
    """
    fields = dataclasses.asdict(certificate)
    for name, ends in fields["profile"].items():
        if verdict.nothing or name in verdict.withheld:
            fields["profile"][name] = {**ends, "low": None, "high": None}
    fields["not_identified"] = list(certificate.not_identified)
    fields["why_not_identified"] = dict(certificate.not_identified)
    return fields


def _options(spec: FitSpec) -> dict[str, Any]:
    """Return the choices that the numbers depend on."""
    return {
        **dataclasses.asdict(spec.settled_objective),
        "interpolation": spec.interpolation,
        "bootstrap": spec.bootstrap,
        "resample": spec.resample,
        "fixed": dict(spec.fixed),
        "level": spec.level,
        "seed": spec.seed,
    }


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return numbers for strict JSON: what is not finite becomes null."""
    found: dict[str, float | None] = {}
    for name, value in values.items():
        found[name] = float(value) if math.isfinite(value) else None
    return found
