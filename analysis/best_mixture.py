"""Find the mixture of data that a fitted law of mixtures likes best.

python -m analysis.best_mixture fit.json --prior="web=0.6,code=0.3,books=0.1" [--json=best.json]
"""

from absl import flags

from experiments import cli


def define_flags() -> None:
    """Declare the flags of the command."""
    flags.DEFINE_string("prior", None, "Share of each part in the data that there is: web=0.6,code=0.4.")
    flags.DEFINE_string("group", None, "Of a file that analysis.fit --by wrote: the group to mix for.")
    cli.define_integer("draws", 100_000, "Mixtures to draw.")
    cli.define_integer("top", 128, "How many of the best to average.")
    cli.define_integer("seed", 42, "Seed of the draws.")
    cli.define_output("json", "A JSON file to write.")


def main(argv: list[str]) -> None:
    """Find the mixture, print it, and write it where asked."""

    from analysis.command_line.answers import best_mixture as answer
    from analysis.command_line.arguments import one_fit, running_command
    from analysis.questions.best_mixture import best, parse_prior
    from analysis.questions.predict import read
    from analysis.writing.output_file import check_writable, write
    from analysis.writing.terminal import open_console

    values = flags.FLAGS
    path = one_fit(argv)
    check_writable(values.json, "--json")
    fitted = read(path, values.group)
    found = best(fitted, parse_prior(values.prior), values.draws, values.top, values.seed)
    console = open_console()
    answer.show(found, fitted.law.TARGET, console)
    if values.json is not None:
        write(values.json, found | {"command": running_command("analysis.best_mixture")}, "--json")
        console.print(f"written: {values.json}", highlight=False)


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=["prior"], arguments="FIT")
