"""Write output files: what cannot work is found before the work, and a file is there whole or not at all."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

from etils import epath

from experiments import cli, files
from experiments.cli import InputError


def check_writable(path: str | None, flag: str) -> None:
    """Raise InputError when a file could not be written at `path`; None: none is to be. Creates nothing."""
    if path is None:
        return
    if "://" in path or files.is_device(path):
        return  # an object store says so when it is written to
    target = pathlib.Path(path)
    if not path or target.is_dir():
        raise InputError(f"{flag}: {path!r} is not the path of a file")
    folder = nearest_existing(target.absolute().parent)
    if not folder.is_dir():
        raise InputError(f"{flag}: {path} cannot be written ({folder} is not a folder)")
    replaceable = not target.exists() or os.access(target, os.W_OK)
    if not os.access(folder, os.W_OK) or not replaceable:
        raise InputError(f"{flag}: {path} cannot be written (no permission in {folder})")


def nearest_existing(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder itself or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def write(path: epath.PathLike, content: Mapping[str, Any] | str | bytes, flag: str) -> None:
    """Write JSON (a mapping), text or bytes atomically. Raises InputError when the path cannot be written."""
    try:
        if isinstance(content, Mapping):
            files.write_json(path, cli.signed(content))
        elif isinstance(content, str):
            files.write_bytes(path, content.encode())
        else:
            files.write_bytes(path, content)
    except OSError as error:
        raise InputError(f"{flag}: {path} cannot be written ({error.strerror or error})") from error
