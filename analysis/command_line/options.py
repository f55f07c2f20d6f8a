"""Declare the flags of a fit that commands share, and read them. Imports nothing heavy, so that --help is instant."""

from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING

from absl import flags

from analysis.command_line import reading
from experiments import cli
from experiments.cli import InputError

if TYPE_CHECKING:
    from analysis.fitting.spec import FitSpec
    from analysis.grid.table import Grid
    from analysis.laws.base import FormulaLaw, Law
    from analysis.solve.objective import Objective


def define() -> None:
    """Declare the flags of a fit, and of how its grid is read."""
    reading.define()
    flags.adopt_module_key_flags(reading)
    flags.DEFINE_string(
        "columns",
        None,
        "ROLE=COLUMN or ROLE=FORMULA, separated by commas: N=params_total,D=C/(6*N),C=flops,loss=loss. Roles: N, D, C, "
        "loss, group (marks FLOP budgets), weight, run (rows of one run are resampled together). Names of columns that "
        "are no words stand in back-ticks in a formula: C=`total gflops`*1e9. A role that nothing uses is refused.",
    )
    flags.DEFINE_string(
        "where",
        None,
        "Rows to use: comparisons of columns with numbers or strings, joined by and, or, not: \"family=='dense' and "
        'flops<1e18", "name like \'isoflop-*\'", "not outlier". Parsed, never evaluated.',
    )
    flags.DEFINE_multi_string(
        "formula",
        [],
        'A law of your own: "L = E + A/N^alpha + B/D^beta", or "mine: L = ..." with a name. Roles and columns are data, '
        "other names coefficients; alpha[0:2] bounds one, alpha[0:2, 0.3] also starts it. Parsed, never evaluated.",
    )
    flags.DEFINE_list(
        "best_of",
        [],
        "What was tuned, for example lr,batch: of runs that differ in nothing else, only the best one is used.",
    )
    flags.DEFINE_string("loss", None, "Loss of a residual: huber, least_squares, lad; by default the law's source's.")
    flags.DEFINE_string("residual", None, "Residual: log (of the loss) or raw; by default the law's source's.")
    flags.DEFINE_float("huber_delta", None, "Huber's delta (1e-3). The objective is summed over rows.")
    flags.DEFINE_float(
        "above",
        None,
        "How much a row above the law counts next to one below it (1). Less than 1 for runs that were not tuned.",
    )
    flags.DEFINE_string("fix", "", "Coefficients to hold: E=1.69,alpha=0.34.")
    cli.define_integer("bootstrap", 1000, "Bootstrap replicates; 0 for no intervals.")
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
    cli.define_integer("seed", 42, "Seed of the bootstrap.")


def load_grid(paths: Sequence[str]) -> "Grid":
    """Read the grid of a fit as the flags say, --best_of among them."""
    grid = reading.load(paths)
    names = tuple(name.strip() for name in flags.FLAGS.best_of)
    return dataclasses.replace(grid, best_of=tuple(filter(None, names)))


def law(grid: "Grid", name: str) -> "type[Law]":
    """Return the law to fit: that of --formula where it is given, else the one that --law names."""
    from analysis import laws

    written = formulas(grid)
    if not written:
        return laws.load(name)
    if len(written) > 1:
        raise InputError(
            f"--formula: {len(written)} formulas are given; expected one, or analysis.scoreboard for several"
        )
    if flags.FLAGS["law"].present:
        raise InputError(f"--law={name} and --formula are both given; expected one of them")
    return written[0]


def formulas(grid: "Grid") -> "list[type[FormulaLaw]]":
    """Return the laws that --formula writes, which may name columns of the grid."""
    from analysis.laws import LAWS
    from analysis.laws.written import law_of

    found = []
    for at, text in enumerate(flags.FLAGS.formula, start=1):
        name = "formula" if at == 1 else f"formula_{at}"
        found.append(law_of(text, grid.names, name))
    names = [one.NAME for one in found]
    for name in names:
        if name in LAWS:
            raise InputError(f"--formula: {name} is the name of a law; expected another, as in 'mine: L = ...'")
    if len(set(names)) < len(names):
        raise InputError(f"--formula: two formulas have the name of one of {', '.join(names)}; expected different ones")
    return found


def spec(interpolation: str = "quadratic", fitted: "type[Law] | None" = None) -> "FitSpec":
    """Return the FitSpec that the flags describe. Raises InputError for a value that cannot be right."""
    from analysis.fitting.spec import FitSpec

    values = flags.FLAGS
    return FitSpec(
        objective=_objective(fitted),
        bootstrap=values.bootstrap,
        resample=values.resample,
        level=values.level,
        seed=values.seed,
        interpolation=interpolation,
        near_optimum=values.near_optimum,
        weighted=values.weighted,
        fixed=fixed(values.fix),
    )


def _objective(law: "type[Law] | None") -> "Objective | None":
    """Return the objective that the flags describe; None where no flag speaks of it.

    What the flags do not say of it is the law's own; Huber's loss of log residuals without a law.
    """
    from analysis.solve.objective import Objective

    given = {}
    for name in ("loss", "residual", "huber_delta", "above"):
        value = flags.FLAGS[name].value
        if value is not None:
            given[name] = value
    if not given:
        return None
    base = law.OBJECTIVE if law else Objective()
    return dataclasses.replace(base, **given)


def fixed(text: str) -> dict[str, float]:
    """Read --fix: coefficients with the numbers that they are held at."""
    from analysis.grid import numerals

    return numerals.numbers_by_name(text, "--fix", "COEFFICIENT=NUMBER", "E=1.69")
