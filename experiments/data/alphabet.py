"""Spell symbols as characters: symbol 0 is `!`, the next ones are the printable ASCII behind it, then U+0100 and up.

Synthetic text has one character for a symbol, and the tokenizer `symbols:SIZE` one token for a character. The first 94
symbols are a byte each.
"""

import numpy as np

FIRST = 33  # "!"
ASCII_SYMBOLS = 94  # up to "~"
SECOND = 0x100
MOST = 50_000  # far below the surrogates, which are no characters

ENCODING = "utf-32-le"  # four bytes a character, its code


def _codes() -> np.ndarray:
    """Return the code of each symbol's character."""
    symbols = np.arange(MOST)
    shifted = np.where(symbols < ASCII_SYMBOLS, FIRST, SECOND - ASCII_SYMBOLS)
    return (symbols + shifted).astype("<u4")


_CODES = _codes()


def spell(symbols: np.ndarray) -> str:
    """Return the text of some symbols [length]."""
    codes = _CODES[symbols]
    return codes.tobytes().decode(ENCODING)


def spell_each(rows: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Return the text of each row of symbols [rows, longest], up to its length [rows]."""
    texts = []
    for row, length in zip(rows, lengths, strict=True):
        texts.append(spell(row[:length]))
    return texts


def read(text: str) -> np.ndarray:
    """Return the symbols of a text [characters], which has to consist of them."""
    codes = np.frombuffer(text.encode(ENCODING), "<u4").astype(np.int64)
    shifted = np.where(codes < SECOND, FIRST, SECOND - ASCII_SYMBOLS)
    return codes - shifted


def characters(size: int) -> list[str]:
    """Return the characters of the first `size` symbols."""
    return list(spell(np.arange(size)))
