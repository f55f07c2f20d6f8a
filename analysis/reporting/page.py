"""Make report.html: what the template shows, as text. Everything that comes from the grid is escaped by the template."""

import base64
import hashlib
import importlib.metadata
import pathlib
import platform
import re
from typing import Any

from analysis.fitting.result import FitResult, judged_verdict
from analysis.grid.table import Columns, Grid
from analysis.reporting import calculator
from analysis.reporting.checklist import checklist
from analysis.reporting.runs import run_table
from analysis.reporting.survey import Survey
from analysis.reporting.words import (
    WORDS,
    by_budget,
    headline,
    not_known,
    optimum_cells,
    rate_text,
    test_text,
    title_of,
)
from analysis.trust.interval import Interval
from analysis.writing.numbers import counted, human, number, span

TEMPLATES = pathlib.Path(__file__).parent / "templates"
PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib")
MOST_ROWS = 1000  # listed where no figure shows any
MOST_NUMBERS = 12  # of dropped rows that are listed with their reason
_DRAWN_RUN = re.compile(rb'data-run="(\d+)"')

Drawing = tuple[bytes, bytes, str]  # SVG, PNG, caption


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found


def render(survey: Survey, grid: Grid, command: str, figures: dict[str, Drawing], name: str = "report") -> str:
    """Return the report as HTML. `name`: of its file without the ending; numbers and figures lie beside it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html")
    return template.render(context(survey, grid, command, figures) | {"file": name})


def context(survey: Survey, grid: Grid, command: str, figures: dict[str, Drawing]) -> dict[str, Any]:
    """Return what the template shows, by the names that it uses."""
    from markupsafe import Markup

    page_calculator = calculator.context(survey)
    names = ["report.js"]
    if page_calculator is not None:
        names.append("calculator.js")
    style = (TEMPLATES / "report.css").read_text()
    listed = drawn_runs(figures) or list(map(int, survey.columns.row[:MOST_ROWS]))
    page = results_context(survey)
    page["data"] = {
        "name": pathlib.PurePath(grid.path).name,
        "rows": len(grid.frame),
        "used": len(survey.columns),
        "of_rows": counted(len(grid.frame), "row"),
        "sha256": grid.sha256,
    }
    page["checklist"] = checklist(survey, grid)
    page["runs"] = run_table(survey, grid, listed)
    page["figures"] = {name: _figure(svg, caption) for name, (svg, _, caption) in figures.items()}
    page["command"] = command
    page["versions"] = list(versions().items())
    page["style"] = Markup(style)
    page["scripts"] = [_script(name) for name in names]
    page["calculator"] = page_calculator
    return page


def _script(name: str) -> dict[str, Any]:
    """Return a script of the page with its hash, without which the page's own policy would not run it."""
    from markupsafe import Markup

    text = (TEMPLATES / name).read_text()
    digest = hashlib.sha256(text.encode()).digest()
    return {"text": Markup(text), "hash": base64.b64encode(digest).decode()}


def results_context(survey: Survey) -> dict[str, Any]:
    """Return the part of the context that is about the fits alone."""
    found = survey.results[survey.headline]
    return {
        "headline": headline(survey),
        "verdict": {
            "grade": survey.verdict,
            "words": WORDS[survey.verdict],
            "reasons": survey.reasons,
        },
        "level": f"{found.spec.level:.0%}",
        "cost": f"Compute: {found.cost}." if found.cost else "",
        "not_known": not_known(survey),
        "optima": [optimum_cells(row, survey.headline) for row in by_budget(survey)],
        "fits": [_fit_rows(name, one) for name, one in survey.results.items()],
        "failures": [(title_of(name), reason) for name, reason in survey.failures.items()],
        "notes": _notes(survey),
        "budgets": _budget_rows(survey),
        "test": test_text(survey),
        "no_test": survey.no_test,
        "rates": [rate_text(one) for one in survey.rates],
        "conventions": [_convention_cells(row) for row in survey.conventions],
        "dropped": dropped_rows(survey.columns),
    }


def drawn_runs(figures: dict[str, Drawing]) -> list[int]:
    """Return the rows that some figure shows, in order."""
    rows: set[int] = set()
    for svg, _, _ in figures.values():
        rows.update(map(int, _DRAWN_RUN.findall(svg)))
    return sorted(rows)


