"""Small grey images, one symbol a pixel, row by row: a rectangle, lighter or darker than what is behind it, with noise.

Everything else than place, size and shade of the rectangle is noise: the first rows tell what the others will be.
"""

import dataclasses
import itertools

import numpy as np

from experiments.data.sources.synthetic.support.curves import NOISE, Curves
from experiments.data.sources.synthetic.support.process import Corpus
from models.option import Valid, option

VERSION = 1  # raise when the same options would give other texts
DARK = 0.25  # of the range
LIGHT = 0.75


@dataclasses.dataclass(frozen=True)
class Config(Corpus):
    """Options of images."""

    side: int = option(
        12, valid=Valid("from 2 to 16", lambda value: 2 <= value <= 16), help="rows, and pixels of a row"
    )
    bins: int = option(16, valid=Valid("from 2 to 256", lambda value: 2 <= value <= 256), help="shades of grey")
    noise: float = option(1.5, valid=NOISE, help="standard deviation, in shades")


class Process(Curves):
    """All rectangles in both shades; each is a curve over the pixels."""

    options: Config

    def curves(self) -> np.ndarray:
        """Return the images without noise [images, pixels]."""
        side = self.options.side
        most = self.options.bins - 1
        spans = list(itertools.combinations(range(side + 1), 2))  # from the first, to before the second
        inside = np.zeros((len(spans), side), bool)
        for number, (first, end) in enumerate(spans):
            inside[number, first:end] = True
        rectangle = inside[:, None, :, None] & inside[None, :, None, :]
        rectangle = rectangle.reshape(len(spans) ** 2, side * side)
        light = np.where(rectangle, LIGHT, DARK)
        return most * np.concatenate([light, 1 - light])
