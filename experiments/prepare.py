"""Prepare a corpus: packed token records and their manifest, once. The library call `prepare` and the command line.

    python -m experiments.prepare --config=experiments/configs/default.py [--config.data.corpus='("my.txt",)']

Texts are stored with TFDS in `ROOT/documents`, a BPE that has to be trained goes to `ROOT/tokenizers`, token
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
import sys
from typing import Any
import uuid

from absl import flags
from etils.epath import Path, PathLike
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from experiments import cli, files
from experiments.cli import InputError
from experiments.data import lossless, manifest_table, questions, split, streams
from experiments.data import tokenizer as tokenizers
from experiments.data.batches import Batches, check_enough
from experiments.data.documents import Documents
from experiments.data.manifest import Manifest, digest, load, verify
from experiments.data.options import Data
from experiments.data.origin import Origin
from experiments.data.sources import describe, obtain, open_documents

BPE_BYTES = 32_000_000  # a BPE is trained on so much training text at most, an equal part from each corpus

COPIED_AT_ONCE = 1 << 22  # bytes
WORDS_LENGTH = 40  # characters of a corpus's name in that of its folder

Say = Callable[[str], None]


def prepare(data: Data, root: PathLike, progress: bool = True) -> tuple[Manifest, ...]:
    """Prepare whatever of the corpora is not yet under `root`, and return their manifests in order.

    Raises InputError when a corpus or tokenizer cannot be had, is malformed, or when what is there is damaged. A corpus
    whose source is gone is still found if it was prepared with the same options.
    """
    root, origins, ready = look(data, root)
    if None not in ready:
        return tuple(_load(folder, data) for folder in ready if folder is not None)
    say: Say = _say if progress else _say_nothing
    origins = [obtain(origin, data.text_field, data.deduplicate) for origin in origins]
    work = _Work(data, origins, _cache() if _remote(root) else root, say, progress)
    manifests = []
    for origin, folder in zip(origins, ready, strict=True):
        manifests.append(_load(folder if folder is not None else work.records(origin, root), data))
    return tuple(manifests)


def _load(folder: Path, data: Data) -> Manifest:
    """Read the manifest of a prepared corpus. Raises InputError for one that has lost text, unless that is allowed."""
    manifest = load(folder)
    lossless.check_allowed(manifest, data)
    return manifest


def _say(line: str) -> None:
    """Say what is being done. A path stays on one line, for it will be copied."""
    Console(stderr=True, highlight=False).print(line, markup=False, soft_wrap=True)


def _say_nothing(line: str) -> None:
    """Say nothing of what is being done."""


def look(data: Data, root: PathLike) -> tuple[Path, list[Origin], list[Path | None]]:
    """Return the root as a path, the corpora as they are now, and the folder of each one's records, None without one."""
    data.check()
    root = Path(root).expanduser()
    above = () if _remote(root) else root.parents  # what an address begins with is no folder
    for folder in (root, *above):
        if folder.exists() and not folder.is_dir():
            raise InputError(
                f"execution.data_root={os.fspath(root)!r}: expected a folder, {os.fspath(folder)} is a file"
            )
    origins = [describe(name, data.text_field, data.deduplicate) for name in data.corpus]
    return root, origins, [_find(origin, origins, data, root) for origin in origins]


def folder_name(origin: Origin, origins: Sequence[Origin], data: Data) -> str:
    """Name the folder of records: the corpus in words, what was asked for, what it was made from."""
    return f"{_request(origin, data)}-{_inputs(origin, origins, data)}"


def _request(origin: Origin, data: Data) -> str:
    """Return what was asked for: the corpus in words, and the hash of the options."""
    words = re.sub(r"[^a-z0-9]+", "-", origin.name.lower()).strip("-")
    words = words[-WORDS_LENGTH:].strip("-")
    asked = [
        streams.VERSION,
        origin.name,
        dict(origin.options),
        data.holdout,
        data.tokenizer,
        list(data.corpus) if _trains_tokenizer(data) else None,  # one BPE for all of them
        *streams.paired(data).values(),
    ]
    return f"{words}-{digest(asked)[:8]}"


def _inputs(origin: Origin, origins: Sequence[Origin], data: Data) -> str:
    """Return the hash of what the records are made from: texts, and the tokenizer's file if it is one."""
    read = [one.inputs for one in _origins_read(origin, origins, data)]
    given = None
    if not _trains_tokenizer(data) and data.tokenizer != "bytes":
        given = tokenizers.load(data.tokenizer).sha256
    return digest([read, given])[:8]


def _trains_tokenizer(data: Data) -> bool:
    """Tell whether the tokenizer is made from the corpora themselves."""
    return data.tokenizer.startswith("bpe:")


