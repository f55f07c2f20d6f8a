"""Print a forecast that was frozen, or forecasts with their outcomes."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from analysis.questions.forecast import Forecast, Outcome, calibration
from analysis.writing.numbers import number


def show_frozen(forecast: Forecast, level: float, console: Console) -> None:
    """Print a forecast for people."""
    console.print(f"verdict: {forecast.verdict}", highlight=False)
    low, high = forecast.interval(level)
    place = ", ".join(f"{role} = {number(value)}" for role, value in forecast.at.items())
    console.print(
        f"{place}: {forecast.target} = [bold]{number(forecast.prediction, 5)}[/], one run in {number(low, 5)} to "
        f"{number(high, 5)} at {level:.0%}; frozen {forecast.made}"
    )


def show(outcomes: Sequence[Outcome], waiting: Mapping[str, str], level: float, console: Console) -> None:
    """Print scores for people. waiting: forecasts without an outcome (by path), and why."""
    if outcomes:
        console.print(outcomes_table(outcomes, level))
        held = ", ".join(f"{one['covered']:.0%} of the {one['level']:.0%} ones" for one in calibration(outcomes))
        console.print(f"{len(outcomes)} outcomes; intervals held: {held}")
    for path, why in waiting.items():
        console.print(f"{path}: {why}")


def outcomes_table(outcomes: Sequence[Outcome], level: float) -> Table:
    """Return every outcome beside its forecast."""
    table = Table("forecast", "made", "law", "predicted", f"{level:.0%} interval", "observed", "error", "inside")
    for outcome in outcomes:
        forecast = outcome.forecast
        low, high = forecast.interval(level)
        is_inside = low <= outcome.observed <= high
        table.add_row(
            forecast.path,
            forecast.made,
            forecast.law,
            number(forecast.prediction, 5),
            f"{number(low, 5)} to {number(high, 5)}",
            number(outcome.observed, 5),
            f"{outcome.error:+.2%}",
            "yes" if is_inside else "no",
        )
    return table
