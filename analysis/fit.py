"""Fit a law to a loss grid.

python -m analysis.fit GRID --law=chinchilla [--out=fit.json]
python -m analysis.fit GRID --formula="L = E + A/N^alpha + B/D^beta" --out=fit.json
python -m analysis.fit GRID --by=optimizer [--shared=alpha,beta] --out=fits.json     a law for each optimizer
python -m analysis.fit --laws [--out=laws.json]
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from analysis.command_line import options, reading, require
from experiments import cli
from experiments.cli import InputError

if TYPE_CHECKING:  # imported where they are used: --help stays instant
    from rich.console import Console

    from analysis.fitting.spec import FitSpec
    from analysis.grid.table import Grid
    from analysis.laws.base import Law


LAWS_SCHEMA = 1  # of the JSON of --laws


def define_flags() -> None:
    """Declare the flags of the command."""
    options.define()
    flags.adopt_module_key_flags(options)
    flags.DEFINE_string("law", "chinchilla", "The law to fit; --laws lists them.")
    flags.DEFINE_string("interpolation", "quadratic", "Curve through an IsoFLOP budget: quadratic, cubic, akima.")
    cli.define_output("out", "A JSON file to write.")
    flags.DEFINE_string("by", None, "A column: the law is fitted to each group of rows with one value in it.")
    flags.DEFINE_string(
        "over",
        None,
        "A condition on rows: what they would pay for each other row's loss becomes its columns speedup and leverage, "
        "which growth_speedup and efficiency_leverage are fitted to.",
    )
    flags.DEFINE_list("shared", [], "With --by: coefficients that all groups have in common, in one joint fit.")
    flags.DEFINE_bool("back_test", True, "Also fit the smaller runs alone and predict the larger ones.")
    require.define()
    flags.DEFINE_bool("laws", False, "List the laws with formula, columns and source.")


def main(argv: list[str]) -> None:
    """Fit the law, write fit.json, and say what was found."""

    from analysis.command_line.answers import fit as answer
    from analysis.command_line.arguments import running_command
    from analysis.fitting.result import judged_verdict, to_json
    from analysis.laws import described
    from analysis.questions.backtest import hindsight_summary
    from analysis.questions.fit import fit, select_for
    from analysis.questions.speedup import check_used, with_leverage
    from analysis.writing.output_file import check_writable
    from analysis.writing.terminal import open_console

    values = flags.FLAGS
    console = open_console()
    if values.out is not None:
        check_writable(values.out, "--out")
    if values.laws:
        save({"schema": LAWS_SCHEMA, "laws": described()})
        answer.show_laws(console)
        say_where(console)
        return
    paths = reading.grid_paths(argv)
    grid = options.load_grid(paths)
    if values.over is not None:
        grid = with_leverage(grid, values.over, values.columns)
    law = options.law(grid, values.law)
    if values.over is not None:
        check_used(law, values.columns)
    spec = options.spec(values.interpolation, law)
    if values.by is not None:
        fit_by(grid, law, spec, console)
        return
    if values.shared:
        raise InputError(f"--shared={','.join(values.shared)}: no groups share it; expected --by=COLUMN, too")
    columns = select_for(grid, law, values.columns, values.where)
    result = fit(columns, law, spec)
    data = to_json(result, grid.sha256, running_command("analysis.fit"))
    if values.back_test:
        data["back_test"] = hindsight_summary(columns, law, spec)
    save(data)
    answer.show(result, console)
    if values.back_test:
        answer.show_back_test(data["back_test"], console)
    say_where(console)
    require.check(judged_verdict(result).unknown)


def save(data: Mapping[str, Any]) -> None:
    """Write the JSON file, where one is asked for."""
    from analysis.writing.output_file import write

    if flags.FLAGS.out is not None:
        write(flags.FLAGS.out, data, "--out")


def say_where(console: "Console") -> None:
    """Print where the JSON file is, where there is one."""
    if flags.FLAGS.out is not None:
        console.print(f"written: {flags.FLAGS.out}", highlight=False, soft_wrap=True)


def fit_by(grid: "Grid", law: "type[Law]", spec: "FitSpec", console: "Console") -> None:
    """Fit the law to each group of the grid, write the fits, and say what was found."""
    from analysis.command_line.answers import groups as answer
    from analysis.command_line.arguments import running_command
    from analysis.grid.resolve import parse_roles
    from analysis.questions.fit import select_for
    from analysis.questions.groups import LABEL, fit_groups, groups_to_json, unknown

    values = flags.FLAGS
    if LABEL in parse_roles(values.columns):
        raise InputError(f"--columns: {LABEL} and --by={values.by} both say what the groups are; expected one of them")
    text = ",".join(filter(None, [values.columns, f"{LABEL}=`{values.by.strip('`')}`"]))
    columns = select_for(grid, law, text, values.where, more=(LABEL,))
    found = fit_groups(columns, law, spec, values.shared)
    command = running_command("analysis.fit")
    data = groups_to_json(found, values.by, law, spec, grid.sha256, command, values.back_test)
    save(data)
    answer.show(found, values.by, console)
    say_where(console)
    require.check(unknown(found))


if __name__ == "__main__":
    define_flags()
    cli.run(main, arguments="GRID ...")
