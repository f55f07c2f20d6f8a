"""Say which element of a small model each element of a larger one comes from: index maps of layers, channels and heads.

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
        """Number of elements of the source."""
        return int(self.index.max()) + 1


def of_index(index: Integer[np.ndarray, "T"], uneven: np.random.Generator | None = None) -> Map:
    """Make the Map of an index: with equal shares, or with random ones around them."""
    _, first = np.unique(index, return_index=True)
    new = np.ones(len(index), bool)
    new[first] = False
    weight = np.ones(len(index)) if uneven is None else uneven.uniform(0.5, 1.5, len(index))
    sum_of_copies = np.bincount(index, weight)
    return Map(index, weight / sum_of_copies[index], new)


def layers(
    source: int, target: int, order: str = "stack", first: int = 0, last: int | None = None
) -> Integer[np.ndarray, "L"]:
    """Return the source layer of each of `target` layers: layers [first, last) are repeated, the others stand once.

    stack: the whole range again and again (G_stack, Du et al. 2024); interpolate: each layer so many times in a row;
    gradual: the last layers once more, at most all that there are, until there are enough (the same as stack where
    depths double). Stacking ends in the middle of a range where the depths do not divide.
    """
    if order == "gradual":
        return _gradual(source, target)
    last = source if last is None else last
    size = last - first + target - source
    repeated = np.arange(first, last)
    if order == "stack":
        middle = np.resize(repeated, size)
    else:
        middle = np.repeat(repeated, size // (last - first))
    return np.concatenate([np.arange(first), middle, np.arange(last, source)])


def _gradual(source: int, target: int) -> Integer[np.ndarray, "L"]:
    """Return which layer each layer copies: all of them again, or as many of the last as are missing."""
    index = np.arange(source)
    while len(index) < target:
        more = min(len(index), target - len(index))
        index = np.concatenate([index, index[-more:]])
    return index


def check_layers(source: int, target: int, order: str, first: int, last: int | None, every_layer_alike: bool) -> None:
    """Raise InputError, naming the fields, for a range or depths that `layers` cannot serve.

    `every_layer_alike`: every layer of the range has to be repeated equally often.
    """
    end = source if last is None else last
    if not 0 <= first < end <= source:
        raise InputError(
            f"growth.first={first} and growth.last={last} are no range of the parent's model.depth={source} layers"
        )
    if order == "gradual":
        if (first, end) != (0, source):
            raise InputError(f"growth.order='gradual' takes no range; growth.first={first}, growth.last={last}")
        return
    size = end - first
    more = target - source
    if (every_layer_alike or order == "interpolate") and more % size:
        fits = source + size * max(1, round(more / size))
        what = f"{source} layers" if size == source else f"layers {first} to {end - 1}"
        raise InputError(
            f"model.depth={target} cannot be had by repeating the parent's {what} with growth.order={order!r}; "
            f"expected such as {fits}"
        )


def connection_rate(index: Sequence[int] | Integer[np.ndarray, "L"]) -> float:
    """Return the share of neighbouring layers that were neighbours before (Du et al. 2024)."""
    steps = np.diff(np.asarray(index))
    return float(np.mean(steps == 1)) if len(steps) else 1.0


def elements(source: int, target: int, kind: str, seed: int) -> Integer[np.ndarray, "T"]:
    """Return the source channel of each of `target`: all once, then drawn ("random", Net2Net) or in turn ("modulo").

    The draw depends on nothing but the sizes and the seed: all axes of one size go together.
    """
    if kind == "modulo":
        return np.arange(target) % source
    draw = np.random.default_rng([seed, source, target])
    copies = draw.integers(0, source, target - source)
    return np.concatenate([np.arange(source), copies])


def heads(
    source: tuple[int, int], target: tuple[int, int], kind: str, seed: int
) -> tuple[Integer[np.ndarray, "H"], Integer[np.ndarray, "G"]]:
    """Return the source head of each query head and of each key-value head; sizes are (query heads, key-value heads).

    A copied query head reads a copy of the key-value head that it read before, whatever the two groupings.
    """
    old_heads, old_groups = source
    new_heads, new_groups = target
    old_size = old_heads // old_groups
    new_size = new_heads // new_groups
    group = elements(old_groups, new_groups, kind, seed)
    member = elements(old_size, new_size, kind, seed)
    queries = group[:, None] * old_size + member
    return queries.reshape(-1), group


def of_heads(index: Integer[np.ndarray, "H"], size: int) -> Integer[np.ndarray, "T"]:
    """Turn an index of heads into one of their dimensions, `size` a head."""
    dimensions = index[:, None] * size + np.arange(size)
    return dimensions.reshape(-1)
