"""The flags that analysis.fit and analysis.report share. Imports nothing heavy, so that --help is instant."""

import dataclasses
from typing import TYPE_CHECKING

from absl import flags

from experiments.cli import InputError

if TYPE_CHECKING:
    from analysis.fitting.spec import FitSpec
    from analysis.laws.base import Law


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
    flags.DEFINE_string("loss", None, "Loss of a residual: huber, least_squares, lad; by default the law's source's.")
    flags.DEFINE_string("residual", None, "Residual: log (of the loss) or raw; by default the law's source's.")
    flags.DEFINE_float("huber_delta", None, "Huber's delta (1e-3). The objective is summed over rows.")
    flags.DEFINE_float(
        "above",
        None,
        "How much a row above the law counts next to one below it (1). Less than 1 for runs that were not tuned.",
    )
    flags.DEFINE_list("fix", [], "Coefficients to hold: E=1.69,alpha=0.34.")
    flags.DEFINE_integer("bootstrap", 1000, "Bootstrap replicates; 0 for no intervals.")
    flags.DEFINE_string(
        "resample", "paired", "What a replicate resamples: paired (rows, or runs), wild (signs), residual (residuals)."
    )
    flags.DEFINE_string(
        "near_optimum",
        "0.0025",
        "Which runs of a cell are optima, for laws of learning rate and batch: those within this relative excess loss, "
        "best (one a cell), or vertex (of a parabola).",
    )
    flags.DEFINE_bool("weighted", False, "IsoFLOP minima that noise moves less count more (isoflop).")
    flags.DEFINE_float("level", 0.9, "Level of the intervals.")
    flags.DEFINE_integer("seed", 42, "Seed of the bootstrap.")


def spec(interpolation: str = "quadratic", law: "type[Law] | None" = None) -> "FitSpec":
    """The FitSpec that the flags describe; InputError for a value that cannot be right.

    What the flags do not say of the objective is the law's own; Huber's loss of log residuals without a law.
    """
    from analysis.fitting.spec import FitSpec
    from analysis.solve.objective import Objective

    values = flags.FLAGS
    given = {name: getattr(values, name) for name in ("loss", "residual", "huber_delta", "above")}
    given = {name: value for name, value in given.items() if value is not None}
    return FitSpec(
        objective=dataclasses.replace(law.OBJECTIVE if law else Objective(), **given) if given else None,
        bootstrap=values.bootstrap,
        resample=values.resample,
        level=values.level,
        seed=values.seed,
        interpolation=interpolation,
        near_optimum=values.near_optimum,
        weighted=values.weighted,
        fixed=_fixed(values.fix),
    )


def _fixed(texts: list[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"--fix: {text!r} is not COEFFICIENT=NUMBER, for example E=1.69") from None
    return found
