"""Loss curves for tests of early stopping: recorded ones of small studies, and planted ones.

The recorded ones (tests/golden/recorded_curves.npz) are of dense models of width 16 and 48 and depth 2, 1,500 steps of 512
tokens of the embedded text, at seven learning rates from 3e-4 to 0.3: cosine, warm-up-stable-decay and constant rates, five
weight decays, and one sweep with hardly any warm-up and without clipping.
"""

from collections.abc import Mapping
import json
import math

import numpy as np

from sweeps.work.curves import Curve
from sweeps.work.replay import Recorded
from sweeps.work.rivals import Rival
from tests.support.paths import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden" / "recorded_curves.npz"


def recorded() -> dict[str, list[Recorded]]:
    """Return the recorded groups by name."""
    with np.load(GOLDEN) as stored:
        steps = stored["steps"]
        losses = stored["losses"].astype(float)
        runs = json.loads(str(stored["runs"]))
    groups: dict[str, list[Recorded]] = {}
    for curve, run in zip(losses, runs, strict=True):
        rival = Rival(
            key=run["name"],
            name=run["name"],
            curve=Curve(steps, curve),
            steps=int(steps[-1]),
            rate=run["rate"],
            other_options=run["other_options"],
            decays=run["decays"],
        )
        groups.setdefault(run["group"], []).append(Recorded(rival, run["loss"]))
    return groups


def rival(name: str, losses: np.ndarray, steps: int, rate: float = 1e-2, **more: object) -> Rival:
    """A run with a loss for every tenth step, so far."""
    at = 10 * np.arange(1, len(losses) + 1)
    values: dict[str, object] = {"other_options": "", "decays": False} | more
    return Rival(name, name, Curve(at, losses), steps, rate, **values)  # pyright: ignore[reportArgumentType]


DECAYS: Mapping[str, object] = {
    "constant": lambda u: np.ones_like(u),
    "cosine": lambda u: 0.55 + 0.45 * np.cos(np.pi * u),
    "wsd": lambda u: np.clip((1 - u) / 0.2, 0.1, 1.0),
}


def planted(draw: np.random.Generator, schedule: str, steps: int = 2000) -> list[Recorded]:
    """Make a group of six rates: a power law of the sum of the rates, and noise that falls with the rate.

    L = E + A S^-alpha + c r, S the sum of the learning rates r so far (Tissue et al. 2024 without momentum); large rates
    therefore lie above small ones until they decay, and cross them. Rates above a threshold diverge, some of them late.
    """
    at = np.arange(10, steps + 1, 10)
    factor = DECAYS[schedule](at / steps)  # pyright: ignore[reportCallIssue]
    floor, scale, alpha = draw.uniform(1.5, 2.5), draw.uniform(0.5, 2), draw.uniform(0.3, 0.7)
    annealed, noise = draw.uniform(1, 12), draw.uniform(0.005, 0.04)
    breaks_above = draw.uniform(2e-2, 2e-1)
    group = []
    for rate in np.geomspace(1e-3, 1e-1, 6):
        clean = floor + scale * np.cumsum(10 * rate * factor) ** -alpha + annealed * rate * factor
        losses = clean + draw.normal(0, noise, len(at))
        loss = float(clean[-1])
        if rate > breaks_above:
            losses = losses[: draw.integers(20, len(at) - 5)]
            loss = math.nan
        decays = schedule != "constant"
        group.append(Recorded(rival(f"{rate:.2g}", losses, steps, float(rate), decays=decays), loss))
    return group
