"""Print the best mixture."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.writing.numbers import number


def show(found: Mapping[str, Any], target: str, console: Console) -> None:
    """Print what questions/best_mixture.py found (its JSON) for people; `target` is what the law predicts."""
    console.print(f"verdict: {found['verdict']['line']}", highlight=False)
    table = Table("part", "prior", "best mixture")
    largest_first = sorted(found["mixture"], key=lambda part: -found["mixture"][part])
    for part in largest_first:
        table.add_row(part, number(found["prior"][part], 3), number(found["mixture"][part], 3))
    console.print(table)
    console.print(
        f"{target} {number(found['prediction'], 5)}; {number(found['prediction_of_prior'], 5)} with the prior"
    )
    for name, why in found["why_no_interval"].items():
        console.print(f"[yellow]no interval[/]: {name}: {why}", highlight=False)
