"""TODO docstring"""

from absl import flags

from analysis.command_line.arguments import one_file
from analysis.laws.base import Law
from analysis.questions.predict import parse_at, predict, read, to_json
from analysis.writing.numbers import number, span
from analysis.writing.output_file import check_writable, write
from experiments import cli


def main(argv: list[str]) -> None:
    """The command line."""
    from rich.console import Console

    values = flags.FLAGS
    path = one_file(argv, "FIT", "fit.json")
    if values.json is not None:
        check_writable(values.json, "--json")
    fitted = read(path)
    prediction = predict(fitted, parse_at(values.at, fitted.law))
    if values.json is not None:
        write(values.json, to_json(prediction), "--json")
    console = Console(highlight=False)
    where = ", ".join(f"{name} = {value:g}" for name, value in prediction.at.items() if value)
    target = fitted.law.TARGET
    unit = " nats per token" if target == "loss" else ""
    console.print(f"{where}: {target} [bold]{number(prediction.loss, 5)}[/]{unit}")
    if prediction.interval is not None:
        console.print(f"{fitted.level:.0%} interval of the law {span(prediction.interval, 5)}")
        console.print(f"{fitted.level:.0%} interval of one run {span(prediction.new_run, 5)}")
    own = type(fitted.law).derived is Law.derived
    for name, value in prediction.optimum.items():
        interval = prediction.optimum_intervals.get(name)
        console.print(
            f"{'optimal ' if own else ''}{name.replace('_', ' ') if own else name} = [bold]{number(value)}[/]"
            + (f" ({span(interval)})" if interval else "")
        )
    if prediction.extrapolation is not None and prediction.extrapolation > 10:
        console.print(f"[yellow]note[/]: {prediction.extrapolation:.3g} times beyond the largest run of the grid")
    if values.json is not None:
        console.print(f"written: {values.json}", soft_wrap=True)


if __name__ == "__main__":
    flags.DEFINE_string("at", None, 'Where to predict: "N=1e9,D=2e10" or "C=1e21".')
    flags.DEFINE_string("json", None, "A JSON file to write.")
    cli.run(main, required=["at"])
