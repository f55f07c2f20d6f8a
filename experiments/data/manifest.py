"""Read and check a prepared corpus: counts, checksums, identity. `prepare` writes it.

A prepared corpus is a folder: `train.npy` and `holdout.npy` are flat token streams (a separator token, then a
document, and so on), `holdout_bytes.npy` says how many bytes of text each held-out token stands for (absent for
byte tokens, where it is one a byte); of pairs it is one row behind the other (experiments/data/pairs.py). `tokenizer.json` or `tokenizer.model` is the tokenizer (absent for bytes),
`manifest.json` is written last. Records of any length are views of a stream, so one preparation serves every
sequence length.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
from typing import Any
import uuid

from etils import epath
import numpy as np

from experiments import files
from models.errors import InputError

SCHEMA = 1
REMEDY = "delete this folder and run `python -m experiments.prepare` again"


@dataclasses.dataclass(frozen=True)
class Split:
    """Size of one split: documents, tokens (separators included), bytes of text."""

    documents: int
    tokens: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A prepared corpus as `manifest.json` describes it.

    Frozen; `directory` is where it was found, not part of its identity.
    """

    source: str
    tokenizer_kind: str  # "bytes", "bpe", "symbols", "tokenizers" or "sentencepiece"
    tokenizer_sha256: str
    vocab_size: int  # every id in the streams is below it, the separator included
    separator: int  # the id in front of every document
    dtype: str
    options: Mapping[str, Any]  # what was asked for, as far as it can change the tokens
    train: Split
    holdout: Split
    unigram_entropy_nats: float  # of the training tokens
    entropy_nats: float | None  # true, per token, of what made the text; None: not known; no identity
    entropy_nats_error: float | None  # its standard error: 0 where it is exact
    lossless: float | None  # share of the documents whose tokens decode to their text; None: not tried; no identity
    files: Mapping[str, Mapping[str, Any]]  # name -> {"sha256", "size"}
    details: Mapping[str, Any]  # where it came from: packages, dropped documents; for the reader
    inputs: str  # hash that tells whether the source has changed since; not part of the identity
    directory: epath.Path

    @property
    def fingerprint(self) -> str:
        """Hash the content and how it was made; the same on every machine, whatever the paths and the times."""
        streams = {name: entry["sha256"] for name, entry in sorted(self.files.items()) if name.endswith(".npy")}
        identity = [SCHEMA, streams, self.tokenizer_sha256, self.vocab_size, self.separator, dict(self.options)]
        return digest(identity)

    def text_bytes(self, tokens: int) -> int:
        """Return the bytes of training text that so many tokens stand for, on average."""
        return round(tokens * self.train.bytes / self.train.tokens)

    def open(self, name: str) -> np.ndarray:
        """Open a read-only memory map of one of the files, checked by its size.

        Raises InputError when it is not as it was written.

        A file on an object store is fetched once into a local cache, named by its checksum.
        """
        path = self.directory / name
        if "://" in os.fspath(path):
            path = _fetch(path, self.files[name]["sha256"])
        check_size(path, self.files[name])
        try:
            return _map(os.fspath(path), os.stat(path).st_mtime_ns)
        except ValueError as error:
            raise InputError(f"{path}: is not a token stream ({error}); {REMEDY}") from error


@functools.lru_cache(maxsize=64)
def _map(path: str, changed: int) -> np.ndarray:
    """Map a file once, however many runs of a process read it. `changed`: its time, so that another file is another map."""
    return np.load(path, mmap_mode="r")


