"""Know the tables that Weights & Biases and TensorBoard export, and turn them to one row a run and step."""

import pathlib
import re
import struct
from typing import Any

from analysis.grid.text_table import Table

BETWEEN = " - "  # between the name of a run and what it measures, in a chart's table
ENDS = ("__MIN", "__MAX")  # of the same in a bin of steps
TENSORBOARD = ["Wall time", "Step", "Value"]
TENSORBOARD_FILE = re.compile(r"(?:run-)?(?P<run>.+?)[-_.]tag-(?P<tag>.+)")


def unroll(table: Table, path: str) -> Table:
    """Return an export of W&B or TensorBoard as rows of runs; every other table as it is."""
    if table.header == TENSORBOARD:
        return _name_curve(table, path)
    return _unroll_chart(table)


def _unroll_chart(table: Table) -> Table:
    """Turn the table of a W&B chart, a column for each run, to a row for each run and step."""
    import pandas as pd

    step, *others = table.header
    measured = [name for name in others if not name.endswith(ENDS)]
    if not measured or not all(BETWEEN in name for name in others) or BETWEEN in step:
        return table
    by_run: dict[str, dict[str, str]] = {}
    for name in measured:
        run, _, metric = name.rpartition(BETWEEN)
        by_run.setdefault(run, {})[metric] = name
    metrics = list(dict.fromkeys(metric for own in by_run.values() for metric in own))
    ends = [name + end for name in measured for end in ENDS]
    if not set(ends) <= set(others) and len(metrics) > 1:
        return table
    pieces = []
    for run, own in by_run.items():
        piece = table.frame[list(own.values())]
        piece.columns = list(own)
        piece = piece.dropna(how="all")
        piece.insert(0, step, table.frame[step])
        piece.insert(0, "run", run)
        pieces.append(piece)
    frame = pd.concat(pieces, ignore_index=True)
    told = f"a chart of W&B with {len(by_run)} runs: a row for each run and step, with {', '.join(metrics)}"
    return Table(frame, [str(name) for name in frame.columns], (*table.notes, told))


def _name_curve(table: Table, path: str) -> Table:
    """Name what a curve of TensorBoard measures, and its run, where the name of its file says so."""
    name = pathlib.PurePosixPath(path).name
    stem, _, _ = name.partition(".csv")
    found = TENSORBOARD_FILE.fullmatch(stem)
    if not found:
        return table
    frame = table.frame.rename(columns={"Value": found["tag"]})
    frame.insert(0, "run", found["run"])
    told = f"a curve of TensorBoard: run {found['run']}, column {found['tag']}"
    return Table(frame, [str(name) for name in frame.columns], (*table.notes, told))


def is_event_file(path: str) -> bool:
    """Say whether a file is one that TensorBoard's writers make."""
    return "tfevents" in pathlib.PurePosixPath(path).name


def read_events(data: bytes, path: str) -> Table:
    """Read the scalars of an event file: a row for each step, a column for each tag. Raises ValueError for none."""
    from google.protobuf.message import DecodeError
    import pandas as pd
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] made at run time

    rows: dict[int, dict[str, Any]] = {}
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)  # of a record; its checksum and the record's lie around it
        begin = at + 12
        record = data[begin : begin + length]
        try:
            event = Event.FromString(record)
        except DecodeError as error:
            raise ValueError(f"it is named as an event file of TensorBoard and is none: {error}") from None
        at += length + 16
        for value in event.summary.value:
            number = _scalar(value)
            if number is not None:
                row = rows.setdefault(event.step, {"Wall time": event.wall_time, "Step": event.step})
                row[value.tag] = number
    if not rows:
        raise ValueError("it is an event file of TensorBoard without scalars")
    frame = pd.DataFrame(list(rows.values()))
    folder = pathlib.PurePosixPath(path).parent
    frame.insert(0, "run", folder.name or path)
    return Table(frame, [str(name) for name in frame.columns])


def _scalar(value: Any) -> float | None:
    """Return the number in one value of an event, which is written in one of three ways; None for a picture or text."""
    import numpy as np

    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return value.simple_value
    if kind != "tensor":
        return None
    tensor = value.tensor
    if len(tensor.float_val) == 1:
        return tensor.float_val[0]
    if len(tensor.double_val) == 1:
        return tensor.double_val[0]
    kinds = {1: "<f4", 2: "<f8"}  # TensorFlow's numbers for float and double
    if tensor.dtype not in kinds or not tensor.tensor_content:
        return None
    numbers = np.frombuffer(tensor.tensor_content, kinds[tensor.dtype])
    return float(numbers[0]) if len(numbers) == 1 else None
