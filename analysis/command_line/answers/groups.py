"""Print the fits of the groups of a grid."""

from rich.console import Console
from rich.table import Table

from analysis.command_line.verdict_line import show_verdicts
from analysis.fitting.result import FitResult, judged_verdict
from analysis.questions.groups import Groups
from analysis.trust.verdict import Verdict
from analysis.writing.numbers import number, span


def show(found: Groups, by: str, console: Console) -> None:
    """Print the fits of groups for people: verdicts, coefficients with their intervals, what is shared, and what failed."""
    show_verdicts(verdicts(found), console)
    console.print(table(found, by))
    sharing = found.sharing
    if sharing is not None:
        verdict = "is justified" if sharing.justified else "[yellow]is not justified[/]"
        p_value = number(sharing.p_value, 3)
        names = ", ".join(found.shared)
        console.print(f"sharing {names} {verdict} (p = {p_value})")
    for name, reason in found.failures.items():
        console.print(f"[yellow]not fitted[/]: {name}, {reason}", highlight=False)
    for text in notes(found):
        console.print(f"[yellow]note[/]: {text}", highlight=False)


def verdicts(found: Groups) -> dict[str, Verdict]:
    """Return the verdict of every group by its name."""
    return {name: judged_verdict(result) for name, result in found.fits.items()}


def notes(found: Groups) -> list[str]:
    """Return what is to be said of all groups, and of each; what holds for several is said once."""
    groups_of: dict[str, list[str]] = {}
    for name, result in found.fits.items():
        for text in (*result.certificate.warnings, *result.columns.notes):
            groups_of.setdefault(text, []).append(name)
    said = list(found.notes)
    for text, names in groups_of.items():
        is_of_all = len(names) == len(found.fits)
        said.append(text if is_of_all else f"{', '.join(names)}: {text}")
    return said


def table(found: Groups, by: str) -> Table:
    """Return the coefficients of every group; a dash stands for those that its rows do not tell."""
    first, *_ = found.fits.values()
    law = first.law
    level = f"{first.spec.level:.0%}"
    exponents = law.optimum_exponents()
    names = [*law.names(), *exponents]
    title = f"{law.NAME} by {by}: {law.FORMULA} ({level} intervals)"
    printed = Table(by, "rows", *names, title=title, title_justify="left")
    for name, result in found.fits.items():
        rows = len(result.columns)
        cells = [cell(result, one) for one in names]
        printed.add_row(name, str(rows), *cells)
    return printed


def cell(result: FitResult, name: str) -> str:
    """Return a number of a fit with its interval below it; a dash where the rows do not tell it."""
    told = number(result.values()[name])
    intervals = result.intervals()
    if name in intervals:
        band = span(intervals[name], 3)
        told += f"\n{band}"
    return told
