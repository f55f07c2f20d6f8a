"""Print a design."""

from rich.console import Console
from rich.table import Table

from analysis.questions.candidates import cost_of
from analysis.questions.design import Design
from analysis.writing.numbers import human, number


def show(design: Design, console: Console) -> None:
    """Print the design for people."""
    laws = ", ".join(f"{law} {share:.0%}" for law, share in design.weights.items())
    value = number(design.value)
    low = number(design.low)
    high = number(design.high)
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
    # The interval after each run is told as a share of the one before any.
    width = design.high - design.low
    for turn, step in enumerate(design.steps, 1):
        run = step.candidate
        sizes = [human(float(candidates[role][run])) for role in roles]
        cost = float(costs[run])
        low = number(step.low)
        high = number(step.high)
        left = (step.high - step.low) / width if width > 0 else None
        table.add_row(
            str(turn),
            *sizes,
            number(cost, 3),
            number(step.spent, 3),
            f"{low} to {high}",
            "-" if left is None else f"{left:.0%}",
        )
    return table
