"""What an object store can do: whole objects by name, each written at once, and only if nobody else wrote it meanwhile.

There are no folders, no appending and no renaming. google.py does it for the store that there is, and retries
what may go well the next time; path.py shows it as paths. Nothing else in the project speaks to an object store.
"""

import errno
import os
from typing import NamedTuple, Protocol

from models.errors import AgainError

SCHEMES = ("gs", "s3")
ABSENT = ""  # version of an object that is not there
RETRY_SECONDS = 180.0  # that a request is tried again after errors that may pass


class Conflict(Exception):
    """An object is not in the version that its writer expected: somebody else has written it."""


class Unavailable(AgainError, OSError):
    """An object store that has not answered for RETRY_SECONDS."""


class Found(NamedTuple):
    """An object's content, and the version that it is in."""

    data: bytes
    version: str


class Entry(NamedTuple):
    """An object of a listing: its whole name, its size in bytes, its version, and when it was written."""

    name: str
    size: int
    version: str
    written_at: float  # seconds since 1970, by the store's clock


class Listing(NamedTuple):
    """Objects whose names begin alike, and the longer beginnings ("folders", which end in /) that others have."""

    objects: list[Entry]
    folders: list[str]


class Bucket(Protocol):
    """One bucket. Every method may raise Unavailable, PermissionError, and InputError where there is no such bucket."""

    def read(self, name: str) -> Found:
        """Return an object. Raises FileNotFoundError."""
        ...

    def stat(self, name: str) -> Entry:
        """Return what a listing would say of an object. Raises FileNotFoundError."""
        ...

    def write(self, name: str, data: bytes, expected: str | None = None) -> str:
        """Write an object and return its new version.

        With `expected` (ABSENT: there is none) only if it is in that version; raises Conflict otherwise. `data` then has
        to be what no other writer would write: after a broken connection that alone tells whose it is.
        """
        ...

    def list(self, prefix: str, nested: bool = False, limit: int | None = None) -> Listing:
        """List objects by the beginning of their names; `nested`: also those with a / behind it."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object. Raises FileNotFoundError."""
        ...

    def copy(self, name: str, target: str) -> None:
        """Copy an object within the bucket. Raises FileNotFoundError."""
        ...


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is an address in an object store."""
    scheme, found, _ = os.fspath(path).partition("://")
    return bool(found) and scheme in SCHEMES


def absent(address: str) -> FileNotFoundError:
    """Return the error for an object that is not there."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address)


def denied(address: str) -> PermissionError:
    """Return the error for an object that this user may not use."""
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), address)
