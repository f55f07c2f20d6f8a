"""Read documents from a dataset of TFDS, and write texts as such a dataset first where a source has no other.

TFDS shuffles what it writes by the hash of each text's key: the order depends on neither machine nor file system.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import io
import json
import os
import pathlib
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from experiments import files
from experiments.data import fields
from experiments.data.dedup import Seen
from experiments.data.manifest import check_size, sha256
from experiments.data.origin import Origin
from models.errors import InputError, nearest


class Piece(NamedTuple):
    """A text with its key. `document` names what it is a piece of, "" if it is whole; `position`: it grows there."""

    key: str
    text: str | bytes
    document: str
    position: int


Texts = Iterable[tuple[str, str | bytes] | Piece]
"""Keys, each once, and texts."""

Row = tuple[bytes, str, int]
"""A text, the document that it is a piece of, its position there."""


class Documents:
    """The documents of a prepared TFDS dataset, in its stored order, which is shuffled.

    `in_pieces`: some are pieces of longer ones. Raises InputError when they cannot be read.
    """

    def __init__(self, folder: epath.Path, field: str, in_pieces: bool = False):
        import tensorflow_datasets as tfds

        with quiet():
            builder: Any = tfds.builder_from_directory(os.fspath(folder))
            _check_fields(field, builder.info.features, folder)
            splits = builder.info.splits
            split = "train" if "train" in splits else next(iter(splits))
            self._source = builder.as_data_source(split=split)
        self._field = field
        self._in_pieces = in_pieces

    def __len__(self) -> int:
        return len(self._source)

    def blocks(self, size: int = 256) -> Iterator[list[bytes]]:
        """Yield all documents as UTF-8, `size` at a time."""
        for rows in self.rows(size):
            yield [text for text, _, _ in rows]

    def rows(self, size: int = 256) -> Iterator[list[Row]]:
        """Yield all documents with what they are pieces of, `size` at a time."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            rows = self._source.__getitems__(list(range(start, stop)))
            yield [self._row(row) for row in rows]

    def _row(self, row: dict[str, Any]) -> Row:
        """Return what is known of a stored document."""
        if self._in_pieces:
            return row["text"], row["document"].decode(), int(row["position"])
        if self._field in row:
            return row[self._field], "", 0
        text = fields.text_of(_as_text(row), self._field, "a row of TFDS")
        assert text is not None, "TFDS has no nulls"
        return text.encode(), "", 0


def _check_fields(spec: str, features: Any, folder: epath.Path) -> None:
    """Raise InputError when a dataset has not the fields that data.text_field names."""
    for path in fields.parts(spec):
        node = features
        for name in [path] if path in features else path.split("."):
            known = _names_in(node)
            if name not in known:
                raise InputError(f"data.text_field={spec!r}: {folder} has none; {nearest(name, known, 'field')}")
            node = node[name]


def _names_in(feature: Any) -> list[str]:
    """Return the names of the features inside one of a dataset."""
    import tensorflow_datasets as tfds

    return list(feature) if isinstance(feature, tfds.features.FeaturesDict) else []


def _as_text(node: Any) -> Any:
    """Return a row, and what is in it, with its bytes as text."""
    if isinstance(node, Mapping):
        return {name: _as_text(value) for name, value in node.items()}
    return node.decode() if isinstance(node, bytes) else node


def written(
    origin: Origin,
    folder: epath.Path,
    texts: Callable[[dict[str, int]], Texts],
    say: Callable[[str], None],
    in_pieces: bool = False,
) -> tuple[Documents, dict[str, Any]]:
    """Write the texts of an origin to `folder` if they are not there yet, and open them.

    `texts` counts what it leaves out, by reason, in the dictionary that it is given; with `in_pieces` it yields some
    texts as pieces of longer documents. Near-duplicates are left out where the origin says so. The caller holds the lock of
    `folder`: what an interrupted writer left there is removed. Raises InputError when the files were changed since.
    """
    listing = folder / "listing.json"
    if not listing.exists():
        if folder.exists():
            folder.rmtree()
        say(f"{origin.name}: reading its documents")
        chosen = texts
        if "deduplicate" in origin.options:
            chosen = _without_duplicates(texts)
        dropped = _write(folder, chosen, in_pieces)
        files.write_json(listing, {"dropped": dropped, "files": _checksums(folder)})
    stored = json.loads(listing.read_text())
    for name, entry in stored["files"].items():
        check_size(folder / name, entry)
        if sha256(folder / name) != entry["sha256"]:
            raise InputError(
                f"{folder / name}: its content is not what was written; delete {folder} and run the same command again"
            )
    (dataset,) = {(folder / name).parent for name in stored["files"]}
    return Documents(dataset, "text", in_pieces), {**origin.details, "dropped": stored["dropped"]}


def _without_duplicates(texts: Callable[[dict[str, int]], Texts]) -> Callable[[dict[str, int]], Texts]:
    """Return what yields the same texts without near-duplicates of those before them, and counts these."""

    def chosen(dropped: dict[str, int]) -> Texts:
        seen = Seen()
        for item in texts(dropped):
            text: str | bytes = item[1]
            encoded = text.encode() if isinstance(text, str) else text
            if seen.add(encoded):
                yield item
            else:
                dropped["near-duplicate"] = dropped.get("near-duplicate", 0) + 1

    return chosen


def _write(folder: epath.Path, texts: Callable[[dict[str, int]], Texts], in_pieces: bool) -> dict[str, int]:
    """Write texts as a dataset, and return how many were left out for which reason."""
    import tensorflow_datasets as tfds

    from experiments.data.text_dataset import TextDataset

    dropped: dict[str, int] = {}
    with quiet():
        to = {"data_dir": os.fspath(folder), "file_format": "array_record"}
        builder = TextDataset(rows=_rows_to_write(texts(dropped), in_pieces), in_pieces=in_pieces, **to)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return dropped


def _rows_to_write(texts: Texts, in_pieces: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key of each text, and what is stored of it."""
    for item in texts:
        key, text, *place = item
        row: dict[str, Any] = {"text": text}
        if in_pieces:
            row |= dict(zip(("document", "position"), place, strict=True))
        yield key, row


def _checksums(folder: epath.Path) -> dict[str, Any]:
    """Return the checksum and size of every file below a folder."""
    checksums = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.is_file():
            checksums[str(path.relative_to(folder))] = {"sha256": sha256(path), "size": path.stat().st_size}
    return checksums


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what TFDS prints; this project has its own progress display."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    level = logging.get_verbosity()
    if level == logging.INFO:  # the default; --verbosity=1 shows all
        logging.set_verbosity(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
