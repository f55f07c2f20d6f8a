"""What the launcher itself costs: a real study of many tiny runs, and where its time went.

    python -m sweeps.benchmark [--runs=200] [--json=PATH]

The study is launched as `sweeps.launch` does it, in this process. Overhead is what is not training: the launcher's own
processor time as a share of the cores' (it competes with the workers), and the wall time in which no worker was there
at the beginning and the end. Worker start-up (imports, compilation) is not the launcher's and shown apart.
"""

from collections.abc import Sequence
import os
import resource
import tempfile
import time
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import cli, files
from sweeps.executors.local import LocalExecutor
from sweeps.executors.support.subprocess_worker import SubprocessWorker

STUDY = '''"""How much of the time of {runs} tiny runs is the launcher's? Costs minutes on two cores."""
from sweeps.study.grid import cases, over, product


def get_study():
    base = cases({{
        "model.width": 48, "model.depth": 3, "model.heads": 3, "batch_tokens": 1024, "seq_len": 128, "opt.lr": 4e-3,
        "tokens": 1024 * {steps}, "evaluation.tokens": 16_384, "execution.data_root": {root!r},
    }})
    return product(base, over("seed", *range({runs})))
'''


class Timed(LocalExecutor):
    """The local executor, with the times at which workers begin and end."""

    def __init__(self, command: Sequence[str] = ()):
        super().__init__(command)
        self.begun: list[float] = []
        self.ended: list[float] = []

    def start(self, *arguments: Any, **options: Any) -> SubprocessWorker:
        """Start a worker."""
        self.begun.append(time.monotonic())
        return super().start(*arguments, **options)

    def release(self, worker: SubprocessWorker) -> None:
        """A worker is over."""
        self.ended.append(time.monotonic())
        super().release(worker)


def measure(runs: int, steps: int, root: str) -> dict[str, Any]:
    """Launch the study in a fresh folder; seconds and shares."""
    from sweeps.launch import launch
    from sweeps.study import file as studies
    from sweeps.study.corpora import prepare_corpora
    from sweeps.work.workdir import Workdir

    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "tiny.py")
        with open(path, "w") as file:
            file.write(STUDY.format(runs=runs, steps=steps, root=os.path.abspath(root)))
        prepare_corpora(studies.load(path))  # preparing the text is not launching
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        executor, store = Timed(), Workdir(os.path.join(scratch, "work"))
        store.root.mkdir()
        outcome = launch(studies.load(path), store, executor, progress=False)
        end, after = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    if outcome.counts != {"complete": runs}:
        raise RuntimeError(f"the study came to {outcome.counts}; expected {runs} complete runs")
    wall, cores = end - start, len(executor._cores)
    own = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    alone = (min(executor.begun) - start) + (end - max(executor.ended))
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "runs": runs,
        "workers": len(executor.begun),
        "wall_seconds": wall,
        "launcher_cpu_seconds": own,
        "seconds_without_workers": alone,
        "workers_cpu_seconds": workers.ru_utime + workers.ru_stime,
        "cpu_share": own / (wall * cores),
        "wall_share": alone / wall,
        "overhead": own / (wall * cores) + alone / wall,
    }


def main(_: list[str]) -> int:
    """The command line."""
    given = flags.FLAGS
    value = measure(given.runs, given.steps, given.data_root)
    table = Table(title="launcher", title_justify="left")
    for name in value:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(f"{v:.2%}" if "share" in n or n == "overhead" else f"{v:,.4g}" for n, v in value.items()))
    Console(width=200).print(table)
    if given.json:
        files.write_json(given.json, {"schema": 1, "launcher": value})
    return 0


if __name__ == "__main__":
    flags.DEFINE_integer("runs", 200, "runs of the study", lower_bound=1)
    flags.DEFINE_integer("steps", 100, "steps of each run", lower_bound=1)
    flags.DEFINE_string("data_root", "data", "where prepared corpora are")
    flags.DEFINE_string("json", None, "write the numbers here too")
    cli.run(main)
