"""Make figures that a notebook shows by themselves, as one small PNG, whether or not pyplot is used there."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from analysis.figures.style import STYLE

DOTS_PER_INCH = 110


class Drawing(Figure):
    """A matplotlib figure that is no part of pyplot's state: nothing to close, and shown where it is the value of a cell."""

    def _repr_png_(self) -> bytes:
        """Return the picture for a notebook; the same figure gives the same bytes."""
        style: dict[Any, Any] = STYLE
        stream = io.BytesIO()
        with matplotlib.rc_context(style):
            self.savefig(stream, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        return stream.getvalue()
