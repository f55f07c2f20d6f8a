"""Print a design."""

from rich.console import Console
from rich.table import Table

from analysis.questions.design import Design
from analysis.writing.numbers import human, number


def show(design: Design, console: Console) -> None:
    """Print the design for people."""
    laws = ", ".join(f"{law} {share:.0%}" for law, share in design.weights.items())
    console.print(
        f"{design.target} = [bold]{number(design.value)}[/], {design.level:.0%} interval {number(design.low)} to "
        f"{number(design.high)}; laws {laws}"
    )
    if not design.steps:
        console.print("no candidate within the budget would shrink it")
        return
    console.print(runs_table(design))


def runs_table(design: Design) -> Table:
    """Return the runs in order, with the interval of the target after each."""
    candidates = design.candidates
    roles = [role for role in ("N", "D") if role in candidates]
    table = Table("run", *roles, "FLOPs", "spent", "interval after it", "width")
    width = design.high - design.low
    for turn, step in enumerate(design.steps, 1):
        sizes = [human(float(candidates[role][step.candidate])) for role in roles]
        left = (step.high - step.low) / width if width > 0 else None
        table.add_row(
            str(turn),
            *sizes,
            number(float(candidates["C"][step.candidate]), 3),
            number(step.spent, 3),
            f"{number(step.low)} to {number(step.high)}",
            "-" if left is None else f"{left:.0%}",
        )
    return table