def _figure(svg: bytes, caption: str) -> dict[str, Any]:
    """Return the SVG as part of a page: labelled, and focusable where it has runs. Its text is outlines of letters."""
    from markupsafe import Markup, escape

    inline = svg.decode()
    interactive = "data-run=" in inline
    attributes = f'role="img" aria-label="{escape(caption)}"'
    if interactive:
        attributes += ' tabindex="0" data-chart=""'
    start = inline.index("<svg")
    inline = inline[start:].replace("<svg", f"<svg {attributes}", 1)
    return {"svg": Markup(inline), "caption": caption, "interactive": interactive}


def _notes(survey: Survey) -> list[str]:
    """Return what the fits have to say beside their numbers, each note once."""
    notes: list[str] = []
    for result in survey.results.values():
        notes += result.columns.notes
        notes += result.certificate.warnings
    return list(dict.fromkeys(notes))


def _fit_rows(name: str, found: FitResult) -> dict[str, Any]:
    """Return the coefficients of one fit, and the exponents of its optimum, as rows of text."""
    intervals = found.intervals()
    verdict = judged_verdict(found)
    rows = []
    for key, value in found.values().items():
        row = {
            "name": key,
            "value": number(value, 5),
            "span": span(intervals.get(key)),
            "remark": verdict.remark(key),
        }
        rows.append(row)
    return {"title": title_of(name), "formula": found.law.FORMULA, "rows": rows}


def _short_title(name: str) -> str:
    """Return "parabola" of "approach 2, parabola"."""
    return title_of(name).split(", ")[1]


def _budget_rows(survey: Survey) -> dict[str, Any] | None:
    """Return the IsoFLOP budgets with the minimum that each interpolation found; None where there are none."""
    names = [name for name in survey.results if name.startswith("isoflop")]
    if not names:
        return None
    minima: dict[str, dict[str, str]] = {}
    remarks: dict[str, list[str]] = {}
    budgets: dict[str, dict[str, Any]] = {}
    for name in names:
        for budget in survey.results[name].details["budgets"]:
            key = f"{budget['flops']:.6g}"
            budgets.setdefault(key, budget)
            minima.setdefault(key, {})[name] = human(budget["N"])
            if budget["reason"]:
                remarks.setdefault(key, []).append(f"{_short_title(name)}: {budget['reason']}")
    rows = []
    for key, budget in sorted(budgets.items(), key=lambda item: item[1]["flops"]):
        row = {
            **budget,
            "C": number(budget["flops"], 3),
            "minima": [minima[key].get(name, "-") for name in names],
            "remark": "; ".join(remarks.get(key, [])),
        }
        rows.append(row)
    return {"names": [_short_title(name) for name in names], "rows": rows}


def _convention_cells(row: dict[str, Any]) -> dict[str, Any]:
    """Return one way of counting parameters and compute, with what each approach makes of it."""
    cells = []
    for name in ("chinchilla", "isoflop", "isoflop_cubic"):
        exponent = row[name].get("exponent_N")
        interval = row[name].get("interval")
        cells.append({"value": number(exponent, 3), "span": _span_of(interval)})
    for key in ("E", "flops_per_param_token"):
        value = row["chinchilla"].get(key)
        cells.append({"value": number(value, 3), "span": ""})
    return {"N": row["N"], "C": row["C"], "cells": cells}


def _span_of(interval: dict[str, Any] | None) -> str:
    """Write an interval of the JSON; empty where there is none."""
    if not interval:
        return ""
    return span(Interval(**interval), 3)


def dropped_rows(columns: Columns) -> list[dict[str, Any]]:
    """Return dropped rows by reason, most frequent first, with up to twelve row numbers each."""
    by_reason: dict[str, list[int]] = {}
    for dropped in columns.dropped:
        by_reason.setdefault(dropped.reason, []).append(dropped.row)
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    listed = []
    for reason, rows in ordered:
        which = ", ".join(map(str, rows[:MOST_NUMBERS]))
        if len(rows) > MOST_NUMBERS:
            which += " ..."
        listed.append({"reason": reason, "count": len(rows), "which": which})
    return listed
