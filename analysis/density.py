"""Say how many parameters of a reference family each model is worth, by its score on a task: its density.

    python -m analysis.density GRID --task=facts --reference="family=='dense'"

The loss of the reference models on the answers is fitted over size and tokens, the accuracy of all over that loss; a model's
effective size is that of the reference model with its accuracy (Xiao et al. 2024, arXiv 2412.04315).

An accuracy of 0, or no better than a guess, has no such model; where --columns=questions=... says how many questions are
behind it, it has a bound: what the model is worth at most.
"""

from absl import flags

from analysis.command_line import asking
from experiments import cli


def main(argv: list[str]) -> None:
    """Fit both steps, and give every model its density."""
    from analysis.questions import density

    values = flags.FLAGS
    grid = asking.grid_of(argv)
    more = (*density.SCORES, *density.OPTIONAL, *density.LOSSES)
    losses = asking.rows(grid, density.LOSSES, where=values.reference, also=more)
    scores = asking.rows(grid, density.SCORES, density.OPTIONAL, also=more)
    found = density.ask(losses, scores, values.tokens, values.guess)
    asking.tell(density.lines(found), density.to_json(found), scores)


if __name__ == "__main__":
    asking.define("N=COLUMN,D=COLUMN,task_loss=COLUMN,accuracy=COLUMN,questions=COLUMN.", task=True, intervals=False)
    flags.DEFINE_string("reference", None, "Which rows are reference models: a condition; all without it.")
    flags.DEFINE_float(
        "tokens", None, "Training tokens of the reference models compared with; else the most that any has."
    )
    flags.DEFINE_float("guess", None, "The accuracy of a guess: 0.25 for four choices; else fitted.")
    cli.run(main, arguments="GRID ...")
