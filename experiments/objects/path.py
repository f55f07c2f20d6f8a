"""Paths in object stores: epath.Path("gs://bucket/run") is one of these, in this project and in the libraries it uses.

A folder is there as long as an object is whose name begins with it. Making one does nothing, and to rename one is to copy
its objects. No listing is kept: what another process has written a moment ago is there.
"""

from collections.abc import Callable, Iterator
import fnmatch
import functools
import io
import os
import posixpath
from typing import IO, Any

from etils import epath
from etils.epath import gpath, stat_utils

from experiments.objects import bucket
from experiments.objects.bucket import SCHEMES, Bucket, Found
from models.errors import InputError

_WILDCARDS = frozenset("*?[")
# What makes the folder of a checkpoint one (Orbax): deleted first, and written last.
MARKER = "commit_success.txt"
METADATA = "_CHECKPOINT_METADATA"


def split(path: epath.PathLike) -> tuple[Bucket, str]:
    """Return the bucket that an address is in, and the name of the object there."""
    scheme, _, rest = os.fspath(path).partition("://")
    bucket_name, _, name = rest.partition("/")
    return _open(scheme, bucket_name), name


@functools.cache
def _open(scheme: str, name: str) -> Bucket:
    """Open a bucket, once for each process."""
    if scheme == "gs":
        from experiments.objects.google import GoogleBucket

        return GoogleBucket(name)
    if scheme == "s3":
        raise InputError(f"s3://{name}: Orbax (0.12.8) keeps no checkpoints there; expected a folder, or gs://")
    raise InputError(f"{scheme}://{name} is in no object store that is known; expected gs://")


