"""A loss grid as a report: table -> fits -> numbers.json -> figures -> one self-contained report.html.

    python -m analysis.report GRID --out=report.html

Beside the report: numbers.json with every number in it, figures/*.svg and *.png.
"""

from absl import flags

from analysis.command_line import options
from experiments import cli


def define_flags() -> None:
    """Declare the flags of the command."""
    options.define()
    flags.adopt_module_key_flags(options)
    cli.define_path("out", None, "The HTML file to write; numbers.json and figures/ go beside it.")


def main(argv: list[str]) -> None:
    """Survey the grid, write the report with its numbers and figures, and print what it says first."""
    from etils import epath
    from rich.console import Console

    from analysis import figures
    from analysis.command_line.answers import report as answer
    from analysis.command_line.arguments import one_grid, running_command
    from analysis.grid.table import load
    from analysis.reporting.numbers import numbers
    from analysis.reporting.page import render
    from analysis.reporting.survey import survey
    from analysis.writing.output_file import check_writable, write

    values = flags.FLAGS
    path = one_grid(argv)
    spec = options.spec()
    check_writable(values.out, "--out")
    grid = load(path)
    found = survey(grid, spec, values.columns, values.where)
    drawn = figures.draw_all(found)
    command = running_command("analysis.report")
    html = render(found, grid, command, drawn)
    folder = epath.Path(values.out).parent
    for name, (svg, png, _) in drawn.items():
        write(folder / "figures" / f"{name}.svg", svg, "--out")
        write(folder / "figures" / f"{name}.png", png, "--out")
    write(folder / "numbers.json", numbers(found, grid, command), "--out")
    write(values.out, html, "--out")
    console = Console(soft_wrap=True)
    answer.show(found, console)
    console.print(
        f"report   {values.out}\nnumbers  {folder / 'numbers.json'}\nfigures  {folder / 'figures'}", highlight=False
    )


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=["out"], arguments="GRID")
