"""TODO docstring"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli

if TYPE_CHECKING:  # imported where they are used: --help stays instant
    from analysis.grid.table import Columns
    from analysis.questions.exchange import Crossing, ExchangeRate
from analysis.questions.compare import Comparison, compare, read_hours, to_json

TABLE = (0.0, 0.5, 1.0)  # positions in the range of data, in logarithms, that people are shown


def show(result: Comparison, columns: "Columns", level: float, console: Any) -> None:
    """Print a comparison for people."""
    from rich.table import Table

    from analysis.writing.numbers import number

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
    from analysis.writing.numbers import number, span

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
    from analysis.command_line.arguments import one_grid, running_command
    from analysis.grid.table import load as load_grid
    from analysis.grid.table import parse_roles, select
    from analysis.laws import load as load_law
    from analysis.writing.output_file import check_writable, write

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
    data = to_json(result, law, columns, spec.level, grid.sha256, running_command("analysis.compare"))
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
