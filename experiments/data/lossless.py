"""Tell what a tokenizer loses: every document is decoded again and compared with its text.

A tokenizer that loses text (unknown words, case, accents, spaces) has an easier text to predict, and its bits per byte
compare with those of no other.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.data.manifest import Manifest
from experiments.data.options import Data
from experiments.data.tokenizer import Tokenizer
from models.errors import InputError

SHOWN = 30  # characters of an example
BEFORE = 8  # of them before the first that is lost


class RoundTrip:
    """Count the documents that a tokenizer gives back as they were. Raises InputError for a loss that is not allowed.

    `name`: of the corpus.
    """

    def __init__(self, codec: Tokenizer, data: Data, name: str):
        self._codec = codec
        self._data = data
        self._name = name
        self._documents = 0
        self._returned = 0
        self._lost: tuple[str, str] | None = None

    @property
    def share(self) -> float:
        """Return the share of documents that decode back."""
        return self._returned / self._documents if self._documents else 1.0

    @property
    def details(self) -> dict[str, Any]:
        """Return what a manifest tells its reader of a loss: an example."""
        return {} if self._lost is None else {"lost": list(self._lost)}

    def add(self, texts: Sequence[str], pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Compare documents with what their tokens decode to."""
        for text, (ids, _) in zip(texts, pairs, strict=True):
            self._documents += 1
            decoded = self._codec.decode(ids)
            if decoded == text:
                self._returned += 1
            elif self._lost is None:
                self._lost = _place(text, decoded)
        if self._lost is not None and not self._data.lossy:
            of = f"the first {self._documents:,} documents of {self._name!r}"
            raise _refusal(self._data, self.share, of, self._lost)


def _place(text: str, decoded: str) -> tuple[str, str]:
    """Return a text and what it became, around the first character that differs."""
    pairs = zip(text, decoded, strict=False)
    differing = (at for at, (one, other) in enumerate(pairs) if one != other)
    first = next(differing, min(len(text), len(decoded)))
    start = max(0, first - BEFORE)
    return text[start : start + SHOWN], decoded[start : start + SHOWN]


def _refusal(data: Data, share: float, of: str, lost: Sequence[str]) -> InputError:
    """Return the error for a tokenizer that loses text."""
    text, decoded = lost
    return InputError(
        f"data.tokenizer={data.tokenizer!r} loses text: {percent(share)} of {of} decode back, {text!r} becomes {decoded!r}; "
        "take one that loses nothing, or say data.lossy=True"
    )


def percent(share: float) -> str:
    """Return a share in percent; only all of it is 100%."""
    text = f"{share:.1%}"
    return text if text != "100.0%" or share == 1 else "less than 100%"


def check_allowed(manifest: Manifest, data: Data) -> None:
    """Raise InputError when a prepared corpus has lost text and `data` does not allow that."""
    share = manifest.lossless
    if share is not None and share < 1 and not data.lossy:
        raise _refusal(data, share, f"the documents of {manifest.source!r}", manifest.details["lost"])


def smallest_share(manifests: Iterable[Manifest]) -> float | None:
    """Return the share of documents that decode back, of the corpus with the smallest; None where one is not known."""
    shares = []
    for manifest in manifests:
        if manifest.lossless is None:
            return None
        shares.append(manifest.lossless)
    return min(shares)
