"""Print the verdict of a fit: the first line of every answer that rests on one."""

from rich.console import Console

from analysis.trust.verdict import Verdict


def show_verdict(verdict: Verdict, console: Console) -> None:
    """Print what a fit may be asked, before any number of it."""
    colour = "green" if verdict.is_supported else "yellow"
    console.print(f"[{colour}]verdict[/]: {verdict.line}", highlight=False)
