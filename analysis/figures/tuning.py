"""Draw hyper-parameters: the learning-rate bracket, and loss over learning rate and batch."""

from collections.abc import Sequence
import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from analysis.figures.drawing import Drawing
from analysis.figures.style import (
    CATEGORIES,
    GREY,
    RED,
    WIDE,
    colour_bar,
    colour_of,
    legend_inside,
    log_axis,
    log_colours,
    runs,
)
from analysis.reporting.rates import Cell
from analysis.reporting.survey import Survey
from analysis.writing.numbers import human

MOST_CELLS = 6
LEVELS = np.array([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8])  # per cent over the best
STAR: dict[str, Any] = {"color": RED, "mec": "white"}


def two_digits(value: float) -> str:
    """Write a tick as a number of two digits."""
    return f"{value:.2g}"


def learning_rate(survey: Survey) -> Figure:
    """Draw loss against peak learning rate in the bracket, with its minimum and the rate of the runs in the fit."""
    figure = Drawing(figsize=(WIDE, 3.8))
    axis = figure.subplots()
    for colour, bracket in zip(CATEGORIES, survey.rates, strict=False):
        axis.plot(bracket.rate, bracket.loss, "-", color=colour, lw=1.2)
        runs(axis, bracket.rate, bracket.loss, bracket.rows, color=colour, ms=6, label=bracket.label)
        if bracket.best is not None and bracket.best_loss is not None:
            axis.plot(bracket.best, bracket.best_loss, "*", ms=12, zorder=5, **STAR)
        if bracket.used is not None:
            axis.axvline(bracket.used, color=colour, ls=":", lw=1.2)
    axis.plot([], [], "*", ls="", ms=11, label="minimum", **STAR)
    axis.plot([], [], ":", color=GREY, label="rate of the runs in the fit")
    log_axis(axis, "x", lambda value: f"{value:g}")
    axis.set(xlabel="peak learning rate", ylabel="loss (nats per token)", title="Learning-rate bracket")
    legend_inside(axis)
    return figure


def rate_batch(survey: Survey) -> Figure:
    """Draw loss over learning rate and batch, a panel for each size and length, with the best run of each."""
    return rate_batch_map(survey.cells)


def rate_batch_map(cells: Sequence[Cell]) -> Figure:
    """Draw the excess of the loss over the panel's best run, at each learning rate and batch; the six fullest cells."""
    cells = sorted(cells[:MOST_CELLS], key=lambda cell: (cell.N, cell.D))
    down = math.ceil(len(cells) / 2)
    across = min(len(cells), 2)
    height = 0.6 + 2.4 * down if len(cells) > 1 else 3.6
    figure = Drawing(figsize=(WIDE, height))
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    colours = log_colours(LEVELS[[0, -1]])
    panels = list(axes.flat)
    for axis, cell in zip(panels, cells, strict=False):
        _draw_cell(axis, cell, colours)
    for axis in panels[len(cells) :]:
        axis.set_axis_off()

    figure.supxlabel("peak learning rate", fontsize=10)
    figure.supylabel("batch (tokens)", fontsize=10)
    figure.suptitle("Learning rate and batch", fontsize=11, fontweight="bold", x=0.01, ha="left")
    bar = colour_bar(figure, axes, colours, "loss over the best run, %", extend="max")
    bar.set_ticks(LEVELS.tolist(), labels=[f"{level:g}" for level in LEVELS])
    bar.ax.minorticks_off()
    return figure


def _draw_cell(axis: Axes, cell: Cell, colours: Any) -> None:
    """Draw the runs of one size and length in the colour of their excess loss."""
    excess = 100 * cell.excess
    step = np.digitize(excess, LEVELS)
    highest = len(LEVELS) - 1
    # The worst first, so that the best lie on top.
    for one in np.unique(step)[::-1]:
        same = step == one
        colour = colour_of(colours, float(LEVELS[min(one, highest)]))
        look = {"color": colour, "ms": 7, "mec": "white", "mew": 0.4}
        runs(axis, cell.lr[same], cell.batch[same], cell.rows[same], "s", **look)
    best = int(np.argmin(excess))
    axis.plot(cell.lr[best], cell.batch[best], "*", ms=13, zorder=5, **STAR)
    axis.set_title(cell.label, fontsize=8, fontweight="normal")
    log_axis(axis, "x", two_digits, few=True)
    log_axis(axis, "y", human, few=True)
