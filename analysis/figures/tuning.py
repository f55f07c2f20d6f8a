"""Figures of hyper-parameters: the learning-rate bracket, and loss over learning rate and batch."""

from collections.abc import Sequence
import math

from matplotlib.figure import Figure
import numpy as np

from analysis.figures.style import CATEGORIES, GREY, RED, WIDE, colour_bar, log_axis, log_colours, runs
from analysis.reporting.survey import Survey
from analysis.reporting.tuning import Cell
from analysis.writing.numbers import human

MOST_CELLS = 6


def learning_rate(survey: Survey) -> Figure:
    """Loss against peak learning rate in the bracket, with its minimum and the rate of the runs in the fit."""
    figure = Figure(figsize=(WIDE, 3.8))
    axis = figure.subplots()
    for colour, one in zip(CATEGORIES, survey.rates, strict=False):
        axis.plot(one.rate, one.loss, "-", color=colour, lw=1.2)
        runs(axis, one.rate, one.loss, one.rows, color=colour, ms=6, label=one.label)
        if one.best is not None:
            axis.plot(one.best, one.best_loss, "*", color=RED, ms=12, mec="white", zorder=5)
        if one.used is not None:
            axis.axvline(one.used, color=colour, ls=":", lw=1.2)
    axis.plot([], [], "*", color=RED, ls="", ms=11, mec="white", label="minimum")
    axis.plot([], [], ":", color=GREY, label="rate of the runs in the fit")
    log_axis(axis, "x", lambda value: f"{value:g}")
    axis.set(xlabel="peak learning rate", ylabel="loss (nats per token)", title="Learning-rate bracket")
    axis.legend(loc="best", frameon=True, framealpha=0.8, edgecolor="none")
    return figure


def rate_batch(survey: Survey) -> Figure:
    """Loss over learning rate and batch, a panel for each size and length, with the best run of each."""
    return rate_batch_map(survey.cells)


def rate_batch_map(cells: Sequence[Cell]) -> Figure:
    """Excess of the loss over the panel's best run, at each learning rate and batch; the six fullest cells."""
    cells = sorted(cells[:MOST_CELLS], key=lambda cell: (cell.N, cell.D))
    rows = math.ceil(len(cells) / 2)
    figure = Figure(figsize=(WIDE, 0.6 + 2.4 * rows if len(cells) > 1 else 3.6))
    axes = figure.subplots(rows, min(len(cells), 2), squeeze=False, sharex=True, sharey=True)
    levels = np.array([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8])  # per cent over the best
    colours = log_colours(levels[[0, -1]])
    for axis, cell in zip(axes.flat, cells, strict=False):
        excess = 100 * cell.excess
        step = np.digitize(excess, levels)
        for one in np.unique(step)[::-1]:  # the best last, on top
            rows_ = step == one
            look = {"color": colours.to_rgba(levels[min(one, len(levels) - 1)]), "ms": 7, "mec": "white", "mew": 0.4}
            runs(axis, cell.lr[rows_], cell.batch[rows_], cell.rows[rows_], "s", **look)
        best = int(np.argmin(excess))
        axis.plot(cell.lr[best], cell.batch[best], "*", color=RED, ms=13, mec="white", zorder=5)
        axis.set_title(cell.label, fontsize=8, fontweight="normal")
        log_axis(axis, "x", lambda value: f"{value:.2g}", few=True)
        log_axis(axis, "y", human, few=True)
    for axis in list(axes.flat)[len(cells) :]:
        axis.set_axis_off()
    figure.supxlabel("peak learning rate", fontsize=10)
    figure.supylabel("batch (tokens)", fontsize=10)
    figure.suptitle("Learning rate and batch", fontsize=11, fontweight="bold", x=0.01, ha="left")
    bar = colour_bar(figure, axes, colours, "loss over the best run, %", extend="max")
    bar.set_ticks(levels, labels=[f"{level:g}" for level in levels])
    bar.ax.minorticks_off()
    return figure
