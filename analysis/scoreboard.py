"""Say which law to believe on a grid: every law that its columns allow, by the error on runs that it has not seen.

python -m analysis.scoreboard GRID [--laws=chinchilla,kaplan,overtraining] [--where=...] --out=scoreboard.json
"""

from absl import flags

from analysis.command_line import options, reading
from experiments import cli
from experiments.cli import InputError


def define_flags() -> None:
    """Declare the flags of the command."""
    options.define()
    flags.adopt_module_key_flags(options)
    flags.FLAGS["bootstrap"].default = 200
    flags.DEFINE_list("laws", [], "The laws to compare; by default all whose columns the grid has.")
    cli.define_output("out", "A JSON file to write.")


def main(argv: list[str]) -> None:
    """Score the laws, write the JSON where one is asked for, and print the scoreboard."""
    from analysis import laws
    from analysis.command_line.answers import scoreboard as answer
    from analysis.command_line.arguments import running_command
    from analysis.questions.scoreboard import applicable, is_of_single_runs, scoreboard, to_json, together
    from analysis.writing.output_file import check_writable, write
    from analysis.writing.terminal import open_console

    values = flags.FLAGS
    paths = reading.grid_paths(argv)
    check_writable(values.out, "--out")
    spec = options.spec()
    grid = options.load_grid(paths)
    chosen = [laws.load(name) for name in values.laws] or applicable(grid, values.columns, values.where)
    chosen += options.formulas(grid)
    if not chosen:
        raise InputError(f"GRID: {grid.path} has the columns of no law; name them with --columns=N=...,D=...,loss=...")
    for law in chosen:
        if not is_of_single_runs(law):
            raise InputError(f"--laws: {law.NAME} is not a law of the loss of single runs")
    columns = together(grid, chosen, values.columns, values.where)
    scores = scoreboard(columns, chosen, spec)
    if values.out is not None:
        write(values.out, to_json(scores, grid, len(columns), running_command("analysis.scoreboard")), "--out")
    console = open_console()
    answer.show(scores, console)
    if values.out is not None:
        console.print(f"written: {values.out}")


if __name__ == "__main__":
    define_flags()
    cli.run(main, arguments="GRID ...")
