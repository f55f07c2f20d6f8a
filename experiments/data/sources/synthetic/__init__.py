"""Text of known entropy: "synthetic:KIND" or "synthetic:KIND,option=value,…", as in "synthetic:markov,order=2,symbols=64".

Each file of this folder is one kind, found by its name. It exports `Config`, its options, a dataclass, and `Process`, what
makes documents of them and may know their entropy (support/process.py). The same options give the same documents. `VERSION`
is raised when they would not.
"""

from collections.abc import Callable, Iterator
import dataclasses
import importlib
import pkgutil
from types import ModuleType
from typing import Any

from etils import epath

from experiments.data import true_entropy
from experiments.data.documents import Documents, written
from experiments.data.origin import Origin
from experiments.data.sources import Found
from experiments.data.sources.synthetic.support import process, reading
from experiments.data.sources.synthetic.support.process import Corpus, Question
from models.errors import InputError

PREFIX = "synthetic:"
DEDUPLICATES = False  # it is what its process says


def kinds() -> tuple[str, ...]:
    """Return the names of the files in this folder, and in those that `__path__` has been given besides."""
    return tuple(sorted(file.name for file in pkgutil.iter_modules(__path__) if not file.ispkg))


def load(kind: str, name: str) -> ModuleType:
    """Import the module of a kind. Raises InputError naming the corpus, with all kinds, when there is none."""
    if kind not in kinds():
        raise InputError(
            f"data.corpus={name!r}: {kind!r} is no kind of synthetic text; expected one of {', '.join(kinds())}"
        )
    return importlib.import_module(f"{__name__}.{kind}")


def parse(name: str) -> tuple[ModuleType, Corpus]:
    """Return the module and the options that a corpus names. Raises InputError, one line naming what is known."""
    kind, _, text = name.removeprefix(PREFIX).partition(",")
    module = load(kind, name)
    chosen = reading.read(module.Config, text, name)
    process.check(chosen, name)
    return module, chosen


def questions(name: str, count: int) -> dict[str, list[Question]]:
    """Return questions about the texts of a corpus, by sort; none where its kind has none."""
    module, chosen = parse(name)
    return module.Process(chosen).questions(count)


def check(name: str) -> None:
    """Check the kind and its options. Raises InputError."""
    parse(name)


def options(name: str, text_field: str) -> dict[str, Any]:
    """Return the kind and the options that are not at their default."""
    del text_field
    _, chosen = parse(name)
    return {"process": kind_of(name), "process_options": reading.changed(chosen)}


def kind_of(name: str) -> str:
    """Return the kind that a corpus names."""
    return name.removeprefix(PREFIX).partition(",")[0]


def look(name: str) -> Found:
    """Return the version of the kind: nothing else can change the texts."""
    module, _ = parse(name)
    return Found(module.VERSION, {})


def obtain(name: str) -> None:
    """Fetch nothing: it is made here."""


def open_documents(
    origin: Origin, folder: epath.Path, text_field: str, say: Callable[[str], None]
) -> tuple[Documents, dict[str, Any]]:
    """Open the documents, which are first written to `folder` as they are drawn, and say what their process knows."""
    del text_field
    module, chosen = parse(origin.name)
    made = module.Process(chosen)

    def texts(dropped: dict[str, int]) -> Iterator[tuple[str, str]]:
        del dropped
        for number, text in enumerate(made.texts()):
            yield str(number), text

    documents, details = written(origin, folder, texts, say)
    details["process"] = {"kind": kind_of(origin.name), **dataclasses.asdict(chosen), **made.details()}
    known = made.entropy()
    if known is not None:
        details["entropy"] = true_entropy.of_source(known.nats, known.error, known.method)
    return documents, details
