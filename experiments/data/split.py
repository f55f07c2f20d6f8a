"""Choose the documents that are held out: by a hash of their text, pieces with the document that they are of."""

from collections.abc import Callable
import hashlib
import math

import numpy as np

from experiments.data.documents import Documents
from models.errors import InputError

Advance = Callable[[int], None]

WHOLE = "documents"  # held out as they are
END = "the end of a document"


def name_of(text: bytes) -> str:
    """Return the name of a document of which this is the first piece."""
    return f"{_hash(text):016x}"


def _hash(text: bytes) -> int:
    """Hash a text in 64 bits. It is a hash of its own: corpora may have been chosen by another hash of the text."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"holdout").digest())


def held_out(documents: Documents, share: float, name: str, advance: Advance) -> tuple[np.ndarray, str]:
    """Return which texts are held out, and what they are: WHOLE or END.

    They are the documents whose hash, as a number in [0, 1), is below the share. Equal texts thus go together, and so
    do the pieces of a long one. Where none is below, the document with the smallest hash is held out, so that a small
    corpus has something to evaluate on; of one that comes in pieces only the end, as much as the share asks for.
    Raises InputError when nothing would be left for one side.
    """
    hashes = []
    positions = []
    for block in documents.rows():
        for text, document, position in block:
            hashes.append(int(document, 16) if document else _hash(text))
            positions.append(position if document else -1)
        advance(len(block))
    value = np.array(hashes, np.uint64)
    position = np.array(positions, np.int64)
    held = value < np.uint64(int(share * 2**64))
    different = len(np.unique(value))
    if held.any() and different > 1:
        return (held if not held.all() else value != value.max()), WHOLE
    smallest = value == value.min()
    in_pieces = smallest & (position >= 0)
    if in_pieces.any():
        return _end(position, in_pieces, math.ceil(share * len(value))), END
    if different < 2:
        raise InputError(
            f"data.corpus={name!r}: {len(value)} document(s); expected at least two different ones, one to hold out"
        )
    return smallest, WHOLE


def _end(position: np.ndarray, in_pieces: np.ndarray, wanted: int) -> np.ndarray:
    """Return which texts are the last `wanted` pieces of a document, but never all of them."""
    own = np.sort(position[in_pieces])
    first = own[-min(wanted, len(own) - 1)]
    return in_pieces & (position >= first)
