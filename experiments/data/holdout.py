"""Read the held-out part of a corpus."""

from collections.abc import Sequence

import numpy as np

from experiments.data.batches import check_together, record_view
from experiments.data.manifest import Manifest
from experiments.data.options import Data
from models.errors import InputError

BYTES = 256  # values of a byte

# Of splitmix64 (Steele, Lea and Flood 2014).
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST_MIXER = np.uint64(0xBF58476D1CE4E5B9)
SECOND_MIXER = np.uint64(0x94D049BB133111EB)


class Holdout:
    """The evaluation sequences of a run, in one order that depends on nothing but the manifests, weights and length.

    `weights`: the shares of the corpora; empty: by the sizes of their held-out texts. The mixture that is trained on
    has no say, so that runs of any mixture can be compared.

    `holdout[low:high]` gives tokens [n, seq_len + 1] and target_bytes [n, seq_len]: how many bytes of text each
    target stands for (0 for separators), so that bits per byte is exact for any tokenizer. Any prefix of the order
    is a fair sample of each corpus and holds the corpora in proportion. `corpus[i]` is the number of the corpus
    that sequence i comes from.
    """

    def __init__(self, manifests: Sequence[Manifest], data: Data, seq_len: int, weights: Sequence[float] = ()):
        check_together(manifests, data, seq_len)
        self.seq_len = seq_len
        self._tokens: list[np.ndarray] = []  # of each corpus, [records, seq_len + 1]
        self._bytes: list[np.ndarray | None] = []
        for manifest in manifests:
            self._tokens.append(held_out(manifest, data, seq_len))
            self._bytes.append(_bytes_of(manifest, seq_len))
        sizes = [len(view) for view in self._tokens]
        self.corpus, self._row = _order(sizes, weights or sizes)

    def __len__(self) -> int:
        """Return how many sequences there are."""
        return len(self.corpus)

    def __getitem__(self, which: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and target_bytes of a range of sequences."""
        corpus = self.corpus[which]
        row = self._row[which]
        count = len(row)
        tokens = np.empty((count, self.seq_len + 1), self._tokens[0].dtype)
        sizes = np.empty((count, self.seq_len), np.int32)
        for index, view in enumerate(self._tokens):
            chosen = corpus == index
            rows = row[chosen]
            tokens[chosen] = view[rows]
            lengths = self._bytes[index]
            if lengths is None:
                # Tokens are bytes; the id of the separator is behind all of them.
                sizes[chosen] = tokens[chosen, 1:] < BYTES
            else:
                sizes[chosen] = lengths[rows, 1:]
        return tokens, sizes


def held_out(manifest: Manifest, data: Data, seq_len: int) -> np.ndarray:
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
    ends = []
    for size, weight in zip(sizes, weights, strict=True):
        keys.append((np.arange(size) + 0.5) / weight)
        rows.append(np.argsort(_scramble(size), kind="stable"))
        ends.append(size / weight)
    key = np.concatenate(keys)
    before_first_end = np.count_nonzero(key < min(ends))
    order = np.argsort(key, kind="stable")
    order = order[:before_first_end]
    corpus = np.repeat(np.arange(len(sizes)), sizes)
    row = np.concatenate(rows)
    return corpus[order], row[order]


def _scramble(size: int) -> np.ndarray:
    """Return hashes of 0 to size-1 by splitmix64: an order that no library version can change."""
    z = np.arange(1, size + 1, dtype=np.uint64) * GOLDEN
    z ^= z >> np.uint64(30)
    z *= FIRST_MIXER
    z ^= z >> np.uint64(27)
    z *= SECOND_MIXER
    z ^= z >> np.uint64(31)
    return z
