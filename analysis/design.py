"""Propose which runs to make next: those that shrink the interval of one stated number most for their FLOPs.

    python -m analysis.design GRID --target="loss@N=7e10,D=1.4e12" --budget=1e20 [--candidates=runs.csv] --out=design.json

Targets: loss@N=..,D=.. (or loss@C=..), N@C=.., D@C=.., tokens_per_param@C=.., exponent_N, or a coefficient of a law.
Candidates are a table with the columns of a grid but without losses: `python -m sweeps.plan --study=.. --runs=runs.csv`
writes those of a study. Without one, a lattice of sizes and tokens around the grid's is taken.
"""

import math

from absl import flags

from analysis.command_line import options, reading, require
from experiments import cli
from experiments.cli import InputError

DEFAULT_LAWS = ("chinchilla", "overtraining", "kaplan")


def define_flags() -> None:
    """Declare the flags of the command."""
    options.define()
    flags.adopt_module_key_flags(options)
    flags.FLAGS["bootstrap"].default = 400
    flags.DEFINE_string("target", None, 'The number to pin down: "loss@N=7e10,D=1.4e12", "N@C=1e24", exponent_N, E.')
    flags.DEFINE_float(
        "budget",
        None,
        "What may be spent: FLOPs (by default what the grid has cost), or in the unit of the candidates' cost.",
    )
    cli.define_integer("count", 8, "How many runs at most.", lower_bound=1)
    cli.define_path("candidates", None, "A table of runs that could be made; by default a lattice around the grid.")
    flags.DEFINE_string("candidate_columns", None, "As --columns, for the candidates.")
    flags.DEFINE_string("until", None, "Stop at an interval this wide: 0.02, or 5% of the number.")
    flags.DEFINE_list("laws", list(DEFAULT_LAWS), "Laws that are plausible here.")
    require.define()
    cli.define_output("out", "A JSON file to write.")


def main(argv: list[str]) -> None:
    """Propose runs, write the JSON where one is asked for, and print them."""
    from analysis import laws
    from analysis.command_line.answers import design as answer
    from analysis.command_line.arguments import running_command
    from analysis.questions.candidates import read
    from analysis.questions.design import budget_of, lattice, of_single_runs, propose, to_json
    from analysis.questions.scoreboard import together
    from analysis.questions.target import Target, Until
    from analysis.writing.output_file import check_writable, write
    from analysis.writing.terminal import open_console

    values = flags.FLAGS
    paths = reading.grid_paths(argv)
    check_writable(values.out, "--out")
    if values.budget is not None and not 0 <= values.budget < math.inf:
        raise InputError(f"--budget: {values.budget} is not a positive number of FLOPs")
    target = Target.parse(values.target)
    until = None if values.until is None else Until.parse(values.until)
    spec = options.spec()
    grid = options.load_grid(paths)
    plausible = [laws.load(name) for name in values.laws]
    chosen = of_single_runs([*plausible, *options.formulas(grid)])
    columns = together(grid, chosen, values.columns, values.where)
    if values.candidates is None:
        budget = budget_of(columns, None) if values.budget is None else values.budget
        candidates = lattice(columns, budget)
    else:
        table = reading.load_alone(values.candidates)
        candidates = read(table, chosen, values.candidate_columns, columns)
        budget = budget_of(columns, candidates) if values.budget is None else values.budget
    design = propose(columns, chosen, target, candidates, spec, budget, values.count, until)
    if values.out is not None:
        write(values.out, to_json(design, grid, running_command("analysis.design")), "--out")
    console = open_console()
    answer.show(design, console)
    if values.out is not None:
        console.print(f"written: {values.out}")
    if design.why_unknown:
        require.check({str(design.target): design.why_unknown})


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=["target"], arguments="GRID ...")
