"""Run records -> one grid table.

    python -m sweeps.collect --workdir=runs/quickstart --out=grid.parquet      (or grid.csv)

One row per run of the study, whether it has a record or not: `status` and `reason` say why a number is missing
(sweeps/watch/grid_table.py says what the columns are). --evaluations: one row per evaluation instead, for the laws of
curves (sweeps/watch/evaluations.py); execution.eval_every_tokens says how often a run evaluates.

A record that cannot be read costs no other row: its run is `lost`, with the reason; the table is written, the exit code
is 1 (0 with --allow_damaged), and the next launch trains that run again.
"""

from collections.abc import Collection
import sys

from absl import flags

from experiments import cli
from experiments.cli import EXIT_FAILURE
from models.errors import InputError
from sweeps.watch import evaluations, grid_table
from sweeps.work.workdir import Workdir

BEGINNINGS = [b"fingerprint,name,status,", b"run,name,status,"]  # of tables of ours, which may be replaced


def records_of_others(workdir: Workdir, known: Collection[str]) -> int:
    """Count the records of a workdir that belong to no run of its study."""
    try:
        names = [path.name for path in (workdir.root / "runs").iterdir()]
    except FileNotFoundError:
        return 0
    others = [name for name in names if name not in known]
    return sum((workdir.root / "runs" / name / "record.json").exists() for name in others)


def write_ends(workdir: Workdir, out: str) -> list[str]:
    """Write a row for each run; return a line for each damaged record."""
    frame, damaged = grid_table.build(workdir)
    grid_table.write(frame, out)
    counts = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    print(f"{out}: {len(frame)} rows ({counts}), {len(frame.columns)} columns")
    others = records_of_others(workdir, set(frame["fingerprint"]))
    if others:
        print(f"note: {others} records of runs that are not in the study of {workdir.root}/study.json are left out")
    return damaged


def write_evaluations(workdir: Workdir, out: str) -> list[str]:
    """Write a row for each evaluation; return a line for each damaged record or run."""
    table = evaluations.build(workdir)
    grid_table.write(table.frame, out)
    runs = table.frame["run"].nunique()
    print(f"{out}: {len(table.frame)} evaluations of {runs} runs, {len(table.frame.columns)} columns")
    for note in table.notes:
        print(f"note: {note}")
    return table.damaged


def main(_: list[str]) -> int:
    """Write the table of a workdir."""
    given = flags.FLAGS
    if not given.out.endswith(grid_table.SUFFIXES):
        raise InputError(f"--out={given.out} has an unknown ending; expected {' or '.join(grid_table.SUFFIXES)}")
    workdir = Workdir(given.workdir)
    if given.evaluations:
        damaged = write_evaluations(workdir, given.out)
    else:
        damaged = write_ends(workdir, given.out)
    for line in damaged:
        print(f"warning: {line}", file=sys.stderr)
    return EXIT_FAILURE if damaged and not given.allow_damaged else 0


if __name__ == "__main__":
    cli.define_path("workdir", None, "folder of the study")
    cli.define_output("out", "the table to write: a name that ends in .parquet or .csv", BEGINNINGS)
    flags.DEFINE_bool("evaluations", False, "a row for each evaluation on the way, with learning rate and its areas")
    flags.DEFINE_bool("allow_damaged", False, "succeed although some record cannot be read")
    cli.run(main, required=("workdir", "out"))
