"""Predictions that are frozen before the run they speak of, and scored when it is there.

    python -m analysis.forecast fit.json --at="N=1e9,D=2e10" --out=forecasts/1b.json        freeze
    python -m analysis.forecast forecasts/*.json --score=grid.parquet --out=scores.json [--figure=calibration.svg]   score

A forecast holds the distribution that the fit gives for a new run, the hash of the data it rests on, the time, and a hash
of all that, so that neither a changed number nor a changed date goes unnoticed. It is never overwritten. A row of the
grid belongs to a forecast when its inputs are the forecast's within --tolerance; rows of a grid that the forecast was
fitted to are no test of it and are left out.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import hashlib
import json
from typing import Any

from etils import epath
import numpy as np

from analysis.grid.table import Columns, Grid, select
from analysis.questions import predict as prediction
from experiments.cli import InputError

SCHEMA = 1
QUANTILES = tuple(at / 100 for at in range(1, 100))
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of intervals whose coverage is reported


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A frozen prediction of one run. quantiles: of the target of a new run, at QUANTILES."""

    law: str
    at: Mapping[str, float]
    target: str
    prediction: float
    quantiles: tuple[float, ...]
    made: str  # UTC, ISO 8601
    fit_data_sha256: str
    fit_command: str
    columns: Mapping[str, str]  # of the fit: role -> column or formula
    path: str = ""

    def content(self) -> dict[str, Any]:
        """What is hashed."""
        fields = dataclasses.asdict(self)
        del fields["path"]
        return {"schema": SCHEMA, **fields, "quantiles": list(self.quantiles)}

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()

    def interval(self, level: float) -> tuple[float, float]:
        """The interval of a new run at a level."""
        low, high = np.interp([0.5 - level / 2, 0.5 + level / 2], QUANTILES, self.quantiles)
        return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a forecast. error: predicted / observed - 1; rank: the share of the forecast's distribution below."""

    forecast: Forecast
    row: int
    observed: float
    error: float
    rank: float


def freeze(fit_path: str, at: Mapping[str, float], now: datetime.datetime) -> Forecast:
    """The forecast of a fit.json for a run at `at`. Raises InputError for a fit without intervals."""
    fitted = prediction.read(fit_path)
    if not len(fitted.draws):
        raise InputError(
            f"FIT: {fit_path} has no bootstrap; a forecast needs its intervals (fit with --bootstrap=1000)"
        )
    law, runs = fitted.law, prediction.new_runs(fitted, at)
    return Forecast(
        law=type(law).NAME,
        at=dict(at),
        target=type(law).TARGET,
        prediction=float(law.target_at(at, fitted.flops_per_param_token)),
        quantiles=tuple(map(float, np.quantile(runs[np.isfinite(runs)], QUANTILES))),
        made=now.astimezone(datetime.UTC).isoformat(timespec="seconds"),
        fit_data_sha256=fitted.data_sha256,
        fit_command=fitted.command,
        columns=fitted.columns,
    )


def read(path: str) -> Forecast:
    """Load a frozen forecast. Raises InputError when it is missing, damaged, or was changed after it was frozen."""
    try:
        data = json.loads(epath.Path(path).read_text())
        stated = data.pop("sha256")
        data.pop("schema")
        found = Forecast(**{**data, "quantiles": tuple(data["quantiles"])}, path=path)
    except FileNotFoundError:
        raise InputError(f"FORECAST: {path} does not exist; expected a file that analysis.forecast wrote") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"FORECAST: {path} is not a forecast ({type(error).__name__}: {error})") from None
    if found.sha256() != stated:
        raise InputError(f"FORECAST: {path} was changed after it was frozen: its content does not have its hash")
    return found


def match(forecast: Forecast, columns: Columns, tolerance: float) -> np.ndarray:
    """Rows [rows] (booleans) whose inputs are those of the forecast."""
    keep = np.ones(len(columns), bool)
    for role, value in forecast.at.items():
        keep &= np.abs(np.log(columns[role] / value)) <= tolerance
    return keep


def score(
    forecasts: Sequence[Forecast], grid: Grid, columns: str | None, where: str | None, tolerance: float
) -> tuple[list[Outcome], dict[str, str]]:
    """Outcomes of the forecasts that have a row in the grid, and for the others (by path) why not."""
    outcomes, waiting = [], {}
    for forecast in forecasts:
        if forecast.fit_data_sha256 == grid.sha256:
            waiting[forecast.path] = "was fitted to this very grid"
            continue
        roles = (*forecast.at, forecast.target)
        rows = select(grid, roles, columns=columns or _given(forecast, grid), where=where)
        keep = match(forecast, rows, tolerance)
        if not keep.any():
            waiting[forecast.path] = "no row has its inputs yet"
        for at in np.flatnonzero(keep):
            observed = float(rows[forecast.target][at])
            rank = float(np.interp(observed, forecast.quantiles, QUANTILES, left=0.005, right=0.995))
            outcomes.append(Outcome(forecast, int(rows.row[at]), observed, forecast.prediction / observed - 1, rank))
    return outcomes, waiting


def _given(forecast: Forecast, grid: Grid) -> str | None:
    """The columns of the fit, where this grid has them."""
    roles = (*forecast.at, forecast.target)
    known = {role: forecast.columns[role] for role in roles if role in forecast.columns}
    return ",".join(f"{role}={name}" for role, name in known.items() if name in grid.frame.columns) or None


def calibration(outcomes: Sequence[Outcome]) -> list[dict[str, float]]:
    """How often the intervals of a level held the outcome. The same share for all levels means honest intervals."""
    ranks = np.array([outcome.rank for outcome in outcomes])
    return [
        {"level": level, "covered": float(np.mean(np.abs(ranks - 0.5) <= level / 2)), "forecasts": float(len(ranks))}
        for level in LEVELS
    ]


def to_json(outcomes: Sequence[Outcome], waiting: Mapping[str, str], grid: Grid, text: str) -> dict[str, Any]:
    """scores.json: every outcome, the calibration over all, and the forecasts that wait."""
    return {
        "schema": SCHEMA,
        "scores": [
            {
                "forecast": outcome.forecast.path,
                "made": outcome.forecast.made,
                "law": outcome.forecast.law,
                "at": dict(outcome.forecast.at),
                "row": outcome.row,
                "predicted": outcome.forecast.prediction,
                "observed": outcome.observed,
                "error": outcome.error,
                "rank": outcome.rank,
            }
            for outcome in outcomes
        ],
        "calibration": calibration(outcomes) if outcomes else [],
        "rms_error": float(np.sqrt(np.mean([outcome.error**2 for outcome in outcomes]))) if outcomes else None,
        "waiting": dict(waiting),
        "data_sha256": grid.sha256,
        "command": text,
    }
