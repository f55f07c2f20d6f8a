"""The embedded corpus: source text of installed packages (experiments/data/selection.py says which files).

"embedded" (32 MB), "embedded:MB" for another size, "embedded/PACKAGE" for the text of one package. It needs no network.
"""

from collections.abc import Callable
import re
from typing import Any

from etils import epath

from experiments.data import selection
from experiments.data.documents import Documents, Texts, written
from experiments.data.origin import Origin
from experiments.data.sources import Found
from models.errors import InputError

PREFIX = "embedded"
DEDUPLICATES = False  # it always is (selection.py)


def check(name: str) -> None:
    """Check the form of the name. Raises InputError."""
    if not re.fullmatch(r"embedded(/[\w.-]+)?(:[1-9]\d{0,3})?", name):
        raise InputError(
            f"data.corpus={name!r}: expected 'embedded', 'embedded:MB' such as 'embedded:8', or 'embedded/PACKAGE'"
        )


def options(name: str, text_field: str) -> dict[str, Any]:
    """Return the size in MB, and the package if one is named."""
    del text_field  # a file of source text has no fields
    which, _, megabytes = name.partition(":")
    found: dict[str, Any] = {"megabytes": int(megabytes or selection.MEGABYTES)}
    package = which.partition("/")[2]
    if package:
        found["package"] = package
    return found


def look(name: str) -> Found:
    """Return the installed versions of the packages."""
    packages = selection.only(selection.packages(), options(name, "").get("package"))
    return Found([selection.VERSION, packages], {"packages": packages})


def obtain(name: str) -> None:
    """Fetch nothing: what is not installed is for the user to install."""


def open_documents(
    origin: Origin, folder: epath.Path, text_field: str, say: Callable[[str], None]
) -> tuple[Documents, dict[str, Any]]:
    """Open the files' texts, which are first written to `folder`."""
    del text_field

    def texts(dropped: dict[str, int]) -> Texts:
        megabytes = origin.options["megabytes"]
        package = origin.options.get("package")
        for source, text in selection.documents(megabytes, dropped, package):
            yield source.checksum, text

    return written(origin, folder, texts, say)
