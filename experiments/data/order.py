"""Put the records of a corpus into a random order that is computed, not stored: any stretch of it, all at once.

The order is that of `grain.MapDataset.range(size).shuffle(seed).repeat()`, number by number; a test compares them. Grain
tells one position a call, which costs microseconds of Python; here a stretch is a few operations on arrays.

An epoch's order is a Feistel network of four rounds with the round function of Simon (Beaulieu et al. 2013, section 3.1),
on the smallest even number of bits that holds the size. What falls outside is enciphered again until it falls inside
(cycle walking: Black and Rogaway 2002).
"""

import functools

import numpy as np

ROUNDS = 4
LEAST_BITS = 16  # of a block: smaller ones show patterns
WORD = 2**32
INITIAL = 0x8B8B8B8B  # word of C++'s std::seed_seq
FIRST_FACTOR = 1_664_525
SECOND_FACTOR = 1_566_083_941


class Order:
    """The numbers 0, …, size - 1 in a random order, and anew in every epoch.

    Of a size of 2^k + 1 one number stands there twice, and one never: grain has it so.
    """

    def __init__(self, size: int, seed: int):
        if size < 1:
            raise ValueError(f"size={size}; expected at least one record")
        self.size = size
        self.seed = seed

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the numbers that stand at some positions, which go on from epoch to epoch."""
        epochs, inside = np.divmod(positions, self.size)
        numbers = np.zeros(positions.shape, np.int64)
        if self.size == 1:
            return numbers
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            key = (self.seed + int(epoch)) % WORD
            numbers[chosen] = self._in_epoch(key, inside[chosen])
        return numbers

    def _in_epoch(self, key: int, positions: np.ndarray) -> np.ndarray:
        """Return what stands at some positions of the epoch with a key."""
        if self.size < 2**LEAST_BITS:
            return _small(self.size, key)[positions]
        cipher = _Cipher(self.size, key)
        return cipher.permuted(positions)


@functools.lru_cache(maxsize=16)
def _small(size: int, key: int) -> np.ndarray:
    """Return the whole order of a few numbers, whose walks are long: 2^16 / size steps."""
    blocks = np.arange(2**LEAST_BITS)
    cipher = _Cipher(size, key)
    enciphered = cipher.enciphered(blocks)
    # Where a walk is after one more step, then after two, four, …; one that has come inside stays.
    onward = np.where(blocks < size, blocks, enciphered)
    order = enciphered[:size]
    while (order >= size).any():
        order = onward[order]
        onward = onward[onward]
    return order


class _Cipher:
    """Enciphers numbers below `size` by others below it."""

    def __init__(self, size: int, seed: int):
        last = size - 1
        bits = max(LEAST_BITS, (last - 1).bit_length())
        self._size = size
        # A block has a left and a right half.
        self._half = (bits + 1) // 2
        self._mask = 2**self._half - 1
        self._keys = _round_keys(seed)

    def permuted(self, positions: np.ndarray) -> np.ndarray:
        """Return what stands at some positions of the order."""
        values = self.enciphered(positions)
        outside = np.flatnonzero(values >= self._size)
        while len(outside):
            again = self.enciphered(values[outside])
            values[outside] = again
            outside = outside[again >= self._size]
        return values

    def enciphered(self, values: np.ndarray) -> np.ndarray:
        """Encipher blocks once: two halves take turns in changing each other."""
        changed = values >> self._half
        other = values.copy()
        changed &= self._mask
        other &= self._mask
        for key in self._keys:
            changed ^= self._round(other)
            changed ^= key & self._mask
            changed, other = other, changed
        block = changed << self._half
        block |= other
        return block

    def _round(self, x: np.ndarray) -> np.ndarray:
        """Return the round function of Simon."""
        out = self._rotated(x, 1)
        out &= self._rotated(x, 8)
        out ^= self._rotated(x, 2)
        return out

    def _rotated(self, x: np.ndarray, places: int) -> np.ndarray:
        """Return halves, rotated to the left."""
        out = x << places
        out |= x >> (self._half - places)
        out &= self._mask
        return out


@functools.lru_cache(maxsize=64)
def _round_keys(seed: int) -> list[int]:
    """Return what C++'s `std::seed_seq{seed}` generates for the rounds (ISO C++, [rand.util.seedseq])."""
    words = [INITIAL] * ROUNDS
    # What is added to each word besides its own number: how many seeds there are, then the seed.
    given = [1, seed, 0, 0]
    for k in range(ROUNDS):
        after, opposite = _following(k)
        mixed = words[k] ^ words[after] ^ words[k - 1]
        drawn = _folded(mixed) * FIRST_FACTOR
        last = drawn + k + given[k]
        words[after] += drawn
        words[opposite] += last
        words[k] = last
        words = _as_words(words)
    for k in range(ROUNDS):
        after, opposite = _following(k)
        mixed = words[k] + words[after] + words[k - 1]
        drawn = _folded(mixed % WORD) * SECOND_FACTOR
        last = drawn - k
        words[after] ^= drawn
        words[opposite] ^= last
        words[k] = last
        words = _as_words(words)
    return words


def _following(k: int) -> tuple[int, int]:
    """Return the numbers of the two words behind number k."""
    after = k + 1
    opposite = k + 2
    return after % ROUNDS, opposite % ROUNDS


def _folded(word: int) -> int:
    return word ^ word >> 27


def _as_words(numbers: list[int]) -> list[int]:
    """Return numbers modulo the size of a word."""
    return [number % WORD for number in numbers]
