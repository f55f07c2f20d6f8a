"""Say which way a quantity goes with scale, and whether it turns: falling, rising, U-shaped, or flat.

python -m analysis.trend GRID --columns=X=params_total,loss=accuracy
"""

from absl import flags

from analysis.command_line import reading
from experiments import cli
from experiments.cli import InputError


def define_flags() -> None:
    """Declare the flags of the command."""
    reading.define()
    flags.adopt_module_key_flags(reading)
    flags.DEFINE_string(
        "columns", None, "X=COLUMN,loss=COLUMN: what it is a function of, and the quantity itself; run=COLUMN."
    )
    flags.DEFINE_string("where", None, "Rows to use: comparisons joined by and, or, not.")
    flags.DEFINE_float("level", 0.9, "Level of the turning point's interval.")
    cli.define_integer("seed", 0, "Seed of the permutations and the bootstrap.")
    cli.define_output("json", "A JSON file to write.")


def main(argv: list[str]) -> None:
    """Find the trend of the role loss (any quantity) over the role X, write it where asked, and print it."""
    from analysis.command_line.answers import trend as answer
    from analysis.grid.selection import select, unused
    from analysis.questions.trend import to_json, trend_of
    from analysis.writing.output_file import check_writable, write
    from analysis.writing.terminal import open_console

    values = flags.FLAGS
    paths = reading.grid_paths(argv)
    check_writable(values.json, "--json")
    grid = reading.load(paths)
    for role in unused(grid, values.columns, values.where, ("X", "loss", "run")):
        raise InputError(f"--columns: {role}: a trend has no use for it; expected X, loss and run")
    columns = select(
        grid,
        ("X", "loss"),
        optional=("run",),
        columns=values.columns,
        where=values.where,
        signed=("loss",),
    )
    trend = trend_of(columns, level=values.level, seed=values.seed)
    console = open_console()
    answer.show(trend, columns, console)
    if values.json is not None:
        write(values.json, to_json(trend, columns), "--json")
        console.print(f"written: {values.json}")


if __name__ == "__main__":
    define_flags()
    cli.run(main, arguments="GRID ...")
