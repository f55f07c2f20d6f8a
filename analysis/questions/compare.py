"""Compare families of models: what one family's compute is worth in another's, and where that turns over.

One law is fitted to all families, with shared exponents and multipliers of their own. Exchange rates cover the compute
that the grid has and ten times more, which is marked as extrapolation. A grid with accelerator hours is also compared
at equal hours.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.spec import FitSpec
from analysis.grid import cost
from analysis.grid.resolve import parse_roles
from analysis.grid.roles import ROLES
from analysis.grid.selection import select
from analysis.grid.table import Columns, Grid
from analysis.laws.base import FormulaLaw
from analysis.questions import efficiency
from analysis.questions.equal_hours import EqualHours, equal_hours
from analysis.questions.exchange import Crossing, ExchangeRate, crossing, exchange_rate, window
from analysis.questions.families import fit_families
from analysis.questions.family import Families, Family, split
from analysis.trust.verdict import Verdict
from analysis.writing.strict_json import finite_or_null
from experiments.cli import InputError, nearest

SCHEMA = 2
CURVE = 25  # computes of an exchange rate in the JSON
# Of our own grids, which have no column of hours: what they have instead, and the hours by it. The first that is there.
OWN_HOURS = (
    ({"accelerator_seconds"}, "accelerator_seconds/3600"),
    ({"wall_seconds", "devices"}, "wall_seconds*devices/3600"),
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Everything that compare found. rates and crossings are by family, the baseline excluded."""

    families: Families
    baseline: str
    rates: dict[str, ExchangeRate]
    crossings: dict[str, Crossing]
    hours: EqualHours | None
    notes: tuple[str, ...] = ()


def compare(
    columns: Columns,
    law: type[FormulaLaw],
    spec: FitSpec,
    *,
    baseline: str | None = None,
    shared: tuple[str, ...] | None = None,
    hours: EqualHours | None = None,
) -> Comparison:
    """Fit the families of a grid (columns with the law's roles and `family`) and compare each with the baseline.

    The baseline is `dense` where there is one, else the family with the most rows. Raises InputError for a baseline
    that is not a family of the grid, and what fit_families raises.
    """
    found = fit_families(columns, law, spec, shared)
    base = _baseline(found.families, baseline)
    rates = {}
    crossings = {}
    for name, family in found.families.items():
        if name == base.name:
            continue
        low, _, high = window(family, base)
        rates[name] = exchange_rate(family, base, np.geomspace(low, high, CURVE), spec.level)
        crossings[name] = crossing(family, base, spec.level)
    return Comparison(found, base.name, rates, crossings, hours)


def _baseline(families: Mapping[str, Family], name: str | None) -> Family:
    """Return the family that others are compared with. Raises InputError for one that is not there."""
    if name is None:
        name = default_baseline({one: family.rows for one, family in families.items()})
    if name not in families:
        raise InputError(f"--baseline: {name!r} is not a family that is fitted; {nearest(name, families, 'family')}")
    return families[name]


def default_baseline(rows: Mapping[str, int]) -> str:
    """Return `dense` where there is such a family, else the one with the most rows."""
    if "dense" in rows:
        return "dense"
    return max(rows, key=lambda name: rows[name])


def read_hours(
    grid: Grid, columns: str | None, where: str | None, method: str, baseline: str | None, spec: FitSpec
) -> tuple[EqualHours | None, str]:
    """Compare the families of a grid at equal accelerator hours. Returns the comparison, or why there is none."""
    is_named = "hours" in parse_roles(columns)
    has_usual = any(name in grid.frame.columns for name in ROLES["hours"].columns)
    there = set(grid.frame.columns)
    own = next((hours for names, hours in OWN_HOURS if names <= there), None)
    if not is_named and not has_usual and own is None:
        why = "no comparison at equal hours: no column of accelerator hours; name it with --columns=hours=COLUMN"
        return None, why
    if not is_named and not has_usual:
        columns = ",".join(filter(None, [columns, f"hours={own}"]))

    used = select(grid, ("hours", "loss", "family"), columns=columns, where=where)
    runs = {name: (part["hours"], part["loss"]) for name, part in split(used).items() if len(part) > 1}
    if len(runs) < 2:
        return None, "no comparison at equal hours: fewer than two families have hours for two runs"
    if baseline is None:
        baseline = default_baseline({name: len(hours) for name, (hours, _) in runs.items()})
    try:
        found = equal_hours(
            runs, method=method, baseline=baseline, draws=spec.bootstrap, seed=spec.seed, level=spec.level
        )
    except InputError as error:
        if is_named:
            raise
        return None, f"no comparison at equal hours: {error}"
    return found, ""


