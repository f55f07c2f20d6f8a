"""Compare families of models: what one family's compute is worth in another's, and where that turns over.

    python -m analysis.compare GRID --by=family --baseline=dense --out=compare.json
    python -m analysis.compare GRID --by=architecture --law=kaplan_c --shared=alpha_C --out=compare.json

One law is fitted to all families, with shared exponents and multipliers of their own. Exchange rates cover the compute
that the grid has and ten times more, which is marked as extrapolation. A grid with accelerator hours is also compared
at equal hours.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from experiments.cli import InputError, nearest

if TYPE_CHECKING:  # imported where they are used: --help stays instant
    from analysis.fitting.spec import FitSpec
    from analysis.grid.table import Columns, Grid
    from analysis.questions.exchange import Crossing, EqualHours, ExchangeRate
    from analysis.questions.families import Families

SCHEMA = 1
CURVE = 25  # computes of an exchange rate in the JSON
HOURS = "wall_seconds*devices/3600"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Everything that compare found. rates and crossings are by family, the baseline excluded."""

    families: "Families"
    baseline: str
    rates: "dict[str, ExchangeRate]"
    crossings: "dict[str, Crossing]"
    hours: "EqualHours | None"
    notes: tuple[str, ...] = ()


def compare(
    columns: "Columns",
    law: Any,
    spec: "FitSpec",
    *,
    baseline: str | None = None,
    shared: tuple[str, ...] | None = None,
    hours: "EqualHours | None" = None,
) -> Comparison:
    """Fit the families of a grid (columns with the law's roles and `family`) and compare each with the baseline.

    The baseline is `dense` where there is one, else the family with the most rows. Raises InputError for a baseline
    that is not a family of the grid, and what fit_families raises.
    """
    import numpy as np

    from analysis.questions.exchange import crossing, exchange_rate, window
    from analysis.questions.families import fit_families

    found = fit_families(columns, law, spec, shared)
    names = list(found.families)
    if baseline is None:
        baseline = "dense" if "dense" in names else max(names, key=lambda name: found.families[name].rows)
    if baseline not in names:
        raise InputError(
            f"--baseline: {baseline!r} is not a family that is fitted; {nearest(baseline, names, 'family')}"
        )
    base = found.families[baseline]
    rates, crossings = {}, {}
    for name, family in found.families.items():
        if name == baseline:
            continue
        low, _, high = window(family, base)
        rates[name] = exchange_rate(family, base, np.geomspace(low, high, CURVE), spec.level)
        crossings[name] = crossing(family, base, spec.level)
    return Comparison(found, baseline, rates, crossings, hours)


def read_hours(
    grid: "Grid", columns: str | None, where: str | None, method: str, baseline: str | None, spec: "FitSpec"
) -> "tuple[EqualHours | None, str]":
    """The comparison at equal accelerator hours, or why there is none."""
    from analysis.grid.roles import ROLES
    from analysis.grid.table import parse_roles, select
    from analysis.questions.exchange import equal_hours
    from analysis.questions.families import split

    named = "hours" in parse_roles(columns)
    usual = any(name in grid.frame.columns for name in ROLES["hours"].columns)
    if not named and not usual:
        if not {"wall_seconds", "devices"} <= set(grid.frame.columns):
            return (
                None,
                "no comparison at equal hours: no column of accelerator hours; name it with --columns=hours=COLUMN",
            )
        columns = ",".join(filter(None, [columns, f"hours={HOURS}"]))
    used = select(grid, ("hours", "loss", "family"), columns=columns, where=where)
    runs = {name: (part["hours"], part["loss"]) for name, part in split(used).items() if len(part) > 1}
    if len(runs) < 2:
        return None, "no comparison at equal hours: fewer than two families have hours for two runs"
    first = (
        baseline if baseline is not None else "dense" if "dense" in runs else max(runs, key=lambda n: len(runs[n][0]))
    )
    try:
        return (
            equal_hours(runs, method=method, baseline=first, draws=spec.bootstrap, seed=spec.seed, level=spec.level),
            "",
        )
    except InputError as error:
        if named:
            raise
        return None, f"no comparison at equal hours: {error}"


def to_json(
    result: Comparison, law: Any, columns: "Columns", level: float, sha256: str, command: str
) -> dict[str, Any]:
    """compare.json: strict JSON, a schema version first."""
    found = result.families
    families = {
        name: {
            "rows": family.rows,
            "coefficients": family.law.coefficients(),
            "intervals": {n: dataclasses.asdict(interval) for n, interval in family.intervals(level).items()},
            "not_identified": dict(family.not_identified),
            "compute": list(family.C),
            "flops_per_param_token": family.flops_per_param_token,
        }
        for name, family in found.families.items()
    }
    rates = {}
    for name, rate in result.rates.items():
        arrays = {key: value.tolist() for key, value in vars(rate).items() if hasattr(value, "tolist")}
        rates[name] = arrays | {"crossing": dataclasses.asdict(result.crossings[name])}
    return clean(
        {
            "schema": SCHEMA,
            "law": law.NAME,
            "formula": law.FORMULA,
            "baseline": result.baseline,
            "shared": list(found.shared),
            "sharing": None if found.sharing is None else dataclasses.asdict(found.sharing),
            "objective": found.objective,
            "gradient": found.gradient,
            "level": level,
            "families": families,
            "exchange": rates,
            "hours": None if result.hours is None else dataclasses.asdict(result.hours),
            "rows_used": sum(family.rows for family in found.families.values()),
            "rows_dropped": [dataclasses.asdict(row) for row in columns.dropped],
            "columns": columns.sources,
            "notes": [*columns.notes, *found.notes, *result.notes],
            "data_sha256": sha256,
            "command": command,
        }
    )


def clean(value: Any) -> Any:
    """The same with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: clean(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
