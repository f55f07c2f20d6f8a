"""Read tasks, on which a run is judged by the likelihood of answers: prompt, answer and perhaps choices, from .jsonl files.

    {"prompt": "The capital of France is", "answer": " Paris", "choices": [" Paris", " Rome", " Oslo"]}

A config names each as FILE or NAME=FILE; a frozen run has NAME=FILE#CHECKSUM, of which all but the path is its identity.
In the place of a file, CORPUS@SORT or CORPUS@SORT:COUNT has so many questions made by the source of a corpus that knows what
can be asked about its texts; CORPUS@SORT:COUNT:CHOICES gives each so many choices, of which the others answer other questions.
The answer follows the prompt without anything between them. Fields besides these three are left to the file's author.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import hashlib
import json
import os
import re
from typing import Any

from etils import epath

from experiments.data import sources
from models.errors import InputError

OPTION = "evaluation.tasks"  # in messages
SUFFIX = ".jsonl"
_NAMED = re.compile(r"(?:(\w+)=)?(.+?)(?:#([0-9a-f]{16}))?")
_MADE = re.compile(r"(.+)@(\w+)(?::(\d+)(?::(\d+))?)?")
MADE_COUNT = 200  # questions, where CORPUS@SORT does not say how many
_NAME = re.compile(r"[A-Za-z]\w*")


@dataclasses.dataclass(frozen=True)
class Item:
    """One question. `choices` has the answer among them; empty where only the answer's own likelihood counts."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """Return all that is to be scored: the answer first, then the other choices."""
        others = [choice for choice in self.choices if choice != self.answer]
        return (self.answer, *others)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A task as the option names it. checksum: of the file's content; None where it has not been looked at."""

    name: str
    path: str
    checksum: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Entry":
        """Read one entry of the option. Raises InputError for what is none."""
        found = _NAMED.fullmatch(text)
        path = found[2] if found else ""
        made = _MADE.fullmatch(path)
        if not made and not path.endswith(SUFFIX):
            raise InputError(f"{OPTION}={text!r}: expected FILE{SUFFIX}, NAME=FILE{SUFFIX} or CORPUS@SORT")
        assert found
        name = found[1] or (made[2] if made else os.path.basename(path).removesuffix(SUFFIX))
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{OPTION}={text!r}: {name!r} cannot be part of a column's name; expected NAME={path} with letters, digits and _"
            )
        return cls(name, path, found[3])

    @property
    def text(self) -> str:
        """Return the entry as a frozen run has it."""
        return f"{self.name}={self.path}#{self.checksum}"

    @property
    def identity(self) -> str:
        """Return what of the entry changes numbers."""
        return f"{self.name}#{self.checksum}"

    def read(self) -> tuple[Item, ...]:
        """Return the items of the file. Raises InputError where it cannot be read or is not the one that was frozen."""
        content = _content(self.path)
        found = _checksum(content)
        if self.checksum not in (None, found):
            raise InputError(
                f"{OPTION}={self.name}={self.path}: its content has changed since the run was planned (checksum {found}, "
                f"expected {self.checksum}): put the file back, or plan anew"
            )
        return tuple(_items(self.path, content))


def entries(texts: Sequence[str]) -> list[Entry]:
    """Return the tasks that the option names. Raises InputError for a name that comes twice."""
    found: dict[str, Entry] = {}
    for text in texts:
        entry = Entry.parse(text)
        if entry.name in found:
            raise InputError(
                f"{OPTION}={text!r}: another task is named {entry.name!r}; expected NAME=FILE with its own"
            )
        found[entry.name] = entry
    return list(found.values())


