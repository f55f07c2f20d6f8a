"""Run records -> one grid table.

    python -m sweeps.collect --workdir=runs/quickstart --out=grid.parquet      (or grid.csv)

One row per run of the study, whether it has a record or not: `status` and `reason` say why a number is missing.
Columns: fingerprint, name, status, reason, the points' tags, then every column of the records. Where two points are
one run, a tag has the value of the first of them, and a column `<tag>_all` lists those of all, joined by |.

A record that cannot be read costs no other row: its run is `lost`, with the reason; the table is written, the exit code
is 1 (0 with --allow_damaged), and the next launch trains that run again.
"""

from collections.abc import Mapping, Sequence
import io
import os
import sys
from typing import Any

from absl import flags
from etils import epath
import pandas as pd

from experiments import cli, files
from experiments.cli import EXIT_FAILURE, InputError
from experiments.run import stored
from experiments.store import record
from sweeps.work.workdir import State, Workdir

SUFFIXES = (".parquet", ".csv")


def merge_tags(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tags by fingerprint; see the module's docstring for points that share one."""
    values: dict[str, dict[str, list[Any]]] = {}
    for point in points:
        own = values.setdefault(point["fingerprint"], {})
        for name, value in point["tags"].items():
            if value not in own.setdefault(name, []):
                own[name].append(value)
    several = {name for own in values.values() for name, seen in own.items() if len(seen) > 1}
    out = {}
    for fingerprint, own in values.items():
        out[fingerprint] = {name: seen[0] for name, seen in own.items()}
        out[fingerprint] |= {f"{n}_all": "|".join(map(str, own[n])) for n in sorted(several & own.keys())}
    return out


def row(point: Mapping[str, Any], state: State) -> dict[str, Any]:
    """Columns of one run: from its record, or what is known of it without one."""
    if state.record is not None:
        return state.record["columns"]
    try:
        run = stored.read_checked(point["run"])
        return record.columns(run) | record.ledger(run)
    except (InputError, ArithmeticError):
        return {}  # written by a version with other options: the name and the status remain


def grid(store: Workdir) -> tuple[pd.DataFrame, list[str]]:
    """The table of a workdir, and a line for each damaged record. Raises InputError without a study.json."""
    points = store.read_study()["points"]
    tags, rows, damaged = merge_tags(points), [], []
    first = {point["fingerprint"]: point for point in reversed(points)}
    for fingerprint in tags:
        state = store.state(fingerprint)
        if state.damaged:
            damaged.append(state.reason or fingerprint)
        known = {"fingerprint": fingerprint, "name": first[fingerprint]["name"]}
        known |= {"status": state.status, "reason": state.reason}
        rows.append(known | tags[fingerprint] | row(first[fingerprint], state))
    names = list(
        dict.fromkeys([*list(rows[0])[:4], *(n for own in tags.values() for n in own), *(n for r in rows for n in r)])
    )
    frame = pd.DataFrame(rows, columns=names)
    if "censored" in frame:  # 1 where a run was stopped early: its loss is an upper bound
        frame["censored"] = frame["censored"].fillna(0).astype(int)
    for name in names:  # a column that only some records have a value for is of numbers where it can be, not of objects
        kinds = {type(value) for value in frame[name] if value is not None}
        if frame[name].dtype == object and kinds <= {int, float}:
            frame[name] = pd.to_numeric(frame[name])
        elif len(kinds - {int, float}) and len(kinds) > 1:  # a table has one type a column
            frame[name] = [None if value is None else str(value) for value in frame[name]]
    return frame, damaged


def write(frame: pd.DataFrame, path: epath.PathLike) -> None:
    """Write the table atomically, in the format that the name's ending says."""
    if os.fspath(path).endswith(".csv"):
        files.write_bytes(path, frame.to_csv(index=False).encode())
    else:
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        files.write_bytes(path, buffer.getvalue())


def main(_: list[str]) -> int:
    """The command line."""
    if not flags.FLAGS.out.endswith(SUFFIXES):
        raise InputError(f"--out={flags.FLAGS.out} has an unknown ending; expected {' or '.join(SUFFIXES)}")
    store = Workdir(flags.FLAGS.workdir)
    frame, damaged = grid(store)
    write(frame, flags.FLAGS.out)
    counts = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    print(f"{flags.FLAGS.out}: {len(frame)} rows ({counts}), {len(frame.columns)} columns")
    known = set(frame["fingerprint"])
    runs = store.root / "runs"
    others = [p.parent.name for p in runs.glob("*/record.json") if p.parent.name not in known] if runs.exists() else []
    if others:
        print(f"note: {len(others)} records of runs that are not in the study of {store.root}/study.json are left out")
    for line in damaged:
        print(f"warning: {line}", file=sys.stderr)
    return EXIT_FAILURE if damaged and not flags.FLAGS.allow_damaged else 0


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the study")
    flags.DEFINE_string("out", None, "the table to write: a name that ends in .parquet or .csv")
    flags.DEFINE_bool("allow_damaged", False, "succeed although some record cannot be read")
    cli.run(main, required=("workdir", "out"))
