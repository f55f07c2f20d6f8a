"""Print a trend."""

from rich.console import Console

from analysis.grid.table import Columns
from analysis.questions.trend import Trend
from analysis.writing.numbers import counted, number, span


def show(trend: Trend, columns: Columns, console: Console) -> None:
    """Print the trend of the role loss over the role X for people."""
    x = columns.sources["X"]
    y = columns.sources["loss"]
    dropped = len(columns.dropped)
    colour = "yellow" if trend.withheld else "green"
    console.print(f"[{colour}]verdict[/]: {trend.line}", highlight=False)
    console.print(f"{y} over {x}: [bold]{trend.verdict}[/] ({counted(len(columns), 'row')}, {dropped} dropped)")
    if trend.turning_point is not None:
        turn = number(trend.turning_point)
        interval = f" ({span(trend.interval)})" if trend.interval else ""
        console.print(f"turns at {x} = {turn}{interval}")
    no_trend = number(trend.p_trend, 3)
    no_turn = number(trend.p_turn, 3)
    console.print(f"p of no trend {no_trend}, p of no turn {no_turn}")
