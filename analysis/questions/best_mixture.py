"""Find the mixture of data that a fitted law of mixtures likes best.

Mixtures are drawn around the prior, the shares of the data that there is, and the best ones are averaged (RegMix, Liu
et al. 2024): far from the prior there are few draws, so that a part with little data cannot take over.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.grid import numerals
from analysis.laws.mixing import BoostedMixing, LinearMixing, Mixing, best_mixture
from analysis.questions.predict import Fitted, predict
from analysis.writing.strict_json import finite_or_null
from experiments.cli import InputError

SCHEMA = 2


def parse_prior(text: str) -> dict[str, float]:
    """Read `web=0.6,code=0.4`. Raises InputError where it is not that."""
    return numerals.numbers_by_name(text, "--prior", "PART=SHARE", "web=0.6,code=0.4")


def best(fitted: Fitted, prior: Mapping[str, float], draws: int, top: int, seed: int) -> dict[str, Any]:
    """Find the best mixture. Returns it, its predicted target with interval, and that of the prior, ready for JSON."""
    law = fitted.law
    if not isinstance(law, Mixing | LinearMixing | BoostedMixing):
        raise InputError(
            f"FIT: {law.NAME} is not a law of shares; expected a fit of mixing, mixing_linear or mixing_lightgbm"
        )
    found = best_mixture(law, prior, draws, top, seed)
    parts = law.PARTS["share"]
    mixture = {part: float(share) for part, share in zip(parts, found, strict=True)}
    total = sum(prior.values())
    scaled_prior = {part: prior[part] / total for part in parts}
    prediction = predict(fitted, {f"share_{part}": share for part, share in mixture.items()})
    interval = None
    if prediction.interval is not None:
        ends = prediction.interval
        interval = {"level": ends.level, "low": ends.low, "high": ends.high}
    described = {
        "schema": SCHEMA,
        "verdict": fitted.verdict.to_json(),
        "law": law.NAME,
        "mixture": mixture,
        "prediction": prediction.loss,
        "interval": interval,
        "why_no_interval": dict(prediction.why),
        "prediction_of_prior": float(law.predict(np.array(list(scaled_prior.values())))),
        "prior": scaled_prior,
        "options": {"draws": draws, "top": top, "seed": seed},
    }
    return finite_or_null(described)
