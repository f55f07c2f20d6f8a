"""Count the files that this process opens, and the folders that it lists, under one folder: the system's own audit events."""

from collections.abc import Iterator
import contextlib
import functools
import os
import sys

EVENTS = ("open", "os.listdir", "os.scandir")

_listeners: list["Touched"] = []  # a hook cannot be removed: it tells those that listen now


class Touched:
    """The paths under a folder that were opened or listed, in order; a path comes once for each time."""

    def __init__(self, folder: os.PathLike[str] | str):
        self._folder = os.fspath(folder)
        self.paths: list[str] = []

    def note(self, path: object) -> None:
        """Note a path, if it is one under the folder."""
        if isinstance(path, str | os.PathLike):
            name = os.fspath(path)
            if isinstance(name, str) and name.startswith(self._folder):
                self.paths.append(name.removeprefix(self._folder))


@functools.cache
def _install() -> None:
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event in EVENTS:
        for listener in _listeners:
            listener.note(arguments[0])


@contextlib.contextmanager
def touched(folder: os.PathLike[str] | str) -> Iterator[Touched]:
    """Listen for as long as the block lasts."""
    _install()
    listener = Touched(folder)
    _listeners.append(listener)
    try:
        yield listener
    finally:
        _listeners.remove(listener)
