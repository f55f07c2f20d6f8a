"""Draw figures in the style of the laboratory, whatever the style of the notebook is."""

from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from analysis.figures.style import STYLE


def styled(draw: Callable[..., Figure], *results: Any) -> Figure:
    """Return what `draw` makes of results."""
    style: dict[Any, Any] = STYLE
    with matplotlib.rc_context(style):
        return draw(*results)
