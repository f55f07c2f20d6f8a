"""report.html: what the template shows, as text. Everything that comes from the grid is escaped by the template."""

import base64
import collections
import hashlib
import importlib.metadata
import pathlib
import platform
import re
from typing import Any

from analysis.reporting.checklist import checklist
from analysis.reporting.runs import run_table
from analysis.reporting.words import TITLES, WORDS, by_budget, headline, optimum_cells, rate_text, test_text
from analysis.writing.numbers import human, number, span

TEMPLATES = pathlib.Path(__file__).parent / "templates"
PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib")


def versions() -> dict[str, str]:
    """Of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def context(survey: Any, grid: Any, command: str, figures: dict[str, tuple[bytes, bytes, str]]) -> dict[str, Any]:
    """What the template shows, as text."""
    from markupsafe import Markup

    columns = survey.columns
    found = survey.results[survey.headline]
    notes = [note for one in survey.results.values() for note in (*one.columns.notes, *one.certificate.warnings)]
    script = (TEMPLATES / "report.js").read_text()
    drawn = sorted({int(row) for svg, _, _ in figures.values() for row in re.findall(rb'data-run="(\d+)"', svg)})
    return {
        "data": {
            "name": pathlib.PurePath(grid.path).name,
            "rows": len(grid.frame),
            "used": len(columns),
            "sha256": grid.sha256,
        },
        "headline": headline(survey),
        "verdict": {"grade": survey.verdict, "words": WORDS[survey.verdict], "reasons": survey.reasons},
        "level": f"{found.spec.level:.0%}",
        "cost": f"Approach 3 takes C = {number(found.flops_per_param_token, 3)} N D.",
        "optima": [optimum_cells(row, survey.headline) for row in by_budget(survey)],
        "fits": [_fit_rows(name, one) for name, one in survey.results.items()],
        "failures": [(TITLES[name], reason) for name, reason in survey.failures.items()],
        "notes": list(dict.fromkeys(notes)),
        "budgets": _budget_rows(survey),
        "test": test_text(survey),
        "no_test": survey.no_test,
        "rates": [rate_text(one) for one in survey.rates],
        "conventions": [_convention_cells(row) for row in survey.conventions],
        "checklist": checklist(survey, grid),
        "dropped": dropped_rows(columns),
        "runs": run_table(survey, grid, drawn or list(map(int, columns.row[:1000]))),
        "command": command,
        "versions": list(versions().items()),
        "figures": {name: _figure(*drawing) for name, drawing in figures.items()},
        "style": Markup((TEMPLATES / "report.css").read_text()),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }  # fmt: skip


def _figure(svg: bytes, _: bytes, caption: str) -> dict[str, Any]:
    """The SVG as part of a page: labelled, focusable where it has runs. Its text is ours: outlines of letters."""
    from markupsafe import Markup, escape

    inline = svg.decode()
    interactive = ' tabindex="0" data-chart=""' if "data-run=" in inline else ""
    inline = inline[inline.index("<svg") :].replace(
        "<svg", f'<svg role="img" aria-label="{escape(caption)}"{interactive}', 1
    )
    return {"svg": Markup(inline), "caption": caption, "interactive": bool(interactive)}


def _cell(value: Any, interval: Any, digits: int = 3) -> dict[str, str]:
    if isinstance(interval, dict):
        interval = collections.namedtuple("Interval", interval)(**interval)
    return {"value": number(value, digits), "span": span(interval, digits) if interval else ""}


def _fit_rows(name: str, found: Any) -> dict[str, Any]:
    intervals, lost = found.intervals(), found.certificate.not_identified
    values = found.law.coefficients() | {key: float(value) for key, value in found.law.optimum_exponents().items()}
    rows = [
        {
            "name": key,
            "value": number(value, 5),
            "span": span(intervals.get(key)),
            "remark": f"not identified: {lost[key]}" if key in lost else "",
        }
        for key, value in values.items()
    ]
    return {"title": TITLES[name], "formula": found.law.FORMULA, "rows": rows}


def _budget_rows(survey: Any) -> dict[str, Any] | None:
    names = [name for name in survey.results if name.startswith("isoflop")]
    if not names:
        return None
    by_flops: dict[str, dict[str, Any]] = {}
    for name in names:
        for budget in survey.results[name].details["budgets"]:
            new = {**budget, "C": number(budget["flops"], 3), "remark": [], "at": {}}
            row = by_flops.setdefault(f"{budget['flops']:.6g}", new)
            row["at"][name] = human(budget["N"])
            if budget["reason"]:
                row["remark"].append(f"{TITLES[name].split(', ')[1]}: {budget['reason']}")
    rows = [
        {**row, "minima": [row["at"].get(name, "-") for name in names], "remark": "; ".join(row["remark"])}
        for row in sorted(by_flops.values(), key=lambda row: row["flops"])
    ]
    return {"names": [TITLES[name].split(", ")[1] for name in names], "rows": rows}


def _convention_cells(row: dict[str, Any]) -> dict[str, Any]:
    cells = []
    for name in ("chinchilla", "isoflop", "isoflop_cubic"):
        part = row[name]
        cells.append(_cell(part.get("exponent_N"), part.get("interval")))
    first = row["chinchilla"]
    cells.append(_cell(first.get("E"), None))
    cells.append(_cell(first.get("flops_per_param_token"), None))
    return {"N": row["N"], "C": row["C"], "cells": cells}


def dropped_rows(columns: Any) -> list[dict[str, Any]]:
    """Dropped rows by reason, most frequent first; up to twelve row numbers each."""
    by_reason: dict[str, list[int]] = {}
    for row in columns.dropped:
        by_reason.setdefault(row.reason, []).append(row.row)
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return [
        {
            "reason": reason,
            "count": len(rows),
            "which": ", ".join(map(str, rows[:12])) + (" ..." if len(rows) > 12 else ""),
        }
        for reason, rows in ordered
    ]


def render(survey: Any, grid: Any, command: str, figures: dict[str, tuple[bytes, bytes, str]]) -> str:
    """report.html."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(context(survey, grid, command, figures))
