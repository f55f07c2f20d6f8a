"""Documents -> token streams and their manifest, in one pass for the split and one for the tokens.

Memory stays small.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import hashlib
import os
from typing import Any, Self

from etils import epath
import numpy as np

from experiments import files
from experiments.data.documents import Documents
from experiments.data.manifest import Manifest, Split, sha256, to_json
from experiments.data.options import Data
from experiments.data.origin import Origin
from experiments.data.tokenizer import Tokenizer, dtype_for
from models.errors import InputError

VERSION = 1  # raise when the same documents would give other tokens
BLOCK_BYTES = 4_000_000  # text that is tokenised at once

Advance = Callable[[int], None]


def held_out(documents: Documents, share: float, name: str, advance: Advance) -> np.ndarray:
    """Which documents are held out: those whose hash, as a number in [0, 1), is below the share.

    Equal texts thus go together. At least the one with the smallest hash, so that a small corpus has something to
    evaluate on. Raises InputError when nothing would be left for one side. The hash is one of its own: corpora may have
    been chosen by another hash of the text.
    """
    hashes = []
    for block in documents.blocks():
        hashes += [int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"holdout").digest()) for text in block]
        advance(len(block))
    value = np.array(hashes, np.uint64)
    if len(np.unique(value)) < 2:
        raise InputError(
            f"data.corpus={name!r}: {len(value)} document(s); expected at least two different ones, one to hold out"
        )
    held = value < np.uint64(int(share * 2**64))
    if not held.any():
        held = value == value.min()
    if held.all():
        held = value != value.max()
    return held


class _Stream:
    """A .npy file that grows. numpy keeps room in the header for the final length."""

    def __init__(self, path: epath.Path, dtype: str):
        self._file, self._dtype, self.count = open(path, "wb"), np.dtype(dtype), 0
        self._header()

    def _header(self) -> None:
        self._file.seek(0)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": descr, "fortran_order": False, "shape": (self.count,)}
        )

    def write(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.count += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._header()
            self._file.flush()
            os.fsync(self._file.fileno())


class _Counts:
    """Documents, bytes and tokens of a split as they are written."""

    def __init__(self, vocab_size: int):
        self.documents, self.bytes, self.ids = 0, 0, np.zeros(vocab_size, np.int64)

    def add(self, documents: int, ids: np.ndarray, sizes: np.ndarray) -> None:
        self.documents += documents
        self.bytes += int(sizes.sum())
        self.ids += np.bincount(ids, minlength=len(self.ids))

    def split(self) -> Split:
        return Split(self.documents, int(self.ids.sum()), self.bytes)

    def entropy(self) -> float:
        """Of the distribution of single tokens, in nats."""
        probability = self.ids[self.ids > 0] / self.ids.sum()
        return float(-(probability * np.log(probability)).sum())


def write(
    origin: Origin,
    documents: Documents,
    details: dict[str, Any],
    codec: Tokenizer,
    data: Data,
    folder: epath.Path,
    advance: Advance,
) -> Manifest:
    """Write the streams of a corpus, its tokenizer and, last, its manifest into an empty folder."""
    held = held_out(documents, data.holdout, origin.name, advance)
    counts = _streams(documents, held, codec, folder, advance)
    if codec.content is not None:
        (folder / f"tokenizer{codec.suffix}").write_bytes(codec.content)
    manifest = Manifest(
        source=origin.name,
        tokenizer_kind=codec.kind,
        tokenizer_sha256=codec.sha256,
        vocab_size=codec.vocab_size,
        separator=codec.separator,
        dtype=dtype_for(codec.vocab_size),
        options={**origin.options, "holdout": data.holdout, "version": VERSION},
        train=counts["train"].split(),
        holdout=counts["holdout"].split(),
        unigram_entropy_nats=counts["train"].entropy(),
        files={p.name: {"sha256": sha256(p), "size": p.stat().length} for p in sorted(folder.iterdir())},
        details={**details, "tokenizer": data.tokenizer},
        inputs=str(origin.inputs),
        directory=folder,
    )
    files.write_json(folder / "manifest.json", to_json(manifest))
    return manifest


def _streams(
    documents: Documents, held: np.ndarray, codec: Tokenizer, folder: epath.Path, advance: Advance
) -> dict[str, _Counts]:
    """Tokenise every document into the stream of its split."""
    counts, first = {name: _Counts(codec.vocab_size) for name in ("train", "holdout")}, 0
    with contextlib.ExitStack() as stack:
        out = {
            name: stack.enter_context(_Stream(folder / f"{name}.npy", dtype_for(codec.vocab_size))) for name in counts
        }
        if codec.content is not None:
            out["holdout_bytes"] = stack.enter_context(_Stream(folder / "holdout_bytes.npy", "uint32"))
        for texts in _blocks(documents):
            chosen = held[first : first + len(texts)]
            first += len(texts)
            pairs = codec.encode([text.decode() for text in texts])
            for split, mask in (("train", ~chosen), ("holdout", chosen)):
                some = [pair for pair, wanted in zip(pairs, mask, strict=True) if wanted]
                ids, sizes = _joined(some, codec.separator)
                out[split].write(ids)
                counts[split].add(len(some), ids, sizes)
                if split == "holdout" and codec.content is not None:
                    out["holdout_bytes"].write(sizes)
            advance(len(texts))
    return counts


def _blocks(documents: Documents) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    for texts in documents.blocks():
        block += texts
        if sum(map(len, block)) > BLOCK_BYTES:
            yield block
            block = []
    if block:
        yield block


def _joined(pairs: Sequence[tuple[np.ndarray, np.ndarray]], separator: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and bytes per token of some documents, each behind a separator, which stands for no bytes."""
    if not pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    lengths = np.array([len(ids) + 1 for ids, _ in pairs])
    starts = np.cumsum(lengths) - lengths
    text = np.ones(lengths.sum(), bool)
    text[starts] = False
    ids, sizes = np.full(len(text), separator, np.int64), np.zeros(len(text), np.int64)
    ids[text], sizes[text] = (np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
    return ids, sizes
