"""Say how much less runs cost than others of equal loss: grown ones than from scratch, fresh text than repeated.

    python -m analysis.speedup GRID --of="group=='grown'" --over="group=='scratch'"
    python -m analysis.speedup GRID --of="epochs==1" --over="epochs==8" --by=width --columns=C=tokens

The cost at an equal loss is read off the curve of the others, straight in its logarithm, and never extrapolated: 0.5 is a
loss reached at two thirds of their cost (Du et al. 2024, arXiv 2405.15319, equation 48; Komatsuzaki 2019, arXiv 1906.06669).
The cost is the column flops_lineage where the grid has it and --columns names no C.
"""

from absl import flags

from analysis.command_line import asking
from experiments import cli


def main(argv: list[str]) -> None:
    """Compare two sets of runs."""
    from analysis.questions import speedup

    values = flags.FLAGS
    grid = asking.grid_of(argv)
    values.columns = speedup.with_cost(grid, values.columns)
    of = asking.rows(grid, speedup.ROLES, speedup.OPTIONAL, where=values.of)
    over = asking.rows(grid, speedup.ROLES, speedup.OPTIONAL, where=values.over)
    groups = None
    if values.by:
        labels = grid.words(values.by)
        groups = (labels[of.row], labels[over.row])
    found = speedup.ask(of, over, values.level, values.seed, groups)
    asking.tell(speedup.lines(found), speedup.to_json(found), of)


if __name__ == "__main__":
    asking.define("C=COLUMN: the cost, FLOPs or tokens; loss=COLUMN, loss_error=COLUMN (its standard error).")
    flags.DEFINE_string("of", None, "Which rows are asked about: a condition.")
    flags.DEFINE_string("over", None, "Which rows they are compared with: a condition.")
    flags.DEFINE_string("by", None, "Compare only rows that are equal in this column, such as width.")
    cli.run(main, arguments="GRID ...", required=("of", "over"))