def verdicts(found: Families) -> dict[str, Verdict]:
    """Return the verdict of every family by its name."""
    return {name: family.verdict for name, family in found.families.items() if family.verdict is not None}


def unknown(result: Comparison) -> dict[str, str]:
    """Return the families whose compute the rows do not tell the worth of, each with the reason."""
    names = {}
    for name, rate in result.rates.items():
        why = next(filter(None, rate.why), "")
        if why:
            names[f"what compute of {name} is worth"] = why
    return names


def to_json(
    result: Comparison, law: type[FormulaLaw], columns: Columns, level: float, sha256: str, command: str
) -> dict[str, Any]:
    """Return compare.json: strict JSON, a schema version first."""
    found = result.families
    rates = {}
    for name, rate in result.rates.items():
        rates[name] = _describe_rate(rate) | {"crossing": dataclasses.asdict(result.crossings[name])}
    return finite_or_null(
        {
            "schema": SCHEMA,
            "verdicts": {name: verdict.to_json() for name, verdict in verdicts(found).items()},
            "law": law.NAME,
            "formula": law.FORMULA,
            "baseline": result.baseline,
            "shared": list(found.shared),
            "sharing": None if found.sharing is None else dataclasses.asdict(found.sharing),
            "objective": found.objective,
            "gradient": found.gradient,
            "level": level,
            "families": {name: _describe_family(family, level) for name, family in found.families.items()},
            "exchange": rates,
            "efficiency": efficiency.to_json(efficiency.efficiencies(found, result.baseline, level)),
            "hours": None if result.hours is None else dataclasses.asdict(result.hours),
            "rows_used": sum(family.rows for family in found.families.values()),
            "rows_dropped": [dataclasses.asdict(row) for row in columns.dropped],
            "columns": columns.sources,
            "cost": cost_in_words(columns),
            "notes": [*columns.notes, *found.notes, *result.notes],
            "data_sha256": sha256,
            "command": command,
        }
    )


def cost_in_words(columns: Columns) -> str:
    """Say which count of FLOPs C is in a comparison; empty for a law without N and D."""
    factor, _ = cost.flops_factor(columns)
    return cost.in_words(columns.sources, factor)


def _describe_family(family: Family, level: float) -> dict[str, Any]:
    """Describe a family's law for JSON."""
    intervals = family.intervals(level)
    coefficients = family.law.coefficients()
    return {
        "rows": family.rows,
        "coefficients": family.values(),
        "one_point_of_a_valley": {name: coefficients[name] for name in family.withheld if name in coefficients},
        "intervals": {name: dataclasses.asdict(interval) for name, interval in intervals.items()},
        "not_identified": dict(family.not_identified),
        "compute": list(family.C),
        "flops_per_param_token": family.flops_per_param_token,
    }


def _describe_rate(rate: ExchangeRate) -> dict[str, Any]:
    """Describe an exchange rate for JSON: its arrays."""
    return {
        "compute": rate.compute.tolist(),
        "loss": rate.loss.tolist(),
        "multiplier": rate.multiplier.tolist(),
        "low": rate.low.tolist(),
        "high": rate.high.tolist(),
        "extrapolated": rate.extrapolated.tolist(),
        "why": [why or None for why in rate.why],
    }
