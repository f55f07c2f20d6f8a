"""Predict from a fit.

    python -m analysis.predict fit.json --at="N=1e9,D=2e10"       the loss of a run
    python -m analysis.predict fit.json --at="C=1e21"             the compute-optimal N and D, and the loss there

The interval is that of the law: where its value lies, by the bootstrap in fit.json. One more run also carries noise;
`interval_new_run` adds the scatter of the rows around the law.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import math
from typing import Any

from etils import epath
import numpy as np

from analysis import laws
from analysis.fitting.result import SCHEMA, unpack
from analysis.grid.roles import ROLES
from analysis.laws.base import Law, part_inputs
from analysis.trust.interval import Interval, interval_of
from experiments.cli import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What predict needs of a fit.json."""

    law: Law
    draws: np.ndarray
    left_out: np.ndarray | None
    freedom: int | None
    level: float
    flops_per_param_token: float
    scatter: float  # standard deviation of ln loss around the law
    ranges: Mapping[str, list[float]]
    columns: Mapping[str, str]  # role -> column or formula
    data_sha256: str
    command: str


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A loss with its intervals and, for a compute budget, the optimal allocation with its intervals."""

    at: dict[str, float]
    loss: float
    interval: Interval | None
    new_run: Interval | None
    optimum: dict[str, float]
    optimum_intervals: dict[str, Interval | None]
    extrapolation: float | None  # largest ratio of an input to the largest value in the grid


def read(path: str) -> Fitted:
    """Load a fit.json. Raises InputError when it is missing, damaged or of another schema."""
    try:
        data = json.loads(epath.Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"FIT: {path} does not exist; expected the JSON file that analysis.fit wrote") from None
    except (OSError, ValueError) as error:
        raise InputError(f"FIT: {path} is not a readable JSON file ({str(error).splitlines()[0]})") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise InputError(f"FIT: {path} has schema {schema!r}; expected a fit.json of schema {SCHEMA}")
    try:
        parts = {role: tuple(names) for role, names in data.get("parts", {}).items()}
        fitted = laws.load(data["law"]).of(parts).restore(data["coefficients"], data["details"])
        return Fitted(
            law=fitted,
            draws=unpack(data["draws"]),
            left_out=None if data["left_out"] is None else unpack(data["left_out"]),
            freedom=data["freedom"],
            level=float(data["options"]["level"]),
            flops_per_param_token=float(data["flops_per_param_token"]),
            scatter=float(data["certificate"]["rms_log_residual"]),
            ranges=data["ranges"],
            columns=data["columns"],
            data_sha256=data["data_sha256"],
            command=data["command"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"FIT: {path} is damaged ({type(error).__name__}: {error}); fit again") from None


def parse_at(text: str, law: Law) -> dict[str, float]:
    """`N=1e9,D=2e10` as numbers; InputError with what the law takes when it cannot use them."""
    known = sorted({name for names in law.INPUTS for name in names})
    parts = {name for role in law.PARTS for name in part_inputs(role, law.PARTS)}  # those not given are zero
    at: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise InputError(f"--at: {name!r} is not an input of {law.NAME}; {nearest(name, known, 'input')}")
        if name in at:
            raise InputError(f"--at: {name} is given twice")
        try:
            at[name] = float(value)
        except ValueError:
            raise InputError(f"--at: {name}={value!r} is not a number") from None
        signed = name in law.SIGNED or (name in ROLES and not ROLES[name].positive)
        if not (math.isfinite(at[name]) and (signed or at[name] > 0 or (name in parts and at[name] == 0))):
            raise InputError(f"--at: {name}={value} is not a {'' if signed else 'positive '}finite number")
    at |= dict.fromkeys(sorted(parts - set(at)), 0.0) if parts & set(at) else {}
    total = sum(at.get(name, 0.0) for role in law.PARTS if ROLES[role].shares for name in part_inputs(role, law.PARTS))
    if parts & set(at) and abs(total - 1) > 1e-3:
        raise InputError(f"--at: the shares in {text!r} add up to {total:.4g}; expected 1")
    if not any(set(at) == set(names) for names in law.INPUTS):
        choices = " or ".join(",".join(f"{name}=.." for name in names) for names in law.INPUTS)
        raise InputError(f"--at: {text!r} is not what {law.NAME} takes; expected {choices}")
    return at


def new_runs(fitted: Fitted, at: Mapping[str, float]) -> np.ndarray:
    """What one more run at `at` may give [replicates]: the law's own uncertainty, and the scatter of the rows around it."""
    law, factor = fitted.law, fitted.flops_per_param_token
    if not len(fitted.draws):
        return np.empty(0)
    with np.errstate(all="ignore"):
        draws = np.asarray(type(law).stack(fitted.draws).target_at(at, factor), dtype=np.float64)
    noise = np.random.default_rng(0).standard_normal(len(draws)) * fitted.scatter
    return draws * np.exp(noise) if float(law.target_at(at, factor)) > 0 else draws + noise


def predict(fitted: Fitted, at: Mapping[str, float]) -> Prediction:
    """Loss at `at` (N and D, or C, ...) in nats per token with intervals; the optimum too when only C is given."""
    law, factor = fitted.law, fitted.flops_per_param_token
    loss = float(law.target_at(at, factor))

    def interval(quantity: Callable[[Any], Any]) -> Interval | None:
        return interval_of(quantity, law, fitted.draws, fitted.left_out, fitted.level, fitted.freedom)

    optimum = {name: float(value) for name, value in law.derived(at, factor).items()}
    intervals = {name: interval(lambda law, name=name: law.derived(at, factor)[name]) for name in optimum}
    reach = [at[name] / fitted.ranges[name][1] for name in at if fitted.ranges.get(name, [0, 0])[1] > 0]
    return Prediction(
        at=dict(at),
        loss=loss,
        interval=interval(lambda law: law.target_at(at, factor)),
        new_run=Interval.of(new_runs(fitted, at), fitted.level),
        optimum=optimum,
        optimum_intervals=intervals,
        extrapolation=max(reach) if reach else None,
    )


def to_json(prediction: Prediction) -> dict[str, Any]:
    """predict's JSON as DESIGN names it; numbers that are not finite become null."""

    def plain(interval: Interval | None) -> dict[str, float] | None:
        return None if interval is None else {"level": interval.level, "low": interval.low, "high": interval.high}

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: clean(part) for name, part in value.items()}
        return value if not isinstance(value, float) or math.isfinite(value) else None

    data: dict[str, Any] = {
        "schema": SCHEMA,
        "at": prediction.at,
        "prediction": prediction.loss,
        "interval": plain(prediction.interval),
        "interval_new_run": plain(prediction.new_run),
        "extrapolation": prediction.extrapolation,
    }
    if prediction.optimum:
        data["optimum"] = prediction.optimum
        data["optimum_intervals"] = {name: plain(value) for name, value in prediction.optimum_intervals.items()}
    return clean(data)
