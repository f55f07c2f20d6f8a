"""A loss grid as a report: table -> fits -> numbers.json -> figures -> one self-contained report.html.

    python -m analysis.report GRID --out=report.html

Beside the report: numbers.json with every number in it, figures/*.svg and *.png.
"""

import collections
import dataclasses
import importlib.metadata
import pathlib
import platform
import re
from typing import Any

from absl import flags
from etils import epath
import numpy as np

from analysis import options, output
from analysis.output import human, number, span
from experiments import cli
from experiments.cli import InputError

SCHEMA = 1
TITLES = {
    "chinchilla": "approach 3, parametric",
    "isoflop": "approach 2, parabola",
    "isoflop_cubic": "approach 2, cubic",
    "isoflop_akima": "approach 2, Akima",
}
WORDS = {
    "good": "Nothing speaks against this fit.",
    "care": "Use with care.",
    "poor": "Do not extrapolate from this fit.",
}
PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib")


def numbers(survey: Any, grid: Any, command: str) -> dict[str, Any]:
    """numbers.json: every number of the report, with a schema version."""
    from analysis import result

    fits = {}
    for name, found in survey.results.items():
        fits[name] = result.to_json(found, grid.sha256, command)
        for part in ("draws", "rows_dropped", "command", "data_sha256"):
            del fits[name][part]
    return {
        "schema": SCHEMA,
        "command": command,
        "data": {
            "path": grid.path,
            "sha256": grid.sha256,
            "rows": len(grid.frame),
            "rows_used": len(survey.columns),
            "rows_dropped": [dataclasses.asdict(row) for row in survey.columns.dropped],
            "columns": survey.columns.sources,
        },
        "headline": survey.headline,
        "verdict": {"grade": survey.verdict, "reasons": survey.reasons},
        "largest_budget_flops": survey.largest,
        "fits": fits,
        "not_fitted": survey.failures,
        "optimal": survey.optima,
        "conventions": survey.conventions,
        "back_test": survey.test.summary() if survey.test else {"reason": survey.no_test},
        "learning_rate": [
            {"label": one.label, "rate": one.rate.tolist(), "loss": one.loss.tolist(), "best": one.best,
             "used": one.used, "excess": one.excess}
            for one in survey.rates
        ],
        "checklist": [{"item": item, "value": value} for item, value in checklist(survey, grid)],
        "versions": versions(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def checklist(survey: Any, grid: Any) -> list[tuple[str, str]]:
    """What (Mis)Fitting (Li et al. 2025, arXiv 2502.18969) asks every scaling-law paper to state."""
    columns, sources = survey.columns, survey.columns.sources
    found = survey.results[survey.headline]
    objective, certificate = found.spec.objective, found.certificate
    delta = f" with delta {objective.huber_delta:g}" if objective.loss == "huber" else ""

    units = "sets of runs" if "run" in columns else "sets of rows"

    def reach(role: str) -> str:
        write = human if role in "ND" else number
        return f"{write(float(columns[role].min()), 3)} to {write(float(columns[role].max()), 3)}"

    def listed(name: str) -> str:
        if name not in grid.frame.columns:
            return "not in the grid"
        values = grid.frame[name].iloc[columns.row]
        if name in ("seed", "family", "study"):
            return ", ".join(map(str, sorted(values.dropna().unique())[:8]))
        return f"{number(float(values.min()), 3)} to {number(float(values.max()), 3)}"

    return [
        ("Form of the law", found.law.FORMULA),
        ("Source of the form", found.law.SOURCE),
        ("What N counts", f"{sources['N']}, {reach('N')}"),
        ("What D counts", f"{sources['D']}, {reach('D')} tokens"),
        ("What C counts", f"{sources['C']}, {reach('C')} FLOPs"),
        ("What the loss is", f"{sources['loss']}, {reach('loss')} nats per token"),
        ("Number of runs", f"{len(columns)} used, {len(columns.dropped)} left out with a reason"),
        ("Families and seeds", f"family: {listed('family')}; seed: {listed('seed')}"),
        ("Learning rate", listed("lr")),
        ("Batch, tokens", listed("batch_tokens")),
        ("Objective", f"{objective.loss}{delta} on {objective.residual} residuals, summed over rows"),
        ("Starts and optimiser", f"{found.spec.starts} from an exhaustive grid of exponents; damped Newton steps, float64"),
        ("Share of starts that agree", f"{certificate.agreeing_starts:.0%}"),
        ("Scaled gradient at the end", f"{certificate.gradient:.1e}"),
        ("Objective at the end", f"{found.objective:.8g}"),
        ("Intervals", f"{found.spec.level:.0%} percentiles of {len(found.draws)} resampled {units}, seed {found.spec.seed}"),
        ("Not identified", ", ".join(certificate.not_identified) or "nothing"),
        ("Quality", f"root mean square of the log residuals {certificate.rms_log_residual:.2%}"),
        ("Held-out check", test_text(survey) or f"none: {survey.no_test}"),
    ]  # fmt: skip


def test_text(survey: Any) -> str:
    """The back-test in one sentence, empty when there is none."""
    if survey.test is None:
        return ""
    found = survey.test.summary()
    return (
        f"Fitted to the {found['rows_fitted']} smaller runs, {found['law']} ({TITLES[found['law']]}) misses the "
        f"{found['rows_held_out']} runs of up to {found['extrapolation']:.3g}x more compute by "
        f"{found['mean_error']:+.2%} on average (absolute {found['mean_absolute_error']:.2%}, worst "
        f"{found['largest_absolute_error']:.2%}); "
        f"{found['covered']:.0%} of them lie in the interval that was given for them."
    )


def law_text(found: Any) -> str:
    """The law with its numbers in place."""
    text, values = found.law.FORMULA, found.law.coefficients()
    for name, value in values.items():
        text = re.sub(rf"(?<![A-Za-z_]){name}(?![A-Za-z_*])", number(value), text)
    return text


def context(survey: Any, grid: Any, command: str, figures: dict[str, tuple[bytes, bytes, str]]) -> dict[str, Any]:
    """What the template shows, as text."""
    from markupsafe import Markup

    columns = survey.columns
    found = survey.results[survey.headline]
    level = f"{found.spec.level:.0%}"
    notes = [note for one in survey.results.values() for note in (*one.columns.notes, *one.certificate.warnings)]

    def figure(name: str) -> Markup:
        if name not in figures:
            return Markup("")
        svg, _, caption = figures[name]
        inline = svg.decode()
        inline = inline[inline.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
        return Markup(
            f'<figure class="card" id="{name}">{inline}<figcaption>{caption} '
            f"Data {grid.sha256[:12]}.</figcaption></figure>"
        )

    return {
        "data": {
            "name": pathlib.PurePath(grid.path).name,
            "rows": len(grid.frame),
            "used": len(columns),
            "sha256": grid.sha256,
        },
        "headline": headline(survey),
        "verdict": {"grade": survey.verdict, "words": WORDS[survey.verdict], "reasons": survey.reasons},
        "level": level,
        "cost": f"Approach 3 takes C = {number(found.flops_per_param_token, 3)} N D.",
        "optima": [_optimum_cells(row, survey.headline) for row in by_budget(survey)],
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
        "command": command,
        "versions": list(versions().items()),
        "figure": figure,
    }  # fmt: skip


def by_budget(survey: Any) -> list[dict[str, Any]]:
    """The optima, budget by budget."""
    return sorted(survey.optima, key=lambda row: row["times_largest"])


def headline(survey: Any) -> dict[str, str]:
    """The law in one line and what it says in one sentence."""
    found = survey.results[survey.headline]
    interval = found.intervals().get("exponent_N")
    exponent = number(float(found.law.optimum_exponents()["exponent_N"]), 3)
    between = f" ({found.spec.level:.0%} interval {span(interval, 3)})" if interval else ""
    far = next(row for row in survey.optima if row["law"] == survey.headline and row["times_largest"] == 100)
    return {
        "exponent": exponent,
        "between": between,
        "title": f"Compute-optimal parameters grow as C^{exponent}{between}",
        "law": law_text(found),
        "sentence": f"At 100 times the largest budget, {number(far['C'], 2)} FLOPs: {human(far['N'])} parameters, "
        f"{human(far['D'])} tokens, loss {number(far['loss'], 4)} nats per token ({TITLES[survey.headline]}).",
    }


def _cell(value: Any, interval: Any, digits: int = 3) -> dict[str, str]:
    if isinstance(interval, dict):
        interval = collections.namedtuple("Interval", interval)(**interval)
    return {"value": number(value, digits), "span": span(interval, digits) if interval else ""}


def _optimum_cells(row: dict[str, Any], first: str) -> dict[str, Any]:
    cells = []
    for key, digits in (("N", 3), ("D", 3), ("tokens_per_param", 3), ("loss", 4)):
        write = human if key in "ND" else number
        interval = row["intervals"].get(key)
        between = f"{write(interval['low'], digits)} to {write(interval['high'], digits)}" if interval else ""
        cells.append({"value": write(row[key], digits), "span": between})
    return {
        "times": row["times_largest"],
        "C": number(row["C"], 3),
        "law": TITLES[row["law"]],
        "first": row["law"] == first,
        "cells": cells,
    }


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


def rate_text(one: Any) -> str:
    """One size of the learning-rate bracket in a sentence."""
    if one.best is None:
        return f"{one.label}: the best rate tried, {one.rate[np.argmin(one.loss)]:.3g}, is at the edge of the bracket."
    text = f"{one.label}: the best rate is {one.best:.3g}"
    if one.used is None:
        return f"{text}."
    return f"{text}; the runs in the fit used {one.used:.3g}, which gives away {one.excess:.2%} of the loss."


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

    folder = pathlib.Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(context(survey, grid, command, figures))


def show(survey: Any, console: Any) -> None:
    """Print the law, the optimum for 1, 10 and 100 times the largest budget, and the verdict."""
    from rich.table import Table

    top = headline(survey)
    console.print(f"[bold]{top['law']}[/]  ({TITLES[survey.headline]}, {len(survey.columns)} runs)", highlight=False)
    console.print(top["title"], highlight=False)
    table = Table(
        "budget, FLOPs", "law", "parameters N", "tokens D", "loss", title="compute-optimal", title_justify="left"
    )
    for row in by_budget(survey):
        if row["law"] in ("chinchilla", "isoflop") and row["times_largest"] > 1:
            cells = _optimum_cells(row, survey.headline)
            texts = [f"{cell['value']} ({cell['span']})" if cell["span"] else cell["value"] for cell in cells["cells"]]
            table.add_row(f"{cells['times']}x = {cells['C']}", cells["law"], texts[0], texts[1], texts[3])
    console.print(table)
    colour = {"good": "green", "care": "yellow", "poor": "red"}[survey.verdict]
    console.print(f"[{colour}]{WORDS[survey.verdict]}[/] {'; '.join(survey.reasons)}", highlight=False)
    for name, reason in survey.failures.items():
        console.print(f"[yellow]{TITLES[name]} was not fitted[/]: {reason}", highlight=False)


def main(argv: list[str]) -> None:
    """The command line."""
    from rich.console import Console

    values = flags.FLAGS
    if len(argv) != 1:
        raise InputError(
            f"GRID: {len(argv)} files given ({' '.join(argv) or 'none'}); expected one Parquet or CSV file"
        )
    spec = options.spec()
    output.check_writable(values.out, "--out")
    from analysis import figures, table
    from analysis.survey import survey

    grid = table.load(argv[0])
    found = survey(grid, spec, values.columns, values.where)
    drawn = figures.draw_all(found)
    command = output.command("analysis.report")
    html = render(found, grid, command, drawn)
    folder = epath.Path(values.out).parent
    for name, (svg, png, _) in drawn.items():
        output.write(folder / "figures" / f"{name}.svg", svg, "--out")
        output.write(folder / "figures" / f"{name}.png", png, "--out")
    output.write(folder / "numbers.json", numbers(found, grid, command), "--out")
    output.write(values.out, html, "--out")
    console = Console(soft_wrap=True)
    show(found, console)
    console.print(
        f"report   {values.out}\nnumbers  {folder / 'numbers.json'}\nfigures  {folder / 'figures'}", highlight=False
    )


if __name__ == "__main__":
    options.define()
    flags.adopt_module_key_flags(options)
    flags.DEFINE_string("out", None, "The HTML file to write; numbers.json and figures/ go beside it.")
    cli.run(main, required=["out"])
