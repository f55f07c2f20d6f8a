"""Corpus -> packed token records and their manifest, once. The library call `prepare` and the command line.

    python -m experiments.prepare --config=experiments/configs/default.py [--config.data.corpus='("my.txt",)']

Documents are read through TFDS into `ROOT/documents`, a BPE that has to be trained goes to `ROOT/tokenizers`, token streams to
`ROOT/records`; each in a folder named by what it depends on, so that a changed source or option makes a new one and nothing
is ever overwritten. Folders are made aside and renamed; a lock keeps two preparations of one thing from doing it twice. Under
an object store, the work is done in a local cache and the finished folder is copied there, its manifest last.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from typing import Any
import uuid

from absl import flags
from etils import epath
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from experiments import cli, files, tokenizer as tokenizers
from experiments.cli import InputError
from experiments.corpora.origin import Documents, Origin, describe, obtain, open_documents
from experiments.data import Data
from experiments.manifest import Manifest, Split, digest, load, sha256, to_json

VERSION = 1  # raise when the same input would give other tokens
BPE_BYTES = 32_000_000  # a BPE is trained on so much training text at most, an equal part from each corpus
BLOCK_BYTES = 4_000_000  # text that is tokenised at once

Advance = Callable[[int], None]


def prepare(data: Data, root: epath.PathLike, progress: bool = True) -> tuple[Manifest, ...]:
    """Prepare whatever of the corpora is not yet under `root`, and return their manifests in order.

    Raises InputError when a corpus or tokenizer cannot be had, is malformed, or when what is there is damaged. A corpus whose source is
    gone is still found if it was prepared with the same options.
    """
    data.check()
    root = epath.Path(root).expanduser()
    if root.exists() and not root.is_dir():
        raise InputError(f"execution.data_root={os.fspath(root)!r}: expected a folder, this is a file")
    origins = [describe(name, data.text_field) for name in data.corpus]
    ready = [find(origin, origins, data, root) for origin in origins]
    if None not in ready:
        return tuple(load(folder) for folder in ready if folder is not None)
    work = epath.Path(os.environ.get("LOSSGRID_CACHE", "~/.cache/lossgrid")).expanduser() / "data" if _remote(root) else root
    say: Callable[[str], None] = Console(stderr=True, highlight=False).print if progress else lambda line: None
    origins = [obtain(origin, data.text_field) for origin in origins]
    manifests = []
    for origin, folder in zip(origins, ready, strict=True):
        if folder is None:
            name = folder_name(origin, origins, data)
            with locked(work / "records" / f".{name}.lock", say):
                if not (work / "records" / name / "manifest.json").exists():
                    _make(origin, origins, data, work, work / "records" / name, say, progress)
            if _remote(root):
                publish(work / "records" / name, root / "records" / name)
            folder = root / "records" / name
        manifests.append(load(folder))
    return tuple(manifests)


def folder_name(origin: Origin, origins: Sequence[Origin], data: Data) -> str:
    """Name of the folder of records: the corpus in words, what was asked for, what it was made from."""
    return f"{_request(origin, data)}-{_inputs(origin, origins, data)}"


def _request(origin: Origin, data: Data) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", origin.name.lower()).strip("-")[-40:].strip("-")
    others = list(data.corpus) if data.tokenizer.startswith("bpe:") else None  # one BPE for all of them
    asked = [VERSION, origin.name, dict(origin.options), data.holdout, data.tokenizer, others]
    return f"{words}-{digest(asked)[:8]}"


def _inputs(origin: Origin, origins: Sequence[Origin], data: Data) -> str:
    trained = data.tokenizer.startswith("bpe:")
    given = None if trained or data.tokenizer == "bytes" else tokenizers.load(data.tokenizer).sha256
    return digest([[o.inputs for o in (origins if trained else [origin])], given])[:8]


def find(origin: Origin, origins: Sequence[Origin], data: Data, root: epath.Path) -> epath.Path | None:
    """The folder with the records of a corpus, None when they are still to be made."""
    if all(o.inputs is not None for o in ([origin] if not data.tokenizer.startswith("bpe:") else origins)):
        folder = root / "records" / folder_name(origin, origins, data)
        return folder if (folder / "manifest.json").exists() else None
    made = [path.parent for path in (root / "records").glob(f"{_request(origin, data)}-*/manifest.json")]
    return max(made, key=lambda folder: (folder / "manifest.json").stat().mtime) if made else None


def _remote(path: epath.Path) -> bool:
    return "://" in os.fspath(path)


@contextlib.contextmanager
def locked(path: epath.Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock between processes of a machine (or of a file system that knows locks). It ends with the process, whatever ends that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{path.name.strip('.').removesuffix('.lock')}: another process is preparing it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(
    origin: Origin, origins: Sequence[Origin], data: Data, work: epath.Path, final: epath.Path, say: Callable, progress: bool
) -> None:
    """Write the records of one corpus aside and rename them. The caller holds the lock, so what lies aside is nobody's."""
    for left in final.parent.glob(f".{final.name}.*.tmp"):
        left.rmtree()
    codec = _tokenizer(data, origins, work, say)
    with _documents(origin, data, work, say) as (documents, details):
        temporary = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}.tmp"
        temporary.mkdir(parents=True)
        try:
            with _bar(f"{origin.name}: tokens", 2 * len(documents), progress) as advance:
                manifest = write(origin, documents, details, codec, data, temporary, advance)
            os.replace(temporary, final)
        finally:
            if temporary.exists():
                temporary.rmtree()
    say(f"{origin.name}: {manifest.train.tokens + manifest.holdout.tokens:,} tokens in {os.fspath(final)}")


