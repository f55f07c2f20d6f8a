"""Print a comparison of families."""

import math

from rich.console import Console
from rich.table import Table

from analysis.command_line.verdict_line import show_verdicts
from analysis.grid.table import Columns
from analysis.questions.compare import Comparison, cost_in_words, verdicts
from analysis.questions.efficiency import efficiencies
from analysis.questions.equal_hours import EqualHours
from analysis.questions.exchange import Crossing, ExchangeRate
from analysis.questions.family import Families
from analysis.writing.numbers import number, span

POSITIONS = (0.0, 0.5, 1.0)  # in the range of data, in logarithms, that people are shown


def show(result: Comparison, columns: Columns, level: float, console: Console) -> None:
    """Print a comparison for people."""
    show_verdicts(verdicts(result.families), console)
    console.print(families_table(result.families))
    _show_sharing(result.families, console)
    console.print(rates_table(result, level))
    for line in (*efficiency_lines(result, level), *why_not_known(result)):
        console.print(line, highlight=False)
    for name, crossing in result.crossings.items():
        told = describe(crossing, "FLOPs")
        console.print(f"{name} against {result.baseline}: {told}", highlight=False)
    hours = result.hours
    if hours is not None:
        console.print(hours_table(hours))
        for pair, crossing in hours.crossings.items():
            told = describe(crossing, "hours")
            console.print(f"{pair}: {told}", highlight=False)
    chosen = ", ".join(f"{role} = {source}" for role, source in columns.sources.items())
    console.print(f"columns: {chosen}", highlight=False)
    counted = cost_in_words(columns)
    if counted:
        console.print(f"compute: {counted}", highlight=False)
    for text in (*columns.notes, *result.families.notes, *result.notes):
        console.print(f"[yellow]note[/]: {text}", highlight=False)


def efficiency_lines(result: Comparison, level: float) -> list[str]:
    """Return what the parameters and tokens of each family are worth in the baseline's, a line each that is known."""
    lines = []
    for name, worth in efficiencies(result.families, result.baseline, level).items():
        for one in worth:
            if one.why:
                lines.append(f"[yellow]not known[/]: what {one.role} of {name} is worth: {one.why}")
                continue
            value = number(one.value, 3)
            ends = "" if one.interval is None else f" ({level:.0%} interval {span(one.interval, 3)})"
            lines.append(f"{one.role} of {name} is worth {value} times that of {result.baseline}{ends}")
    return lines


def families_table(found: Families) -> Table:
    """Return the coefficients of every family; a dash stands for those that its rows do not tell."""
    first, *_ = found.families.values()
    names = first.law.names()
    table = Table("family", "rows", *names, title="families, one law", title_justify="left")
    for name, family in found.families.items():
        cells = [number(value) for value in family.values().values()]
        table.add_row(name, str(family.rows), *cells)
    return table


def why_not_known(result: Comparison) -> list[str]:
    """Return why exchange rates are not known, a line for each reason; the verdicts say that of coefficients."""
    lines = []
    for name, rate in result.rates.items():
        for why in dict.fromkeys(filter(None, rate.why)):
            lines.append(f"[yellow]not known[/]: what compute of {name} is worth: {why}")
    return lines


def _show_sharing(found: Families, console: Console) -> None:
    """Print whether sharing coefficients is justified, where that was tested."""
    sharing = found.sharing
    if sharing is None:
        return
    verdict = "is justified" if sharing.justified else "[yellow]is not justified[/]: compare with --shared="
    shared = ", ".join(found.shared)
    p_value = number(sharing.p_value, 3)
    console.print(f"sharing {shared} {verdict} (p = {p_value})")


def rates_table(result: Comparison, level: float) -> Table:
    """Return the exchange rates of every family at a few computes of the baseline."""
    table = Table(
        "family",
        f"FLOPs of {result.baseline}",
        "its compute is worth",
        f"{level:.0%} interval",
        "",
        title=f"exchange rates against {result.baseline}",
        title_justify="left",
    )
    for name, rate in result.rates.items():
        for at in shown(rate):
            multiplier = rate.multiplier[at]
            low = rate.low[at]
            table.add_row(
                name,
                number(rate.compute[at], 3),
                "-" if math.isnan(multiplier) else f"{multiplier:.3g}x",
                "-" if math.isnan(low) else f"{low:.3g}x to {rate.high[at]:.3g}x",
                "extrapolated" if rate.extrapolated[at] else "",
            )
    return table


def hours_table(hours: EqualHours) -> Table:
    """Return the losses of every family at equal accelerator hours, and who wins."""
    # By first appearance: the first classes may lack families.
    known: dict[str, None] = {}
    for one in hours.classes:
        known |= dict.fromkeys(one.losses)
    names = list(known)
    table = Table("hours", *names, "winner", "share", title="equal accelerator hours", title_justify="left")
    for one in hours.classes:
        losses = [number(one.losses.get(name)) for name in names]
        table.add_row(number(one.hours, 3), *losses, one.winner, f"{one.share:.0%}")
    return table


def shown(rate: ExchangeRate) -> list[int]:
    """Return the points of a rate to print: the ends and the middle of what the data cover, and the furthest."""
    inside = [at for at, is_beyond in enumerate(rate.extrapolated) if not is_beyond] or [0]
    last = len(inside) - 1
    points = set()
    for position in POSITIONS:
        place = round(position * last)
        points.add(inside[place])
    points.add(len(rate.compute) - 1)
    return sorted(points)


def describe(cross: Crossing, unit: str) -> str:
    """Return a crossing in words."""
    if cross.why:
        return f"whether they cross is not known: {cross.why}"
    if cross.at is None:
        low = number(cross.low, 3)
        high = number(cross.high, 3)
        return f"no crossing in range ({low} to {high} {unit})"
    place = f"{number(cross.at, 3)} {unit}"
    band = ""
    if cross.interval is not None:
        ends = span(cross.interval, 3)
        band = f" ({cross.interval.level:.0%} interval {ends})"
    beyond = ", beyond the data" if cross.extrapolated else ""
    if cross.status == "found":
        return f"{cross.better_after} is better from {place} on{band}{beyond}"
    return f"the curves cross at {place}{band}{beyond}, but the intervals do not settle who is better on both sides"
