"""An entry of data.corpus as something that can be read: what it is now, and its documents through TFDS."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import io
import json
import os
import pathlib
from typing import Any

from absl import logging
from etils import epath

from experiments import files
from experiments.cli import InputError, nearest
from experiments.data.manifest import check_size, digest, sha256
from experiments.data.sources import reading, selection
from experiments.data.sources import tfds as named


@dataclasses.dataclass(frozen=True)
class Origin:
    """A corpus before it is prepared.

    `inputs` hashes what its documents depend on; None: not here, and `problem` says why.
    """

    name: str
    options: Mapping[str, Any]
    inputs: str | None
    details: Mapping[str, Any]
    problem: InputError | None = None


def describe(name: str, text_field: str) -> Origin:
    """Look at a source without reading its texts: versions of packages; names, sizes and times of files. No TFDS."""
    kind = "embedded" if name.startswith("embedded") else "tfds" if name.startswith("tfds:") else "local"
    if kind == "embedded":
        which, _, megabytes = name.partition(":")
        options: dict[str, Any] = {"kind": kind, "megabytes": int(megabytes or selection.MEGABYTES)}
        if package := which.partition("/")[2]:
            options["package"] = package
    else:
        options = {"kind": kind, "text_field": text_field}
    try:
        if kind == "embedded":
            packages = selection.only(selection.packages(), options.get("package"))
            return Origin(name, options, digest([selection.VERSION, packages]), {"packages": packages})
        if kind == "local":
            listed = [(relative, *_state(path)) for relative, path in reading.find(name)]
            return Origin(name, options, digest([reading.VERSION, listed]), {"files": [entry[0] for entry in listed]})
        folder = named.find(name.removeprefix("tfds:"))
        if folder is None:
            return Origin(name, options, None, {}, named.absent(name.removeprefix("tfds:")))
        info = named.info(folder)
        details = {"dataset": info["name"], "version": info["version"], "folder": os.fspath(folder)}
        return Origin(name, options, digest(info), details)
    except InputError as problem:
        return Origin(name, options, None, {}, problem)


def _state(path: epath.Path) -> tuple[int, int]:
    """Size and time of a file, the time as exactly as its place knows it."""
    if "://" in os.fspath(path):
        stat = path.stat()
        return stat.length, int(stat.mtime)
    local = os.stat(path)
    return local.st_size, local.st_mtime_ns


def obtain(origin: Origin, text_field: str) -> Origin:
    """The origin, now surely here: a TFDS dataset is fetched if that is possible. Raises InputError otherwise."""
    name = origin.name.removeprefix("tfds:")
    if origin.inputs is None and origin.options["kind"] == "tfds" and named.find(name) is None:
        named.download(name)
        origin = describe(origin.name, text_field)
    if origin.problem is not None:
        raise origin.problem
    return origin


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
            split = "train" if "train" in builder.info.splits else next(iter(builder.info.splits))
            self._source = builder.as_data_source(split=split)
        self._field, self._folder = field, folder

    def __len__(self) -> int:
        return len(self._source)

    def blocks(self, size: int = 256) -> Iterator[list[bytes]]:
        """All documents, `size` at a time, as UTF-8."""
        for start in range(0, len(self), size):
            rows = self._source.__getitems__(list(range(start, min(start + size, len(self)))))
            yield [row[self._field] for row in rows]


def open_documents(
    origin: Origin, folder: epath.Path, field: str, say: Callable[[str], None]
) -> tuple[Documents, dict[str, Any]]:
    """The documents of an origin and what there is to tell of them.

    Local and embedded ones are first written to `folder` by TFDS.

    The caller holds the lock of `folder`. What an interrupted writer left there is removed.
    """
    if origin.name.startswith("tfds:"):
        return Documents(epath.Path(origin.details["folder"]), field), {
            k: v for k, v in origin.details.items() if k != "folder"
        }
    listing = folder / "listing.json"
    if not listing.exists():
        if folder.exists():
            folder.rmtree()
        say(f"{origin.name}: reading its documents")
        dropped = _build(origin, folder, field)
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


def _build(origin: Origin, folder: epath.Path, field: str) -> dict[str, int]:
    import tensorflow_datasets as tfds

    options: dict[str, Any] = {"data_dir": os.fspath(folder), "file_format": "array_record"}
    with quiet():
        if origin.options["kind"] == "embedded":
            from experiments.data.sources.installed import InstalledPython

            builder: Any = InstalledPython(
                megabytes=origin.options["megabytes"], package=origin.options.get("package"), **options
            )
        else:
            from experiments.data.sources.local import LocalText

            builder = LocalText(files=[path for _, path in reading.find(origin.name)], text_field=field, **options)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return builder.dropped


def _checksums(folder: epath.Path) -> dict[str, Any]:
    found = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): {"sha256": sha256(path), "size": path.stat().st_size} for path in found}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what TFDS prints; this project has its own progress display."""
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
