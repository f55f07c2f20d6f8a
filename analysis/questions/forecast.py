"""Freeze predictions before the run they speak of, and score them when it is there.

A forecast holds the distribution that the fit gives for a new run, the hash of the data it rests on, the time, and a hash
of all that, so that neither a changed number nor a changed date goes unnoticed. It is never overwritten. A row of the
grid belongs to a forecast when its inputs are the forecast's within a tolerance; rows of a grid that the forecast was
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

from analysis.grid.selection import select
from analysis.grid.table import Columns, Grid
from analysis.laws.base import Array
from analysis.questions import predict as prediction
from experiments.cli import InputError

SCHEMA = 1
QUANTILES = tuple(at / 100 for at in range(1, 100))
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of intervals whose coverage is reported
LOWEST_RANK = 0.005  # of an outcome below all quantiles
HIGHEST_RANK = 0.995


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A frozen prediction of one run. quantiles: of the target of a new run, at QUANTILES; verdict: of the fit, in a line."""

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
    verdict: str = ""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that a row needs to be an outcome."""
        return (*self.at, self.target)

    def content(self) -> dict[str, Any]:
        """Return what is hashed."""
        fields = dataclasses.asdict(self)
        del fields["path"]
        if not self.verdict:  # forecasts of before there was one keep their hash
            del fields["verdict"]
        return {"schema": SCHEMA, **fields, "quantiles": list(self.quantiles)}

    def sha256(self) -> str:
        """Return the hash of the content."""
        text = json.dumps(self.content(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def interval(self, level: float) -> tuple[float, float]:
        """Return the interval of a new run at a level."""
        ends = [0.5 - level / 2, 0.5 + level / 2]
        low, high = np.interp(ends, QUANTILES, self.quantiles)
        return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a forecast. error: predicted / observed - 1; rank: the share of the forecast's distribution below."""

    forecast: Forecast
    row: int
    observed: float
    error: float
    rank: float


def freeze(fit_path: str, at: Mapping[str, float], now: datetime.datetime, group: str | None = None) -> Forecast:
    """Make the forecast of a fit.json for a run at `at`; group: which one, of a file with fits of several.

    Raises InputError for a fit without intervals.
    """
    fitted = prediction.read(fit_path, group)
    if not len(fitted.draws):
        raise InputError(
            f"FIT: {fit_path} has no bootstrap; a forecast needs its intervals (fit with --bootstrap=1000)"
        )
    law = fitted.law
    of_law = prediction.interval_of_law(fitted, at, fitted.level)
    if of_law.interval is None:
        raise InputError(f"--at: {fit_path} has no interval at {dict(at)}: {of_law.why}; a forecast needs one")
    quantiles = prediction.run_quantiles(fitted, at, np.array(QUANTILES))
    return Forecast(
        law=law.NAME,
        at=dict(at),
        target=law.TARGET,
        prediction=float(law.target_at(at, fitted.flops_per_param_token)),
        quantiles=tuple(map(float, quantiles)),
        made=now.astimezone(datetime.UTC).isoformat(timespec="seconds"),
        fit_data_sha256=fitted.data_sha256,
        fit_command=fitted.command,
        columns=fitted.columns,
        verdict=fitted.verdict.line,
    )


def read(path: str) -> Forecast:
    """Load a frozen forecast. Raises InputError when it is missing, damaged, or was changed after it was frozen."""
    try:
        data = json.loads(epath.Path(path).read_text())
        stated_hash = data.pop("sha256")
        data.pop("schema")
        quantiles = tuple(data.pop("quantiles"))
        found = Forecast(**data, quantiles=quantiles, path=path)
    except FileNotFoundError:
        raise InputError(f"FORECAST: {path} does not exist; expected a file that analysis.forecast wrote") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"FORECAST: {path} is not a forecast ({type(error).__name__}: {error})") from None
    if found.sha256() != stated_hash:
        raise InputError(f"FORECAST: {path} was changed after it was frozen: its content does not have its hash")
    return found


def match(forecast: Forecast, columns: Columns, tolerance: float) -> Array:
    """Say which rows [booleans] have the inputs of the forecast."""
    is_match = np.ones(len(columns), bool)
    for role, value in forecast.at.items():
        is_match &= np.abs(np.log(columns[role] / value)) <= tolerance
    return is_match


def score(
    forecasts: Sequence[Forecast], grid: Grid, columns: str | None, where: str | None, tolerance: float
) -> tuple[list[Outcome], dict[str, str]]:
    """Score forecasts on a grid. Returns the outcomes, and for forecasts without a row (by path) why there is none."""
    outcomes: list[Outcome] = []
    waiting: dict[str, str] = {}
    for forecast in forecasts:
        if forecast.fit_data_sha256 == grid.sha256:
            waiting[forecast.path] = "was fitted to this very grid"
            continue
        names = columns or _columns_of_fit(forecast, grid)
        rows = select(grid, forecast.roles, columns=names, where=where)
        matching = np.flatnonzero(match(forecast, rows, tolerance))
        if not len(matching):
            waiting[forecast.path] = "no row has its inputs yet"
        outcomes += [_outcome(forecast, rows, at) for at in matching.tolist()]
    return outcomes, waiting


def _outcome(forecast: Forecast, rows: Columns, at: int) -> Outcome:
    """Return what one row says of a forecast."""
    observed = float(rows[forecast.target][at])
    rank = np.interp(observed, forecast.quantiles, QUANTILES, left=LOWEST_RANK, right=HIGHEST_RANK)
    return Outcome(
        forecast=forecast,
        row=int(rows.row[at]),
        observed=observed,
        error=forecast.prediction / observed - 1,
        rank=float(rank),
    )


def _columns_of_fit(forecast: Forecast, grid: Grid) -> str | None:
    """Return the columns of the fit, where this grid has them, as --columns takes them."""
    given = []
    for role in forecast.roles:
        name = forecast.columns.get(role)
        if name in grid.frame.columns:
            given.append(f"{role}={name}")
    return ",".join(given) or None


def calibration(outcomes: Sequence[Outcome]) -> list[dict[str, float]]:
    """Return how often the intervals of a level held the outcome. The same share for all levels means honest intervals."""
    ranks = np.array([outcome.rank for outcome in outcomes])
    from_middle = np.abs(ranks - 0.5)
    found = []
    for level in LEVELS:
        covered = float(np.mean(from_middle <= level / 2))
        found.append({"level": level, "covered": covered, "forecasts": float(len(ranks))})
    return found


def to_json(outcomes: Sequence[Outcome], waiting: Mapping[str, str], grid: Grid, command: str) -> dict[str, Any]:
    """Return scores.json: every outcome, the calibration over all, and the forecasts that wait."""
    rms_error = None
    if outcomes:
        rms_error = float(np.sqrt(np.mean([outcome.error**2 for outcome in outcomes])))
    return {
        "schema": SCHEMA,
        "scores": [_describe(outcome) for outcome in outcomes],
        "calibration": calibration(outcomes) if outcomes else [],
        "rms_error": rms_error,
        "waiting": dict(waiting),
        "data_sha256": grid.sha256,
        "command": command,
    }


def _describe(outcome: Outcome) -> dict[str, Any]:
    """Describe an outcome for JSON."""
    forecast = outcome.forecast
    return {
        "forecast": forecast.path,
        "made": forecast.made,
        "law": forecast.law,
        "at": dict(forecast.at),
        "row": outcome.row,
        "predicted": forecast.prediction,
        "observed": outcome.observed,
        "error": outcome.error,
        "rank": outcome.rank,
    }
