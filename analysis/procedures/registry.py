"""Find the procedure of a law that is not fitted as one formula.

A law is a formula and knows nothing of how it is fitted. Here stands, for each class of laws whose fit takes steps of its
own, the function `(columns, law, spec) -> FitResult` that takes them, and the options that it uses; others are refused.
Laws that derive from such a class share them.
"""

from collections.abc import Callable

from analysis.fitting.result import FitResult
from analysis.grid.table import Columns
from analysis.laws.allocation import Envelope, IsoFlop
from analysis.laws.base import Law
from analysis.laws.density import DensityGrowth
from analysis.laws.downstream import TwoStep
from analysis.laws.growth import StackTiming
from analysis.laws.lr_batch import HyperparameterLaw
from analysis.laws.mixing import BoostedMixing, LinearMixing
from analysis.laws.schedules import AnnealingCurve
from analysis.laws.vocabulary import VocabularyFrontier, VocabularyPower
from analysis.procedures import density, downstream, envelope, growth, isoflop, lr_batch, mixture, schedules, vocabulary

Procedure = Callable[..., FitResult]  # (columns, law, spec); each takes a class of laws of its own
Preparation = Callable[[Columns, type[Law]], Columns]  # from the rows of a grid to those that a law describes


OBJECTIVE = frozenset({"loss", "residual", "huber_delta", "above"})
OF_FORMULAS = OBJECTIVE | {"fix", "resample"}  # what the fit of a plain formula uses
OF_LINES = frozenset({"loss", "huber_delta"})

PROCEDURES: dict[type[Law], tuple[Procedure, frozenset[str]]] = {
    IsoFlop: (isoflop.fit_isoflop, frozenset({"interpolation", "weighted"})),
    Envelope: (envelope.fit_envelope, frozenset()),
    HyperparameterLaw: (lr_batch.fit_lr_batch, frozenset({"fix", "near_optimum"})),
    VocabularyFrontier: (vocabulary.fit_frontier, OF_LINES),
    VocabularyPower: (vocabulary.fit_power, OF_LINES),
    LinearMixing: (mixture.fit_linear, frozenset()),
    BoostedMixing: (mixture.fit_boosted, frozenset()),
    TwoStep: (downstream.fit_two_step, OBJECTIVE | {"fix"}),
    AnnealingCurve: (schedules.fit_logged_curves, OF_FORMULAS),
    DensityGrowth: (density.fit_records, OF_FORMULAS),
}

# A law of best choices describes what was best of several runs, and a grid has a row for each of them.
PREPARATIONS: dict[type[Law], Preparation] = {StackTiming: growth.best_of_runs}


def prepared(columns: Columns, law: type[Law]) -> Columns:
    """Return the rows that a law describes, made of those of a grid; most laws describe them as they are."""
    for ancestor in law.__mro__:
        if ancestor in PREPARATIONS:
            return PREPARATIONS[ancestor](columns, law)
    return columns


def procedure_of(law: type[Law]) -> Procedure | None:
    """Return the procedure of a law or of the nearest class that it derives from; None for a plain formula."""
    for ancestor in law.__mro__:
        if ancestor in PROCEDURES:
            procedure, _ = PROCEDURES[ancestor]
            return procedure
    return None


def options_of(law: type[Law]) -> frozenset[str]:
    """Return the options that the fit of a law uses, beside those of intervals: flags without their dashes."""
    for ancestor in law.__mro__:
        if ancestor in PROCEDURES:
            _, used = PROCEDURES[ancestor]
            return used
    return OF_FORMULAS
