"""The mixture of data that a fitted law of mixtures likes best.

    python -m analysis.best_mixture fit.json --prior="web=0.6,code=0.3,books=0.1" [--json=best.json]

Mixtures are drawn around the prior, the shares of the data that there is, and the best ones are averaged (RegMix, Liu
et al. 2024): far from the prior there are few draws, so that a part with little data cannot take over.
"""

from typing import Any

from experiments.cli import InputError

SCHEMA = 1


def parse_prior(text: str) -> dict[str, float]:
    """`web=0.6,code=0.4` as numbers; InputError where it is not that."""
    found: dict[str, float] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = (side.strip() for side in piece.partition("="))
        try:
            share = float(value)
        except ValueError:
            raise InputError(f"--prior: {piece!r} is not PART=SHARE, for example web=0.6") from None
        if name in found:
            raise InputError(f"--prior: {name} is given twice")
        found[name] = share
    return found


def best(fitted: Any, prior: dict[str, float], draws: int, top: int, seed: int) -> dict[str, Any]:
    """The best mixture, its predicted target with its interval, and that of the prior itself, ready for JSON."""
    import numpy as np

    from analysis.laws.mixing import best_mixture
    from analysis.questions.predict import predict

    law = fitted.law
    if "share" not in law.PARTS:
        raise InputError(
            f"FIT: {law.NAME} is not a law of shares; expected a fit of mixing, mixing_linear or mixing_lightgbm"
        )
    share = best_mixture(law, prior, draws, top, seed)
    parts = law.PARTS["share"]
    total = sum(prior.values())
    found = predict(fitted, {f"share_{part}": float(value) for part, value in zip(parts, share, strict=True)})
    interval = found.interval
    return {
        "schema": SCHEMA,
        "law": law.NAME,
        "mixture": {part: float(value) for part, value in zip(parts, share, strict=True)},
        "prediction": found.loss,
        "interval": None if interval is None else {"level": interval.level, "low": interval.low, "high": interval.high},
        "prediction_of_prior": float(law.predict(np.array([prior[part] / total for part in parts]))),
        "prior": {part: prior[part] / total for part in parts},
        "options": {"draws": draws, "top": top, "seed": seed},
    }
