"""Print the verdict of a fit, or of several: the first lines of every answer that rests on them."""

from collections.abc import Mapping

from rich.console import Console

from analysis.trust.verdict import Verdict


def show_verdict(verdict: Verdict, console: Console) -> None:
    """Print what a fit may be asked, before any number of it."""
    console.print(f"{label(verdict)}: {verdict.line}", highlight=False)


def show_verdicts(verdicts: Mapping[str, Verdict], console: Console) -> None:
    """Print what the fits of groups may be asked, by name; what holds for several is said once."""
    groups_of: dict[str, list[str]] = {}
    for name, verdict in verdicts.items():
        groups_of.setdefault(verdict.line, []).append(name)
    for line, names in groups_of.items():
        which = "" if len(names) == len(verdicts) else f" of {', '.join(names)}"
        console.print(f"{label(verdicts[names[0]])}{which}: {line}", highlight=False)


def label(verdict: Verdict) -> str:
    """Return the word that the line begins with, green where every number is supported."""
    colour = "green" if verdict.is_supported else "yellow"
    return f"[{colour}]verdict[/]"
