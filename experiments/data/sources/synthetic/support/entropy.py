"""Know how much there is to learn: the entropy of a process, exact or estimated.

All is per character, and the end of a document counts as one, as the token that stands between documents does.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np
from scipy.special import xlogy

EXACT = "exact"
TRIAL_BLOCKS = 8
TRIAL_DOCUMENTS = 256  # of a block, from which an entropy is estimated


@dataclasses.dataclass(frozen=True)
class Entropy:
    """Nats per character of a process. `error`: the standard error where that is an estimate; `method`: in words."""

    nats: float
    error: float = 0.0
    method: str = EXACT


def of(probability: np.ndarray) -> np.ndarray:
    """Return the entropy, in nats, of each distribution along the last axis."""
    positive = np.where(probability > 0, probability, 1.0)
    return -(probability * np.log(positive)).sum(-1)


def of_coin(share: float) -> float:
    """Return the entropy, in nats, of what happens with this probability."""
    return float(of(np.array([share, 1 - share])))


def of_length(mean: float) -> float:
    """Return the entropy, in nats, of a geometric length (1, 2, …) of this mean."""
    return of_coin(1 / mean) * mean


def nats_of_lengths(lengths: Any, mean: float) -> Any:
    """Return -log(probability), in nats, of geometric lengths of this mean."""
    ends = 1 / mean
    goes_on = 1 - ends
    return -xlogy(lengths - 1, goes_on) - np.log(ends)


def estimated(nats: Sequence[float] | np.ndarray, characters: Sequence[int] | np.ndarray, how: str) -> Entropy:
    """Estimate nats per character from independent documents: their -log(probability), and their characters.

    The error of this ratio of means is that of its linear part.
    """
    nats = np.asarray(nats, np.float64)
    characters = np.asarray(characters, np.float64)
    rate = nats.sum() / characters.sum()
    residuals = nats - rate * characters
    error = np.std(residuals, ddof=1) / math.sqrt(len(nats)) / characters.mean()
    return Entropy(float(rate), float(error), f"estimated from {len(nats)} documents: {how}")
