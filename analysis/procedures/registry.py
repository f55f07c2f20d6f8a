"""Find the procedure of a law that is not fitted as one formula.

A law is a formula and knows nothing of how it is fitted. Here stands, for each class of laws whose fit takes steps of its
own, the function `(columns, law, spec) -> FitResult` that takes them. Laws that derive from such a class share it.
"""

from collections.abc import Callable

from analysis.fitting.result import FitResult
from analysis.laws.allocation import Envelope, IsoFlop
from analysis.laws.base import Law
from analysis.laws.density import DensityGrowth
from analysis.laws.downstream import TwoStep
from analysis.laws.lr_batch import HyperparameterLaw
from analysis.laws.mixing import BoostedMixing, LinearMixing
from analysis.laws.schedules import AnnealingCurve
from analysis.laws.vocabulary import VocabularyFrontier, VocabularyPower
from analysis.procedures import density, downstream, envelope, isoflop, lr_batch, mixture, schedules, vocabulary

Procedure = Callable[..., FitResult]  # (columns, law, spec); each takes a class of laws of its own

PROCEDURES: dict[type[Law], Procedure] = {
    IsoFlop: isoflop.fit_isoflop,
    Envelope: envelope.fit_envelope,
    HyperparameterLaw: lr_batch.fit_lr_batch,
    VocabularyFrontier: vocabulary.fit_frontier,
    VocabularyPower: vocabulary.fit_power,
    LinearMixing: mixture.fit_linear,
    BoostedMixing: mixture.fit_boosted,
    TwoStep: downstream.fit_two_step,
    AnnealingCurve: schedules.fit_logged_curves,
    DensityGrowth: density.fit_records,
}


def procedure_of(law: type[Law]) -> Procedure | None:
    """Return the procedure of a law or of the nearest class that it derives from; None for a plain formula."""
    for ancestor in law.__mro__:
        if ancestor in PROCEDURES:
            return PROCEDURES[ancestor]
    return None
