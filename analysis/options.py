"""The flags that analysis.fit and analysis.report share. Imports nothing heavy, so that --help is instant."""

from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:
    from analysis.result import FitSpec


def define() -> None:
    """Declare the flags of a fit."""
    flags.DEFINE_string(
        "columns",
        None,
        "ROLE=COLUMN or ROLE=FORMULA, separated by commas: N=params_total,D=C/(6*N),C=flops,loss=loss. Roles: N, D, C, "
        "loss, group (marks FLOP budgets), weight, run (rows of one run are resampled together).",
    )
    flags.DEFINE_string(
        "where",
        None,
        "Rows to use: comparisons of columns with numbers or strings, joined by and, or, not: \"family=='dense' and "
        'flops<1e18". Parsed, never evaluated.',
    )
    flags.DEFINE_string("loss", "huber", "Loss of a residual: huber, least_squares, lad.")
    flags.DEFINE_string("residual", "log", "Residual: log (of the loss) or raw.")
    flags.DEFINE_float("huber_delta", 1e-3, "Huber's delta. The objective is summed over rows.")
    flags.DEFINE_integer("bootstrap", 1000, "Bootstrap replicates; 0 for no intervals.")
    flags.DEFINE_float("level", 0.9, "Level of the intervals.")
    flags.DEFINE_integer("seed", 42, "Seed of the bootstrap.")


def spec(interpolation: str = "quadratic") -> "FitSpec":
    """The FitSpec that the flags describe; InputError for a value that cannot be right."""
    from analysis.objective import Objective
    from analysis.result import FitSpec

    values = flags.FLAGS
    return FitSpec(
        objective=Objective(values.loss, values.residual, values.huber_delta),
        bootstrap=values.bootstrap,
        level=values.level,
        seed=values.seed,
        interpolation=interpolation,
    )
