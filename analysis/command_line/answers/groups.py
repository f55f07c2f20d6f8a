"""Print the fits of the groups of a grid."""

from rich.console import Console
from rich.table import Table

from analysis.fitting.result import FitResult
from analysis.questions.groups import Groups
from analysis.writing.numbers import number, span


def show(found: Groups, by: str, console: Console) -> None:
    """Print the fits of groups for people: coefficients with their intervals, what is shared, and what failed."""
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


def notes(found: Groups) -> list[str]:
    """Return what is to be said of all groups, and of each."""
    said = list(found.notes)
    for name, result in found.fits.items():
        certificate = result.certificate
        columns = result.columns
        for text in (*certificate.warnings, *columns.notes):
            said.append(f"{name}: {text}")
    return said


def table(found: Groups, by: str) -> Table:
    """Return the coefficients of every group; a question mark stands by those that its rows do not determine."""
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
    """Return a number of a fit with its interval below it."""
    law = result.law
    values = law.coefficients() | law.optimum_exponents()
    value = float(values[name])
    told = number(value)
    lost = result.certificate.not_identified
    if name in lost:
        told += " ?"
    intervals = result.intervals()
    if name in intervals:
        band = span(intervals[name], 3)
        told += f"\n{band}"
    return told
