"""Find near-duplicate documents by a sample of their shingles. Pure functions of the text; numpy does the work.

A shingle is a window of 32 characters (bytes, case and white space removed). Of all shingles those are kept whose
hash falls in a fixed 32nd of the range (FracMinHash: Irber et al. 2022), so that the overlap of two samples
estimates the overlap of the texts, contained texts included.
"""

import collections

import numpy as np

WIDTH = 32  # characters of a shingle; a power of two
SAMPLE = 32  # one shingle in so many is kept
THRESHOLD = 0.5  # share of a document's shingles that another has too, from which on it is a near-duplicate
FEWEST = 8  # shingles that a document counts as having: a few in common prove nothing

BASE = 0x9E3779B97F4A7C15  # of the polynomial hash: 2^64 over the golden ratio
MIXER = 0xBF58476D1CE4E5B9  # of splitmix64 (Steele, Lea and Flood 2014)


def sketch(text: bytes) -> np.ndarray:
    """Return the sampled shingle hashes of a text, sorted uint64, each once; none for texts under `WIDTH` characters."""
    characters = np.frombuffer(text.lower(), np.uint8)
    printed = characters[characters > ord(" ")]
    hashes = printed.astype(np.uint64)
    base = BASE
    width = 1
    # A polynomial hash of windows, whose width is doubled: h_2w[i] = h_w[i] B^w + h_w[i + w], modulo 2^64.
    while width < WIDTH and len(hashes) > width:
        left = hashes[:-width]
        right = hashes[width:]
        hashes = left * np.uint64(base) + right
        base = base * base % (1 << 64)
        width *= 2
    if width < WIDTH:
        return np.zeros(0, np.uint64)
    hashes = hashes ^ (hashes >> np.uint64(29))
    hashes *= np.uint64(MIXER)
    hashes ^= hashes >> np.uint64(32)
    highest = (1 << 64) // SAMPLE
    sampled = hashes < np.uint64(highest)
    return np.unique(hashes[sampled])


class Seen:
    """Remember the documents that were taken so far.

    A document is new when neither most of it is in what was taken, nor most of one of these is in it.
    """

    def __init__(self) -> None:
        self._owner: dict[int, int] = {}  # shingle -> the document that had it first
        self._owned: list[int] = []  # how many shingles each document had first

    def add(self, text: bytes) -> bool:
        """Take a document, or return False when it is a near-duplicate."""
        hashes = sketch(text).tolist()
        owners = []  # of the shingles that were seen before
        mine = []
        for shingle in hashes:
            if shingle in self._owner:
                owners.append(self._owner[shingle])
            else:
                mine.append(shingle)
        if owners and self._covers(owners, len(hashes)):
            return False
        number = len(self._owned)
        self._owner.update(dict.fromkeys(mine, number))
        self._owned.append(max(len(mine), FEWEST))
        return True

    def _covers(self, owners: list[int], shingles: int) -> bool:
        """Tell whether a document with so many shingles is known, by the owners of those that were seen before."""
        if len(owners) >= THRESHOLD * shingles:
            return True
        shared = collections.Counter(owners)
        return any(count >= THRESHOLD * self._owned[owner] for owner, count in shared.items())
