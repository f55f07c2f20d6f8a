"""Open the file of a grid, local or gs://: fetch its bytes, unpack them, and refuse by name what is no table."""

import bz2
from collections.abc import Callable
import gzip
import io
import lzma
import pathlib
import zipfile
import zlib

from etils import epath

from experiments import files
from experiments.cli import InputError

MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip")
# How files begin that are no tables, what they are, and what to do.
STRANGERS = {
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save its sheet as CSV",
    b"version https://git-lfs": "a pointer of Git LFS and not the file; fetch it with `git lfs pull`",
    b"%PDF": "a PDF; expected the table behind it",
    b"SQLite format 3": "an SQLite database; export its table as CSV",
    b"\x89HDF": "an HDF5 file; save its table as CSV or Parquet",
    b"\x93NUMPY": "a NumPy array without names; save it as CSV with a header",
    b"<!doctype html": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"<?xml": "an XML file; save its table as CSV or JSON",
}
FORMATS = "CSV, JSON, JSON lines or Parquet"


def check_address(path: str) -> None:
    """Raise InputError for the address of a web page or of a storage that cannot be read from here."""
    scheme, is_address, _ = path.partition("://")
    if is_address and scheme.lower() in ("http", "https", "ftp", "hf"):
        name = path.partition("?")[0].rpartition("/")[2] or "FILE"
        raise InputError(
            f"GRID: {path} is an address, and nothing is downloaded here: get it first (curl -LO '{path}') "
            f"and name the file, for example {name}"
        )


def fetch(path: epath.PathLike) -> bytes:
    """Return the bytes of a file. Raises InputError when it is missing, a folder, or cannot be read."""
    check_address(str(path))
    file = files.as_path(path)
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"GRID: {path} does not exist; expected a file of {FORMATS}") from None
    except IsADirectoryError:
        raise InputError(
            f"GRID: {path} is a folder; expected a file of {FORMATS}, or several such as '{path}/*.csv'"
        ) from None
    except OSError as error:
        raise InputError(f"GRID: {path} cannot be read ({error.strerror or error})") from None


def unpack(path: epath.PathLike, data: bytes) -> bytes:
    """Return the bytes as they were before they were packed (gzip, bzip2, xz, zstd, or a zip of one file).

    Raises InputError for an archive that is damaged or that holds no single file.
    """
    kind = next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), None)
    if kind is None:
        return data
    unpackers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "bzip2": bz2.decompress,
        "xz": lzma.decompress,
        "zstd": _unpack_zstd,
        "zip": _unpack_zip,
    }
    try:
        return unpackers[kind](data)
    except InputError as error:
        raise InputError(f"GRID: {path} is {error}") from None
    except (OSError, EOFError, ValueError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"GRID: {path} is packed with {kind} and damaged ({first_line(error)})") from None


def _unpack_zstd(data: bytes) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(io.BytesIO(data), "zstd") as stream:
        return stream.read()


def _unpack_zip(data: bytes) -> bytes:
    """Return the one file of a zip archive. Raises InputError for an office document or several files."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX") and not name.endswith("/")]
        if any(name.startswith("xl/") for name in names):
            raise InputError("an Excel workbook; save its sheet as CSV")
        if any(name.endswith(".npy") for name in names):
            raise InputError("an archive of NumPy arrays; save them as a CSV with a header")
        if len(names) != 1:
            listed = ", ".join(names[:8]) or "nothing"
            raise InputError(f"a zip of {len(names)} files ({listed}); unpack it and name the one to read, or several")
        return archive.read(names[0])


def refuse_stranger(path: epath.PathLike, data: bytes) -> None:
    """Raise InputError for a file whose first bytes say that it is something else than a table."""
    begins = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, what in STRANGERS.items():
        if begins.lower().startswith(magic.lower()):
            raise InputError(f"GRID: {path} is {what}")
    if data[:2] in (b"\x80\x04", b"\x80\x05"):
        raise InputError(f"GRID: {path} is a Python pickle, which is not opened; save its table as CSV or Parquet")


def suffix(path: epath.PathLike) -> str:
    """Return the suffix of a file, in small letters, without that of its packing: .csv of runs.csv.gz."""
    file = pathlib.PurePosixPath(str(path))
    if file.suffix.lower() in PACKED_SUFFIXES:
        file = file.with_suffix("")
    return file.suffix.lower()


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).partition("\n")[0]
