"""Which element of a small model each element of a larger one comes from: index maps of layers, channels and heads.

T elements of the target, L layers. Nothing here knows a parameter.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float, Integer
import numpy as np

from models.errors import InputError

ORDERS = ("stack", "interpolate", "gradual")


class Map(NamedTuple):
    """Where the elements of one axis come from. The first that comes from a source element is not new, its copies are."""

    index: Integer[np.ndarray, "T"]  # of the source
    share: Float[np.ndarray, "T"]  # of its source element; the shares of all copies of one add up to 1
    new: Bool[np.ndarray, "T"]

    @property
    def source(self) -> int:
        """Elements of the source."""
        return int(self.index.max()) + 1


def of_index(index: Integer[np.ndarray, "T"], uneven: np.random.Generator | None = None) -> Map:
    """The Map of an index: equal shares, or random ones around them."""
    _, first = np.unique(index, return_index=True)
    new = np.ones(len(index), bool)
    new[first] = False
    weight = np.ones(len(index)) if uneven is None else uneven.uniform(0.5, 1.5, len(index))
    return Map(index, weight / np.bincount(index, weight)[index], new)


def layers(
    source: int, target: int, order: str = "stack", first: int = 0, last: int | None = None
) -> Integer[np.ndarray, "L"]:
    """Source layer of each of `target` layers: layers [first, last) are repeated, the others stand once.

    stack: the whole range again and again (G_stack, Du et al. 2024); interpolate: each layer so many times in a row;
    gradual: the last layers once more, at most all that there are, until there are enough (the same as stack where
    depths double). Stacking ends in the middle of a range where the depths do not divide.
    """
    last = source if last is None else last
    if order == "gradual":
        index = np.arange(source)
        while len(index) < target:
            index = np.concatenate([index, index[-min(len(index), target - len(index)) :]])
        return index
    middle, size = np.arange(first, last), last - first + target - source
    again = np.resize(middle, size) if order == "stack" else np.repeat(middle, size // (last - first))
    return np.concatenate([np.arange(first), again, np.arange(last, source)])


def check_layers(source: int, target: int, order: str, first: int, last: int | None, whole: bool) -> None:
    """Raises InputError, naming the fields, for a range or depths that `layers` cannot serve.

    `whole`: every layer of the range has to be repeated equally often.
    """
    end = source if last is None else last
    if not 0 <= first < end <= source:
        raise InputError(
            f"growth.first={first} and growth.last={last} are no range of the parent's model.depth={source} layers"
        )
    if order == "gradual":
        if (first, end) != (0, source):
            raise InputError(f"growth.order='gradual' takes no range; growth.first={first}, growth.last={last}")
    elif (whole or order == "interpolate") and (target - source) % (end - first):
        fits = source + (end - first) * max(1, round((target - source) / (end - first)))
        what = f"{source} layers" if end - first == source else f"layers {first} to {end - 1}"
        raise InputError(
            f"model.depth={target} cannot be had by repeating the parent's {what} with growth.order={order!r}; "
            f"expected such as {fits}"
        )


def connection_rate(index: Sequence[int] | Integer[np.ndarray, "L"]) -> float:
    """Share of neighbouring layers that were neighbours before (Du et al. 2024)."""
    steps = np.diff(np.asarray(index))
    return float(np.mean(steps == 1)) if len(steps) else 1.0


def elements(source: int, target: int, kind: str, seed: int) -> Integer[np.ndarray, "T"]:
    """Source channel of each of `target`: all once, then drawn ("random", Net2Net) or in turn ("modulo").

    The draw depends on nothing but the sizes and the seed: all axes of one size go together.
    """
    if kind == "modulo":
        return np.arange(target) % source
    draw = np.random.default_rng([seed, source, target])
    return np.concatenate([np.arange(source), draw.integers(0, source, target - source)])


def heads(
    source: tuple[int, int], target: tuple[int, int], kind: str, seed: int
) -> tuple[Integer[np.ndarray, "H"], Integer[np.ndarray, "G"]]:
    """Source head of each query head and of each key-value head; sizes are (query heads, key-value heads).

    A copied query head reads a copy of the key-value head that it read before, whatever the two groupings.
    """
    (old_heads, old_groups), (new_heads, new_groups) = source, target
    old_size, new_size = old_heads // old_groups, new_heads // new_groups
    group = elements(old_groups, new_groups, kind, seed)
    member = elements(old_size, new_size, kind, seed)
    return (group[:, None] * old_size + member).reshape(-1), group


def of_heads(index: Integer[np.ndarray, "H"], size: int) -> Integer[np.ndarray, "T"]:
    """An index of heads as one of their dimensions, `size` a head."""
    return (index[:, None] * size + np.arange(size)).reshape(-1)
