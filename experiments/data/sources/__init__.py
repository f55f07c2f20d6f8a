"""Find the source of a corpus: each file of this folder is one kind of source, and nothing else names it.

An entry of data.corpus belongs to the source with the longest PREFIX that it begins with; the empty one is that of
local files. What a file has to declare is `Source`.
"""

from collections.abc import Callable
import functools
import importlib
import pkgutil
from typing import Any, NamedTuple, Protocol, cast

from etils import epath

from experiments.data.documents import Documents
from experiments.data.manifest import digest
from experiments.data.origin import Origin
from models.errors import InputError


class Found(NamedTuple):
    """What a source sees without reading a text: a JSON value that changes with the texts, and notes for the reader."""

    inputs: Any
    details: dict[str, Any]


class Source(Protocol):
    """What a file of this folder declares. All errors are InputError, one line naming the corpus."""

    PREFIX: str
    """Corpora whose name begins so are this source's."""

    DEDUPLICATES: bool
    """True where data.deduplicate applies: nothing else looks for duplicates, and the texts go through `written`."""

    def check(self, name: str) -> None:
        """Check that a corpus can be named so. Looks at no file, but for whether a folder is there."""
        ...

    def options(self, name: str, text_field: str) -> dict[str, Any]:
        """Return what of the request can change the documents; it becomes a part of the manifest's identity."""
        ...

    def look(self, name: str) -> Found:
        """Look at what is there now, without reading the texts."""
        ...

    def obtain(self, name: str) -> None:
        """Fetch what is not there, where that is possible."""
        ...

    def open_documents(
        self, origin: Origin, folder: epath.Path, text_field: str, say: Callable[[str], None]
    ) -> tuple[Documents, dict[str, Any]]:
        """Open the documents, and return them with the details for the manifest.

        What has to be written first goes into `folder`, whose lock the caller holds.
        """
        ...


def source_names() -> tuple[str, ...]:
    """Return the names of the files in this folder, and in those that `__path__` has been given besides."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@functools.lru_cache(maxsize=1024)  # every point of a study asks
def source_of(corpus: str) -> tuple[str, Source]:
    """Return the source of a corpus and its name."""
    fitting = []
    for name in source_names():
        source = cast(Source, importlib.import_module(f"{__name__}.{name}"))
        if corpus.startswith(source.PREFIX):
            fitting.append((len(source.PREFIX), name, source))
    _, name, source = max(fitting, key=lambda candidate: candidate[0])
    return name, source


def check(corpus: str) -> None:
    """Check that a corpus can be named so. Raises InputError."""
    _, source = source_of(corpus)
    source.check(corpus)


def deduplicates(corpus: str) -> bool:
    """Tell whether data.deduplicate applies to a corpus."""
    return source_of(corpus)[1].DEDUPLICATES


def describe(corpus: str, text_field: str, deduplicate: bool = False) -> Origin:
    """Look at a corpus without reading its texts: versions of packages; names, sizes and times of files."""
    kind, source = source_of(corpus)
    options = {"kind": kind, **source.options(corpus, text_field)}
    if deduplicate and source.DEDUPLICATES:
        options["deduplicate"] = True
    try:
        found = source.look(corpus)
    except InputError as problem:
        return Origin(corpus, options, None, {}, problem)
    return Origin(corpus, options, digest(found.inputs), found.details)


def obtain(origin: Origin, text_field: str, deduplicate: bool = False) -> Origin:
    """Return the origin of a corpus that is surely here, fetched if that is possible. Raises InputError otherwise."""
    if origin.inputs is None:
        _, source = source_of(origin.name)
        source.obtain(origin.name)
        origin = describe(origin.name, text_field, deduplicate)
    if origin.problem is not None:
        raise origin.problem
    return origin


def open_documents(
    origin: Origin, folder: epath.Path, text_field: str, say: Callable[[str], None]
) -> tuple[Documents, dict[str, Any]]:
    """Open the documents of an origin, and return them with the details for the manifest. See `Source`."""
    _, source = source_of(origin.name)
    return source.open_documents(origin, folder, text_field, say)
