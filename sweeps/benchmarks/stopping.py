"""Time early stopping by itself: looks at 8 running runs of a group of 48 with 1,000 logged steps each.

Those that run have grown by 5 rows since the look before. `python -m sweeps.benchmark` shows the numbers.
"""

import json
import math
import os
import resource
import tempfile

from experiments.run.schema import Execution
from sweeps.study.cells import freeze_points
from sweeps.study.grid import cases, over, product
from sweeps.work import stopping
from sweeps.work.workdir import Node, Workdir

RUNNING = 8
RIVALS = 48
ROWS = 1_000
NEW_ROWS = 5
LOOKS = 5


def measure_stopping() -> dict[str, float]:
    """Time looks of early stopping at a made-up group; return processor seconds of a look, and its share of a core."""
    steps = 2 * ROWS
    # Of one schedule without a decay, and too close for any to be stopped: every run is compared with every other.
    base = {"tokens": 1024 * steps, "batch_tokens": 1024, "schedule.name": "constant"}
    rates = [1e-4 * 1.05**number for number in range(RIVALS)]
    cells = freeze_points(product(cases(base), over("opt.lr", *rates)))
    nodes = []
    for number, cell in enumerate(cells):
        nodes.append(Node(f"{number:016x}", cell.name, cell.run, Execution(), ()))
    with tempfile.TemporaryDirectory() as scratch:
        workdir = Workdir(scratch)
        for number, node in enumerate(nodes):
            os.makedirs(workdir.run_dir(node.fingerprint))
            _log(workdir, node.fingerprint, 1, ROWS, floor=2.0 + 1e-4 * number)
        judge = stopping.Stopping(workdir, nodes, dominated=True, diverging=True)
        judge.look(nodes[:RUNNING])  # reads all that there is
        before = _processor_seconds()
        for look in range(LOOKS):
            first = ROWS + 1 + look * NEW_ROWS
            for number, node in enumerate(nodes[:RUNNING]):
                _log(workdir, node.fingerprint, first, NEW_ROWS, floor=2.0 + 1e-4 * number)
            judge.look_at_once(nodes[:RUNNING])
        seconds = (_processor_seconds() - before) / LOOKS
    return {"look_cpu_seconds": seconds, "look_cpu_share": seconds / stopping.LOOK_SECONDS}


def _log(workdir: Workdir, fingerprint: str, first: int, rows: int, floor: float) -> None:
    """Append rows of a falling loss to the log of a run."""
    lines = []
    for step in range(first, first + rows):
        loss = floor + 8 * step**-0.5 + 0.01 * math.sin(step)
        lines.append(json.dumps({"step": step, "loss": loss}) + "\n")
    with open(workdir.run_dir(fingerprint) / "metrics.jsonl", "a") as file:
        file.writelines(lines)


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
