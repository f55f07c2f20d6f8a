"""Read the held-out part of a corpus."""

from collections.abc import Sequence

import numpy as np

from experiments.data.batches import Mixture, record_view
from experiments.data.manifest import Manifest
from experiments.data.options import Data
from models.errors import InputError

# Of splitmix64 (Steele, Lea and Flood 2014).
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST_MIXER = np.uint64(0xBF58476D1CE4E5B9)
SECOND_MIXER = np.uint64(0x94D049BB133111EB)


class Holdout:
    """The evaluation sequences of a run, in one order that depends on nothing but the manifests, weights and length.

    `holdout[low:high]` gives tokens [n, seq_len + 1] and target_bytes [n, seq_len]: how many bytes of text each
    target stands for (0 for separators), so that bits per byte is exact for any tokenizer. Any prefix of the order
    is a fair sample of each corpus and holds the corpora in proportion. `corpus[i]` is the number of the corpus
    that sequence i comes from.
    """

    def __init__(self, manifests: Sequence[Manifest], data: Data, seq_len: int):
        Mixture(manifests, data, seq_len)  # for its checks
        self.seq_len = seq_len
        self._tokens = [_held_out(manifest, data, seq_len) for manifest in manifests]
        self._bytes = [_bytes_of(manifest, seq_len) for manifest in manifests]
        sizes = [len(view) for view in self._tokens]
        self.corpus, self._row = _order(sizes, data.weights or sizes)

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, which: slice) -> tuple[np.ndarray, np.ndarray]:
        corpus = self.corpus[which]
        row = self._row[which]
        tokens = np.empty((len(row), self.seq_len + 1), self._tokens[0].dtype)
        sizes = np.empty((len(row), self.seq_len), np.int32)
        for index, (view, lengths) in enumerate(zip(self._tokens, self._bytes, strict=True)):
            chosen = corpus == index
            tokens[chosen] = view[row[chosen]]
            if lengths is None:  # tokens are bytes, and the separator is behind all of them
                sizes[chosen] = tokens[chosen, 1:] < 256
            else:
                sizes[chosen] = lengths[row[chosen], 1:]
        return tokens, sizes


def _held_out(manifest: Manifest, data: Data, seq_len: int) -> np.ndarray:
    """Return the held-out records of a corpus. Raises InputError when there is none."""
    view = record_view(manifest.open("holdout.npy"), seq_len)
    if len(view) == 0:
        raise InputError(
            f"data.holdout={data.holdout}: {manifest.source!r} has {manifest.holdout.tokens} held-out tokens,"
            f" less than one sequence of {seq_len + 1}; hold out more"
        )
    return view


def _bytes_of(manifest: Manifest, seq_len: int) -> np.ndarray | None:
    """Return how many bytes each token of the held-out records stands for; None where tokens are bytes."""
    if "holdout_bytes.npy" not in manifest.files:
        return None
    return record_view(manifest.open("holdout_bytes.npy"), seq_len)


def _order(sizes: Sequence[int], weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return corpus and row of each sequence: shuffled within a corpus, the corpora interleaved by weight.

    The k-th sequence of a corpus has the key (k + 1/2) / weight; the order ends where the first corpus does.
    """
    keys = []
    rows = []
    for size, weight in zip(sizes, weights, strict=True):
        keys.append((np.arange(size) + 0.5) / weight)
        rows.append(np.argsort(_scramble(size), kind="stable"))
    first_end = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    key = np.concatenate(keys)
    order = np.argsort(key, kind="stable")[: np.count_nonzero(key < first_end)]
    corpus = np.repeat(np.arange(len(sizes)), sizes)
    return corpus[order], np.concatenate(rows)[order]


def _scramble(size: int) -> np.ndarray:
    """Return hashes of 0 to size-1 by splitmix64: an order that no library version can change."""
    z = (np.arange(size, dtype=np.uint64) + np.uint64(1)) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * FIRST_MIXER
    z = (z ^ (z >> np.uint64(27))) * SECOND_MIXER
    return z ^ (z >> np.uint64(31))
