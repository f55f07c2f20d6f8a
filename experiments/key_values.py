"""Read and write `key=value,key=value`, as flags, the options of executors and the arguments of studies have it.

There is this one reader, so that all of them refuse the same texts, in one line of one form:

    --executor=slurm: 'gpus=many' is not a whole number; expected gpus=whole number

A comma between brackets (), [], in double quotes or in back-ticks is part of a value, as in nodelist=n[1,3]. Double
quotes around a whole value are no part of it; back-ticks are: they mark names in formulas. Empty parts are left out.
"""

from collections.abc import Callable, Mapping
import re

from models.errors import InputError

_DEPTH = {"(": 1, "[": 1, ")": -1, "]": -1}
_QUOTES = '"`'
_QUOTED = re.compile(r'"([^"]*)"')


def refusal(flag: str, word: str, problem: str, expected: str) -> InputError:
    """Return the error for a word of a flag: what is wrong with it, and what was expected."""
    return InputError(f"{flag}: {word!r} {problem}; expected {expected}")


def read_pairs(
    text: str | None,
    flag: str,
    form: str,
    example: str,
    key_of: Callable[[str, Mapping[str, str]], str] | None = None,
) -> dict[str, str]:
    """Return the values by key, in the order in which they are given.

    `form` (KEY=NUMBER) and `example` (N=1e9) are for the message. `key_of` returns the key of a word that stands
    without one, from the word and the pairs before it. Raises InputError for a word that is no pair, for a key or value
    that is empty, and for a key that is given twice.
    """
    pairs: dict[str, str] = {}
    for word in split_at_commas(text or "", flag):
        left, equals, right = word.partition("=")
        key = left.strip()
        value = right.strip()
        if key_of is not None and not equals:
            key = key_of(word, pairs)
            value = word
        quoted = _QUOTED.fullmatch(value)
        if quoted:
            value = quoted[1]
        if not key or not value:
            raise refusal(flag, word, f"is not {form}", f"for example {example}")
        if key in pairs:
            raise refusal(flag, word, f"gives {key} a second time", "it once")
        pairs[key] = value
    return pairs


def split_at_commas(text: str, flag: str) -> list[str]:
    """Split at commas outside of brackets and quotes. Raises InputError for a bracket or quote without its other end."""
    words = [""]
    depth = 0
    quote = ""
    for letter in text:
        if letter == quote:
            quote = ""
        elif not quote and letter in _QUOTES:
            quote = letter
        elif not quote:
            depth += _DEPTH.get(letter, 0)
        if depth < 0:
            break
        if letter == "," and depth == 0 and not quote:
            words.append("")
        else:
            words[-1] += letter
    if depth or quote:
        raise refusal(
            flag, text, "has a bracket or quote without its other end", "both, or double quotes around the value"
        )
    stripped = [word.strip() for word in words]
    return [word for word in stripped if word]


def write_pairs(pairs: Mapping[str, str]) -> str:
    """Return the text that `read_pairs` reads as these pairs."""
    words = []
    for key, value in pairs.items():
        is_plain = '"' in value or not re.search(r"[,()\[\]`]", value)
        words.append(f"{key}={value}" if is_plain else f'{key}="{value}"')
    return ",".join(words)
