"""Text to token ids and back: bytes, a `tokenizers` JSON, SentencePiece, and training a byte-level BPE.

Whatever the tokenizer, a separator token stands in front of every document, and every token knows how many bytes of
the text it stands for, so that losses can be given per byte. Ids are below `vocab_size`, which counts the separator
and is not padded. The libraries are imported when they are needed.
"""

from collections.abc import Iterable, Sequence
import functools
import hashlib
import json
import os
import re
from typing import Any, Protocol

import numpy as np

from experiments.data.manifest import digest
from experiments.data.options import Data
from models.errors import InputError, nearest

SEPARATOR = "<|doc|>"
ENDS = (
    SEPARATOR,
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "[SEP]",
)  # a tokenizer's own token between documents


class Tokenizer(Protocol):
    """What `prepare` needs of a tokenizer. `content` is its file, None for bytes."""

    @property
    def kind(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def separator(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def content(self) -> bytes | None: ...
    @property
    def suffix(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each text: ids [tokens], and how many of its UTF-8 bytes each stands for [tokens], all bytes in all."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some tokens; separators become `<|doc|>`, bytes that are no UTF-8 become U+FFFD."""
        ...


def dtype_for(vocab_size: int) -> str:
    """The smallest unsigned type that holds every id."""
    return "uint8" if vocab_size <= 1 << 8 else "uint16" if vocab_size <= 1 << 16 else "uint32"


class Bytes:
    """Ids 0 to 255 are the bytes of the text as UTF-8; 256 is the separator."""

    kind, vocab_size, separator, content, suffix = "bytes", 257, 256, None, ""
    sha256 = digest(["bytes", 257, 256])

    def encode(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        ids = (np.frombuffer(text.encode(), np.uint8) for text in texts)
        return [(some, np.ones(len(some), np.uint8)) for some in ids]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return _with_separators(
            ids, self.separator, lambda part: part.astype(np.uint8).tobytes().decode(errors="replace")
        )


def _with_separators(ids: Sequence[int] | np.ndarray, separator: int, decode: Any) -> str:
    """Decode the stretches between separators, and put the separator's name where it stood."""
    ids = np.asarray(ids, np.int64)
    cuts = np.flatnonzero(ids == separator)
    starts, ends = [0, *(cuts + 1)], [*cuts, len(ids)]
    return SEPARATOR.join(decode(ids[a:b]) if b > a else "" for a, b in zip(starts, ends, strict=True))


class Json:
    """A tokenizer of the `tokenizers` library. Special tokens that occur in the text are read as text."""

    suffix = ".json"

    def __init__(self, content: bytes, name: str, kind: str = "tokenizers"):
        import tokenizers

        try:
            self._core = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"data.tokenizer={name!r}: not a tokenizers JSON ({error})") from error
        self._core.no_padding()
        self._core.no_truncation()
        self._core.encode_special_tokens = True
        self.kind, self.content, self.sha256 = kind, content, hashlib.sha256(content).hexdigest()
        ids = self._core.get_vocab(with_added_tokens=True)
        top = max(ids.values()) + 1
        own = next((ids[token] for token in ENDS if token in ids), None)
        self.separator = top if own is None else own
        self.vocab_size = top + (own is None)
        spec = json.loads(content)
        self._lengths = _byte_level_lengths(ids) if _is_byte_level(spec) else None

    def encode(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        if self._lengths is not None:
            many = self._core.encode_batch_fast(list(texts), add_special_tokens=False)
            ids = [np.array(encoded.ids, np.int64) for encoded in many]
            sizes = [self._lengths[some] for some in ids]
            if all(int(size.sum()) == len(text.encode()) for size, text in zip(sizes, texts, strict=True)):
                return list(zip(ids, sizes, strict=True))
        out = []
        for text, encoded in zip(texts, self._core.encode_batch(list(texts), add_special_tokens=False), strict=True):
            ends = np.array([end for _, end in encoded.offsets], np.int64)
            out.append((np.array(encoded.ids, np.int64), _lengths(len(text.encode()), _byte_ends(text, ends))))
        return out

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return _with_separators(
            ids, self.separator, lambda part: self._core.decode(part.tolist(), skip_special_tokens=False)
        )


def _is_byte_level(spec: dict[str, Any]) -> bool:
    """Whether each token is a string of the byte alphabet, so that its length is its number of bytes."""
    steps = spec.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    return any(step.get("type") == "ByteLevel" for step in steps)


def _byte_level_lengths(ids: dict[str, int]) -> np.ndarray:
    lengths = np.zeros(max(ids.values()) + 1, np.int64)
    for token, index in ids.items():
        lengths[index] = len(token)
    return lengths


def _byte_ends(text: str, ends: np.ndarray) -> np.ndarray:
    """Character positions as byte positions in the UTF-8 form."""
    raw = np.frombuffer(text.encode(), np.uint8)
    starts = np.flatnonzero((raw & 0xC0) != 0x80)  # the first byte of every character
    return np.append(starts, len(raw))[ends]


def _lengths(size: int, ends: np.ndarray) -> np.ndarray:
    """Bytes per token from where each ends in a text of `size` bytes; a byte is the first token's that reaches past it.

    What the tokenizer dropped (spaces, accents) thus counts for the token after it, at the end of a text for the last
    one, so that the sum is the text's length.
    """
    if len(ends) == 0:
        return np.zeros(0, np.int64)
    reached = np.maximum.accumulate(ends)
    reached[-1] = size
    return np.diff(reached, prepend=0)


class SentencePiece:
    """A SentencePiece model. The separator is its end-of-sentence id, or one past its vocabulary when it has none."""

    kind, suffix = "sentencepiece", ".model"

    def __init__(self, content: bytes, name: str):
        import sentencepiece

        try:
            self._core = sentencepiece.SentencePieceProcessor(model_proto=content)
            size = self._core.get_piece_size()
        except RuntimeError as error:
            raise InputError(f"data.tokenizer={name!r}: not a SentencePiece model ({error})") from error
        own = self._core.eos_id()
        self.content, self.sha256 = content, hashlib.sha256(content).hexdigest()
        self.separator = own if own >= 0 else size
        self.vocab_size = size + (own < 0)

    def encode(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        out = []
        many = self._core.encode(list(texts), return_type="offset_mapping", return_bytes=True)
        for text, found in zip(texts, many, strict=True):
            ends = np.array([end for _, end in found["offsets"]], np.int64)  # in bytes
            out.append((np.array(found["ids"], np.int64), _lengths(len(text.encode()), ends)))
        return out

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return _with_separators(ids, self.separator, lambda part: self._core.decode(part.tolist()))


def load(spec: str) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names, unless it is one that has to be trained. Raises InputError."""
    if spec == "bytes":
        return Bytes()
    return parse(spec, _read(spec))


def parse(name: str, content: bytes | None, kind: str | None = None) -> Tokenizer:
    """A tokenizer from the content of its file; `name` says by its ending which kind."""
    if content is None:
        return Bytes()
    if name.endswith(".model"):
        return SentencePiece(content, name)
    return Json(content, name, kind or "tokenizers")


def _read(path: str) -> bytes:
    from etils import epath

    file = epath.Path(path)
    if not file.exists() or file.is_dir():
        folder = file.parent
        there = [p.name for p in folder.iterdir() if p.suffix == file.suffix] if folder.exists() else []
        raise InputError(
            f"data.tokenizer={path!r}: no such file; {nearest(file.name, there, 'file')} in {os.fspath(folder)!r}"
        )
    return file.read_bytes()


@functools.lru_cache(maxsize=32)
def _vocab_size(spec: str, stamp: tuple[int, int] | None) -> int:
    return load(spec).vocab_size


def vocab_size(data: Data) -> int:
    """How many ids the tokenizer has, the separator included: known before anything is prepared. Raises InputError."""
    if trained := re.fullmatch(r"bpe:(\d+)", data.tokenizer):
        return int(trained[1])
    local = data.tokenizer != "bytes" and os.path.exists(data.tokenizer)
    stat = os.stat(data.tokenizer) if local else None
    return _vocab_size(data.tokenizer, (stat.st_mtime_ns, stat.st_size) if stat else None)


def train_bpe(texts: Iterable[str], size: int, name: str = "") -> Json:
    """A byte-level BPE of exactly `size` ids, the separator (0) and the 256 bytes among them; every text round-trips.

    The same texts in the same order give the same tokenizer. Raises InputError when the texts are too few for so
    many merges.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    if core.get_vocab_size() != size:
        raise InputError(
            f"data.tokenizer={name or f'bpe:{size}'!r}: the corpus yields only {core.get_vocab_size()} tokens;"
            " ask for fewer"
        )
    return Json(core.to_str().encode(), name or f"bpe:{size}", kind="bpe")
