"""Measure how often printed intervals hold the truth, on planted grids of many designs.

    python -m analysis.coverage --out=coverage.json                                    # every design, 200 grids each
    python -m analysis.coverage --design=ladder_5,runs_6 --count=40 --out=coverage.json
    python -m analysis.coverage --out=coverage.json --into=analysis/README.md           # and put the table there

Grid k of a design is the same in every run. The same command goes on where it was stopped, and a larger --count adds to
what is there.
"""

from absl import flags

from experiments import cli
from experiments.cli import InputError


def define_flags() -> None:
    """Declare the flags of the command."""
    flags.DEFINE_list("design", [], "Designs, separated by commas; all without it. --designs lists them.")
    flags.DEFINE_bool("designs", False, "List the designs.")
    cli.define_integer("count", 200, "Grids of each design.", lower_bound=1)
    cli.define_integer("seed", 0, "Seed of the grids.", lower_bound=0)
    cli.define_integer("replicates", 1000, "Bootstrap replicates of each fit.", lower_bound=2)
    cli.define_output("out", "The JSON file to write, and to go on with where it is there.")
    cli.define_path("into", None, "A Markdown file whose part between the marks of a coverage table is replaced.")


def main(argv: list[str]) -> None:
    """Fit what is missing, write the tally, and print it."""
    del argv
    from analysis.command_line.answers import coverage as answer
    from analysis.questions import coverage
    from analysis.writing.output_file import check_writable, write
    from analysis.writing.terminal import open_console, track

    values = flags.FLAGS
    console = open_console()
    if values.designs:
        answer.show_designs(console)
        return
    names = coverage.chosen(values.design)
    if values.out is None:
        raise InputError(
            "--out is missing; expected the path of the JSON file to write, for example --out=coverage.json"
        )
    check_writable(values.out, "--out")
    if values.into is not None:
        answer.check_marks(values.into)
    tally = coverage.read(values.out, values.seed, values.replicates)

    def save() -> None:
        write(values.out, coverage.to_content(tally), "--out")

    missing = tally.missing(names, values.count)
    coverage.complete(tally, track(missing, "fits"), save)
    answer.show(tally, console)
    console.print(f"written: {values.out}")
    if values.into is not None:
        answer.write_into(values.into, tally)
        console.print(f"written: {values.into}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
