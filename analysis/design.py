"""TODO docstring"""

import math
from typing import Any

from absl import flags

from analysis import laws
from analysis.command_line import options
from analysis.command_line.arguments import one_grid, running_command
from analysis.grid.table import load, select
from analysis.laws.base import FormulaLaw
from analysis.questions import scoreboard
from analysis.questions.design import DEFAULT_LAWS, Design, Target, lattice, propose, to_json
from analysis.writing.numbers import human, number
from analysis.writing.output_file import check_writable, write
from analysis.writing.terminal import open_console
from experiments import cli
from experiments.cli import InputError


def show(design: Design, console: Any) -> None:
    """Print the design for people."""
    from rich.table import Table

    at = ",".join(f"{role}={value:g}" for role, value in design.target.at.items())
    name = f"{design.target.name}@{at}" if at else design.target.name
    console.print(
        f"{name} = [bold]{number(design.value)}[/], {design.level:.0%} interval {number(design.low)} to "
        f"{number(design.high)}; laws {', '.join(f'{law} {share:.0%}' for law, share in design.weights.items())}"
    )
    if not design.steps:
        console.print("no candidate within the budget would shrink it")
        return
    roles = [role for role in ("N", "D") if role in design.candidates]
    table = Table("run", *roles, "FLOPs", "spent", "interval after it", "width")
    width = design.high - design.low
    for turn, step in enumerate(design.steps, 1):
        table.add_row(
            str(turn),
            *(human(float(design.candidates[role][step.candidate])) for role in roles),
            number(float(design.candidates["C"][step.candidate]), 3),
            number(step.spent, 3),
            f"{number(step.low)} to {number(step.high)}",
            f"{(step.high - step.low) / width:.0%}" if width > 0 else "-",
        )
    console.print(table)


def main(argv: list[str]) -> None:
    """The command line."""
    values = flags.FLAGS
    path = one_grid(argv)
    if values.out is not None:
        check_writable(values.out, "--out")
    if values.budget is not None and not (math.isfinite(values.budget) and values.budget > 0):
        raise InputError(f"--budget: {values.budget} is not a positive number of FLOPs")
    target, spec, grid = Target.parse(values.target), options.spec(), load(path)
    chosen = [laws.load(name) for name in values.laws]
    for law in chosen:
        if not issubclass(law, FormulaLaw):
            raise InputError(f"--laws: {law.NAME} is not a law of single runs")
    columns = scoreboard.together(grid, chosen, values.columns, values.where)
    budget = float(columns["C"].sum()) if values.budget is None else values.budget
    if values.candidates is None:
        candidates = lattice(columns, budget)
    else:
        inputs = dict.fromkeys(role for law in chosen for role in law.inputs())
        candidates = select(load(values.candidates), (*inputs, "C"), columns=values.candidate_columns)
    design = propose(columns, chosen, target, candidates, spec, budget, values.count)
    if values.out is not None:
        write(values.out, to_json(design, grid, running_command("analysis.design")), "--out")
    console = open_console()
    show(design, console)
    if values.out is not None:
        console.print(f"written: {values.out}")


if __name__ == "__main__":
    options.define()
    flags.adopt_module_key_flags(options)
    flags.FLAGS["bootstrap"].default = 400
    flags.DEFINE_string("target", None, 'The number to pin down: "loss@N=7e10,D=1.4e12", "N@C=1e24", exponent_N, E.')
    flags.DEFINE_float("budget", None, "FLOPs that may be spent; by default as many as the grid has cost.")
    flags.DEFINE_integer("count", 8, "How many runs at most.", lower_bound=1)
    flags.DEFINE_string("candidates", None, "A table of runs that could be made; by default a lattice around the grid.")
    flags.DEFINE_string("candidate_columns", None, "As --columns, for the candidates.")
    flags.DEFINE_list("laws", list(DEFAULT_LAWS), "Laws that are plausible here.")
    flags.DEFINE_string("out", None, "A JSON file to write.")
    cli.run(main, required=["target"])
