"""Choose which of many candidate starts to refine."""

from collections.abc import Iterator

import numpy as np

SPREAD = 4  # one start of so many is taken from the rest of the candidates


def slices(count: int, length: int) -> Iterator[slice]:
    """Yield slices of at most `length` that cover `count` points: what is worked on at once stays in cache."""
    for first in range(0, count, length):
        yield slice(first, first + length)


def best_and_spread(order: np.ndarray, keep: int) -> np.ndarray:
    """Return `keep` of the candidates in `order`, best first: the best, and a quarter from all over the rest.

    Without that quarter all starts would lie in one valley, and their agreement would mean nothing.
    """
    far_count = keep // SPREAD
    near = order[: keep - far_count]
    far = order[keep - far_count :]
    if not len(far):
        return near
    places = np.linspace(0, len(far) - 1, far_count)
    return np.r_[near, far[places.astype(int)]]
