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

from absl import flags

from experiments import cli
from experiments.cli import InputError, nearest

if TYPE_CHECKING:  # imported where they are used: --help stays instant
    from analysis.fitting.result import FitSpec
    from analysis.grid.table import Columns, Grid
    from analysis.questions.exchange import Crossing, EqualHours, ExchangeRate
    from analysis.questions.families import Families

SCHEMA = 1
CURVE = 25  # computes of an exchange rate in the JSON
HOURS = "wall_seconds*devices/3600"
TABLE = (0.0, 0.5, 1.0)  # positions in the range of data, in logarithms, that people are shown


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


def show(result: Comparison, columns: "Columns", level: float, console: Any) -> None:
    """Print a comparison for people."""
    from rich.table import Table

    from analysis.command_line.output import number

    found = result.families
    names = next(iter(found.families.values())).law.names()
    table = Table("family", "rows", *names, title="families, one law", title_justify="left")
    for name, family in found.families.items():
        lost = {n: " ?" if n in family.not_identified else "" for n in names}
        table.add_row(name, str(family.rows), *(number(v) + lost[n] for n, v in family.law.coefficients().items()))
    console.print(table)
    if found.sharing is not None:
        verdict = "is justified" if found.sharing.justified else "[yellow]is not justified[/]: compare with --shared="
        console.print(f"sharing {', '.join(found.shared)} {verdict} (p = {number(found.sharing.p_value, 3)})")
    table = Table("family", f"FLOPs of {result.baseline}", "its compute is worth", f"{level:.0%} interval", "",
                  title=f"exchange rates against {result.baseline}", title_justify="left")  # fmt: skip
    for name, rate in result.rates.items():
        for at in shown(rate):
            beyond = "extrapolated" if rate.extrapolated[at] else ""
            band = "-" if math.isnan(rate.low[at]) else f"{rate.low[at]:.3g}x to {rate.high[at]:.3g}x"
            table.add_row(
                name,
                number(rate.compute[at], 3),
                "-" if math.isnan(rate.multiplier[at]) else f"{rate.multiplier[at]:.3g}x",
                band,
                beyond,
            )
    console.print(table)
    for name, cross in result.crossings.items():
        console.print(f"{name} against {result.baseline}: {describe(cross, 'FLOPs')}", highlight=False)
    if result.hours is not None:
        every = list(dict.fromkeys(name for one in result.hours.classes for name in one.losses))
        table = Table("hours", *every, "winner", "share", title="equal accelerator hours", title_justify="left")
        for one in result.hours.classes:
            losses = (number(one.losses.get(name)) for name in every)
            table.add_row(number(one.hours, 3), *losses, one.winner, f"{one.share:.0%}")
        console.print(table)
        for pair, cross in result.hours.crossings.items():
            console.print(f"{pair}: {describe(cross, 'hours')}", highlight=False)
    chosen = ", ".join(f"{role} = {source}" for role, source in columns.sources.items())
    console.print(f"columns: {chosen}", highlight=False)
    for text in (*columns.notes, *found.notes, *result.notes):
        console.print(f"[yellow]note[/]: {text}", highlight=False)


def shown(rate: "ExchangeRate") -> list[int]:
    """Points of a rate to print: the ends and the middle of what the data cover, and the furthest."""
    inside = [at for at, beyond in enumerate(rate.extrapolated) if not beyond] or [0]
    return sorted({inside[round(part * (len(inside) - 1))] for part in TABLE} | {len(rate.compute) - 1})


def describe(cross: "Crossing", unit: str) -> str:
    """A crossing in words."""
    from analysis.command_line.output import number, span

    if cross.at is None:
        return f"no crossing in range ({number(cross.low, 3)} to {number(cross.high, 3)} {unit})"
    place = f"{number(cross.at, 3)} {unit}"
    band = f" ({cross.interval.level:.0%} interval {span(cross.interval, 3)})" if cross.interval is not None else ""
    beyond = ", beyond the data" if cross.extrapolated else ""
    if cross.status == "found":
        return f"{cross.better_after} is better from {place} on{band}{beyond}"
    return f"the curves cross at {place}{band}{beyond}, but the intervals do not settle who is better on both sides"


def main(argv: list[str]) -> None:
    """The command line."""
    from rich.console import Console

    from analysis.command_line import options
    from analysis.command_line.output import check_writable, command, one_grid, write
    from analysis.grid.table import load as load_grid
    from analysis.grid.table import parse_roles, select
    from analysis.laws import load as load_law

    console, values = Console(soft_wrap=True), flags.FLAGS
    path = one_grid(argv)
    law = load_law(values.law)
    spec = options.spec(law=law)
    check_writable(values.out, "--out")
    text = values.columns
    if values.by is not None and "family" not in parse_roles(text):
        text = ",".join(filter(None, [text, f"family={values.by}"]))
    grid = load_grid(path)
    columns = select(
        grid, (*law.ROLES, "family"), optional=(*law.OPTIONAL, "C"), columns=text, where=values.where, signed=law.SIGNED
    )
    hours, why = read_hours(grid, text, values.where, values.hours_method, values.baseline, spec)
    shared = None if values.shared is None else tuple(filter(None, (name.strip() for name in values.shared)))
    result = compare(columns, law, spec, baseline=values.baseline, shared=shared, hours=hours)
    result = dataclasses.replace(result, notes=tuple(filter(None, [why])))
    data = to_json(result, law, columns, spec.level, grid.sha256, command("analysis.compare"))
    write(values.out, data, "--out")
    show(result, columns, spec.level, console)
    console.print(f"written: {values.out}", highlight=False)


if __name__ == "__main__":
    from analysis.command_line import options as _options

    _options.define()
    flags.adopt_module_key_flags(_options)
    flags.DEFINE_string(
        "by", None, "The column that names the family; by default family, model_family or architecture."
    )
    flags.DEFINE_string("law", "chinchilla", "The law of every family; it must predict from C training FLOPs.")
    flags.DEFINE_string("baseline", None, "The family that others are compared with; dense, or the one with most rows.")
    flags.DEFINE_list(
        "shared", None, "Coefficients that families share; by default the exponents, none with --shared=."
    )
    flags.DEFINE_string("hours_method", "isotonic", "Loss between runs at equal hours: isotonic or power.")
    flags.DEFINE_string("out", None, "The JSON file to write.")
    cli.run(main, required=["out"])
