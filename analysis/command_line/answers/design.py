"""Print a design."""

import math

from rich.console import Console
from rich.table import Table

from analysis.command_line.verdict_line import show_verdicts
from analysis.questions.candidates import cost_of
from analysis.questions.design import Design
from analysis.writing.numbers import human, number

BY_FACTOR = 10.0  # an interval of more sizes than that is told by the factor between its ends


def show(design: Design, console: Console) -> None:
    """Print the design for people."""
    show_verdicts(design.verdicts, console)
    laws = ", ".join(f"{law} {share:.0%}" for law, share in design.weights.items())
    value = number(design.value)
    low = number(design.low)
    high = number(design.high)
    if design.why_unknown:
        console.print(f"{design.target} is not known from these rows: {design.why_unknown}; laws {laws}")
    else:
        console.print(f"{design.target} = [bold]{value}[/], {design.level:.0%} interval {low} to {high}; laws {laws}")
    for note in design.notes:
        console.print(f"[yellow]note[/]: {note}")
    if design.why_done:
        console.print(f"done: {design.why_done}")
        return
    console.print(runs_table(design))


def runs_table(design: Design) -> Table:
    """Return the runs in order, with the interval of the target after each."""
    candidates = design.candidates
    roles = [role for role in candidates.values if role not in ("C", "cost") and candidates[role].ndim == 1]
    price = "cost" if "cost" in candidates else "FLOPs"
    costs = cost_of(candidates)
    table = Table("run", *roles, price, "spent", "interval after it", "width")
    # The interval after each run is told as a share of the one before any; by size, where that is of many sizes.
    by_factor = 0 < BY_FACTOR * design.low < design.high
    width = _width(design.low, design.high, by_factor)
    for turn, step in enumerate(design.steps, 1):
        run = step.candidate
        sizes = [human(float(candidates[role][run])) for role in roles]
        cost = float(costs[run])
        low = number(step.low)
        high = number(step.high)
        is_known = not design.why_unknown and width > 0
        left = _width(step.low, step.high, by_factor) / width if is_known else None
        table.add_row(
            str(turn),
            *sizes,
            number(cost, 3),
            number(step.spent, 3),
            "-" if design.why_unknown else f"{low} to {high}",
            "-" if left is None else f"{left:.0%}",
        )
    return table


def _width(low: float, high: float, by_factor: bool) -> float:
    """Return the width of an interval, of its logarithm where it is told by factors."""
    return math.log(high / low) if by_factor else high - low
