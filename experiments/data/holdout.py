"""Read the held-out part of a corpus."""

from collections.abc import Sequence

import numpy as np

from experiments.data.batches import _Mixture, _records
from experiments.data.manifest import Manifest
from experiments.data.options import Data
from models.errors import InputError


class Holdout:
    """The evaluation sequences of a run, in one order that depends on nothing but the manifests, weights and length.

    `holdout[low:high]` gives tokens [n, seq_len + 1] and target_bytes [n, seq_len]: how many bytes of text each
    target stands for (0 for separators), so that bits per byte is exact for any tokenizer. Any prefix of the order
    is a fair sample of each corpus and holds the corpora in proportion. `corpus[i]` is the number of the corpus
    that sequence i comes from.
    """

    def __init__(self, manifests: Sequence[Manifest], data: Data, seq_len: int):
        _Mixture(manifests, data, seq_len)  # for its checks
        streams = [m.open("holdout.npy") for m in manifests]
        self._tokens = [_records(stream, seq_len) for stream in streams]
        for manifest, view in zip(manifests, self._tokens, strict=True):
            if len(view) == 0:
                raise InputError(
                    f"data.holdout={data.holdout}: {manifest.source!r} has {manifest.holdout.tokens} held-out tokens,"
                    f" less than one sequence of {seq_len + 1}; hold out more"
                )
        self._bytes = [
            _records(m.open("holdout_bytes.npy"), seq_len) if "holdout_bytes.npy" in m.files else None
            for m in manifests
        ]
        self.seq_len = seq_len
        sizes = [len(view) for view in self._tokens]
        weights = data.weights or sizes
        keys = np.concatenate([(np.arange(size) + 0.5) / weight for size, weight in zip(sizes, weights, strict=True)])
        corpus = np.repeat(np.arange(len(sizes)), sizes)
        row = np.concatenate([np.argsort(_scramble(size), kind="stable") for size in sizes])
        first_end = min(size / weight for size, weight in zip(sizes, weights, strict=True))
        order = np.argsort(keys, kind="stable")[: np.count_nonzero(keys < first_end)]
        self.corpus, self._row = corpus[order], row[order]

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, which: slice) -> tuple[np.ndarray, np.ndarray]:
        corpus, row = self.corpus[which], self._row[which]
        tokens = np.empty((len(row), self.seq_len + 1), self._tokens[0].dtype)
        sizes = np.empty((len(row), self.seq_len), np.int32)
        for index, (view, lengths) in enumerate(zip(self._tokens, self._bytes, strict=True)):
            chosen = corpus == index
            tokens[chosen] = view[row[chosen]]
            sizes[chosen] = tokens[chosen, 1:] < 256 if lengths is None else lengths[row[chosen], 1:]
        return tokens, sizes


def _scramble(size: int) -> np.ndarray:
    """Hashes of 0 to size-1 (splitmix64 of Steele, Lea and Flood 2014): an order that no library version can change."""
    z = (np.arange(size, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
