"""TODO docstring"""

from absl import flags

from analysis.questions.best_mixture import best, parse_prior
from experiments import cli


def main(argv: list[str]) -> None:
    """The command line."""
    from rich.console import Console
    from rich.table import Table

    from analysis.command_line.arguments import one_file, running_command
    from analysis.questions.predict import read
    from analysis.writing.numbers import number
    from analysis.writing.output_file import check_writable, write

    values, console = flags.FLAGS, Console(soft_wrap=True)
    path = one_file(argv, "FIT", "fit.json")
    if values.json is not None:
        check_writable(values.json, "--json")
    fitted = read(path)
    data = best(fitted, parse_prior(values.prior), values.draws, values.top, values.seed)
    table = Table("part", "prior", "best mixture")
    for part, share in sorted(data["mixture"].items(), key=lambda item: -item[1]):
        table.add_row(part, number(data["prior"][part], 3), number(share, 3))
    console.print(table)
    target = fitted.law.TARGET
    console.print(f"{target} {number(data['prediction'], 5)}; {number(data['prediction_of_prior'], 5)} with the prior")
    if values.json is not None:
        write(values.json, data | {"command": running_command("analysis.best_mixture")}, "--json")
        console.print(f"written: {values.json}", highlight=False)


if __name__ == "__main__":
    flags.DEFINE_string("prior", None, "Share of each part in the data that there is: web=0.6,code=0.4.")
    flags.DEFINE_integer("draws", 100_000, "Mixtures to draw.")
    flags.DEFINE_integer("top", 128, "How many of the best to average.")
    flags.DEFINE_integer("seed", 42, "Seed of the draws.")
    flags.DEFINE_string("json", None, "A JSON file to write.")
    cli.run(main, required=["prior"])
