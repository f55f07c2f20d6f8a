"""Print a fit, its back-test, or the list of laws."""

from collections.abc import Mapping
import math
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.command_line.verdict_line import show_verdict
from analysis.fitting.result import FitResult, judged_verdict
from analysis.laws import LAWS
from analysis.trust.certificate import Certificate
from analysis.writing.numbers import counted, number, span


def show(result: FitResult, console: Console) -> None:
    """Print a fit for people."""
    certificate = result.certificate
    columns = result.columns
    verdict = judged_verdict(result)
    show_verdict(verdict, console)
    console.print(coefficients(result))
    console.print(
        f"{counted(len(columns), 'row')} used{bounding(result)}, {len(columns.dropped)} dropped; objective {result.objective:.8g}"
        f"{search(certificate)}"
    )
    chosen = ", ".join(f"{role} = {source}" for role, source in columns.sources.items())
    console.print(f"columns: {chosen}", highlight=False)
    if result.cost:
        console.print(f"compute: {result.cost}", highlight=False)
    for why, names in by_reason(verdict.withheld).items():
        listed = ", ".join(names)
        console.print(f"[yellow]not known[/]: {listed}: {why}", highlight=False)
    for text in (*certificate.warnings, *columns.notes):
        console.print(f"[yellow]note[/]: {text}", highlight=False)


def by_reason(withheld: Mapping[str, str]) -> dict[str, list[str]]:
    """Return reason -> the names that have no interval for it."""
    found: dict[str, list[str]] = {}
    for name, why in withheld.items():
        found.setdefault(why, []).append(name)
    return found


def bounding(result: FitResult) -> str:
    """Say how many of the rows only bound the law, where some do."""
    if "censored" not in result.columns:
        return ""
    bounds = int((result.columns["censored"] > 0).sum())
    return f" ({bounds} of them only bound the law)" if bounds else ""


def search(certificate: Certificate) -> str:
    """Say how the search for the optimum ended; nothing for a fit that takes other steps."""
    told = ""
    if certificate.agreeing_starts is not None:
        told += f"; {certificate.agreeing_starts:.0%} of the starts agree"
    if certificate.ending:
        told += f"; {certificate.ending}"
    return told


def coefficients(result: FitResult) -> Table:
    """Return the table of coefficients and exponents with their intervals; a dash for what the rows do not tell."""
    law = result.law
    table = Table(title=f"{law.NAME}: {law.FORMULA}", title_justify="left")
    table.add_column("coefficient", justify="left")
    table.add_column("value", justify="right")
    table.add_column(f"{result.spec.level:.0%} interval", justify="right")
    intervals = result.intervals()
    for name, value in result.values().items():
        label = f"{name} (not identified)" if value is None else name
        table.add_row(label, number(value, 6), span(intervals.get(name)))
    return table


def show_back_test(test: Mapping[str, Any], console: Console) -> None:
    """Print the back-test of a fit (its summary for JSON), or why there is none."""
    if "reason" in test:
        console.print(f"[yellow]note[/]: {test['reason']}", highlight=False)
        return
    covered = test["covered"]
    has_intervals = covered is not None and math.isfinite(covered)
    held = f"; {covered:.0%} lay in their interval" if has_intervals else ""
    farthest = test["by_factor"][-1]
    reach = farthest["to"]
    predictions = counted(test["predictions"], "prediction")
    told = f"{predictions} of {test['quantity']} ({counted(test['rows'], 'row')})"
    console.print(
        f"back-test: {test['rms_error']:.2%} root mean square error of {told} up to {reach:.3g} times beyond the rows fitted{held}",
        highlight=False,
    )
    if test["caution"]:
        console.print(f"[yellow]note[/]: {test['caution']}", highlight=False)


def show_laws(console: Console) -> None:
    """Print every law with its formula, columns and source."""
    table = Table("law", "formula", "columns", "source")
    for name, law in LAWS.items():
        columns = ", ".join(law.ROLES)
        if law.OPTIONAL:
            columns += f" [{', '.join(law.OPTIONAL)}]"
        table.add_row(name, law.FORMULA, escape(columns), law.SOURCE)
    console.print(table)
