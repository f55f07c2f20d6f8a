"""Forecast the accuracy on many tasks from those of them that follow a law: clustering on difficulty.

    python -m analysis.difficulty GRID --target=1e22 --guess=0.25
    python -m analysis.difficulty GRID --tasks="score_*" --columns=C=flops --target=1e22

Rows are models, columns tasks. Tasks that rise alike form a cluster; clusters that follow the law are extrapolated, and a
curve takes the accuracy on them to that on all (Xu et al. 2025, arXiv 2502.17262).
"""

from absl import flags

from analysis.command_line import asking
from experiments import cli


def main(argv: list[str]) -> None:
    """Forecast the accuracy on a benchmark."""
    from analysis.questions import difficulty

    values = flags.FLAGS
    grid = asking.grid_of(argv)
    columns = asking.rows(grid, ("C",))
    found = difficulty.ask(
        grid,
        columns,
        values.tasks,
        values.target,
        guess=values.guess,
        diameter=values.diameter,
        least=values.least,
        seed=values.seed,
        level=values.level,
    )
    asking.tell(difficulty.lines(found), difficulty.to_json(found), columns)


if __name__ == "__main__":
    asking.define("C=COLUMN: training FLOPs.")
    flags.DEFINE_string("tasks", "task_*_accuracy", "The columns of scores, 0 to 1: a pattern with a *.")
    flags.DEFINE_float("target", None, "Training FLOPs to forecast for.")
    flags.DEFINE_float("guess", 0.0, "The score of a guess: 0.25 for four choices.")
    flags.DEFINE_float("diameter", 0.3, "Largest distance of two tasks of a cluster, rms over models.")
    cli.define_integer("least", 10, "Tasks of the smallest cluster.", lower_bound=2)
    cli.run(main, arguments="GRID ...", required=("target",))
