"""Refit the published grids and print the published numbers beside ours.

    python -m analysis.published --data=DIR                       every grid that is in DIR
    python -m analysis.published chinchilla steplaw --data=DIR    these, and an error for what is not there
    python -m analysis.published --data=DIR --fetch               download what is missing first

Verdicts: reproduced; reproduced with a flaw (the number comes out, and something is wrong with it); not reproducible (it does
not come out of the released data); not identified (the data do not determine it); ours alone (nothing was published).
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import importlib
import pathlib
import sys
from typing import Any

from absl import flags

from analysis.published import STUDIES, sources
from analysis.published.target import FLAWED, NOT_IDENTIFIED, NOT_REPRODUCIBLE, REPRODUCED, Row, Study, compare
from analysis.solve.newton import one_thread
from analysis.writing.strict_json import finite_or_null
from experiments import cli
from experiments.cli import InputError, nearest

SCHEMA = 1
COLOURS = {REPRODUCED: "green", FLAWED: "yellow", NOT_REPRODUCIBLE: "red", NOT_IDENTIFIED: "red"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The table of one study and what is to be said about its data."""

    study: Study
    rows: list[Row]
    warnings: list[str]


def study_of(name: str) -> Study:
    """A study by name; its module is imported here."""
    if name not in STUDIES:
        raise InputError(f"NAME: {name!r} is not a published grid; {nearest(name, STUDIES, 'grid')}")
    return importlib.import_module(f"analysis.published.{STUDIES[name]}").STUDY


def run(name: str, folder: str) -> Outcome:
    """Refit one study. Raises InputError when a file is missing or is not what it should be."""
    study = study_of(name)
    read = {file: sources.read(folder, file) for file in study.files}
    with one_thread():
        found = study.refit({file: grid for file, (grid, _) in read.items()})
    rows = compare(name, study, found)
    warnings = [warning for _, warning in read.values() if warning]
    missing = [target.quantity for target in study.targets if target.quantity not in found]
    if missing:
        warnings.append(f"{len(missing)} quantities need a package that is not installed, the first: {missing[0]}")
    return Outcome(study, rows, warnings)


def chosen(names: Sequence[str], folder: str, fetch: bool) -> tuple[list[str], list[str]]:
    """Which studies to run, and notes on those that were left out because their data is not there.

    Raises InputError when a named one, or every one, lacks a file.
    """
    for name in names:
        study_of(name)
    wanted = list(dict.fromkeys(names)) or list(STUDIES)
    notes: list[str] = []
    have: list[str] = []
    for name in wanted:
        missing = [file for file in study_of(name).files if not (pathlib.Path(folder) / file).exists()]
        try:
            for file in missing:
                if fetch:
                    notes.append(sources.fetch(folder, file))
                else:
                    sources.read(folder, file)  # says what is missing, and where it is from
        except InputError as error:
            if names or (not have and name == wanted[-1]):
                raise
            notes.append(f"{name} left out: {error}")
            continue
        have.append(name)
    return have, notes


def show(outcome: Outcome, console: Any) -> None:
    """Print one study: the table, then a sentence for each flaw."""
    from rich.table import Table

    notes = list(dict.fromkeys(row.note for row in outcome.rows if row.note))
    table = Table(title=outcome.study.title, title_justify="left")
    table.add_column("quantity", overflow="fold")
    for heading in ("published", "ours", "difference"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("verdict")
    for row in outcome.rows:
        mark = f" [{notes.index(row.note) + 1}]" if row.note else ""
        colour = COLOURS.get(row.verdict, "dim")
        table.add_row(
            row.quantity,
            "-" if row.published is None else f"{row.published:.8g}",
            f"{row.ours:.8g}",
            "-" if row.difference is None else f"{row.difference:+.1e}",
            f"[{colour}]{row.verdict}[/]" + mark.replace("[", r"\["),
        )
    console.print(table)
    for at, note in enumerate(notes):
        console.print(f"  \\[{at + 1}] {note}", highlight=False, soft_wrap=True)
    for warning in outcome.warnings:
        console.print(f"  [yellow]warning[/]: {warning}", highlight=False, soft_wrap=True)


def to_json(outcomes: dict[str, Outcome], notes: list[str], command: str) -> dict[str, Any]:
    """The tables for programs; numbers that are not finite become null."""
    return {
        "schema": SCHEMA,
        "rows": [finite_or_null(dataclasses.asdict(row)) for outcome in outcomes.values() for row in outcome.rows],
        "grids": {
            file: {"address": sources.SOURCES[file].address, "sha256": sources.SOURCES[file].sha256}
            for outcome in outcomes.values()
            for file in outcome.study.files
        },
        "warnings": [warning for outcome in outcomes.values() for warning in outcome.warnings],
        "notes": notes,
        "command": command,
    }


def main(argv: list[str]) -> None:
    """The command line."""
    from rich.console import Console

    from analysis.command_line.arguments import running_command
    from analysis.writing.output_file import check_writable, write

    values = flags.FLAGS
    check_writable(values.json, "--json")
    names, notes = chosen(argv, values.data, values.fetch)
    console = Console(width=None if sys.stdout.isatty() else 120)
    outcomes: dict[str, Outcome] = {}
    for name in names:
        outcomes[name] = run(name, values.data)
        show(outcomes[name], console)
    counts = Counter(row.verdict for outcome in outcomes.values() for row in outcome.rows)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), highlight=False)
    for note in notes:
        console.print(f"[yellow]note[/]: {note}", highlight=False, soft_wrap=True)
    if values.json is not None:
        write(values.json, to_json(outcomes, notes, running_command("analysis.published")), "--json")
        console.print(f"written: {values.json}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    cli.define_path("data", None, "The folder of the tidy tables (chinchilla_epoch.csv, ...).")
    flags.DEFINE_bool("fetch", False, "Download what is missing there. Without it nothing goes over the network.")
    cli.define_output("json", "A JSON file to write.")
    cli.run(main, required=["data"], arguments="NAME ...")
