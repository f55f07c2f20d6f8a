"""Token batches as a function of (manifest, seed, step).

No iterator state: a resumed or rescaled run sees the same tokens.

`prepare` makes the streams that are read here; this file opens them and says which record is where. A record of L+1
tokens starts at every L-th token of a stream, so each token is a target once per epoch; records may cross
documents, which a separator token keeps apart. Nothing heavy is imported before the first `Batches`.
"""

from collections.abc import Sequence
import dataclasses
from fractions import Fraction
import math
import os
import re

import numpy as np

from experiments.cli import InputError
from experiments.data.manifest import Manifest

SUFFIXES = (".txt", ".jsonl", ".parquet")


@dataclasses.dataclass(frozen=True)
class Data:
    """The text of a run and how it becomes tokens."""

    corpus: tuple[str, ...] = ("embedded",)
    """Each: "embedded" (or "embedded:MB" for another size than 32, "embedded/PACKAGE" for the text of one package),
    "tfds:NAME[/CONFIG]", or the path of a .txt, .jsonl or .parquet file, a folder or a glob of them."""
    weights: tuple[float, ...] = ()
    """Share of each corpus in the training records (any positive numbers); empty: by size."""
    tokenizer: str = "bytes"
    """"bytes", "bpe:4096" (trained on the corpus), the path of a `tokenizers` JSON, or of a SentencePiece .model."""
    text_field: str = "text"
    """Field of JSON lines, Parquet or TFDS rows that holds the text."""
    holdout: float = 0.02
    """Share of the documents (chosen by the hash of their text) that is held out for evaluation."""
    unique_tokens: int | None = None
    """Train on the first so many tokens only and repeat them (data-constrained runs); less is a prefix of more."""

    def check(self) -> None:
        """Raise InputError, naming the field, when a value cannot be right. Looks at no file."""
        if not self.corpus or not all(isinstance(name, str) and name for name in self.corpus):
            raise InputError(f"data.corpus={self.corpus!r}: expected one or more names or paths")
        if len(set(self.corpus)) < len(self.corpus):
            raise InputError(
                f"data.corpus={self.corpus!r}: a corpus is named twice; use data.weights to have more of it"
            )
        for name in self.corpus:
            _check_corpus(name)
        if self.weights and len(self.weights) != len(self.corpus):
            raise InputError(f"data.weights={self.weights!r}: expected {len(self.corpus)}, one per corpus, or none")
        if not all(isinstance(w, int | float) and 0 < w < math.inf for w in self.weights):
            raise InputError(f"data.weights={self.weights!r}: expected positive numbers")
        _check_tokenizer(self.tokenizer)
        if not self.text_field:
            raise InputError("data.text_field='': expected the name of a field, such as 'text'")
        if not 0 < self.holdout < 1:
            raise InputError(f"data.holdout={self.holdout!r}: expected a share above 0 and below 1, such as 0.02")
        if self.unique_tokens is not None and self.unique_tokens < 1:
            raise InputError(
                f"data.unique_tokens={self.unique_tokens!r}: expected a positive number of tokens, or none"
            )


def _check_corpus(name: str) -> None:
    suffix = os.path.splitext(name)[1]
    if re.match(r"embedded\b", name):
        if not re.fullmatch(r"embedded(/[\w.-]+)?(:[1-9]\d{0,3})?", name):
            raise InputError(
                f"data.corpus={name!r}: expected 'embedded', 'embedded:MB' such as 'embedded:8', or 'embedded/PACKAGE'"
            )
    elif name.startswith("tfds:"):
        if not re.fullmatch(r"tfds:\w+(/[\w.+-]+){0,2}", name):
            raise InputError(
                f"data.corpus={name!r}: expected 'tfds:NAME' or 'tfds:NAME/CONFIG', such as 'tfds:wiki40b/en'"
            )
    elif re.fullmatch(r"\.\w{1,8}", suffix) and suffix not in SUFFIXES and not os.path.isdir(name):
        raise InputError(
            f"data.corpus={name!r}: expected a file ending in {', '.join(SUFFIXES)}, a folder or a glob of them"
        )


def _check_tokenizer(spec: str) -> None:
    if spec == "bytes" or spec.endswith((".json", ".model")):
        return
    size = re.fullmatch(r"bpe:(\d+)", spec)
    if size is None:
        raise InputError(
            f"data.tokenizer={spec!r}: expected 'bytes', 'bpe:SIZE', or the path of a .json or .model file"
        )
    if not 257 <= int(size[1]) <= 1 << 20:
        raise InputError(f"data.tokenizer={spec!r}: expected a vocabulary of 257 (256 bytes, a separator) to 1048576")


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
