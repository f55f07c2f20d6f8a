"""Make rows of parallel text: a source, filled up with separators, and behind one more its target, filled up as well.

    data.pairs=(5, 6)      s o u . . | . t a r g .      where . is the separator

All rows are as long, so that each is a record of its own (experiments/data/batches.py). A separator ends each source and
each target.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.data.options import Data
from experiments.data.tokenizer import Tokenizer
from models.errors import InputError

Encoded = tuple[np.ndarray, np.ndarray]  # ids of tokens, and of how many bytes each is


class Pair(NamedTuple):
    """A source and its target as text."""

    source: str
    target: str


def split(text: str, between: str) -> Pair | None:
    """Return the two texts of a document; None where `between` does not stand there exactly once, or a text is empty."""
    parts = text.split(between)
    if len(parts) != 2 or not all(part.strip() for part in parts):
        return None
    return Pair(*parts)


class Block(NamedTuple):
    """What some documents became.

    sides, encoded: sources and targets in turn, as text and as tokens, those included that are too long for a row.
    has_row: which of the documents have a row. rows: theirs.
    """

    sides: list[str]
    encoded: list[Encoded]
    has_row: np.ndarray
    rows: list[Encoded]


class Rows:
    """Makes rows of documents, and counts those that are left out."""

    def __init__(self, codec: Tokenizer, data: Data):
        self._codec = codec
        self._data = data
        self._documents = 0
        self.left_out: dict[str, int] = {}

    def encode(self, texts: Sequence[str]) -> "Block":
        """Make the rows of some documents."""
        split_texts = [split(text, self._data.between) for text in texts]
        pairs = [pair for pair in split_texts if pair is not None]
        sides = [side for pair in pairs for side in pair]
        encoded = self._codec.encode(sides)
        has_row = np.zeros(len(texts), bool)
        rows = []
        first = 0
        for number, pair in enumerate(split_texts):
            self._documents += 1
            if pair is None:
                self._leave_out("no pair")
                continue
            source, target = encoded[first : first + 2]
            first += 2
            row = self._row(source, target)
            if row is not None:
                has_row[number] = True
                rows.append(row)
        return Block(sides, encoded, has_row, rows)

    def _row(self, source: Encoded, target: Encoded) -> Encoded | None:
        """Return the row of a pair; None where it is too long for one."""
        of_source, of_target = self._data.pairs
        if len(source[0]) > of_source - 1:
            self._leave_out("source too long")
            return None
        if len(target[0]) > of_target - 2:
            self._leave_out("target too long")
            return None
        ids = np.full(of_source + of_target, self._codec.separator, np.int64)
        sizes = np.zeros(len(ids), np.int64)
        for start, side in ((0, source), (of_source + 1, target)):
            end = start + len(side[0])
            ids[start:end] = side[0]
            sizes[start:end] = side[1]
        return ids, sizes

    def _leave_out(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def check(self, rows: int, name: str, of: str) -> None:
        """Raise InputError where a split of the corpus `name` has no row."""
        if rows:
            return
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items()) or "none"
        raise InputError(
            f"data.pairs={self._data.pairs}: no row for {of} from {self._documents} documents of {name!r}; left out: "
            f"{reasons} (data.between={self._data.between!r}); expected longer rows, or other text"
        )
