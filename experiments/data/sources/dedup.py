"""Near-duplicate documents, found by a sample of their shingles. Pure functions of the text; numpy does the work.

A shingle is a window of 32 characters (bytes, case and white space removed). Of all shingles those are kept whose
hash falls in a fixed 32nd of the range (FracMinHash: Irber et al. 2022), so that the overlap of two samples
estimates the overlap of the texts, contained texts included.
"""

import numpy as np

WIDTH = 32  # characters of a shingle; a power of two
SAMPLE = 32  # one shingle in so many is kept
THRESHOLD = 0.5  # share of a document's shingles that another has too, from which on it is a near-duplicate


def sketch(text: bytes) -> np.ndarray:
    """The sampled shingle hashes of a text, sorted uint64, each once; none for texts under `WIDTH` characters."""
    raw = np.frombuffer(text.lower(), np.uint8)
    h = raw[raw > 32].astype(np.uint64)
    base, width = 0x9E3779B97F4A7C15, 1
    while width < WIDTH and len(h) > width:  # polynomial hash of windows, doubled: h_2w[i] = h_w[i] B^w + h_w[i + w]
        h = h[:-width] * np.uint64(base) + h[width:]
        base, width = base * base % (1 << 64), width * 2
    if width < WIDTH:
        return np.zeros(0, np.uint64)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    return np.unique(h[h < np.uint64((1 << 64) // SAMPLE)])


class Seen:
    """Documents taken so far.

    A document is new when neither most of it is in what was taken, nor most of one of these is in it.
    """

    def __init__(self) -> None:
        self._owner: dict[int, int] = {}  # shingle -> the document that had it first
        self._owned: list[int] = []

    def add(self, text: bytes) -> bool:
        """Take a document, or return False when it is a near-duplicate."""
        hashes = sketch(text).tolist()
        owners = [self._owner[h] for h in hashes if h in self._owner]
        if owners:
            if len(owners) >= THRESHOLD * len(hashes):
                return False
            counts = np.bincount(owners)
            if any(counts[o] >= THRESHOLD * self._owned[o] for o in np.flatnonzero(counts)):
                return False
        mine = [h for h in hashes if h not in self._owner]
        self._owner.update(dict.fromkeys(mine, len(self._owned)))
        self._owned.append(
            max(len(mine), 8)
        )  # of a document with few shingles of its own, a few in common prove nothing
        return True
