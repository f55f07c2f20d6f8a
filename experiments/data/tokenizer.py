"""Turn text into token ids and back: bytes, a `tokenizers` JSON, SentencePiece, and training a byte-level BPE.

Whatever the tokenizer, a separator token stands in front of every document, and every token knows how many bytes of
the text it stands for, so that losses can be given per byte. Ids are below `vocab_size`, which counts the separator
and is not padded. The libraries are imported when they are needed.
"""

from collections.abc import Callable, Iterable, Sequence
import functools
import hashlib
import json
import os
import re
from typing import Any, Protocol

import numpy as np

from experiments.data import alphabet
from experiments.data.manifest import digest
from experiments.data.options import Data
from models.errors import InputError, nearest

SEPARATOR = "<|doc|>"
TRAINED_SEPARATOR = 0  # its id in a BPE that is trained here
# Tokens that stand between documents where a tokenizer has one of its own.
ENDS = (SEPARATOR, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")

Ids = Sequence[int] | np.ndarray


class Tokenizer(Protocol):
    """What `prepare` needs of a tokenizer."""

    @property
    def kind(self) -> str:
        """Return which kind it is, as a manifest names it."""
        ...

    @property
    def vocab_size(self) -> int:
        """Return how many ids there are, the separator included."""
        ...

    @property
    def separator(self) -> int:
        """Return the id in front of every document."""
        ...

    @property
    def sha256(self) -> str:
        """Return the hash of all that its ids depend on."""
        ...

    @property
    def content(self) -> bytes | None:
        """Return its file; None for bytes."""
        ...

    @property
    def suffix(self) -> str:
        """Return the ending of its file's name."""
        ...

    def encode(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return for each text its ids [tokens], and how many of its UTF-8 bytes each stands for [tokens].

        The second are all of the text's bytes together.
        """
        ...

    def decode(self, ids: Ids) -> str:
        """Return the text of some tokens; separators become `<|doc|>`, bytes that are no UTF-8 become U+FFFD."""
        ...


def dtype_for(vocab_size: int) -> str:
    """Return the smallest unsigned type that holds every id."""
    if vocab_size <= 1 << 8:
        return "uint8"
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class Bytes:
    """Ids 0 to 255 are the bytes of the text as UTF-8; 256 is the separator."""

    kind = "bytes"
    vocab_size = 257
    separator = 256
    content = None
    suffix = ""
    sha256 = digest(["bytes", 257, 256])

    def encode(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the bytes of each text; each stands for one."""
        pairs = []
        for text in texts:
            ids = np.frombuffer(text.encode(), np.uint8)
            pairs.append((ids, np.ones(len(ids), np.uint8)))
        return pairs

    def decode(self, ids: Ids) -> str:
        """Return the text of some tokens."""
        return _with_separators(ids, self.separator, _text_of_bytes)


def _text_of_bytes(ids: np.ndarray) -> str:
    return ids.astype(np.uint8).tobytes().decode(errors="replace")


def _with_separators(ids: Ids, separator: int, decode: Callable[[np.ndarray], str]) -> str:
    """Decode the stretches between separators, and put the separator's name where it stood."""
    ids = np.asarray(ids, np.int64)
    cuts = np.flatnonzero(ids == separator)
    starts = [0, *(cuts + 1)]
    ends = [*cuts, len(ids)]
    return SEPARATOR.join(
        decode(ids[start:end]) if end > start else "" for start, end in zip(starts, ends, strict=True)
    )


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
        self._name = name
        self.kind = kind
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        ids = self._core.get_vocab(with_added_tokens=True)
        if not ids:
            raise InputError(f"data.tokenizer={name!r}: it has no token")
        past_the_last = max(ids.values()) + 1
        own = next((ids[token] for token in ENDS if token in ids), None)
        self.separator = past_the_last if own is None else own
        self.vocab_size = past_the_last + (own is None)
        # Bytes by token, where a token is the same bytes wherever it stands.
        self._lengths = _byte_level_lengths(ids) if _is_byte_level(json.loads(content)) else None

    def encode(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return ids and bytes per token of each text."""
        if self._lengths is not None:
            pairs = self._encode_fast(texts, self._lengths)
            if pairs is not None:
                return pairs
        pairs = []
        many = self._encoded(self._core.encode_batch, texts)
        for text, encoded in zip(texts, many, strict=True):
            ends = np.array([end for _, end in encoded.offsets], np.int64)
            sizes = _lengths(len(text.encode()), _byte_ends(text, ends))
            pairs.append((np.array(encoded.ids, np.int64), sizes))
        return pairs

    def _encoded(self, encode: Callable[..., list[Any]], texts: Sequence[str]) -> list[Any]:
        """Encode with a function of the library. Raises InputError for a text that the tokenizer cannot take."""
        try:
            return encode(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            problem = "it has other characters" if self.kind == "symbols" else error
            raise InputError(f"data.tokenizer={self._name!r}: cannot encode the text ({problem})") from error

    def _encode_fast(self, texts: Sequence[str], lengths: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Encode without offsets; None where the tokens are not all of a text's bytes (it was normalised)."""
        pairs = []
        many = self._encoded(self._core.encode_batch_fast, texts)
        for text, encoded in zip(texts, many, strict=True):
            ids = np.array(encoded.ids, np.int64)
            sizes = lengths[ids]
            if int(sizes.sum()) != len(text.encode()):
                return None
            pairs.append((ids, sizes))
        return pairs

    def decode(self, ids: Ids) -> str:
        """Return the text of some tokens."""
        return _with_separators(ids, self.separator, self._text_of)

    def _text_of(self, ids: np.ndarray) -> str:
        return self._core.decode(ids.tolist(), skip_special_tokens=False)


def _is_byte_level(spec: dict[str, Any]) -> bool:
    """Tell whether each token is a string of the byte alphabet, so that its length is its number of bytes."""
    steps = spec.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    return any(step.get("type") == "ByteLevel" for step in steps)


def _byte_level_lengths(ids: dict[str, int]) -> np.ndarray:
    """Return how many bytes each token stands for, by id."""
    lengths = np.zeros(max(ids.values()) + 1, np.int64)
    for token, index in ids.items():
        lengths[index] = len(token)
    return lengths


def _byte_ends(text: str, ends: np.ndarray) -> np.ndarray:
    """Return character positions as byte positions in the UTF-8 form."""
    raw = np.frombuffer(text.encode(), np.uint8)
    starts = np.flatnonzero((raw & 0xC0) != 0x80)  # the first byte of every character
    return np.append(starts, len(raw))[ends]


def _lengths(size: int, ends: np.ndarray) -> np.ndarray:
    """Return bytes per token from where each ends in a text of `size` bytes.

    A byte is the first token's that reaches past it.
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

    kind = "sentencepiece"
    suffix = ".model"

    def __init__(self, content: bytes, name: str):
        import sentencepiece

        try:
            self._core = sentencepiece.SentencePieceProcessor(model_proto=content)
            size = self._core.get_piece_size()
        except RuntimeError as error:
            raise InputError(f"data.tokenizer={name!r}: not a SentencePiece model ({error})") from error
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        own = self._core.eos_id()
        self.separator = own if own >= 0 else size
        self.vocab_size = size + (own < 0)

    def encode(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return ids and bytes per token of each text."""
        pairs = []
        many = self._core.encode(list(texts), return_type="offset_mapping", return_bytes=True)
        for text, found in zip(texts, many, strict=True):
            ends = np.array([end for _, end in found["offsets"]], np.int64)  # in bytes
            sizes = _lengths(len(text.encode()), ends)
            pairs.append((np.array(found["ids"], np.int64), sizes))
        return pairs

    def decode(self, ids: Ids) -> str:
        """Return the text of some tokens."""
        return _with_separators(ids, self.separator, self._text_of)

    def _text_of(self, ids: np.ndarray) -> str:
        return self._core.decode(ids.tolist())


def load(spec: str) -> Tokenizer:
    """Return the tokenizer that `data.tokenizer` names, unless it is one that has to be trained. Raises InputError."""
    if spec == "bytes":
        return Bytes()
    if spec.startswith("symbols:"):
        return symbols(int(spec.removeprefix("symbols:")))
    return parse(spec, _read(spec))


def symbols(size: int) -> Json:
    """Return the tokenizer of the first `size` symbols (experiments/data/alphabet.py): one token for each, by number."""
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers

    ids = {character: symbol for symbol, character in enumerate(alphabet.characters(size))}
    core = tokenizers.Tokenizer(models.WordLevel(ids))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return Json(core.to_str().encode(), f"symbols:{size}", kind="symbols")


def parse(name: str, content: bytes | None, kind: str | None = None) -> Tokenizer:
    """Return a tokenizer from the content of its file; `name` says by its ending which kind."""
    if content is None:
        return Bytes()
    if name.endswith(".model"):
        return SentencePiece(content, name)
    return Json(content, name, kind or "tokenizers")


def _read(path: str) -> bytes:
    """Return the bytes of a tokenizer's file. Raises InputError when there is none."""
    from etils import epath

    file = epath.Path(path).expanduser()
    if file.exists() and not file.is_dir():
        return file.read_bytes()
    folder = file.parent
    there = [found.name for found in folder.iterdir() if found.suffix == file.suffix] if folder.exists() else []
    hint = nearest(file.name, there, "file")
    raise InputError(f"data.tokenizer={path!r}: no such file; {hint} in {os.fspath(folder)!r}")


def vocab_size(data: Data) -> int:
    """Return how many ids the tokenizer has, the separator included, before anything is prepared. Raises InputError."""
    size, _ = _ids(data)
    return size


def separator(data: Data) -> int:
    """Return the id that stands in front of every document, before anything is prepared. Raises InputError."""
    _, own = _ids(data)
    return own


def _ids(data: Data) -> tuple[int, int]:
    """Return how many ids the tokenizer has, and which of them is the separator."""
    trained = re.fullmatch(r"bpe:(\d+)", data.tokenizer)
    if trained:
        return int(trained[1]), TRAINED_SEPARATOR
    stamp = None
    if os.path.exists(data.tokenizer):
        stat = os.stat(data.tokenizer)
        stamp = (stat.st_mtime_ns, stat.st_size)
    return _loaded_ids(data.tokenizer, stamp)


@functools.lru_cache(maxsize=32)
def _loaded_ids(spec: str, stamp: tuple[int, int] | None) -> tuple[int, int]:
    """Return size and separator of a tokenizer, once as long as its file is the same. `stamp`: time and size of it."""
    loaded = load(spec)
    return loaded.vocab_size, loaded.separator


def train_bpe(texts: Iterable[str], size: int, name: str = "") -> Json:
    """Train a byte-level BPE of exactly `size` ids, the separator (0) and the 256 bytes among them; texts round-trip.

    The same texts in the same order give the same tokenizer. Raises InputError when the texts are too few for so
    many merges.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    name = name or f"bpe:{size}"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[SEPARATOR], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    found = core.get_vocab_size()
    if found != size:
        raise InputError(f"data.tokenizer={name!r}: the corpus yields only {found} tokens; ask for fewer")
    return Json(core.to_str().encode(), name, kind="bpe")