def _origins_read(origin: Origin, origins: Sequence[Origin], data: Data) -> Sequence[Origin]:
    """Return the corpora that the records of one depend on: all of them where a tokenizer is trained on all."""
    return origins if _trains_tokenizer(data) else [origin]


def _find(origin: Origin, origins: Sequence[Origin], data: Data, root: Path) -> Path | None:
    """Return the folder with the records of a corpus, None when they are still to be made."""
    if all(one.inputs is not None for one in _origins_read(origin, origins, data)):
        folder = root / "records" / folder_name(origin, origins, data)
        return folder if (folder / "manifest.json").exists() else None
    # The source is gone: the newest records that were made with the same options.
    wanted = f"{_request(origin, data)}-*/manifest.json"
    found = (root / "records").glob(wanted)
    made = [path.parent for path in found]
    if not made:
        return None
    return max(made, key=_time_of_manifest)


def _time_of_manifest(folder: Path) -> float:
    """Return when a folder of records was finished."""
    return (folder / "manifest.json").stat().mtime or 0.0


def _remote(path: Path) -> bool:
    """Tell whether a path is of an object store, where a rename is not atomic."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def locked(path: Path, say: Say) -> Iterator[None]:
    """Hold a lock between processes of a machine (or of a file system that knows locks).

    It ends with the process, whatever ends that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            prepared = path.name.strip(".").removesuffix(".lock")
            say(f"{prepared}: another process is preparing it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cache() -> Path:
    """Return the local folder in which what goes to an object store is made."""
    cache = os.environ.get("LOSSGRID_CACHE", "~/.cache/lossgrid")
    return Path(cache).expanduser() / "data"


class _Work:
    """One preparation: what is asked for, and the folder in which it is done."""

    def __init__(self, data: Data, origins: Sequence[Origin], folder: Path, say: Say, progress: bool):
        self._data = data
        self._origins = origins
        self._folder = folder
        self._say = say
        self._progress = progress

    def records(self, origin: Origin, root: Path) -> Path:
        """Make the records of a corpus unless another process has, and return their folder under `root`."""
        name = folder_name(origin, self._origins, self._data)
        folder = self._folder / "records" / name
        with locked(folder.parent / f".{name}.lock", self._say):
            if not (folder / "manifest.json").exists():
                self._make(origin, folder)
        if _remote(root):
            publish(folder, root / "records" / name)
        return root / "records" / name

    def _make(self, origin: Origin, final: Path) -> None:
        """Write the records of one corpus aside and rename them.

        The caller holds the lock, so what lies aside is nobody's.
        """
        left_behind = list(final.parent.glob(f".{final.name}.*.tmp"))
        if final.exists():
            left_behind.append(final)
        for folder in left_behind:
            folder.rmtree()
        codec = self._tokenizer()
        documents, details = self._documents(origin)
        temporary = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}.tmp"
        temporary.mkdir(parents=True)
        try:
            with _bar(f"{origin.name}: tokens", 2 * len(documents), self._progress) as advance:
                manifest = streams.write(origin, documents, details, codec, self._data, temporary, advance)
            os.replace(temporary, final)
        finally:
            if temporary.exists():
                temporary.rmtree()
        if manifest.details["held_out"] == split.END:
            self._say(f"{origin.name}: too few documents to hold out whole ones; held out: {split.END}")
        tokens = manifest.train.tokens + manifest.holdout.tokens
        self._say(f"{origin.name}: {tokens:,} tokens in {os.fspath(final)}")

    def _documents(self, origin: Origin) -> tuple[Documents, dict[str, Any]]:
        """Open the documents of a corpus, and return them with the details for its manifest."""
        key = digest([dict(origin.options), origin.inputs])[:16]
        name = f"{origin.kind}-{key}"
        folder = self._folder / "documents" / name
        with locked(folder.parent / f".{name}.lock", self._say):
            return open_documents(origin, folder, self._data.text_field, self._say)

    def _tokenizer(self) -> tokenizers.Tokenizer:
        """Return the tokenizer; a BPE is trained on the training documents of all corpora, once."""
        data = self._data
        trained = re.fullmatch(r"bpe:(\d+)", data.tokenizer)
        if trained is None:
            return tokenizers.load(data.tokenizer)
        corpora = [[dict(origin.options), origin.inputs] for origin in self._origins]
        key = digest([streams.VERSION, BPE_BYTES, data.holdout, corpora])[:16]
        stem = f"bpe-{trained[1]}-{key}"
        folder = self._folder / "tokenizers"
        with locked(folder / f".{stem}.lock", self._say):
            for path in folder.glob(f"{stem}-*.json"):
                return _read_trained(path)
            self._say(f"{data.tokenizer}: training on {', '.join(data.corpus)}")
            vocabulary = int(trained[1])
            codec = tokenizers.train_bpe(self._training_texts(), vocabulary, data.tokenizer)
            assert codec.content is not None
            path = folder / f"{stem}-{codec.sha256[:16]}.json"
            files.write_bytes(path, codec.content)
            return codec

    def _training_texts(self) -> Iterator[str]:
        """Yield the texts that a tokenizer is trained on: of each corpus as many bytes, and none that is held out."""
        for origin in self._origins:
            left = BPE_BYTES // len(self._origins)
            for text in self._not_held_out(origin):
                left -= len(text)
                if left < 0:
                    break
                yield text.decode()

    def _not_held_out(self, origin: Origin) -> Iterator[bytes]:
        """Yield the training documents of a corpus."""
        documents, _ = self._documents(origin)
        share = self._data.holdout
        chosen, _ = split.held_out(documents, share, origin.name, _advance_nothing)
        held_out = iter(chosen)
        for block in documents.blocks():
            for text in block:
                if not next(held_out):
                    yield text


