"""Message catalogues (.mo files) as parallel text: "messages:LANGUAGE", as in "messages:de"; "messages:all" for all.

They are those that installed Python packages ship, and those of this machine's programs below /usr/share. A document is a message,
a line end, and its translation. "messages:pt" is every kind of Portuguese.
"""

from collections.abc import Callable, Iterator
import gettext
import pathlib
import re
import struct
import sysconfig
from typing import Any

from etils import epath

from experiments.data.documents import Documents, written
from experiments.data.origin import Origin
from experiments.data.sources import Found
from models.errors import InputError

PREFIX = "messages:"
ALL = "all"
DEDUPLICATES = True
CONTEXT = "\x04"  # stands behind what a message is about, in front of it
VERSION = 1  # raise when the same files would give other texts


def check(name: str) -> None:
    """Check the form of the name. Raises InputError."""
    if not re.fullmatch(r"messages:\w+", name):
        raise InputError(
            f"data.corpus={name!r}: expected 'messages:LANGUAGE', such as 'messages:de', or 'messages:all'"
        )


def options(name: str, text_field: str) -> dict[str, Any]:
    """Return the language."""
    del text_field
    return {"language": name.removeprefix(PREFIX)}


def look(name: str) -> Found:
    """Return sizes and times of the catalogues. Raises InputError where there is none."""
    paths = find(options(name, "")["language"])
    if not paths:
        languages = ", ".join(sorted({language_of(path) for path in find(ALL)})) or "none"
        raise InputError(f"data.corpus={name!r}: no catalogue in this language is installed; there are {languages}")
    catalogues = []
    for path in paths:
        state = path.stat()
        catalogues.append([language_of(path), path.stem, state.st_size, state.st_mtime_ns])
    names = [f"{language}/{domain}" for language, domain, *_ in catalogues]
    return Found([VERSION, catalogues], {"catalogues": names})


def obtain(name: str) -> None:
    """Fetch nothing: what is not installed is for the user to install."""


def open_documents(
    origin: Origin, folder: epath.Path, text_field: str, say: Callable[[str], None]
) -> tuple[Documents, dict[str, Any]]:
    """Open the messages, which are first written to `folder`."""
    del text_field

    def texts(dropped: dict[str, int]) -> Iterator[tuple[str, str]]:
        for number, path in enumerate(find(origin.options["language"])):
            for place, (message, translation) in enumerate(messages(path, dropped)):
                yield f"{number}:{place}", f"{message}\n{translation}"

    return written(origin, folder, texts, say)


def roots() -> list[pathlib.Path]:
    """Return the folders in which catalogues are looked for, the one that packages are installed in first."""
    return [pathlib.Path(sysconfig.get_path("purelib")), pathlib.Path("/usr/share")]


def find(language: str) -> list[pathlib.Path]:
    """Return the catalogues of a language and its kinds, by language and name."""
    found = []
    for root in roots():
        for path in root.glob("**/LC_MESSAGES/*.mo"):
            own = language_of(path)
            if language == ALL or re.match(rf"{language}(?![a-z])", own):
                found.append((own, path.stem, path))
    return [path for _, _, path in sorted(found)]


def language_of(path: pathlib.Path) -> str:
    """Return the language of a catalogue, such as pt_BR: the name of the folder it lies in."""
    return path.parent.parent.name


def messages(path: pathlib.Path, dropped: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the messages of a catalogue with their translations; counts those left out, and files that cannot be read."""
    try:
        with path.open("rb") as file:
            catalogue = gettext.GNUTranslations(file)
    except (OSError, ValueError, LookupError, struct.error) as error:
        reason = f"catalogue unreadable ({type(error).__name__})"
        dropped[reason] = dropped.get(reason, 0) + 1
        return
    # The texts by message; one with plural forms is a tuple of the message and the number of the form.
    known: dict[Any, str] = catalogue._catalog  # pyright: ignore[reportAttributeAccessIssue]
    for message, translation in known.items():
        text = message[0] if isinstance(message, tuple) else message
        text = text.rpartition(CONTEXT)[2]
        if text and translation and text != translation:
            yield text, translation
        elif text:
            dropped["not translated"] = dropped.get("not translated", 0) + 1
