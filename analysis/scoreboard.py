"""TODO docstring"""

from collections.abc import Sequence
from typing import Any

from absl import flags
import numpy as np

from analysis import laws
from analysis.command_line import options
from analysis.command_line.arguments import one_grid, running_command
from analysis.grid.table import load
from analysis.laws.base import FormulaLaw
from analysis.questions.scoreboard import Score, applicable, scoreboard, to_json, together
from analysis.writing.output_file import check_writable, write
from analysis.writing.terminal import open_console
from experiments import cli
from experiments.cli import InputError


def show(scores: Sequence[Score], console: Any) -> None:
    """Print the scoreboard for people."""
    from rich.table import Column, Table

    table = Table(
        Column("law", no_wrap=True), "k", "held-out error", "bias", "covered", "residual", "AICc", "not identified",
        title="laws by the error on larger runs than they were fitted to", title_justify="left",
    )  # fmt: skip
    least = min((score.aicc for score in scores if np.isfinite(score.aicc)), default=0.0)

    def percent(value: float, form: str = ".2%") -> str:
        return format(value, form) if np.isfinite(value) else "-"

    for score in scores:
        table.add_row(
            score.law,
            str(score.coefficients),
            percent(score.held_out_rms),
            percent(score.held_out_bias, "+.2%"),
            percent(score.covered, ".0%"),
            percent(score.rms_residual),
            f"+{score.aicc - least:.1f}" if np.isfinite(score.aicc) else "-",
            ", ".join(score.not_identified) or score.reason,
        )
    console.print(table)


def main(argv: list[str]) -> None:
    """The command line."""
    values = flags.FLAGS
    path = one_grid(argv)
    if values.out is not None:
        check_writable(values.out, "--out")
    spec, grid = options.spec(), load(path)
    chosen = [laws.load(name) for name in values.laws] or applicable(grid, values.columns, values.where)
    if not chosen:
        raise InputError(f"GRID: {grid.path} has the columns of no law; name them with --columns=N=...,D=...,loss=...")
    for law in chosen:
        if not issubclass(law, FormulaLaw) or law.TARGET != "loss":
            raise InputError(f"--laws: {law.NAME} is not a law of the loss of single runs")
    columns = together(grid, chosen, values.columns, values.where)
    scores = scoreboard(columns, chosen, spec)
    if values.out is not None:
        write(values.out, to_json(scores, grid, len(columns), running_command("analysis.scoreboard")), "--out")
    console = open_console()
    show(scores, console)
    if values.out is not None:
        console.print(f"written: {values.out}")


if __name__ == "__main__":
    options.define()
    flags.adopt_module_key_flags(options)
    flags.FLAGS["bootstrap"].default = 200
    flags.DEFINE_list("laws", [], "The laws to compare; by default all whose columns the grid has.")
    flags.DEFINE_string("out", None, "A JSON file to write.")
    cli.run(main)