@epath.register_path_cls([f"{scheme}://" for scheme in SCHEMES])
class ObjectPath(gpath.PosixGPath):
    """An address in an object store, with the methods of a path."""

    def _split(self) -> tuple[Bucket, str]:
        return split(self)

    def _folder(self) -> tuple[Bucket, str]:
        """Return the bucket, and what the names of all objects in this folder begin with."""
        store, name = split(self)
        return store, f"{name}/" if name else ""

    # --- objects

    def read_bytes(self) -> bytes:
        """Return the content of an object. Raises FileNotFoundError."""
        return self.read_version().data

    def read_version(self) -> Found:
        """Return the content of an object, and the version that it is in. Raises FileNotFoundError."""
        store, name = self._split()
        return store.read(name)

    def read_text(self, encoding: str | None = None) -> str:
        """Return the content of an object as text. Raises FileNotFoundError."""
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, data: Any) -> int:
        """Write an object, whole: readers see the old content or the new."""
        self.write_version(bytes(data))
        return len(data)

    def write_version(self, data: bytes, expected: str | None = None) -> str:
        """Write an object if it is in the `expected` version (None: in any); return its new one. Raises Conflict."""
        store, name = self._split()
        return store.write(name, data, expected)

    def write_text(self, data: str, encoding: str | None = None, errors: str | None = None) -> int:
        """Write an object of text."""
        del errors
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def open(self, mode: str = "r", **options: Any) -> IO[Any]:
        """Open an object to be read, or to be written when it is closed. Raises UnsupportedOperation for appending."""
        del options
        kind = mode.replace("b", "").replace("t", "")
        if kind == "r":
            stream = io.BytesIO(self.read_bytes())
        elif kind == "w":
            stream = _Upload(self)
        else:
            raise io.UnsupportedOperation(f"{self}: mode={mode!r}; an object can be read or written whole")
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding="utf-8")

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete an object."""
        store, name = self._split()
        try:
            store.delete(name)
        except FileNotFoundError:
            if not missing_ok:
                raise

    # --- what is there

    def is_file(self) -> bool:
        """Tell whether there is an object of this name."""
        store, name = self._split()
        try:
            store.stat(name)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Tell whether there is an object in this folder."""
        store, prefix = self._folder()
        found = store.list(prefix, nested=True, limit=1)
        return bool(found.objects) or not prefix

    def exists(self) -> bool:
        """Tell whether there is an object of this name, or a folder."""
        return self.is_file() or self.is_dir()

    def stat(self) -> stat_utils.StatResult:
        """Return the size of an object and when it was written. Raises FileNotFoundError."""
        store, name = self._split()
        is_directory = False
        length = 0
        written_at = 0.0
        try:
            entry = store.stat(name)
            length = entry.size
            written_at = entry.written_at
        except FileNotFoundError:
            is_directory = self.is_dir()
            if not is_directory:
                raise
        return stat_utils.StatResult(
            is_directory=is_directory, length=length, mtime=int(written_at), owner=None, group=None, mode=None
        )

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Yield what is in this folder; nothing where it is empty, which is where it is not there."""
        store, prefix = self._folder()
        found = store.list(prefix)
        names = [entry.name for entry in found.objects] + found.folders
        for name in sorted(names):
            if name != prefix:  # some programs mark a folder by an object of this name
                yield self / posixpath.basename(name.rstrip("/"))

    def entries(self) -> Iterator[tuple["ObjectPath", int, str]]:
        """Yield the objects right in this folder with their sizes and versions, in one listing."""
        store, prefix = self._folder()
        for entry in store.list(prefix).objects:
            if entry.name != prefix:
                yield self / posixpath.basename(entry.name), entry.size, entry.version

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Yield what matches a pattern, one listing for each folder that is looked into."""
        head, _, tail = pattern.partition("/")
        if not _WILDCARDS & set(head):
            children = [self / head]
            if not tail and not children[0].exists():
                return
        else:
            children = [path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, head)]
        for child in children:
            if tail:
                yield from child.glob(tail)
            else:
                yield child

    def walk(
        self, *, top_down: bool = True, on_error: Callable[[OSError], object] | None = None
    ) -> Iterator[tuple["ObjectPath", list[str], list[str]]]:
        """Yield each folder with the names of what is in it, from here down."""
        del on_error
        if not top_down:
            raise NotImplementedError("expected top_down=True")
        store, prefix = self._folder()
        found = store.list(prefix)
        folders = [posixpath.basename(name.rstrip("/")) for name in found.folders]
        files = [posixpath.basename(entry.name) for entry in found.objects if entry.name != prefix]
        yield self, folders, files
        for folder in folders:
            yield from (self / folder).walk()

    # --- folders

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder needs no making. Raises FileExistsError as a disk would."""
        del mode, parents
        if not exist_ok and self.exists():
            raise FileExistsError(os.fspath(self))

    def rmdir(self) -> None:
        """Do nothing: an empty folder is none."""

    def rmtree(self, missing_ok: bool = False) -> None:
        """Delete all objects of this folder, what makes it a checkpoint first. Raises FileNotFoundError where there is none."""
        store, _ = self._folder()
        names = self._names()
        if not names and not missing_ok:
            raise bucket.absent(os.fspath(self))
        for name in sorted(names, key=_marker_first):
            try:
                store.delete(name)
            except FileNotFoundError:
                pass  # somebody else was at it too

    def names_below(self) -> list[str]:
        """Return the names, from here, of all objects in this folder and those below."""
        _, prefix = self._folder()
        return [name.removeprefix(prefix) for name in self._names()]

    def _names(self) -> list[str]:
        """Return the whole names of all objects in this folder and those below."""
        store, prefix = self._folder()
        found = store.list(prefix, nested=True)
        return [entry.name for entry in found.objects]

    def rename(self, target: epath.PathLike) -> "ObjectPath":
        """Copy an object, or those of a folder, and delete the old ones. Raises FileExistsError, FileNotFoundError."""
        if epath.Path(target).exists():
            raise FileExistsError(os.fspath(target))
        return self.replace(target)

    def replace(self, target: epath.PathLike) -> "ObjectPath":
        """Copy an object, or those of a folder, and delete the old ones. Raises FileNotFoundError."""
        new = type(self)(target)
        store, name = self._split()
        _, new_name = new._split()
        try:
            store.copy(name, new_name)
        except FileNotFoundError:
            self._move_folder(new)
            return new
        self.unlink(missing_ok=True)
        return new

    def _move_folder(self, new: "ObjectPath") -> None:
        """Copy the objects of this folder, what makes it a checkpoint last; then delete them."""
        store, prefix = self._folder()
        _, new_prefix = new._folder()
        names = self._names()
        if not names:
            raise bucket.absent(os.fspath(self))
        for name in sorted(names, key=_marker_first, reverse=True):
            store.copy(name, new_prefix + name.removeprefix(prefix))
        self.rmtree(missing_ok=True)

    def copy(self, dst: epath.PathLike, overwrite: bool = False) -> Any:
        """Copy an object to a path, here or on a disk. Raises FileExistsError."""
        target = epath.Path(dst)
        if not overwrite and target.exists():
            raise FileExistsError(os.fspath(dst))
        target.write_bytes(self.read_bytes())
        return target


def _marker_first(name: str) -> tuple[int, int, str]:
    """Return the place of an object in the order in which those of a folder are deleted."""
    order = (MARKER, METADATA)
    last = posixpath.basename(name)
    place = order.index(last) if last in order else len(order)
    return place, name.count("/"), name


class _Upload(io.BytesIO):
    """What is to be an object once it is closed."""

    def __init__(self, path: ObjectPath):
        super().__init__()
        self._path = path

    def close(self) -> None:
        """Write the object."""
        if not self.closed:
            self._path.write_bytes(self.getvalue())
        super().close()
