"""Corpus -> packed token records and their manifest, once. The library call `prepare` and the command line.

    python -m experiments.prepare --config=experiments/configs/default.py [--config.data.corpus='("my.txt",)']

Documents are read through TFDS into `ROOT/documents`, a BPE that has to be trained goes to `ROOT/tokenizers`, token
streams to `ROOT/records`; each in a folder named by what it depends on, so that a changed source or option makes a
new one and nothing is ever overwritten. Folders are made aside and renamed; a lock keeps two preparations of one
thing from doing it twice. Under an object store, the work is done in a local cache and the finished folder is
copied there, its manifest last.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import fcntl
import os
import re
import shutil
from typing import Any
import uuid

from etils import epath
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from experiments import cli, files
from experiments.cli import InputError
from experiments.data import streams
from experiments.data import tokenizer as tokenizers
from experiments.data.batches import Batches, check_enough
from experiments.data.documents import Documents
from experiments.data.manifest import Manifest, digest, load, verify
from experiments.data.options import Data
from experiments.data.origin import Origin
from experiments.data.sources import describe, obtain, open_documents

BPE_BYTES = 32_000_000  # a BPE is trained on so much training text at most, an equal part from each corpus

Say = Callable[[str], None]


def prepare(data: Data, root: epath.PathLike, progress: bool = True) -> tuple[Manifest, ...]:
    """Prepare whatever of the corpora is not yet under `root`, and return their manifests in order.

    Raises InputError when a corpus or tokenizer cannot be had, is malformed, or when what is there is damaged. A corpus
    whose source is gone is still found if it was prepared with the same options.
    """
    root, origins, ready = look(data, root)
    if None not in ready:
        return tuple(load(folder) for folder in ready if folder is not None)
    work = _cache() if _remote(root) else root
    say: Say = Console(stderr=True, highlight=False).print if progress else lambda line: None
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


def look(data: Data, root: epath.PathLike) -> tuple[epath.Path, list[Origin], list[epath.Path | None]]:
    """The root as a path, the corpora as they are now, the folder of each one's records or None where there is none."""
    data.check()
    root = epath.Path(root).expanduser()
    if root.exists() and not root.is_dir():
        raise InputError(f"execution.data_root={os.fspath(root)!r}: expected a folder, this is a file")
    origins = [describe(name, data.text_field) for name in data.corpus]
    return root, origins, [_find(origin, origins, data, root) for origin in origins]


def folder_name(origin: Origin, origins: Sequence[Origin], data: Data) -> str:
    """Name of the folder of records: the corpus in words, what was asked for, what it was made from."""
    return f"{_request(origin, data)}-{_inputs(origin, origins, data)}"


def _request(origin: Origin, data: Data) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", origin.name.lower()).strip("-")[-40:].strip("-")
    others = list(data.corpus) if data.tokenizer.startswith("bpe:") else None  # one BPE for all of them
    asked = [streams.VERSION, origin.name, dict(origin.options), data.holdout, data.tokenizer, others]
    return f"{words}-{digest(asked)[:8]}"


def _inputs(origin: Origin, origins: Sequence[Origin], data: Data) -> str:
    trained = data.tokenizer.startswith("bpe:")
    given = None if trained or data.tokenizer == "bytes" else tokenizers.load(data.tokenizer).sha256
    return digest([[o.inputs for o in (origins if trained else [origin])], given])[:8]


def _find(origin: Origin, origins: Sequence[Origin], data: Data, root: epath.Path) -> epath.Path | None:
    """The folder with the records of a corpus, None when they are still to be made."""
    if all(o.inputs is not None for o in ([origin] if not data.tokenizer.startswith("bpe:") else origins)):
        folder = root / "records" / folder_name(origin, origins, data)
        return folder if (folder / "manifest.json").exists() else None
    made = [path.parent for path in (root / "records").glob(f"{_request(origin, data)}-*/manifest.json")]
    return max(made, key=lambda folder: (folder / "manifest.json").stat().mtime) if made else None


def _remote(path: epath.Path) -> bool:
    return "://" in os.fspath(path)


