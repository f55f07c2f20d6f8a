"""Say whether a task improves faster with size than its own power law: pass rates over parameters.

    python -m analysis.emergence GRID --task=facts
    python -m analysis.emergence GRID --columns=N=params,pass_rate=rate,pass_rate_error=se

-ln(pass rate) = c N^-alpha is a straight line in logarithms; a task that bends away from it downwards improves faster than
any power law of its small models says (Hu et al. 2023, arXiv 2310.03262).

A rate of 0 or 1 is no point on that line. It is kept where --columns=questions=... says how many tries are behind it.
"""

from absl import flags

from analysis.command_line import asking
from experiments import cli


def main(argv: list[str]) -> None:
    """Judge the bend of a task."""
    from analysis.questions import emergence

    values = flags.FLAGS
    grid = asking.grid_of(argv)
    signed = ("pass_rate", "pass_rate_error")
    columns = asking.rows(grid, emergence.ROLES, emergence.OPTIONAL, signed=signed, gaps=("pass_rate_error",))
    found = emergence.judge(columns, level=values.level, seed=values.seed)
    asking.tell(emergence.lines(found), emergence.to_json(found), columns)


if __name__ == "__main__":
    asking.define("N=COLUMN,pass_rate=COLUMN,pass_rate_error=COLUMN (its standard error),questions=COLUMN.", task=True)
    cli.run(main, arguments="GRID ...")
