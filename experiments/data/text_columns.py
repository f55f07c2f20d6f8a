"""Give the columns of a record that say what is known of the text a run was trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.data import lossless, true_entropy
from experiments.data.manifest import Manifest


def columns(manifests: Sequence[Manifest], tokens: int, evaluated: np.ndarray) -> dict[str, Any]:
    """Return the columns.

    tokens: how many the run has read; how much text they are is known of one corpus alone.
    evaluated: number of the corpus that each held-out sequence is from.
    """
    found: dict[str, Any] = {"lossless": lossless.smallest_share(manifests)}
    if len(manifests) == 1:
        found["text_bytes"] = manifests[0].text_bytes(tokens)
    return found | true_entropy.columns(manifests, evaluated)
