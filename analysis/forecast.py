"""Freeze predictions before the run they speak of, and score them when it is there.

python -m analysis.forecast fit.json --at="N=1e9,D=2e10" --out=forecasts/1b.json                               freeze
python -m analysis.forecast forecasts/*.json --score=grid.parquet --out=scores.json [--figure=calibration.svg]  score
"""

from collections.abc import Sequence
import datetime
import json
from typing import TYPE_CHECKING

from absl import flags

from analysis.command_line import reading
from experiments import cli
from experiments.cli import InputError

if TYPE_CHECKING:  # imported where they are used: --help stays instant
    from rich.console import Console

    from analysis.questions.forecast import Outcome


def define_flags() -> None:
    """Declare the flags of the command."""
    reading.define()
    flags.adopt_module_key_flags(reading)
    flags.DEFINE_string("at", None, 'The run to forecast: "N=1e9,D=2e10".')
    flags.DEFINE_string("group", None, "Of a file that analysis.fit --by wrote: the group to forecast for.")
    cli.define_path("score", None, "A grid with outcomes: scores the forecasts that are given.")
    cli.define_output("figure", "With --score: the calibration of all forecasts as an SVG or PNG file.")
    flags.DEFINE_string("columns", None, "As for analysis.fit; by default the columns that the fit used.")
    flags.DEFINE_string("where", None, "As for analysis.fit.")
    flags.DEFINE_float("tolerance", 0.02, "Largest ln ratio between a row's inputs and the forecast's.")
    flags.DEFINE_float("level", 0.9, "Level of the intervals that are printed.")
    cli.define_path("out", None, "The JSON file to write.")


def freeze_forecast(argv: Sequence[str], console: "Console") -> None:
    """Write the forecast of a fit for the run that --at names, and print it."""
    from etils import epath

    from analysis.command_line.answers import forecast as answer
    from analysis.command_line.arguments import one_fit
    from analysis.questions import predict
    from analysis.questions.forecast import freeze
    from analysis.writing.output_file import write

    values = flags.FLAGS
    path = one_fit(argv)
    if epath.Path(values.out).exists():
        raise InputError(f"--out: {values.out} exists; a forecast is never overwritten, expected a new name")
    fitted = predict.read(path, values.group)
    if values.at is None:
        raise InputError('--at is missing; expected where to predict, for example --at="N=1e9,D=2e10"')
    at = predict.parse_at(values.at, fitted.law)
    forecast = freeze(path, at, datetime.datetime.now(datetime.UTC), values.group)
    content = {**forecast.content(), "sha256": forecast.sha256()}
    # Not signed: no scores may stand in its place.
    write(values.out, json.dumps(content, indent=1, allow_nan=False) + "\n", "--out")
    answer.show_frozen(forecast, values.level, console)


def score_forecasts(argv: Sequence[str], console: "Console") -> None:
    """Write the scores of forecasts on the grid that --score names, and print them."""
    from analysis.command_line.answers import forecast as answer
    from analysis.command_line.arguments import running_command
    from analysis.questions.forecast import read, score, to_json
    from analysis.writing.output_file import write

    values = flags.FLAGS
    if not argv:
        raise InputError("FORECAST: no files given; expected forecasts that analysis.forecast wrote")
    cli.check_not_read(values.out, "--out", [*argv, values.score])
    cli.check_output(values.out, "--out")
    grid = reading.load(values.score)
    forecasts = [read(path) for path in argv]
    outcomes, waiting = score(forecasts, grid, values.columns, values.where, values.tolerance)
    write(values.out, to_json(outcomes, waiting, grid, running_command("analysis.forecast")), "--out")
    answer.show(outcomes, waiting, values.level, console)
    if values.figure is not None and outcomes:
        draw(outcomes, values.figure)
        console.print(f"written: {values.figure}")


def draw(outcomes: "Sequence[Outcome]", path: str) -> None:
    """Draw the calibration of all outcomes as an SVG or PNG file."""
    from analysis.figures.families import calibration
    from analysis.figures.picture import render
    from analysis.writing.output_file import write

    svg, png = render(lambda: calibration(outcomes), "calibration")
    comment = f"<!-- {cli.signature()} -->".encode()  # readers of PNG end before it
    write(path, (png if path.endswith(".png") else svg) + comment, "--figure")


def main(argv: list[str]) -> None:
    """Freeze a forecast, or score those that are given."""
    from analysis.writing.output_file import check_writable
    from analysis.writing.terminal import open_console

    values = flags.FLAGS
    console = open_console()
    check_writable(values.out, "--out")
    if values.figure is not None:
        check_writable(values.figure, "--figure")
        if not values.figure.endswith((".svg", ".png")):
            raise InputError(f"--figure: {values.figure} is not the name of an SVG or PNG file")
    if values.score is None:
        freeze_forecast(argv, console)
    else:
        score_forecasts(argv, console)
    console.print(f"written: {values.out}")


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=["out"], arguments="FIT, or FORECAST ...")
