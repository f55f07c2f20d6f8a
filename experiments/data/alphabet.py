"""Spell symbols as characters: symbol 0 is `!`, the next ones are the printable ASCII behind it, then U+0100 and up.

Synthetic text has one character for a symbol, and the tokenizer `symbols:SIZE` one token for a character. The first 94
symbols are a byte each.
"""

import numpy as np

FIRST = 33  # "!"
ASCII_SYMBOLS = 94  # up to "~"
SECOND = 0x100
MOST = 50_000  # far below the surrogates, which are no characters

_CODES = np.arange(MOST)
_CODES = np.where(_CODES < ASCII_SYMBOLS, FIRST + _CODES, SECOND + _CODES - ASCII_SYMBOLS).astype("<u4")


def spell(symbols: np.ndarray) -> str:
    """Return the text of some symbols [length]."""
    return _CODES[symbols].tobytes().decode("utf-32-le")


def read(text: str) -> np.ndarray:
    """Return the symbols of a text [characters], which has to consist of them."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int64)
    return np.where(codes < SECOND, codes - FIRST, codes - SECOND + ASCII_SYMBOLS)


def characters(size: int) -> list[str]:
    """Return the characters of the first `size` symbols."""
    return list(spell(np.arange(size)))
