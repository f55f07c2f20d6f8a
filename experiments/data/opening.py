"""Open a file, compressed or not, as a stream of bytes."""

from collections.abc import Iterator
import contextlib
import gzip
import io
from typing import Any, BinaryIO, cast
import zlib

from etils import epath

from models.errors import InputError

COMPRESSED = (".gz", ".zst")


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[BinaryIO]:
    """Open a file for reading; what its ending says is compressed is unpacked as it is read.

    Raises InputError, also while it is read, for what is not so compressed, is damaged or cut short.
    """
    with path.open("rb") as file, _damage_named(path):
        yield _unpacked(cast(BinaryIO, file), path.suffix)


def _unpacked(file: BinaryIO, suffix: str) -> BinaryIO:
    """Return a stream of what a file holds."""
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if suffix == ".zst":
        import pyarrow

        stream: Any = pyarrow.CompressedInputStream(file, "zstd")
        return io.BufferedReader(stream)
    return file


@contextlib.contextmanager
def _damage_named(path: epath.Path) -> Iterator[None]:
    """Say which compressed file is damaged; errors of the disk stay what they are."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: not a whole {path.suffix} file ({error})") from error
    except OSError as error:
        if path.suffix not in COMPRESSED or error.errno is not None:
            raise
        raise InputError(f"{path}: not a whole {path.suffix} file ({error})") from error
