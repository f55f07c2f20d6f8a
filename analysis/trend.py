"""TODO docstring"""

import dataclasses
import math

from absl import flags

from analysis.questions.trend import find_trend
from experiments import cli


def main(argv: list[str]) -> None:
    """The command line: the trend of the role loss (any quantity) over the role X."""
    from analysis.command_line.arguments import one_grid
    from analysis.grid.table import load, select
    from analysis.writing.numbers import number, span
    from analysis.writing.output_file import check_writable, write
    from analysis.writing.terminal import open_console

    values = flags.FLAGS
    path = one_grid(argv)
    if values.json is not None:
        check_writable(values.json, "--json")
    columns = select(load(path), ("X", "loss"), columns=values.columns, where=values.where, signed=("loss",))
    found = find_trend(columns["X"], columns["loss"], level=values.level, seed=values.seed)
    console = open_console()
    x, y = columns.sources["X"], columns.sources["loss"]
    console.print(f"{y} over {x}: [bold]{found.verdict}[/] ({len(columns)} rows, {len(columns.dropped)} dropped)")
    if found.turning_point is not None:
        interval = f" ({span(found.interval)})" if found.interval else ""
        console.print(f"turns at {x} = {number(found.turning_point)}{interval}")
    console.print(f"p of no trend {found.p_trend:.3f}, p of no turn {found.p_turn:.3f}")
    if values.json is not None:
        data = {"schema": 1, "x": x, "y": y, "rows_used": len(columns), **dataclasses.asdict(found)}
        data["aicc"] = {name: score if math.isfinite(score) else None for name, score in found.aicc.items()}
        write(values.json, data, "--json")
        console.print(f"written: {values.json}")


if __name__ == "__main__":
    flags.DEFINE_string("columns", None, "X=COLUMN,loss=COLUMN: what it is a function of, and the quantity itself.")
    flags.DEFINE_string("where", None, "Rows to use: comparisons joined by and, or, not.")
    flags.DEFINE_float("level", 0.9, "Level of the turning point's interval.")
    flags.DEFINE_integer("seed", 0, "Seed of the permutations and the bootstrap.")
    flags.DEFINE_string("json", None, "A JSON file to write.")
    cli.run(main)
