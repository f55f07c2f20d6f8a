"""TODO docstring"""

from collections.abc import Mapping, Sequence
import datetime
from typing import Any

from absl import flags
from etils import epath

from analysis.command_line.arguments import one_file, running_command
from analysis.grid.table import load
from analysis.questions import predict as prediction
from analysis.questions.forecast import Outcome, calibration, freeze, read, score, to_json
from analysis.writing.numbers import number
from analysis.writing.output_file import check_writable, write
from analysis.writing.terminal import open_console
from experiments import cli
from experiments.cli import InputError


def show(outcomes: Sequence[Outcome], waiting: Mapping[str, str], level: float, console: Any) -> None:
    """Print scores for people."""
    from rich.table import Table

    table = Table("forecast", "made", "law", "predicted", f"{level:.0%} interval", "observed", "error", "inside")
    for outcome in outcomes:
        forecast = outcome.forecast
        low, high = forecast.interval(level)
        table.add_row(
            forecast.path,
            forecast.made,
            forecast.law,
            number(forecast.prediction, 5),
            f"{number(low, 5)} to {number(high, 5)}",
            number(outcome.observed, 5),
            f"{outcome.error:+.2%}",
            "yes" if low <= outcome.observed <= high else "no",
        )
    if outcomes:
        console.print(table)
        shares = ", ".join(f"{one['covered']:.0%} of the {one['level']:.0%} ones" for one in calibration(outcomes))
        console.print(f"{len(outcomes)} outcomes; intervals held: {shares}")
    for path, why in waiting.items():
        console.print(f"{path}: {why}")


def _freeze(paths: Sequence[str], out: str, console: Any) -> None:
    path = one_file(paths, "FIT", "fit.json")
    if epath.Path(out).exists():
        raise InputError(f"--out: {out} exists; a forecast is never overwritten, expected a new name")
    fitted = prediction.read(path)
    if flags.FLAGS.at is None:
        raise InputError('--at is missing; expected where to predict, for example --at="N=1e9,D=2e10"')
    at = prediction.parse_at(flags.FLAGS.at, fitted.law)
    forecast = freeze(path, at, datetime.datetime.now(datetime.UTC))
    write(out, {**forecast.content(), "sha256": forecast.sha256()}, "--out")
    low, high = forecast.interval(flags.FLAGS.level)
    console.print(
        f"{forecast.target} = [bold]{number(forecast.prediction, 5)}[/], one run in {number(low, 5)} to "
        f"{number(high, 5)} at {flags.FLAGS.level:.0%}; frozen {forecast.made}"
    )


def draw(outcomes: Sequence[Outcome], path: str) -> None:
    """The calibration of all outcomes as an SVG or PNG file."""
    from analysis.figures.families import calibration as draw_calibration
    from analysis.figures.picture import render

    svg, png = render(lambda: draw_calibration(outcomes), "calibration")
    write(path, png if path.endswith(".png") else svg, "--figure")


def main(argv: list[str]) -> None:
    """The command line."""
    values = flags.FLAGS
    console = open_console()
    check_writable(values.out, "--out")
    if values.figure is not None:
        check_writable(values.figure, "--figure")
        if not values.figure.endswith((".svg", ".png")):
            raise InputError(f"--figure: {values.figure} is not the name of an SVG or PNG file")
    if values.score is None:
        _freeze(argv, values.out, console)
    else:
        if not argv:
            raise InputError("FORECAST: no files given; expected forecasts that analysis.forecast wrote")
        grid = load(values.score)
        outcomes, waiting = score([read(path) for path in argv], grid, values.columns, values.where, values.tolerance)
        write(values.out, to_json(outcomes, waiting, grid, running_command("analysis.forecast")), "--out")
        show(outcomes, waiting, values.level, console)
        if values.figure is not None and outcomes:
            draw(outcomes, values.figure)
            console.print(f"written: {values.figure}")
    console.print(f"written: {values.out}")


if __name__ == "__main__":
    flags.DEFINE_string("at", None, 'The run to forecast: "N=1e9,D=2e10".')
    flags.DEFINE_string("score", None, "A grid with outcomes: scores the forecasts that are given.")
    flags.DEFINE_string("figure", None, "With --score: the calibration of all forecasts as an SVG or PNG file.")
    flags.DEFINE_string("columns", None, "As for analysis.fit; by default the columns that the fit used.")
    flags.DEFINE_string("where", None, "As for analysis.fit.")
    flags.DEFINE_float("tolerance", 0.02, "Largest ln ratio between a row's inputs and the forecast's.")
    flags.DEFINE_float("level", 0.9, "Level of the intervals that are printed.")
    flags.DEFINE_string("out", None, "The JSON file to write.")
    cli.run(main, required=["out"])