def digest(value: Any) -> str:
    """Hash a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(path: epath.PathLike) -> str:
    """Hash the content of a file."""
    with epath.Path(path).open("rb") as file:
        state = hashlib.sha256()
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def check_size(path: epath.Path, entry: Mapping[str, Any]) -> None:
    """Raise InputError when a file is missing or has another size than it was written with."""
    if not path.exists():
        raise InputError(f"{path}: missing from a prepared corpus; {REMEDY}")
    size = path.stat().length
    if size != entry["size"]:
        raise InputError(f"{path}: {size} bytes, {entry['size']} were written; the file is damaged; {REMEDY}")


def verify(manifest: Manifest, thorough: bool = False) -> None:
    """Check the files of a prepared corpus against its manifest.

    Sizes always; checksums when `thorough`, and for files that were changed after the manifest was written (which
    is written last), so that an altered file is found at the price of a stat. Raises InputError naming the file and
    the remedy.
    """
    written = _modified(manifest.directory / "manifest.json")
    newer = False
    for name, entry in manifest.files.items():
        path = manifest.directory / name
        check_size(path, entry)
        changed = _modified(path) > written
        newer |= changed
        if (thorough or changed) and sha256(path) != entry["sha256"]:
            raise InputError(f"{path}: its content is not what was written (checksum differs); {REMEDY}")
    if newer:  # a copied folder: all is well, so the next look need not read the files again
        with contextlib.suppress(OSError):  # in a read-only place the next look does
            os.utime(manifest.directory / "manifest.json")


def load(directory: epath.PathLike) -> Manifest:
    """Read `manifest.json` and check the files beside it.

    Raises InputError when it is missing, unreadable or damaged.
    """
    directory = epath.Path(directory)
    path = directory / "manifest.json"
    if not path.exists():
        raise InputError(
            f"{directory}: no prepared corpus here (manifest.json is missing); run `python -m experiments.prepare`"
        )
    try:
        stored = files.read_json(path)
        if stored["schema"] != SCHEMA:
            raise InputError(f"{path}: schema {stored['schema']}, this version reads {SCHEMA}; {REMEDY}")
        stored = {"lossless": _known_lossless(stored), "entropy_nats": None, "entropy_nats_error": None} | stored
        fields: dict[str, Any] = {f.name: stored[f.name] for f in dataclasses.fields(Manifest) if f.name != "directory"}
        fields |= {name: Split(**fields[name]) for name in ("train", "holdout")}
        manifest = Manifest(**fields, directory=directory)
        intact = manifest.fingerprint == stored["fingerprint"]
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: unreadable ({type(error).__name__}: {error}); {REMEDY}") from error
    if not intact:
        raise InputError(f"{path}: does not match its own fingerprint; it was edited or damaged; {REMEDY}")
    verify(manifest)
    return manifest


def _known_lossless(stored: Mapping[str, Any]) -> float | None:
    """Return the share that decodes back where a manifest is older than the trial of tokenizers: all, by construction."""
    return 1.0 if stored["tokenizer_kind"] in ("bytes", "bpe") else None


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Return what `manifest.json` holds: no times, no places, so that equal preparations give equal files."""
    value = {f.name: getattr(manifest, f.name) for f in dataclasses.fields(manifest) if f.name != "directory"}
    value |= {name: dataclasses.asdict(value[name]) for name in ("train", "holdout")}
    return {"schema": SCHEMA, "fingerprint": manifest.fingerprint, **value}


def _modified(path: epath.Path) -> int:
    return 0 if "://" in os.fspath(path) else os.stat(path).st_mtime_ns


def _fetch(path: epath.Path, checksum: str) -> epath.Path:
    """Return a local copy of a remote file, under LOSSGRID_CACHE (default ~/.cache/lossgrid)."""
    cache = epath.Path(os.environ.get("LOSSGRID_CACHE", os.path.expanduser("~/.cache/lossgrid")))
    local = cache / f"{checksum[:32]}{path.suffix}"
    if not local.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f".{local.name}.{uuid.uuid4().hex[:8]}"
        try:
            with path.open("rb") as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 22)
            if sha256(partial) != checksum:
                raise InputError(f"{path}: its content is not what was written (checksum differs); {REMEDY}")
            partial.replace(local)
        finally:
            if partial.exists():
                partial.unlink()
    return local
