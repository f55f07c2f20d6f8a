"""Draw IsoFLOP curves: loss against size at each budget, with the curves of approach 2 or those of a law."""

from collections.abc import Callable
import functools
import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from analysis.figures.drawing import Drawing
from analysis.figures.rows import with_compute
from analysis.figures.style import (
    GREY,
    LOSS_LABEL,
    RED,
    WIDE,
    choose,
    colour_bar,
    colour_of,
    drawable,
    flops_text,
    legend_above,
    log_axis,
    log_colours,
    plain,
    runs,
    three_digits,
)
from analysis.fitting.result import FitResult
from analysis.grid.table import Columns
from analysis.procedures.budgets import Budget, compute_slopes, make_budget, split_budgets
from analysis.procedures.isoflop import find_minimum

# Degree of the polynomial through a budget, how its line looks, and its name.
CURVES: tuple[tuple[int, dict[str, Any], str], ...] = (
    (2, {"ls": "-", "lw": 1.5}, "parabola"),
    (3, {"ls": "--", "lw": 0.9}, "cubic"),
)
STAR: dict[str, Any] = {"color": RED, "mec": "white"}
FEWEST_SIZES = 3  # of a budget that is drawn


def budgets_of(result: FitResult, interpolation: str) -> tuple[Columns, list[Budget]]:
    """Return the columns behind a fit and their IsoFLOP curves, as the fit made them."""
    columns, groups = split_budgets(with_compute(result), FEWEST_SIZES)
    slopes = compute_slopes(columns, groups)
    budgets = []
    for rows in groups:
        budget = make_budget(columns, rows, slopes)
        budgets.append(find_minimum(budget, interpolation))
    return columns, budgets


def isoflop(result: FitResult) -> Figure:
    """Draw loss against size at each budget, with the parabola (line), the cubic (dashes) and the minima.

    `result` is a fit whose rows have budgets. Raises InputError where they have none.
    """
    figure, axis, colours, budgets = _draw_budgets(result, _draw_polynomials)
    for budget in budgets:
        if not budget.reason:
            x = math.exp(budget.minimum)
            y = math.exp(budget.loss)
            axis.plot(x, y, "*", ms=10, mew=0.6, zorder=5, **STAR)

    for _, look, label in CURVES:
        axis.plot([], [], color=GREY, label=label, **look)
    axis.plot([], [], "*", ms=10, ls="", label="minimum inside", **STAR)
    _finish(figure, axis, colours)
    return figure


def isoflop_of_law(result: FitResult, has_optima: bool) -> Figure:
    """Draw loss against size at each budget, with the curves of a law that predicts loss from N and D.

    has_optima: draw the law's optimum of each budget too. Raises InputError where the rows have no budgets.
    """
    figure, axis, colours, budgets = _draw_budgets(result, functools.partial(_draw_law, result))
    axis.plot([], [], color=GREY, lw=1.5, label=plain(result.law.NAME))
    if has_optima:
        _draw_optima(axis, result, np.array([budget.flops for budget in budgets]))
    _finish(figure, axis, colours)
    return figure


def _draw_budgets(
    result: FitResult, draw_curve: Callable[[Axes, Budget, Any], None]
) -> tuple[Figure, Axes, Any, list[Budget]]:
    """Draw the runs of each budget in its colour, with the curve that `draw_curve` adds."""
    figure = Drawing(figsize=(WIDE, 4.3))
    axis = figure.subplots()
    columns, budgets = budgets_of(result, "quadratic")
    colours = log_colours(np.array([budget.flops for budget in budgets]))
    for budget in budgets:
        colour = colour_of(colours, budget.flops)
        _draw_runs(axis, columns, budget, colour)
        draw_curve(axis, budget, colour)
    return figure, axis, colours, budgets


def _draw_law(result: FitResult, axis: Axes, budget: Budget, colour: Any) -> None:
    """Draw the loss that a law gives over the sizes of a budget."""
    N = np.exp(np.linspace(budget.log_n[0], budget.log_n[-1], 80))
    D = budget.flops / result.flops_per_param_token / N
    loss = result.law.target_at({"N": N, "D": D}, result.flops_per_param_token)
    axis.plot(N, drawable(loss), color=colour, lw=1.5)


def _draw_optima(axis: Axes, result: FitResult, compute: np.ndarray) -> None:
    """Mark the law's best size and loss at each budget, those within the sizes that are drawn."""
    factor = result.flops_per_param_token
    best, _ = result.law.optimum(compute, factor)
    loss = result.law.target_at({"C": compute}, factor)
    N = result.columns["N"]
    inside = (best > N.min()) & (best < N.max())
    if inside.any():
        axis.plot(best[inside], loss[inside], "*", ms=10, mew=0.6, ls="", zorder=5, label="its optimum", **STAR)


def _finish(figure: Figure, axis: Axes, colours: Any) -> None:
    """Label the axes, and say which budget has which colour."""
    log_axis(axis, "x")
    log_axis(axis, "y", three_digits)
    axis.set(xlabel="parameters N", ylabel=LOSS_LABEL)
    axis.set_title("IsoFLOP curves", pad=22)
    legend_above(axis)
    bar = colour_bar(figure, axis, colours, "training FLOPs of the budget")
    log_axis(bar.ax, "y", flops_text)


def _draw_runs(axis: Axes, columns: Columns, budget: Budget, colour: Any) -> None:
    """Draw the runs of one budget."""
    log_loss = budget.run_log_loss
    N = columns["N"][budget.rows]
    loss = np.exp(log_loss)
    rows = columns.row[budget.rows]
    shown = choose(budget.rows, log_loss - np.median(log_loss))
    runs(
        axis,
        N[shown],
        loss[shown],
        rows[shown],
        color=colour,
        ms=4.5,
        alpha=0.85,
        mec="none",
    )


def _draw_polynomials(axis: Axes, budget: Budget, colour: Any) -> None:
    """Draw the polynomials through the runs of one budget."""
    log_n = np.linspace(budget.log_n[0], budget.log_n[-1], 80)
    centred = budget.log_n - budget.middle
    for degree, look, _ in CURVES:
        if len(budget.log_n) <= degree:
            continue
        curve = np.polyfit(centred, budget.log_loss, degree, w=np.sqrt(budget.repeats))
        fitted = np.polyval(curve, log_n - budget.middle)
        axis.plot(np.exp(log_n), np.exp(fitted), color=colour, **look)