def _advance_nothing(steps: int) -> None:
    """Show no progress."""


def _read_trained(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer that was trained before. Raises InputError when its file was changed since."""
    codec = tokenizers.parse(os.fspath(path), path.read_bytes(), kind="bpe")
    if not path.stem.endswith(codec.sha256[:16]):
        raise InputError(f"{path}: its content is not what was written; delete it and run the same command again")
    return codec


@contextlib.contextmanager
def _bar(label: str, total: int, shown: bool) -> Iterator[split.Advance]:
    """Show progress on a terminal, for as long as a block of code runs."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    visible = shown and console.is_terminal
    with Progress(*columns, console=console, disable=not visible, transient=True) as display:
        task = display.add_task(label, total=total)
        yield lambda steps: display.advance(task, steps)


def publish(source: Path, target: Path) -> None:
    """Copy a finished folder to where a rename is not atomic: the manifest last; without one, nothing is finished."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir(), key=_is_manifest):
        copy = target / path.name
        with path.open("rb") as read, copy.open("wb") as written:
            shutil.copyfileobj(read, written, COPIED_AT_ONCE)


def _is_manifest(path: Path) -> bool:
    """Tell whether a file is the manifest; those for which this is true come last in an order."""
    return path.name == "manifest.json"


def codec_of(manifest: Manifest) -> tokenizers.Tokenizer:
    """Return the tokenizer that a prepared corpus was made with, from the copy beside its records."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if name in manifest.files:
            return tokenizers.parse(name, (manifest.directory / name).read_bytes(), kind=manifest.tokenizer_kind)
    return tokenizers.Bytes()


def _show_kinds() -> None:
    """Print the kinds of synthetic text with their options."""
    from experiments.data.sources.synthetic.support import table as kinds

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(kinds.table())


def main(_: list[str]) -> None:
    """Prepare what the config's run needs; show it, and the run's first record as text."""
    from experiments.run import config_file  # imports jax

    if flags.FLAGS.kinds:
        _show_kinds()
        return
    cli.require(["config"])
    run, execution = config_file.frozen()
    console = Console(highlight=False)
    ready = look(run.data, execution.data_root)[2]
    manifests = prepare(run.data, execution.data_root)
    for manifest in manifests:
        verify(manifest, thorough=True)
    if flags.FLAGS.questions:
        for path in questions.write(run.data, Path(flags.FLAGS.questions)):
            console.print(f"questions: {os.fspath(path)}", markup=False, soft_wrap=True)
    if None in ready:
        console.print("Prepared, checksums agree.")
    else:
        console.print("Nothing to do: all is prepared, checksums agree.")
    for manifest in manifests:
        console.print(manifest_table.table(manifest))
        console.print(f"{manifest.source}: {os.fspath(manifest.directory)}", markup=False, soft_wrap=True)
        if manifest.entropy_nats is not None:
            console.print(f"true entropy: {manifest_table.true_entropy(manifest)}", markup=False, soft_wrap=True)
        dropped = manifest.details.get("dropped", {})
        if dropped:
            counts = (f"{count:,} {reason}" for reason, count in dropped.items())
            console.print(f"documents left out: {', '.join(counts)}")
    try:
        check_enough(manifests, run.data, run.tokens, run.seq_len)
    except InputError as problem:
        console.print(f"not enough for this config's run: {problem}", style="yellow", markup=False)
    record = Batches(manifests, run.data, run.seq_len, 1, run.seed).records(0, 1)[0]
    console.print(Panel(Text(codec_of(manifests[0]).decode(record)), title=f"first record of seed {run.seed}"))


if __name__ == "__main__":
    from experiments.run import config_file  # imports jax

    config_file.define()
    cli.define_path("questions", None, "folder for questions about synthetic corpora, as files for evaluation.tasks")
    flags.DEFINE_bool("kinds", False, "print the kinds of synthetic text with their options, and end")
    cli.run(main, check=config_file.check_arguments, overrides=config_file.names)
