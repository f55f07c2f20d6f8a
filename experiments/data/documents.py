"""Read documents from a dataset of TFDS, and write texts as such a dataset first where a source has no other.

TFDS shuffles what it writes by the hash of each text's key: the order depends on neither machine nor file system.
"""

from collections.abc import Callable, Iterator
import contextlib
import io
import json
import os
import pathlib
from typing import Any

from absl import logging
from etils import epath

from experiments import files
from experiments.data.manifest import check_size, sha256
from experiments.data.origin import Origin
from models.errors import InputError, nearest

Texts = Iterator[tuple[str, str | bytes]]
"""Keys, each once, and texts."""


class Documents:
    """The documents of a prepared TFDS dataset, in its stored order, which is shuffled.

    Raises InputError when they cannot be read.
    """

    def __init__(self, folder: epath.Path, field: str):
        import tensorflow_datasets as tfds

        with quiet():
            builder: Any = tfds.builder_from_directory(os.fspath(folder))
            if field not in builder.info.features:
                hint = nearest(field, list(builder.info.features), "field")
                raise InputError(f"data.text_field={field!r}: {folder} has none; {hint}")
            splits = builder.info.splits
            split = "train" if "train" in splits else next(iter(splits))
            self._source = builder.as_data_source(split=split)
        self._field = field

    def __len__(self) -> int:
        return len(self._source)

    def blocks(self, size: int = 256) -> Iterator[list[bytes]]:
        """Yield all documents as UTF-8, `size` at a time."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            rows = self._source.__getitems__(list(range(start, stop)))
            yield [row[self._field] for row in rows]


def written(
    origin: Origin, folder: epath.Path, texts: Callable[[dict[str, int]], Texts], say: Callable[[str], None]
) -> tuple[Documents, dict[str, Any]]:
    """Write the texts of an origin to `folder` if they are not there yet, and open them.

    `texts` counts what it leaves out, by reason, in the dictionary that it is given. The caller holds the lock of
    `folder`: what an interrupted writer left there is removed. Raises InputError when the files were changed since.
    """
    listing = folder / "listing.json"
    if not listing.exists():
        if folder.exists():
            folder.rmtree()
        say(f"{origin.name}: reading its documents")
        dropped = _write(folder, texts)
        files.write_json(listing, {"dropped": dropped, "files": _checksums(folder)})
    stored = json.loads(listing.read_text())
    for name, entry in stored["files"].items():
        check_size(folder / name, entry)
        if sha256(folder / name) != entry["sha256"]:
            raise InputError(
                f"{folder / name}: its content is not what was written; delete {folder} and run the same command again"
            )
    (dataset,) = {(folder / name).parent for name in stored["files"]}
    return Documents(dataset, "text"), {**origin.details, "dropped": stored["dropped"]}


def _write(folder: epath.Path, texts: Callable[[dict[str, int]], Texts]) -> dict[str, int]:
    """Write texts as a dataset, and return how many were left out for which reason."""
    import tensorflow_datasets as tfds

    from experiments.data.text_dataset import TextDataset

    dropped: dict[str, int] = {}
    with quiet():
        builder = TextDataset(texts=texts(dropped), data_dir=os.fspath(folder), file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return dropped


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
