"""Say how much there is to learn of a text whose process is known: its true entropy, per token of a tokenizer.

A source says it per character, the end of a document being one (experiments/data/sources/synthetic). That of a token follows
from how many tokens the characters became: a tokenizer that loses nothing changes no document's probability.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from experiments.data.manifest import Manifest, Split


def of_source(nats: float, error: float, method: str) -> dict[str, Any]:
    """Return what a source says in the details of a manifest. `error`: the standard error, 0 where it is exact."""
    return {"nats_per_character": nats, "standard_error": error, "method": method}


def per_token(
    details: Mapping[str, Any], characters: int, splits: Sequence[Split], lossless: float
) -> tuple[float | None, float | None]:
    """Return the entropy per token and its standard error; None where they are not known, or text is lost.

    `characters`: of the text of all splits. Between documents stands a token, which is the end of one.
    """
    known = details.get("entropy")
    if known is None or lossless < 1:
        return None, None
    documents = sum(split.documents for split in splits)
    tokens = sum(split.tokens for split in splits)
    characters_per_token = (characters + documents) / tokens
    return known["nats_per_character"] * characters_per_token, known["standard_error"] * characters_per_token


def columns(manifests: Sequence[Manifest], corpus: np.ndarray) -> dict[str, Any]:
    """Return grid columns: the entropy of what a run is evaluated on, where that of every corpus is known.

    `corpus`: number of the corpus that each evaluated sequence is from.
    """
    nats = []
    errors = []
    for manifest in manifests:
        if manifest.entropy_nats is None or manifest.entropy_nats_error is None:
            return {}
        nats.append(manifest.entropy_nats)
        errors.append(manifest.entropy_nats_error)
    shares = np.bincount(corpus, minlength=len(manifests)) / len(corpus)
    mean = float(shares @ nats)
    found = {
        "entropy_nats": mean,
        "entropy_nats_error": math.hypot(*(shares * errors)),
        "entropy_bits_per_byte": mean / math.log(2) * _tokens_per_byte(manifests, shares),
    }
    if len(manifests) > 1:
        for number, own in enumerate(nats, start=1):
            found[f"entropy_part_{number}"] = own
    return found


def _tokens_per_byte(manifests: Sequence[Manifest], shares: np.ndarray) -> float:
    """Return how many tokens stand for a byte of text, where corpora have these shares of the tokens."""
    bytes_per_token = []
    for manifest in manifests:
        tokens = manifest.train.tokens + manifest.holdout.tokens
        text_bytes = manifest.train.bytes + manifest.holdout.bytes
        bytes_per_token.append(text_bytes / tokens)
    return 1 / float(shares @ bytes_per_token)
