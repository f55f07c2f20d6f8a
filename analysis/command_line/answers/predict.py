"""Print a prediction."""

from rich.console import Console

from analysis.laws.base import Law
from analysis.questions.predict import Fitted, Prediction
from analysis.writing.numbers import number, span

FAR = 10  # times beyond the largest run; a reader is told


def show(prediction: Prediction, fitted: Fitted, console: Console) -> None:
    """Print a prediction for people."""
    law = fitted.law
    where = ", ".join(f"{name} = {value:g}" for name, value in prediction.at.items() if value)
    unit = " nats per token" if law.TARGET == "loss" else ""
    console.print(f"{where}: {law.TARGET} [bold]{number(prediction.loss, 5)}[/]{unit}")
    if prediction.interval is not None:
        console.print(f"{fitted.level:.0%} interval of the law {span(prediction.interval, 5)}")
        console.print(f"{fitted.level:.0%} interval of one run {span(prediction.new_run, 5)}")
    is_optimum = type(law).derived is Law.derived  # other laws derive numbers of their own
    for name, value in prediction.optimum.items():
        label = f"optimal {name.replace('_', ' ')}" if is_optimum else name
        interval = prediction.optimum_intervals.get(name)
        band = f" ({span(interval)})" if interval else ""
        console.print(f"{label} = [bold]{number(value)}[/]{band}")
    if prediction.extrapolation is not None and prediction.extrapolation > FAR:
        console.print(f"[yellow]note[/]: {prediction.extrapolation:.3g} times beyond the largest run of the grid")
