"""A loss grid as a report: table -> fits -> numbers -> figures -> one self-contained report.html.

    python -m analysis.report GRID --out=report.html

Beside the report: report.numbers.json with every number in it, report_figures/*.svg and *.png.
"""

import os

from absl import flags

from analysis.command_line import options, reading
from experiments import cli


def define_flags() -> None:
    """Declare the flags of the command."""
    options.define()
    flags.adopt_module_key_flags(options)
    flags.DEFINE_list(
        "calculator",
        [],
        "Further laws to fit for the page's calculator, of N, D and more: precision,data_constrained. Formulas join it.",
    )
    cli.define_output("out", "The HTML file to write; beside it go NAME.numbers.json and NAME_figures/.")


def main(argv: list[str]) -> None:
    """Survey the grid, write the report with its numbers and figures, and print what it says first."""
    from etils import epath

    from analysis import figures, laws
    from analysis.command_line.answers import report as answer
    from analysis.command_line.arguments import running_command
    from analysis.reporting.numbers import numbers
    from analysis.reporting.page import render
    from analysis.reporting.survey import survey
    from analysis.writing.output_file import check_writable, write
    from analysis.writing.terminal import open_console

    values = flags.FLAGS
    paths = reading.grid_paths(argv)
    spec = options.spec()
    check_writable(values.out, "--out")
    numbers_path = os.path.splitext(values.out)[0] + ".numbers.json"
    cli.check_output(numbers_path, "--out")
    grid = options.load_grid(paths)
    further = [laws.load(name.strip()) for name in values.calculator if name.strip()]
    found = survey(grid, spec, values.columns, values.where, options.formulas(grid), further)
    drawn = figures.draw_all(found)
    command = running_command("analysis.report")
    report = epath.Path(values.out)
    pictures = report.parent / f"{report.stem}_figures"
    html = render(found, grid, command, drawn, report.stem)
    for name, (svg, png, _) in drawn.items():
        write(pictures / f"{name}.svg", svg, "--out")
        write(pictures / f"{name}.png", png, "--out")
    write(numbers_path, numbers(found, grid, command), "--out")
    write(report, f"{html}<!-- {cli.signature()} -->\n", "--out")
    console = open_console()
    answer.show(found, console)
    console.print(f"report   {report}\nnumbers  {numbers_path}\nfigures  {pictures}", highlight=False)


if __name__ == "__main__":
    define_flags()
    cli.run(main, required=["out"], arguments="GRID ...")