def resolve(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the option with a checksum for each file. Raises InputError for a file that is none of tasks."""
    resolved = []
    for entry in entries(texts):
        if entry.checksum is None:
            checksum = _checked(entry.path, _stamp(entry.path))
            entry = dataclasses.replace(entry, checksum=checksum)
        resolved.append(entry.text)
    return tuple(resolved)


def identity(texts: Sequence[str]) -> list[str]:
    """Return what of the option changes numbers: names and content, in whatever order, wherever the files lie."""
    return sorted(entry.identity for entry in entries(texts))


def _stamp(path: str) -> tuple[int, int] | None:
    """Return time and size of a file on a disk: as long as they are the same, it is not read again."""
    if "://" in path or not os.path.exists(path):
        return None
    stat = os.stat(path)
    return stat.st_mtime_ns, stat.st_size


@functools.lru_cache(maxsize=64)  # all points of a study name the same files
def _checked(path: str, stamp: tuple[int, int] | None) -> str:
    """Return the checksum of a file of tasks that is sound. `stamp`: so that another file is looked at again."""
    content = _content(path)
    for _ in _items(path, content):
        pass
    return _checksum(content)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _made_by_source(corpus: str, sort: str, count: int, choices: int) -> bytes:
    """Return questions that the source of a corpus makes, as a file would have them. Raises InputError where it makes none."""
    _, source = sources.source_of(corpus)
    ask = getattr(source, "questions", None)
    by_sort = ask(corpus, count) if ask else {}
    if sort not in by_sort:
        known = ", ".join(by_sort) or "none: its texts have no answers"
        raise InputError(f"{OPTION}={corpus}@{sort}: no such questions; expected one of {known}")
    answers = [question.answer for question in by_sort[sort]]
    if choices > len(set(answers)):
        raise InputError(
            f"{OPTION}={corpus}@{sort}:{count}:{choices}: {choices} choices; "
            f"expected at most {len(set(answers))}, the different answers of these questions"
        )
    lines = []
    for place, question in enumerate(by_sort[sort]):
        value = {"prompt": question.prompt, "answer": question.answer}
        if choices:
            value["choices"] = _choices(answers, place, choices)
        lines.append(json.dumps(value, ensure_ascii=False))
    return "\n".join(lines).encode()


def _choices(answers: Sequence[str], place: int, count: int) -> list[str]:
    """Return so many different choices for the question at a place: its own answer, and those of the ones that follow it."""
    in_turn = (*answers[place:], *answers[:place])
    return list(dict.fromkeys(in_turn))[:count]


def _content(path: str) -> bytes:
    if made := _MADE.fullmatch(path):
        return _made_by_source(made[1], made[2], int(made[3] or MADE_COUNT), int(made[4] or 0))
    file = epath.Path(path).expanduser()
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{OPTION}={path}: cannot be read ({type(error).__name__}); expected a {SUFFIX} file"
        ) from error


def _items(path: str, content: bytes) -> Iterator[Item]:
    """Yield the items of a file. Raises InputError naming the line."""
    count = 0
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode())
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not JSON in UTF-8 ({error})") from error
        count += 1
        yield _item(value, f"{path}: line {number}")
    if not count:
        raise InputError(f"{path}: no line; expected one JSON object a line with prompt, answer and perhaps choices")


def _item(value: Any, where: str) -> Item:
    """Return one item. Raises InputError naming the field."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with prompt, answer and perhaps choices")
    prompt = value.get("prompt")
    answer = value.get("answer")
    choices = value.get("choices")
    if not isinstance(prompt, str):
        raise InputError(f"{where}: prompt={prompt!r}; expected a text, which may be empty")
    if not isinstance(answer, str) or not answer:
        raise InputError(f"{where}: answer={answer!r}; expected a text that is not empty")
    if choices is None:
        return Item(prompt, answer)
    are_texts = isinstance(choices, list) and all(isinstance(choice, str) and choice for choice in choices)
    if not are_texts or len(set(choices)) != len(choices):
        raise InputError(f"{where}: choices={choices!r}; expected several texts, each once and none empty")
    if answer not in choices or len(choices) == 1:
        raise InputError(f"{where}: choices={choices!r}; expected the answer {answer!r} among others")
    return Item(prompt, answer, tuple(choices))
