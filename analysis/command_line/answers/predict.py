"""Print a prediction."""

from rich.console import Console

from analysis.command_line.verdict_line import show_verdict
from analysis.grid import units
from analysis.laws.base import Law
from analysis.questions.predict import Fitted, Prediction
from analysis.writing.numbers import number, span

FAR = 10  # times beyond the largest run; a reader is told


def show(prediction: Prediction, fitted: Fitted, console: Console) -> None:
    """Print a prediction for people."""
    law = fitted.law
    level = f"{fitted.level:.0%}"
    given = [f"{name} = {value:g}" for name, value in prediction.at.items() if value]
    value = number(prediction.loss, 5)
    unit = ""
    if law.TARGET == "loss":
        source = fitted.columns.get("loss", "loss")
        unit = f" {units.loss_unit(source)}"
    place = ", ".join(given)
    show_verdict(prediction.verdict, console)
    console.print(f"{place}: {law.TARGET} [bold]{value}[/]{unit}")
    if prediction.interval is not None:
        of_law = span(prediction.interval, 5)
        of_run = span(prediction.new_run, 5)
        console.print(f"{level} interval of the law {of_law}")
        console.print(f"{level} interval of one run {of_run}")
    why = prediction.why.get(law.TARGET)
    if why:
        console.print(f"[yellow]no interval[/]: {why}")
    show_optimum(prediction, law, console)
    if fitted.cost:
        console.print(f"compute: {fitted.cost}")
    for text in prediction.notes:
        console.print(f"[yellow]note[/]: {text}")
    reach = prediction.extrapolation
    if reach is not None and reach > FAR:
        console.print(f"[yellow]note[/]: {reach:.3g} times beyond the largest run of the grid")


def show_optimum(prediction: Prediction, law: Law, console: Console) -> None:
    """Print the compute-optimal allocation, or the numbers that a law derives in its place."""
    is_optimum = type(law).derived is Law.derived
    for name, value in prediction.optimum.items():
        label = f"optimal {name.replace('_', ' ')}" if is_optimum else name
        interval = prediction.optimum_intervals.get(name)
        band = f" ({span(interval)})" if interval else ""
        why = prediction.why.get(name)
        if why:
            band = f" (no interval: {why})"
        console.print(f"{label} = [bold]{number(value)}[/]{band}")
