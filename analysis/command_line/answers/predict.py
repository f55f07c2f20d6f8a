"""Print a prediction."""

from collections.abc import Mapping
import math

from rich.console import Console

from analysis.command_line.verdict_line import show_verdict
from analysis.grid import units
from analysis.laws.base import Law
from analysis.questions.lifetime import OverItsLife
from analysis.questions.predict import Fitted, Prediction
from analysis.writing.numbers import number, span

FAR = 10  # times beyond the largest run; a reader is told
OPTIMAL = ("N", "D", "tokens_per_param")  # numbers that are called the best


def show(prediction: Prediction, fitted: Fitted, console: Console) -> None:
    """Print a prediction for people."""
    law = fitted.law
    show_verdict(prediction.verdict, console)
    place = _place(prediction, law)
    if law.TARGET in prediction.at:
        console.print(f"{place}, at the least cost")
    else:
        value = number(prediction.loss, 5)
        unit = _unit(fitted)
        console.print(f"{place}: {law.TARGET} [bold]{value}[/]{unit}")
        show_interval(prediction, fitted, console)
    labels = _labels(prediction, law)
    for name, label in labels.items():
        interval = prediction.optimum_intervals.get(name)
        band = f" ({span(interval)})" if interval else ""
        console.print(f"{label} = [bold]{number(prediction.optimum[name])}[/]{band}")
    for text in _reasons(prediction, {law.TARGET: law.TARGET} | labels):
        console.print(text, highlight=False)
    if fitted.cost:
        console.print(f"compute: {fitted.cost}")
    notes = list(prediction.notes)
    reach = prediction.extrapolation
    if reach is not None and reach > FAR:
        notes.append(f"{reach:.3g} times beyond the largest run of the grid")
    for text in notes:
        console.print(f"[yellow]note[/]: {text}")


def _labels(prediction: Prediction, law: Law) -> dict[str, str]:
    """Return what the numbers beside the target are called: those of an optimum as people know them."""
    has_optimum = isinstance(law, OverItsLife) or type(law).derived is Law.derived
    found = {}
    for name in prediction.optimum:
        is_given = name == "total_flops" and "C" in prediction.at
        if is_given:
            continue
        words = name.replace("_flops", " FLOPs").replace("_", " ")
        is_best = name in OPTIMAL and has_optimum
        found[name] = f"optimal {words}" if is_best else words if has_optimum else name
    return found


def _reasons(prediction: Prediction, labels: Mapping[str, str]) -> list[str]:
    """Say why numbers, or their intervals, are not known; what holds for several is said once."""
    numbers = prediction.optimum | {name: prediction.loss for name in labels if name not in prediction.optimum}
    found: dict[tuple[str, str], list[str]] = {}
    for name, label in labels.items():
        why = prediction.why.get(name)
        if why:
            lacks = "not known" if math.isnan(numbers[name]) else "no interval"
            found.setdefault((lacks, why), []).append(label)
    return [f"[yellow]{lacks}[/]: {', '.join(names)}: {why}" for (lacks, why), names in found.items()]


def _place(prediction: Prediction, law: Law) -> str:
    """Write where it was asked for: `N = 1e+09, D = 2e+10`."""
    given = []
    for name, value in prediction.at.items():
        if value:
            given.append(f"{name} = {value:g}")
    if isinstance(law, OverItsLife):
        given.append(f"{law.SERVE_TOKENS:g} tokens served")
    return ", ".join(given)


def _unit(fitted: Fitted) -> str:
    """Write the unit of a loss, as its column says; nothing for another target."""
    if fitted.law.TARGET != "loss":
        return ""
    source = fitted.columns.get("loss", "loss")
    return f" {units.loss_unit(source)}"


def show_interval(prediction: Prediction, fitted: Fitted, console: Console) -> None:
    """Print the intervals of the law and of one run, where there are some."""
    if prediction.interval is None:
        return
    level = f"{fitted.level:.0%}"
    of_law = span(prediction.interval, 5)
    of_run = span(prediction.new_run, 5)
    console.print(f"{level} interval of the law {of_law}")
    console.print(f"{level} interval of one run {of_run}")
