"""Write documents as token streams with their manifest: one pass for the split and one for the tokens.

Memory stays small.
"""

from collections.abc import Iterator, Sequence
import contextlib
import os
from typing import Any, Self

from etils import epath
import numpy as np

from experiments import files
from experiments.data import pairs, true_entropy
from experiments.data.documents import Documents
from experiments.data.lossless import RoundTrip
from experiments.data.manifest import Manifest, Split, sha256, to_json
from experiments.data.options import Data
from experiments.data.origin import Origin
from experiments.data.split import Advance, held_out
from experiments.data.tokenizer import Tokenizer, dtype_for

VERSION = 1  # raise when the same documents would give other tokens
BLOCK_BYTES = 4_000_000  # text that is tokenised at once


class _Stream:
    """A .npy file that grows. numpy keeps room in the header for the final length."""

    def __init__(self, path: epath.Path, dtype: str):
        self._file = open(path, "wb")
        self._dtype = np.dtype(dtype)
        self._count = 0
        self._write_header()

    def _write_header(self) -> None:
        """Write the header with the length so far over the one that is there."""
        self._file.seek(0)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self._count,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, values: np.ndarray) -> None:
        """Append values."""
        stored = values.astype(self._dtype, copy=False)
        self._file.write(stored.tobytes())
        self._count += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._write_header()
            self._file.flush()
            os.fsync(self._file.fileno())


class _Tally:
    """Documents, bytes and tokens of a split as they are written."""

    def __init__(self, vocab_size: int):
        self._documents = 0
        self._bytes = 0
        self.characters = 0
        self._ids = np.zeros(vocab_size, np.int64)  # how often each token occurs

    def add(self, characters: Sequence[int], ids: np.ndarray, sizes: np.ndarray) -> None:
        """Add documents with their characters, their token ids and the bytes of each token."""
        self._documents += len(characters)
        self.characters += sum(characters)
        self._bytes += int(sizes.sum())
        self._ids += np.bincount(ids, minlength=len(self._ids))

    def split(self) -> Split:
        """Return the sizes."""
        return Split(self._documents, int(self._ids.sum()), self._bytes)

    def entropy(self) -> float:
        """Return the entropy of the distribution of single tokens, in nats."""
        occurring = self._ids[self._ids > 0]
        probability = occurring / self._ids.sum()
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
    held, of = held_out(documents, data.holdout, origin.name, advance)
    trial = RoundTrip(codec, data, origin.name)
    rows = pairs.Rows(codec, data) if data.pairs else None
    tallies = _write_streams(documents, held, codec, trial, rows, folder, advance)
    if rows is not None:
        for split, tally in tallies.items():
            rows.check(
                tally.split().documents, origin.name, f"data.holdout={data.holdout}" if split == "holdout" else split
            )
        details = {**details, "left_out": rows.left_out}
        # A row has other characters and tokens than its document, and its target alone is predicted.
        details.pop("entropy", None)
    if codec.content is not None:
        (folder / f"tokenizer{codec.suffix}").write_bytes(codec.content)
    written = {}
    for path in sorted(folder.iterdir()):
        written[path.name] = {"sha256": sha256(path), "size": path.stat().length}
    characters = tallies["train"].characters + tallies["holdout"].characters
    splits = (tallies["train"].split(), tallies["holdout"].split())
    entropy, error = true_entropy.per_token(details, characters, splits, trial.share)
    manifest = Manifest(
        source=origin.name,
        tokenizer_kind=codec.kind,
        tokenizer_sha256=codec.sha256,
        vocab_size=codec.vocab_size,
        separator=codec.separator,
        dtype=dtype_for(codec.vocab_size),
        options={**origin.options, **paired(data), "holdout": data.holdout, "version": VERSION},
        train=splits[0],
        holdout=splits[1],
        unigram_entropy_nats=tallies["train"].entropy(),
        entropy_nats=entropy,
        entropy_nats_error=error,
        lossless=trial.share,
        files=written,
        details={**details, "tokenizer": data.tokenizer, "held_out": of, **trial.details},
        inputs=str(origin.inputs),
        directory=folder,
    )
    files.write_json(folder / "manifest.json", to_json(manifest))
    return manifest


