"""Compare families of models: what one family's compute is worth in another's, and where that turns over.

python -m analysis.compare GRID --by=family --baseline=dense --out=compare.json
python -m analysis.compare GRID --by=architecture --law=kaplan_c --shared=alpha_C --out=compare.json
"""

import dataclasses
from typing import cast

from absl import flags

from analysis.command_line import options, reading, require
from experiments import cli
from experiments.key_values import write_pairs


def define_flags() -> None:
    """Declare the flags of the command."""
    options.define()
    flags.adopt_module_key_flags(options)
    flags.DEFINE_string(
        "by", None, "The column that names the family; by default family, model_family or architecture."
    )
    flags.DEFINE_string("law", "chinchilla", "The law of every family; it must predict from C training FLOPs.")
    flags.DEFINE_string("baseline", None, "The family that others are compared with; dense, or the one with most rows.")
    flags.DEFINE_list(
        "shared", None, "Coefficients that families share; by default the exponents, none with --shared=."
    )
    flags.DEFINE_string("hours_method", "isotonic", "Loss between runs at equal hours: isotonic or power.")
    require.define()
    cli.define_output("out", "A JSON file to write.")


def columns_text() -> str | None:
    """Return --columns with the family that --by names."""
    from analysis.grid.resolve import parse_roles

    values = flags.FLAGS
    if values.by is None or "family" in parse_roles(values.columns):
        return values.columns
    family = write_pairs({"family": values.by})
    return ",".join(filter(None, [values.columns, family]))


def shared_coefficients() -> tuple[str, ...] | None:
    """Return --shared without empty names; None where it is not given."""
    if flags.FLAGS.shared is None:
        return None
    names = [name.strip() for name in flags.FLAGS.shared]
    return tuple(filter(None, names))


def main(argv: list[str]) -> None:
    """Compare, write compare.json, and say what was found."""

    from analysis.command_line.answers import compare as answer
    from analysis.command_line.arguments import running_command
    from analysis.laws.base import FormulaLaw
    from analysis.questions.compare import compare, read_hours, to_json, unknown
    from analysis.questions.fit import select_for
    from analysis.writing.output_file import check_writable, write
    from analysis.writing.terminal import open_console

    values = flags.FLAGS
    paths = reading.grid_paths(argv)
    if values.out is not None:
        check_writable(values.out, "--out")
    text = columns_text()
    grid = options.load_grid(paths)
    law = options.law(grid, values.law)
    spec = options.spec(fitted=law)
    columns = select_for(grid, law, text, values.where, more=("family",), optional=("C",), elsewhere=("hours",))
    hours, why_none = read_hours(grid, text, values.where, values.hours_method, values.baseline, spec)
    # Laws that are no formula are refused in one line by the comparison itself.
    formula = cast(type[FormulaLaw], law)
    result = compare(columns, formula, spec, baseline=values.baseline, shared=shared_coefficients(), hours=hours)
    result = dataclasses.replace(result, notes=tuple(filter(None, [why_none])))
    data = to_json(result, formula, columns, spec.level, grid.sha256, running_command("analysis.compare"))
    if values.out is not None:
        write(values.out, data, "--out")
    console = open_console()
    answer.show(result, columns, spec.level, console)
    if values.out is not None:
        console.print(f"written: {values.out}", highlight=False)
    require.check(unknown(result))


if __name__ == "__main__":
    define_flags()
    cli.run(main, arguments="GRID ...")