@contextlib.contextmanager
def _documents(origin: Origin, data: Data, work: epath.Path, say: Callable) -> Iterator[tuple[Documents, dict[str, Any]]]:
    key = digest([dict(origin.options), origin.inputs])[:16]
    folder = work / "documents" / f"{origin.options['kind']}-{key}"
    with locked(folder.parent / f".{folder.name}.lock", say):
        yield open_documents(origin, folder, data.text_field, say)


@contextlib.contextmanager
def _bar(label: str, total: int, shown: bool) -> Iterator[Advance]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as display:
        task = display.add_task(label, total=total)
        yield lambda steps: display.advance(task, steps)


def _tokenizer(data: Data, origins: Sequence[Origin], work: epath.Path, say: Callable) -> tokenizers.Tokenizer:
    """The tokenizer of a run; a BPE is trained on the training documents of all its corpora, once."""
    trained = re.fullmatch(r"bpe:(\d+)", data.tokenizer)
    if trained is None:
        return tokenizers.load(data.tokenizer)
    key = digest([VERSION, BPE_BYTES, data.holdout, [[dict(o.options), o.inputs] for o in origins]])[:16]
    stem = f"bpe-{trained[1]}-{key}"
    with locked(work / "tokenizers" / f".{stem}.lock", say):
        for path in (work / "tokenizers").glob(f"{stem}-*.json"):
            codec = tokenizers.parse(os.fspath(path), path.read_bytes(), kind="bpe")
            if not path.stem.endswith(codec.sha256[:16]):
                raise InputError(f"{path}: its content is not what was written; delete it and run the same command again")
            return codec
        texts = (text for origin in origins for text in _training_texts(origin, data, work, BPE_BYTES // len(origins), say))
        say(f"{data.tokenizer}: training on {', '.join(data.corpus)}")
        codec = tokenizers.train_bpe(texts, int(trained[1]), data.tokenizer)
        assert codec.content is not None
        files.write_bytes(work / "tokenizers" / f"{stem}-{codec.sha256[:16]}.json", codec.content)
        return codec


def _training_texts(origin: Origin, data: Data, work: epath.Path, limit: int, say: Callable) -> Iterator[str]:
    with _documents(origin, data, work, say) as (documents, _):
        held = _held_out(documents, data.holdout, origin.name, lambda steps: None)
        for index, text in enumerate(text for block in documents.blocks() for text in block):
            if not held[index]:
                limit -= len(text)
                if limit < 0:
                    return
                yield text.decode()


def _held_out(documents: Documents, share: float, name: str, advance: Advance) -> np.ndarray:
    """Which documents are held out: those whose hash, a number in [0, 1), is below the share; equal texts thus go together.

    At least the one with the smallest hash, so that a small corpus has something to evaluate on. Raises InputError when
    nothing would be left for one side.
    """
    hashes = []
    for block in documents.blocks():
        hashes += [int.from_bytes(hashlib.sha256(text).digest()[:8]) for text in block]
        advance(len(block))
    value = np.array(hashes, np.uint64)
    if len(np.unique(value)) < 2:
        raise InputError(f"data.corpus={name!r}: {len(value)} document(s); expected at least two different ones, one to hold out")
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
        np.lib.format.write_array_header_1_0(self._file, {"descr": descr, "fortran_order": False, "shape": (self.count,)})

    def write(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.count += len(values)

    def close(self) -> None:
        self._header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def write(
    origin: Origin, documents: Documents, details: dict[str, Any], codec: tokenizers.Tokenizer, data: Data, folder: epath.Path, advance: Advance
) -> Manifest:
    """Tokenise documents into the streams of a folder and write its manifest. Memory stays small, whatever the corpus."""
    held = _held_out(documents, data.holdout, origin.name, advance)
    dtype = tokenizers.dtype_for(codec.vocab_size)
    with contextlib.ExitStack() as stack:
        streams = {name: _Stream(folder / f"{name}.npy", dtype) for name in ("train", "holdout")}
        if codec.content is not None:
            streams["holdout_bytes"] = _Stream(folder / "holdout_bytes.npy", "uint32")
        for stream in streams.values():
            stack.callback(stream.close)
        documents_in, bytes_in = {"train": 0, "holdout": 0}, {"train": 0, "holdout": 0}
        counts, first = np.zeros(codec.vocab_size, np.int64), 0
        for texts in _blocks(documents):
            chosen = held[first : first + len(texts)]
            first += len(texts)
            pairs = codec.encode([text.decode() for text in texts])
            for split, mask in (("train", ~chosen), ("holdout", chosen)):
                some = [pair for pair, wanted in zip(pairs, mask, strict=True) if wanted]
                ids, sizes = _joined(some, codec.separator)
                streams[split].write(ids)
                documents_in[split] += len(some)
                bytes_in[split] += int(sizes.sum())
                if split == "train":
                    counts += np.bincount(ids, minlength=codec.vocab_size)
                elif "holdout_bytes" in streams:
                    streams["holdout_bytes"].write(sizes)
            advance(len(texts))
    if codec.content is not None:
        (folder / f"tokenizer{codec.suffix}").write_bytes(codec.content)
    probability = counts[counts > 0] / counts.sum()
    splits = {name: Split(documents_in[name], streams[name].count, bytes_in[name]) for name in ("train", "holdout")}
    manifest = Manifest(
        source=origin.name,
        tokenizer_kind=codec.kind,
        tokenizer_sha256=codec.sha256,
        vocab_size=codec.vocab_size,
        separator=codec.separator,
        dtype=dtype,
        options={**origin.options, "holdout": data.holdout, "version": VERSION},
        unigram_entropy_nats=float(-(probability * np.log(probability)).sum()),
        files={p.name: {"sha256": sha256(p), "size": p.stat().length} for p in sorted(folder.iterdir())},
        details={**details, "tokenizer": data.tokenizer},
        inputs=str(origin.inputs),
        directory=folder,
        **splits,
    )
    files.write_json(folder / "manifest.json", to_json(manifest))
    return manifest


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


def publish(source: epath.Path, target: epath.Path) -> None:
    """Copy a finished folder to where a rename is not atomic: the manifest last, so that a folder without one is not finished."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda p: p.name == "manifest.json"):
        with path.open("rb") as read, (target / path.name).open("wb") as written:
            shutil.copyfileobj(read, written, 1 << 22)


def codec_of(manifest: Manifest) -> tokenizers.Tokenizer:
    """The tokenizer that a prepared corpus was made with, from the copy beside its records."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if name in manifest.files:
            return tokenizers.parse(name, (manifest.directory / name).read_bytes(), kind=manifest.tokenizer_kind)
    return tokenizers.Bytes()
