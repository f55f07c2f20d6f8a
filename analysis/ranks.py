"""Say whether what is best at a small scale, or early in training, is best at the end: Kendall's tau of the order.

    python -m analysis.ranks GRID --of=optimizer --over=params_total
    python -m analysis.ranks curves.csv --of=name --over=tokens --columns=loss=task_facts_accuracy --best=most

Each level of --over (a size, a checkpoint) orders the variants of --of; tau compares that order with the one at the last
level: 1 the same, -1 the reverse. Proxies whose tau is near 0 choose nothing.
"""

from absl import flags

from analysis.command_line import asking
from experiments import cli


def main(argv: list[str]) -> None:
    """Compare the order of variants over levels."""
    from analysis.questions import ranks

    values = flags.FLAGS
    grid = asking.grid_of(argv)
    columns = asking.rows(grid, ("loss",), signed=("loss",))
    found = ranks.ask(grid, columns, values.of, values.over, values.best)
    asking.tell(ranks.lines(found), ranks.to_json(found), columns)


if __name__ == "__main__":
    asking.define("loss=COLUMN: what variants are ordered by, any quantity.", intervals=False)
    flags.DEFINE_string("of", None, "The column that names the variants.")
    flags.DEFINE_string("over", None, "The column of sizes, tokens or steps, whose largest value is the last level.")
    flags.DEFINE_enum(
        "best", "least", ("least", "most"), "Which value is the best: the least loss, or the most accuracy."
    )
    cli.run(main, arguments="GRID ...", required=("of", "over"))
