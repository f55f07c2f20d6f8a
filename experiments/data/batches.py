"""Token batches as a function of (manifest, seed, step).

No iterator state: a resumed or rescaled run sees the same tokens.

`prepare` makes the streams that are read here; this file opens them and says which record is where. A record of L+1
tokens starts at every L-th token of a stream, so each token is a target once per epoch; records may cross
documents, which a separator token keeps apart. Nothing heavy is imported before the first `Batches`.
"""

from collections.abc import Sequence
from fractions import Fraction
import math

import numpy as np

from experiments.data.manifest import Manifest
from experiments.data.options import Data
from models.errors import InputError


class _Mixture:
    """Record counts and shares of a mixture, for one record length."""

    def __init__(self, manifests: Sequence[Manifest], data: Data, seq_len: int):
        if len(manifests) != len(data.corpus):
            raise ValueError(f"{len(manifests)} manifests for {len(data.corpus)} corpora")
        if seq_len < 1:
            raise InputError(f"seq_len={seq_len!r}: expected a positive number of tokens")
        if len({(m.tokenizer_sha256, m.vocab_size) for m in manifests}) > 1:
            raise InputError(
                f"data.corpus={data.corpus!r}: prepared with different tokenizers; run `experiments.prepare` again"
            )
        self.whole = [max(m.train.tokens - 1, 0) // seq_len for m in manifests]
        self.weights = _integers(data.weights or [m.train.tokens for m in manifests])
        self.rows = list(self.whole)
        if data.unique_tokens is not None:
            total = sum(self.weights)
            self.rows = [data.unique_tokens * w // total // seq_len for w in self.weights]
            if any(some > there for some, there in zip(self.rows, self.whole, strict=True)):
                raise InputError(
                    f"data.unique_tokens={data.unique_tokens}: more than the corpus holds in this mixture"
                    f" ({', '.join(f'{m.source} {m.train.tokens}' for m in manifests)} tokens)"
                )


def _integers(weights: Sequence[float]) -> list[int]:
    """The weights as integers in the same proportion, exact for decimal fractions."""
    shares = [Fraction(w).limit_denominator(10**6) for w in weights]
    if not all(shares):
        raise InputError(f"data.weights={tuple(weights)!r}: expected numbers of at least 1e-6")
    scale = math.lcm(*(share.denominator for share in shares))
    whole = [int(share * scale) for share in shares]
    return [w // math.gcd(*whole) for w in whole]


def tokens_available(manifests: Sequence[Manifest], data: Data, seq_len: int) -> int:
    """How many tokens a run may train on before it sees one a second time (a mixture: before any corpus repeats)."""
    mixture = _Mixture(manifests, data, seq_len)
    if not data.weights:
        return sum(mixture.rows) * seq_len
    total = sum(mixture.weights)
    return min(rows * total // weight for rows, weight in zip(mixture.rows, mixture.weights, strict=True)) * seq_len


def check_enough(manifests: Sequence[Manifest], data: Data, tokens: int, seq_len: int) -> None:
    """Raise InputError when a run would repeat tokens without having asked for it, or a part of a mixture is empty."""
    mixture = _Mixture(manifests, data, seq_len)
    for manifest, rows in zip(manifests, mixture.rows, strict=True):
        if rows == 0:
            few = min(manifest.train.tokens, data.unique_tokens or manifest.train.tokens)
            raise InputError(
                f"data.corpus {manifest.source!r}: {few} tokens are less than one sequence of {seq_len + 1}"
            )
    if data.unique_tokens is not None:
        return
    there = tokens_available(manifests, data, seq_len)
    if tokens > there:
        raise InputError(
            f"tokens={tokens}: the corpus ({', '.join(data.corpus)}) has {there} for sequences of {seq_len}; take fewer"
            f" or add text, or say that it may repeat: data.unique_tokens={there}"
        )


class Batches:
    """`batches[step]` is the global batch of that step: tokens [batch, seq_len + 1] in the stored integer type.

    A pure function of (manifests, data, seq_len, batch, seed, step). Records are shuffled globally and anew each
    epoch by grain's random-access shuffle. Without weights an epoch holds every record of every corpus once. With
    weights each corpus has its own epochs, and any stretch of records holds its share as nearly as whole records
    allow. `part` gives only some rows of the batch, for hosts that feed a part of it; `records` any stretch of the
    run's sequence of records.
    """

    def __init__(self, manifests: Sequence[Manifest], data: Data, seq_len: int, batch: int, seed: int):
        import grain  # half of what it imports is jax; who trains has that already

        if batch < 1:
            raise InputError(f"batch={batch!r}: expected a positive number of sequences")
        if seed < 0:
            raise InputError(f"seed={seed!r}: expected zero or more")
        check_enough(manifests, data, 0, seq_len)
        mixture = _Mixture(manifests, data, seq_len)
        self.batch, self.seq_len = batch, seq_len
        self.rows = sum(mixture.rows)  # records per epoch
        self._weights = mixture.weights if data.weights and len(manifests) > 1 else None
        self._ends = np.cumsum(mixture.rows)
        sizes = mixture.rows if self._weights else [self.rows]
        seeds = np.random.SeedSequence([seed]).generate_state(
            len(sizes)
        )  # hashed: grain adds the epoch to the seed it is given
        self._orders = [
            grain.MapDataset.range(size).shuffle(int(key)).repeat() for size, key in zip(sizes, seeds, strict=True)
        ]
        self._views = [_records(m.open("train.npy"), seq_len) for m in manifests]
        self.dtype = self._views[0].dtype

    def __getitem__(self, step: int) -> np.ndarray:
        return self.part(step, 0, self.batch)

    def part(self, step: int, low: int, high: int) -> np.ndarray:
        """Rows [low, high) of the batch of a step: [high - low, seq_len + 1]."""
        if step < 0 or not 0 <= low <= high <= self.batch:
            raise IndexError(f"step {step}, rows {low} to {high} of a batch of {self.batch}")
        return self.records(step * self.batch + low, step * self.batch + high)

    def records(self, start: int, stop: int) -> np.ndarray:
        """Records [start, stop) of the run: [stop - start, seq_len + 1]."""
        corpus, row = self.locate(start, stop)
        if len(self._views) == 1:
            return self._views[0][row]
        out = np.empty((stop - start, self.seq_len + 1), self.dtype)
        for index, view in enumerate(self._views):
            chosen = corpus == index
            out[chosen] = view[row[chosen]]
        return out

    def locate(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Which corpus and which of its records stand at positions [start, stop) of the run."""
        if self._weights is None:
            order = self._orders[0]
            at = np.fromiter((order[i] for i in range(start, stop)), np.int64, stop - start)
            corpus = np.searchsorted(self._ends, at, side="right")
            return corpus, at - np.concatenate([[0], self._ends])[corpus]
        corpus, nth = _interleave(start, stop, self._weights)
        row = np.fromiter(
            (self._orders[c][n] for c, n in zip(corpus.tolist(), nth.tolist(), strict=True)), np.int64, stop - start
        )
        return corpus, row


def _interleave(start: int, stop: int, weights: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For positions [start, stop) of a mixture: which part stands there, and the how-many-eth of that part it is.

    Of the first k positions, ceil(k w / total) are the first part's; the others share the rest in the same way. So
    every prefix holds its shares to within one record per part and division, and no state is needed to know what
    stands where.
    """
    part, nth = np.full(stop - start, -1), np.zeros(stop - start, np.int64)
    positions = np.array(range(start, stop + 1), dtype=object)  # Python's integers: products may pass 64 bits
    left = sum(weights)
    for index, weight in enumerate(weights):
        rest = positions * (left - weight) // left
        mine = positions - rest
        chosen = (part < 0) & (mine[1:] > mine[:-1]).astype(bool)
        part[chosen], nth[chosen] = index, mine[:-1][chosen].astype(np.int64)
        positions, left = rest, max(left - weight, 1)
    return part, nth


def _records(stream: np.ndarray, seq_len: int) -> np.ndarray:
    """All records of a stream as a view [rows, seq_len + 1]; the last target of one is the first input of the next."""
    rows, step = max(len(stream) - 1, 0) // seq_len, stream.dtype.itemsize
    return np.lib.stride_tricks.as_strided(
        np.asarray(stream), (rows, seq_len + 1), (seq_len * step, step), writeable=False
    )
