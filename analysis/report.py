"""A loss grid as a report: table -> fits -> numbers.json -> figures -> one self-contained report.html.

    python -m analysis.report GRID --out=report.html

Beside the report: numbers.json with every number in it, figures/*.svg and *.png.
"""

import dataclasses
from typing import Any

from absl import flags
from etils import epath

from analysis.command_line import options
from analysis.command_line.arguments import one_grid, running_command
from analysis.reporting.checklist import checklist
from analysis.reporting.page import render, versions
from analysis.reporting.words import TITLES, WORDS, by_budget, headline, optimum_cells
from analysis.writing.output_file import check_writable, write
from experiments import cli

SCHEMA = 1


def numbers(survey: Any, grid: Any, command: str) -> dict[str, Any]:
    """numbers.json: every number of the report, with a schema version."""
    from analysis.fitting import result

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
        "back_tests": survey.rolling.summary() if survey.rolling else None,
        "exchange": exchange(survey.comparison) if survey.comparison else None,
        "learning_rate": [
            {"label": one.label, "rate": one.rate.tolist(), "loss": one.loss.tolist(), "best": one.best,
             "used": one.used, "excess": one.excess}
            for one in survey.rates
        ],
        "checklist": [item._asdict() for item in checklist(survey, grid)],
        "versions": versions(),
    }  # fmt: skip


def exchange(comparison: Any) -> dict[str, Any]:
    """Where families turn over, against the baseline."""
    return {
        "baseline": comparison.baseline,
        "crossings": {name: dataclasses.asdict(one) for name, one in comparison.crossings.items()},
    }


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
            cells = optimum_cells(row, survey.headline)
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
    path = one_grid(argv)
    spec = options.spec()
    check_writable(values.out, "--out")
    from analysis import figures
    from analysis.grid import table
    from analysis.reporting.survey import survey

    grid = table.load(path)
    found = survey(grid, spec, values.columns, values.where)
    drawn = figures.draw_all(found)
    command = running_command("analysis.report")
    html = render(found, grid, command, drawn)
    folder = epath.Path(values.out).parent
    for name, (svg, png, _) in drawn.items():
        write(folder / "figures" / f"{name}.svg", svg, "--out")
        write(folder / "figures" / f"{name}.png", png, "--out")
    write(folder / "numbers.json", numbers(found, grid, command), "--out")
    write(values.out, html, "--out")
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
