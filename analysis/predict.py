"""Predict from a fit.

python -m analysis.predict fit.json --at="N=1e9,D=2e10"       the loss of a run
python -m analysis.predict fit.json --at="C=1e21"             the compute-optimal N and D, and the loss there
python -m analysis.predict fit.json --at="C=1e24" --serve_tokens=1e12    the best N and D where C pays for serving, too
python -m analysis.predict fit.json --at="loss=2.1" --serve_tokens=1e12  the size that is cheapest over its life
"""

from absl import flags

from analysis.command_line import require
from experiments import cli


def define_flags() -> None:
    """Declare the flags of the command."""
    flags.DEFINE_string("at", None, 'Where to predict: "N=1e9,D=2e10" or "C=1e21".')
    flags.DEFINE_string("group", None, "Of a file that analysis.fit --by wrote: the group to predict for.")
    flags.DEFINE_float(
        "serve_tokens",
        None,
        "Tokens that are served after training, each for a third of the FLOPs of a training token: --at is then a budget "
        "C for both, or a loss to be reached at the least cost.",
    )
    require.define()
    cli.define_output("json", "A JSON file to write.")


def main(argv: list[str]) -> None:
    """Predict, write the JSON where one is asked for, and say what was found."""
    from analysis.command_line.answers import predict as answer
    from analysis.command_line.arguments import one_fit
    from analysis.questions import lifetime
    from analysis.questions.predict import parse_at, predict, read, to_json
    from analysis.writing.output_file import check_writable, write
    from analysis.writing.terminal import open_console

    values = flags.FLAGS
    path = one_fit(argv)
    check_writable(values.json, "--json")
    fitted = read(path, values.group)
    if values.serve_tokens is None:
        prediction = predict(fitted, parse_at(values.at, fitted.law))
    else:
        fitted = lifetime.serving(fitted, values.serve_tokens)
        prediction = lifetime.predict(fitted, lifetime.parse_at(values.at, fitted.law))
    console = open_console()
    if values.json is not None:
        write(values.json, to_json(prediction), "--json")
    answer.show(prediction, fitted, console)
    if values.json is not None:
        console.print(f"written: {values.json}")
    require.check(prediction.why)


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=["at"], arguments="FIT")