@contextlib.contextmanager
def locked(path: epath.Path, say: Say) -> Iterator[None]:
    """Hold a lock between processes of a machine (or of a file system that knows locks).

    It ends with the process, whatever ends that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{path.name.strip('.').removesuffix('.lock')}: another process is preparing it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cache() -> epath.Path:
    return epath.Path(os.environ.get("LOSSGRID_CACHE", "~/.cache/lossgrid")).expanduser() / "data"


def _make(
    origin: Origin, origins: Sequence[Origin], data: Data, work: epath.Path, final: epath.Path, say: Say, progress: bool
) -> None:
    """Write the records of one corpus aside and rename them.

    The caller holds the lock, so what lies aside is nobody's.
    """
    for left in [*final.parent.glob(f".{final.name}.*.tmp"), *([final] if final.exists() else [])]:
        left.rmtree()
    codec = _tokenizer(data, origins, work, say)
    documents, details = _documents(origin, data, work, say)
    temporary = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir(parents=True)
    try:
        with _bar(f"{origin.name}: tokens", 2 * len(documents), progress) as advance:
            manifest = streams.write(origin, documents, details, codec, data, temporary, advance)
        os.replace(temporary, final)
    finally:
        if temporary.exists():
            temporary.rmtree()
    say(f"{origin.name}: {manifest.train.tokens + manifest.holdout.tokens:,} tokens in {os.fspath(final)}")


def _documents(origin: Origin, data: Data, work: epath.Path, say: Say) -> tuple[Documents, dict[str, Any]]:
    key = digest([dict(origin.options), origin.inputs])[:16]
    folder = work / "documents" / f"{origin.options['kind']}-{key}"
    with locked(folder.parent / f".{folder.name}.lock", say):
        return open_documents(origin, folder, data.text_field, say)


@contextlib.contextmanager
def _bar(label: str, total: int, shown: bool) -> Iterator[streams.Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as display:
        task = display.add_task(label, total=total)
        yield lambda steps: display.advance(task, steps)


def _tokenizer(data: Data, origins: Sequence[Origin], work: epath.Path, say: Say) -> tokenizers.Tokenizer:
    """The tokenizer of a run; a BPE is trained on the training documents of all its corpora, once."""
    trained = re.fullmatch(r"bpe:(\d+)", data.tokenizer)
    if trained is None:
        return tokenizers.load(data.tokenizer)
    key = digest([streams.VERSION, BPE_BYTES, data.holdout, [[dict(o.options), o.inputs] for o in origins]])[:16]
    stem = f"bpe-{trained[1]}-{key}"
    with locked(work / "tokenizers" / f".{stem}.lock", say):
        for path in (work / "tokenizers").glob(f"{stem}-*.json"):
            codec = tokenizers.parse(os.fspath(path), path.read_bytes(), kind="bpe")
            if not path.stem.endswith(codec.sha256[:16]):
                raise InputError(
                    f"{path}: its content is not what was written; delete it and run the same command again"
                )
            return codec
        texts = (
            text for origin in origins for text in _training_texts(origin, data, work, BPE_BYTES // len(origins), say)
        )
        say(f"{data.tokenizer}: training on {', '.join(data.corpus)}")
        codec = tokenizers.train_bpe(texts, int(trained[1]), data.tokenizer)
        assert codec.content is not None
        files.write_bytes(work / "tokenizers" / f"{stem}-{codec.sha256[:16]}.json", codec.content)
        return codec


def _training_texts(origin: Origin, data: Data, work: epath.Path, limit: int, say: Say) -> Iterator[str]:
    documents, _ = _documents(origin, data, work, say)
    held = streams.held_out(documents, data.holdout, origin.name, lambda steps: None)
    for index, text in enumerate(text for block in documents.blocks() for text in block):
        if not held[index]:
            limit -= len(text)
            if limit < 0:
                return
            yield text.decode()


def publish(source: epath.Path, target: epath.Path) -> None:
    """Copy a finished folder to where a rename is not atomic: the manifest last; without one, nothing is finished."""
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


def table(manifests: Sequence[Manifest]) -> Table:
    """What is prepared, for a reader. The last column is the unigram entropy of the training tokens."""
    out = Table()
    for name in ("source", "split", "documents", "tokens", "bytes", "B/token", "nats"):
        out.add_column(name, justify="left" if name in ("source", "split") else "right", no_wrap=name != "source")
    for manifest in manifests:
        for name, split in (("train", manifest.train), ("held out", manifest.holdout)):
            first = name == "train"
            out.add_row(
                Text(manifest.source if first else ""),
                name,
                *(f"{count:,}" for count in (split.documents, split.tokens, split.bytes)),
                f"{split.bytes / max(split.tokens, 1):.4f}",
                f"{manifest.unigram_entropy_nats:.4f}" if first else "",
            )
    return out


def main(argv: list[str]) -> None:
    """Prepare what the config's run needs; show it, and the run's first record as text."""
    from absl import flags

    from experiments.run import freeze  # imports jax

    if argv:
        raise InputError(f"unexpected argument {argv[0]!r}; options are given as --config.data.corpus=...")
    run, execution = freeze.freeze(flags.FLAGS.config)
    console = Console(highlight=False)
    nothing = None not in look(run.data, execution.data_root)[2]
    manifests = prepare(run.data, execution.data_root)
    for manifest in manifests:
        verify(manifest, thorough=True)
    console.print("Nothing to do: all is prepared, checksums agree." if nothing else "Prepared, checksums agree.")
    console.print(table(manifests))
    for manifest in manifests:
        console.print(f"{manifest.source}: {os.fspath(manifest.directory)}", markup=False, soft_wrap=True)
    try:
        check_enough(manifests, run.data, run.tokens, run.seq_len)
    except InputError as problem:
        console.print(f"not enough for this config's run: {problem}", style="yellow", markup=False)
    record = Batches(manifests, run.data, run.seq_len, 1, run.seed).records(0, 1)[0]
    console.print(Panel(Text(codec_of(manifests[0]).decode(record)), title=f"first record of seed {run.seed}"))


if __name__ == "__main__":
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config", None, "A file with get_config(arg), as experiments/configs.", lock_config=True
    )
    cli.run(main, required=("config",))
