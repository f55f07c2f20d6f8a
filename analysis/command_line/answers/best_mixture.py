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
    mixture = found["mixture"]
    prior = found["prior"]
    largest_first = sorted(mixture, key=mixture.get, reverse=True)
    for part in largest_first:
        table.add_row(part, number(prior[part], 3), number(mixture[part], 3))
    console.print(table)
    best = number(found["prediction"], 5)
    of_prior = number(found["prediction_of_prior"], 5)
    console.print(f"{target} {best}; {of_prior} with the prior")
    for name, why in found["why_no_interval"].items():
        console.print(f"[yellow]no interval[/]: {name}: {why}", highlight=False)
