"""Print a prediction."""

from rich.console import Console

from analysis.command_line.verdict_line import show_verdict
from analysis.grid import units
from analysis.laws.base import Law
from analysis.questions.predict import Fitted, Prediction
from analysis.writing.numbers import number, span

FAR = 10  # times beyond the largest run; a reader is told
NOTHING = "-"  # a number that nothing supports would be taken for an answer


def show(prediction: Prediction, fitted: Fitted, console: Console) -> None:
    """Print a prediction for people."""
    law = fitted.law
    show_verdict(prediction.verdict, console)
    place = _place(prediction)
    value = number(prediction.loss, 5)
    if prediction.optimum and law.TARGET in prediction.why:
        value = NOTHING  # the loss at an optimum that nobody knows
    unit = _unit(fitted)
    console.print(f"{place}: {law.TARGET} [bold]{value}[/]{unit}")
    show_intervals(prediction, fitted, console)
    show_optimum(prediction, law, console)
    if fitted.cost:
        console.print(f"compute: {fitted.cost}")
    notes = list(prediction.notes)
    reach = prediction.extrapolation
    if reach is not None and reach > FAR:
        notes.append(f"{reach:.3g} times beyond the largest run of the grid")
    for text in notes:
        console.print(f"[yellow]note[/]: {text}")


def _place(prediction: Prediction) -> str:
    """Write where it was asked for: `N = 1e+09, D = 2e+10`."""
    given = []
    for name, value in prediction.at.items():
        if value:
            given.append(f"{name} = {value:g}")
    return ", ".join(given)


def _unit(fitted: Fitted) -> str:
    """Write the unit of a loss, as its column says; nothing for another target."""
    if fitted.law.TARGET != "loss":
        return ""
    source = fitted.columns.get("loss", "loss")
    return f" {units.loss_unit(source)}"


def show_intervals(prediction: Prediction, fitted: Fitted, console: Console) -> None:
    """Print the intervals of the law and of one run, or why there is none."""
    target = fitted.law.TARGET
    level = f"{fitted.level:.0%}"
    if prediction.interval is not None:
        of_law = span(prediction.interval, 5)
        of_run = span(prediction.new_run, 5)
        console.print(f"{level} interval of the law {of_law}")
        console.print(f"{level} interval of one run {of_run}")
    why = prediction.why.get(target)
    if why:
        console.print(f"[yellow]no interval[/]: {why}")


def show_optimum(prediction: Prediction, law: Law, console: Console) -> None:
    """Print the compute-optimal allocation, or the numbers that a law derives in its place."""
    is_optimum = type(law).derived is Law.derived
    for name, value in prediction.optimum.items():
        words = name.replace("_", " ")
        label = f"optimal {words}" if is_optimum else name
        said = number(value)
        band = ""
        interval = prediction.optimum_intervals.get(name)
        if interval:
            band = f" ({span(interval)})"
        why = prediction.why.get(name)
        if why:
            said = NOTHING
            band = f" ({why})"
        console.print(f"{label} = [bold]{said}[/]{band}")
