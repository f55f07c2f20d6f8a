"""Make figures that a notebook shows by themselves, as one small PNG, whether or not pyplot is used there."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from analysis.figures.style import STYLE

DOTS_PER_INCH = 110
SHADES = 128  # of the picture: a drawing has few, and a notebook that is read on a web page should be small


class Drawing(Figure):
    """A matplotlib figure that is no part of pyplot's state: nothing to close, and shown where it is the value of a cell."""

    def _repr_png_(self) -> bytes:
        """Return the picture for a notebook; the same figure gives the same bytes."""
        style: dict[Any, Any] = STYLE
        drawn = io.BytesIO()
        with matplotlib.rc_context(style):
            self.savefig(drawn, format="png", dpi=DOTS_PER_INCH)
        with Image.open(drawn) as picture:
            few = picture.convert("RGB").quantize(SHADES, dither=Image.Dither.NONE)
        small = io.BytesIO()
        few.save(small, format="png", optimize=True)
        return small.getvalue()
