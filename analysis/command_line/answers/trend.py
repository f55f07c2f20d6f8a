"""Print a trend."""

from rich.console import Console

from analysis.grid.table import Columns
from analysis.questions.trend import Trend
from analysis.writing.numbers import number, span


def show(trend: Trend, columns: Columns, console: Console) -> None:
    """Print the trend of the role loss over the role X for people."""
    x = columns.sources["X"]
    y = columns.sources["loss"]
    dropped = len(columns.dropped)
    console.print(f"{y} over {x}: [bold]{trend.verdict}[/] ({len(columns)} rows, {dropped} dropped)")
    if trend.turning_point is not None:
        turn = number(trend.turning_point)
        interval = f" ({span(trend.interval)})" if trend.interval else ""
        console.print(f"turns at {x} = {turn}{interval}")
    console.print(f"p of no trend {trend.p_trend:.3f}, p of no turn {trend.p_turn:.3f}")
