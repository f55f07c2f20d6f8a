"""Read token batches as a function of (manifest, seed, step).

There is no iterator state: a resumed or rescaled run sees the same tokens.

`prepare` makes the streams that are read here; this file opens them and says which record is where. A record of L+1
tokens starts at every L-th token of a stream, so each token is a target once per epoch; records may cross
documents, which a separator token keeps apart.
"""

from collections.abc import Sequence
from fractions import Fraction
import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from experiments.data.manifest import Manifest
from experiments.data.options import Data
from experiments.data.order import Order
from models.errors import InputError

Manifests = Sequence[Manifest]
COUNTED_AT_ONCE = 1 << 20  # records, whose places take some bytes each


class Mixture:
    """Record counts and shares of a mixture, for one record length.

    `whole` counts the records of each corpus, `rows` those that a run may train on, `repeats` says whether it may read
    them again, `weights` are the shares of the corpora as integers. Raises InputError for a mixture that cannot be.
    """

    def __init__(self, manifests: Manifests, data: Data, seq_len: int):
        check_together(manifests, data, seq_len)
        there = [manifest.train.tokens for manifest in manifests]
        self.whole = [record_count(count, seq_len) for count in there]
        self.weights = _integers(data.weights or there)
        self.rows = list(self.whole)
        # Which parts may be read again.
        self.repeats = [data.unique_tokens is not None] * len(there)
        if data.unique_tokens is not None:
            total = sum(self.weights)
            shares = [data.unique_tokens * weight // total for weight in self.weights]
            self._leave(shares, f"data.unique_tokens={data.unique_tokens}", manifests, seq_len)
        elif data.unique:
            self.repeats = [tokens is not None for tokens in data.unique]
            self._leave(data.unique, f"data.unique={data.unique!r}", manifests, seq_len)

    def _leave(self, unique: Sequence[int | None], said: str, manifests: Manifests, seq_len: int) -> None:
        """Leave of each part its first so many tokens; None: all of it."""
        for index, tokens in enumerate(unique):
            if tokens is not None:
                self.rows[index] = tokens // seq_len
        enough = [some <= there for some, there in zip(self.rows, self.whole, strict=True)]
        if not all(enough):
            tokens = [f"{manifest.source} {manifest.train.tokens}" for manifest in manifests]
            sizes = ", ".join(tokens)
            raise InputError(f"{said}: more than the corpus holds in this mixture ({sizes} tokens)")


def check_together(manifests: Manifests, data: Data, seq_len: int) -> None:
    """Raise InputError for corpora whose tokens are not of one kind, or for sequences of no length."""
    if len(manifests) != len(data.corpus):
        raise ValueError(f"{len(manifests)} manifests for {len(data.corpus)} corpora")
    if seq_len < 1:
        raise InputError(f"seq_len={seq_len!r}: expected a positive number of tokens")
    tokenizers = {(manifest.tokenizer_sha256, manifest.vocab_size) for manifest in manifests}
    if len(tokenizers) > 1:
        raise InputError(
            f"data.corpus={data.corpus!r}: prepared with different tokenizers; run `experiments.prepare` again"
        )


def record_count(tokens: int, seq_len: int) -> int:
    """Return how many records a stream has: its first token is no target."""
    return max(tokens - 1, 0) // seq_len


def _integers(weights: Sequence[float]) -> list[int]:
    """Return the weights as integers in the same proportion, exact for decimal fractions."""
    shares = [Fraction(weight).limit_denominator(10**6) for weight in weights]
    if not all(shares):
        raise InputError(f"data.weights={tuple(weights)!r}: expected numbers of at least 1e-6")
    scale = math.lcm(*(share.denominator for share in shares))
    whole = [int(share * scale) for share in shares]
    divisor = math.gcd(*whole)
    return [weight // divisor for weight in whole]


def tokens_available(manifests: Manifests, data: Data, seq_len: int) -> int:
    """Return how many tokens a run may train on before it sees one again (a mixture: before any corpus repeats)."""
    mixture = Mixture(manifests, data, seq_len)
    if not data.weights:
        return sum(mixture.rows) * seq_len
    total = sum(mixture.weights)
    until_repeat = []  # records of the mixture until a corpus begins again
    for rows, weight in zip(mixture.rows, mixture.weights, strict=True):
        until_repeat.append(rows * total // weight)
    return min(until_repeat) * seq_len


def records_of_parts(weights: Sequence[int], records: int) -> list[int]:
    """Return how many of a run's first so many records are of each part of a weighted mixture."""
    counts = []
    rest = records
    left = sum(weights)
    for weight in weights:  # as `_interleave` divides them
        behind = rest * (left - weight) // left
        counts.append(rest - behind)
        rest = behind
        left = max(left - weight, 1)
    return counts


def check_enough(manifests: Manifests, data: Data, tokens: int, seq_len: int) -> None:
    """Raise InputError when a run would repeat tokens without having asked for it, or a part of a mixture is empty."""
    mixture = Mixture(manifests, data, seq_len)
    for index, manifest in enumerate(manifests):
        if mixture.rows[index] == 0:
            raise InputError(
                f"data.corpus {manifest.source!r}: {_few(manifest, data, index)} tokens are less than one sequence of"
                f" {seq_len + 1}"
            )
    if data.unique_tokens is not None:
        return
    if data.weights:
        _check_parts(manifests, data, mixture, tokens, seq_len)
        return
    there = tokens_available(manifests, data, seq_len)
    if tokens > there:
        raise InputError(
            f"tokens={tokens}: the corpus ({', '.join(data.corpus)}) has {there} for sequences of {seq_len}; take fewer"
            f" or add text, or say that it may repeat: data.unique_tokens={there}"
        )


def _few(manifest: Manifest, data: Data, index: int) -> int:
    """Return the tokens of a corpus that are too few."""
    there = manifest.train.tokens
    asked = data.unique[index] if data.unique else data.unique_tokens
    return min(there, asked or there)


def _check_parts(manifests: Manifests, data: Data, mixture: Mixture, tokens: int, seq_len: int) -> None:
    """Raise InputError when a weighted mixture would read a part again that may be read once only."""
    needed = records_of_parts(mixture.weights, -(-tokens // seq_len))
    allowed = list(data.unique or [None] * len(manifests))
    lacking = []
    for index, manifest in enumerate(manifests):
        rows = mixture.rows[index]
        if needed[index] > rows and not mixture.repeats[index]:
            lacking.append(f"{needed[index] * seq_len} of {manifest.source!r}, which has {rows * seq_len}")
            allowed[index] = rows * seq_len
    if lacking:
        raise InputError(
            f"tokens={tokens}: data.weights={data.weights!r} take {' and '.join(lacking)} for sequences of {seq_len};"
            f" take fewer or add text, or say which part may repeat: data.unique={tuple(allowed)!r}"
        )


class Batches:
    """`batches[step]` is the global batch of that step: tokens [batch, seq_len + 1] in the stored integer type.

    A pure function of (manifests, data, seq_len, batch, seed, step). Records are shuffled globally and anew each
    epoch (experiments/data/order.py). Without weights an epoch holds every record of every corpus once. With
    weights each corpus has its own epochs, and any stretch of records holds its share as nearly as whole records
    allow. `part` gives only some rows of the batch, for hosts that feed a part of it; `records` any stretch of the
    run's sequence of records.
    """

    def __init__(self, manifests: Manifests, data: Data, seq_len: int, batch: int, seed: int):
        if batch < 1:
            raise InputError(f"batch={batch!r}: expected a positive number of sequences")
        if seed < 0:
            raise InputError(f"seed={seed!r}: expected zero or more")
        check_enough(manifests, data, 0, seq_len)
        mixture = Mixture(manifests, data, seq_len)
        self.batch = batch
        self.seq_len = seq_len
        self.rows_of_parts = mixture.rows
        self.rows = sum(mixture.rows)  # records per epoch
        weighted = bool(data.weights) and len(manifests) > 1
        self._weights = mixture.weights if weighted else None
        # Where each corpus ends and begins among the records of an epoch, without weights.
        self._ends = np.cumsum(mixture.rows)
        self._starts = np.concatenate([[0], self._ends])
        # One order for all records, or one a corpus. The seed is hashed, because an order adds the epoch to it.
        sizes = mixture.rows if weighted else [self.rows]
        seeds = np.random.SeedSequence([seed]).generate_state(len(sizes))
        self._orders = []
        for size, key in zip(sizes, seeds, strict=True):
            self._orders.append(Order(size, int(key)))
        self._views = []
        for manifest in manifests:
            stream = manifest.open("train.npy")
            self._views.append(record_view(stream, seq_len))
        self.dtype = self._views[0].dtype

    def __getitem__(self, step: int) -> np.ndarray:
        """Return the global batch of a step."""
        return self.part(step, 0, self.batch)

    def part(self, step: int, low: int, high: int) -> np.ndarray:
        """Return rows [low, high) of the batch of a step: [high - low, seq_len + 1]."""
        if step < 0 or not 0 <= low <= high <= self.batch:
            raise IndexError(f"step {step}, rows {low} to {high} of a batch of {self.batch}")
        first = step * self.batch
        return self.records(first + low, first + high)

    def records(self, start: int, stop: int) -> np.ndarray:
        """Return records [start, stop) of the run: [stop - start, seq_len + 1]."""
        corpus, row = self.locate(start, stop)
        if len(self._views) == 1:
            return self._views[0][row]
        shape = (stop - start, self.seq_len + 1)
        out = np.empty(shape, self.dtype)
        for index, view in enumerate(self._views):
            chosen = corpus == index
            out[chosen] = view[row[chosen]]
        return out

    def counts(self, records: int) -> list[int]:
        """Return how many of the run's first so many records are of each corpus, those that it reads again included."""
        if self._weights is not None:
            return records_of_parts(self._weights, records)
        epochs, rest = divmod(records, self.rows)
        counts = [epochs * rows for rows in self.rows_of_parts]
        if len(counts) == 1:
            return [records]
        begun = records - rest
        for start in range(begun, records, COUNTED_AT_ONCE):
            stop = min(start + COUNTED_AT_ONCE, records)
            corpus, _ = self.locate(start, stop)
            more = np.bincount(corpus, minlength=len(counts))
            counts = np.add(counts, more).tolist()
        return counts

    def locate(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which corpus and which of its records stand at positions [start, stop) of the run."""
        if self._weights is None:
            positions = np.arange(start, stop)
            record = self._orders[0].at(positions)
            corpus = np.searchsorted(self._ends, record, side="right")
            return corpus, record - self._starts[corpus]
        corpus, nth = _interleave(start, stop, self._weights)
        row = np.empty(stop - start, np.int64)
        for index, order in enumerate(self._orders):
            chosen = corpus == index
            row[chosen] = order.at(nth[chosen])
        return corpus, row


def _interleave(start: int, stop: int, weights: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return for positions [start, stop) of a mixture which part stands there, and the how-many-eth of it that is.

    Of the first k positions, ceil(k w / total) are the first part's; the others share the rest in the same way. So
    every prefix holds its shares to within one record per part and division, and no state is needed to know what
    stands where.
    """
    part = np.full(stop - start, -1)
    nth = np.zeros(stop - start, np.int64)
    left = sum(weights)
    fits = stop * left < 2**63
    # Python's integers where products may pass 64 bits.
    positions = np.arange(start, stop + 1, dtype=np.int64 if fits else object)
    for index, weight in enumerate(weights):
        rest = positions * (left - weight) // left
        mine = positions - rest
        before = mine[:-1]
        after = mine[1:]
        # Where the part's count rises, a position is the part's, unless an earlier part has it.
        rises = (after > before).astype(bool)
        chosen = (part < 0) & rises
        part[chosen] = index
        nth[chosen] = before[chosen].astype(np.int64)
        positions = rest
        left = max(left - weight, 1)
    return part, nth


def record_view(stream: np.ndarray, seq_len: int) -> np.ndarray:
    """Return all records of a stream as a view [records, seq_len + 1].

    The last target of one record is the first input of the next.
    """
    step = stream.dtype.itemsize
    shape = (record_count(len(stream), seq_len), seq_len + 1)
    strides = (seq_len * step, step)
    return as_strided(np.asarray(stream), shape, strides, writeable=False)
