"""Fit a law to a loss grid."""

from typing import Any

from absl import flags
from rich.markup import escape

from analysis.command_line import options
from analysis.command_line.arguments import one_grid, running_command
from analysis.fitting.result import FitResult, to_json
from analysis.grid.table import load as load_grid
from analysis.grid.table import select
from analysis.laws import LAWS
from analysis.laws import load as load_law
from analysis.questions.backtest import hindsight_summary
from analysis.questions.fit import fit
from analysis.writing.numbers import number, span
from analysis.writing.output_file import check_writable, write
from experiments import cli
from experiments.cli import InputError


def show(result: FitResult, console: Any) -> None:
    """Print a fit for people."""
    from rich.table import Table

    law, certificate_ = result.law, result.certificate
    intervals = result.intervals()
    table = Table(title=f"{law.NAME}: {law.FORMULA}", title_justify="left")
    for heading, side in (("coefficient", "left"), ("value", "right"), (f"{result.spec.level:.0%} interval", "right")):
        table.add_column(heading, justify=side)
    exponents = {name: float(value) for name, value in law.optimum_exponents().items()}
    for name, value in (law.coefficients() | exponents).items():
        lost = " (not identified)" if name in certificate_.not_identified else ""
        table.add_row(name + lost, number(value, 6), span(intervals.get(name)))
    console.print(table)
    console.print(
        f"{len(result.columns)} rows used, {len(result.columns.dropped)} dropped; objective {result.objective:.8g}; "
        f"{certificate_.agreeing_starts:.0%} of the starts agree; scaled gradient {certificate_.gradient:.0e}"
    )
    chosen = ", ".join(f"{role} = {source}" for role, source in result.columns.sources.items())
    console.print(f"columns: {chosen}", highlight=False)
    for name, why in certificate_.not_identified.items():
        console.print(f"[yellow]not identified[/]: {name}, {why}", highlight=False)
    for text in (*certificate_.warnings, *result.columns.notes):
        console.print(f"[yellow]note[/]: {text}", highlight=False)


def list_laws(console: Any) -> None:
    """Print every law with its formula, columns and source."""
    from rich.table import Table

    table = Table("law", "formula", "columns", "source")
    for name, law in LAWS.items():
        optional = f" [{', '.join(law.OPTIONAL)}]" if law.OPTIONAL else ""
        table.add_row(name, law.FORMULA, escape(", ".join(law.ROLES) + optional), law.SOURCE)
    console.print(table)


def show_hindsight(test: dict[str, Any] | None, console: Any) -> None:
    """Print a back-test for people."""
    if test is None:
        return
    if "reason" in test:
        console.print(f"[yellow]note[/]: {test['reason']}", highlight=False)
        return
    reach = test["by_factor"][-1]["to"]
    console.print(
        f"back-test: {test['rms_error']:.2%} root mean square error of {test['predictions']} predictions of "
        f"{test['quantity']} up to {reach:.3g} times beyond the rows fitted; {test['covered']:.0%} lay in their interval",
        highlight=False,
    )


def main(argv: list[str]) -> None:
    """The command line."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    values = flags.FLAGS
    if values.laws:
        list_laws(console)
        return
    path = one_grid(argv)
    if values.out is None:
        raise InputError("--out is missing; expected the path of the JSON file to write, for example --out=fit.json")
    law = load_law(values.law)
    spec = options.spec(values.interpolation, law)
    check_writable(values.out, "--out")
    grid = load_grid(path)
    columns = select(
        grid, law.ROLES, optional=law.OPTIONAL, columns=values.columns, where=values.where, signed=law.SIGNED
    )
    result = fit(columns, law, spec)
    data = to_json(result, grid.sha256, running_command("analysis.fit"))
    if values.back_test:
        data["back_test"] = hindsight_summary(columns, law, spec)
    write(values.out, data, "--out")
    show(result, console)
    show_hindsight(data.get("back_test"), console)
    console.print(f"written: {values.out}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    options.define()
    flags.adopt_module_key_flags(options)
    flags.DEFINE_string("law", "chinchilla", "The law to fit; --laws lists them.")
    flags.DEFINE_string("interpolation", "quadratic", "Curve through an IsoFLOP budget: quadratic, cubic, akima.")
    flags.DEFINE_string("out", None, "The JSON file to write.")
    flags.DEFINE_bool("back_test", True, "Also fit the smaller runs alone and predict the larger ones.")
    flags.DEFINE_bool("laws", False, "List the laws with formula, columns and source.")
    cli.run(main)