def paired(data: Data) -> dict[str, Any]:
    """Return what was asked for of pairs, as a part of a corpus's identity; nothing where there are none."""
    if not data.pairs:
        return {}
    return {
        "pairs": list(data.pairs),
        "between": data.between,
    }


def _write_streams(
    documents: Documents,
    held: np.ndarray,
    codec: Tokenizer,
    trial: RoundTrip,
    rows: pairs.Rows | None,
    folder: epath.Path,
    advance: Advance,
) -> dict[str, _Tally]:
    """Tokenise every document into the stream of its split, and return the sizes of both."""
    dtype = dtype_for(codec.vocab_size)
    tallies = {split: _Tally(codec.vocab_size) for split in ("train", "holdout")}
    first = 0
    with contextlib.ExitStack() as stack:
        streams = {split: stack.enter_context(_Stream(folder / f"{split}.npy", dtype)) for split in tallies}
        token_bytes = None
        if codec.content is not None:  # otherwise every token is a byte
            token_bytes = stack.enter_context(_Stream(folder / "holdout_bytes.npy", "uint32"))
        for texts in _blocks(documents):
            chosen = held[first : first + len(texts)]
            first += len(texts)
            decoded = [text.decode() for text in texts]
            if rows is None:
                tried = decoded
                encoded = of_texts = codec.encode(decoded)
            else:
                block = rows.encode(decoded)
                tried = block.sides
                of_texts = block.encoded
                encoded = block.rows
                chosen = chosen[block.has_row]
                decoded = [text for text, kept in zip(decoded, block.has_row, strict=True) if kept]
            if codec.content is not None:  # bytes are the text
                trial.add(tried, of_texts)
            for split, wanted in (("train", ~chosen), ("holdout", chosen)):
                some = [one for one, taken in zip(encoded, wanted, strict=True) if taken]
                characters = [len(text) for text, taken in zip(decoded, wanted, strict=True) if taken]
                ids, sizes = _joined(some, codec.separator) if rows is None else _laid_end_to_end(some)
                streams[split].write(ids)
                tallies[split].add(characters, ids, sizes)
                if split == "holdout" and token_bytes is not None:
                    token_bytes.write(sizes)
            advance(len(texts))
        if rows is not None:
            _end(streams, token_bytes, codec.separator)
    return tallies


def _end(streams: dict[str, _Stream], token_bytes: _Stream | None, separator: int) -> None:
    """Put a separator behind the last row of each stream: a record ends with the first token of the next."""
    for stream in streams.values():
        stream.write(np.array([separator]))
    if token_bytes is not None:
        token_bytes.write(np.array([0]))


def _blocks(documents: Documents) -> Iterator[list[bytes]]:
    """Yield texts in lists of about BLOCK_BYTES."""
    block: list[bytes] = []
    for texts in documents.blocks():
        block += texts
        if sum(map(len, block)) > BLOCK_BYTES:
            yield block
            block = []
    if block:
        yield block


def _laid_end_to_end(rows: Sequence[pairs.Encoded]) -> pairs.Encoded:
    """Return token ids and bytes per token of some rows."""
    nothing = np.zeros(0, np.int64)
    ids = np.concatenate([nothing, *(own_ids for own_ids, _ in rows)])
    sizes = np.concatenate([nothing, *(own_sizes for _, own_sizes in rows)])
    return ids, sizes


def _joined(pairs: Sequence[tuple[np.ndarray, np.ndarray]], separator: int) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and bytes per token of some documents, each behind a separator, which stands for no bytes."""
    if not pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    lengths = np.array([len(ids) + 1 for ids, _ in pairs])
    starts = np.cumsum(lengths) - lengths
    is_text = np.ones(lengths.sum(), bool)
    is_text[starts] = False
    ids = np.full(len(is_text), separator, np.int64)
    sizes = np.zeros(len(is_text), np.int64)
    ids[is_text] = np.concatenate([own_ids for own_ids, _ in pairs])
    sizes[is_text] = np.concatenate([own_sizes for _, own_sizes in pairs])
    return ids, sizes
