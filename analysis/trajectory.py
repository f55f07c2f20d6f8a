"""Predict whole loss curves at any batch size, by the three steps of 'Unraveling the Mystery of Scaling Laws'.

    python -m sweeps.collect --workdir=runs/batches --evaluations --out=batches.csv
    python -m analysis.trajectory batches.csv --held="width==48"

1. N_c and alpha_N from models trained until they learn no more (--converged; without it from the curves, with step 3);
2. the critical batch B_star / L^(1/alpha_B) from the steps at which several batches reach equal losses; 3. S_c and alpha_S
from the curves (Su et al. 2024, arXiv 2403.06563). The law is `batch_trajectory`. --held: runs left out of all three, whose
curves are then predicted.
"""

from absl import flags

from analysis.command_line import asking
from experiments import cli


def main(argv: list[str]) -> None:
    """Fit the three steps, and say how the curves that were held out are predicted."""
    from analysis.questions import trajectory

    values = flags.FLAGS
    grid = asking.grid_of(argv)
    others = f"not ({values.held})" if values.held else None
    curves = asking.rows(grid, trajectory.ROLES, where=others)
    converged = asking.rows(grid, trajectory.ROLES, where=values.converged) if values.converged else None
    held = asking.rows(grid, trajectory.ROLES, where=values.held) if values.held else None
    found = trajectory.ask(curves, held, converged, values.levels)
    asking.tell(trajectory.lines(found), trajectory.to_json(found), curves)


if __name__ == "__main__":
    asking.define("N=COLUMN,S=COLUMN (steps),batch=COLUMN (tokens),loss=COLUMN,run=COLUMN.", intervals=False)
    flags.DEFINE_string("held", None, "Runs to predict and not to fit: a condition.")
    flags.DEFINE_string("converged", None, "Rows of models that learn no more: a condition, such as last==1.")
    cli.define_integer("levels", 12, "Losses at which batches are compared.", lower_bound=2)
    cli.run(main, arguments="GRID ...")
