"""What a real study of many tiny runs costs its launcher, and where its time went.

Overhead is what is not training: the launcher's own processor time as a share of the cores' (it competes with the
workers), and the wall time in which no worker was there at the beginning and the end. Worker start-up (imports, compilation)
is not the launcher's and shown apart.
"""

from collections.abc import Sequence
import os
import resource
import tempfile
import time

from etils import epath

from sweeps.executors.local import LocalExecutor, available_cores
from sweeps.executors.support.protocol import NotStarted
from sweeps.executors.support.subprocess_worker import SubprocessWorker
from sweeps.study import file as studies
from sweeps.study.corpora import prepare_corpora
from sweeps.work.launch import launch
from sweeps.work.workdir import Workdir

STUDY = '''"""How much of the time of {runs} tiny runs is the launcher's? Costs minutes on two cores."""
from sweeps.study.grid import cases, over, product


def get_study():
    base = cases({{
        "model.width": 48, "model.depth": 3, "model.heads": 3, "batch_tokens": 1024, "seq_len": 128, "opt.lr": 4e-3,
        "tokens": 1024 * {steps}, "evaluation.tokens": 16_384, "execution.data_root": {root!r},
    }})
    return product(base, over("seed", *range({runs})))
'''


class TimedExecutor(LocalExecutor):
    """The local executor, with the times at which workers begin and end."""

    def __init__(self, command: Sequence[str] = ()):
        super().__init__(command)
        self.begun: list[float] = []
        self.ended: list[float] = []

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> SubprocessWorker | NotStarted:
        """Start a worker."""
        self.begun.append(time.monotonic())
        return super().start(population, workdir, log)

    def release(self, worker: SubprocessWorker) -> None:
        """Take back the place of a worker that is over."""
        self.ended.append(time.monotonic())
        super().release(worker)


def processor_seconds(who: int) -> float:
    """Return the processor time, user and system, of this process or its children (resource.RUSAGE_*)."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def measure_launcher(runs: int, steps: int, root: str) -> dict[str, float]:
    """Launch the study in a fresh folder, with corpora in `root`; return seconds and shares."""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "tiny.py")
        with open(path, "w") as file:
            file.write(STUDY.format(runs=runs, steps=steps, root=os.path.abspath(root)))
        prepare_corpora(studies.load(path))  # preparing the text is not launching
        processor_before = processor_seconds(resource.RUSAGE_SELF)
        start = time.monotonic()
        executor = TimedExecutor()
        workdir = Workdir(os.path.join(scratch, "work"))
        outcome = launch(studies.load(path), workdir, executor, progress=False)
        end = time.monotonic()
        own = processor_seconds(resource.RUSAGE_SELF) - processor_before
    if outcome.counts != {"complete": runs}:
        raise RuntimeError(f"the study came to {outcome.counts}; expected {runs} complete runs")
    wall = end - start
    before_first = min(executor.begun) - start
    after_last = end - max(executor.ended)
    alone = before_first + after_last
    processor_share = own / (wall * len(available_cores()))
    wall_share = alone / wall
    return {
        "runs": runs,
        "workers": len(executor.begun),
        "wall_seconds": wall,
        "launcher_cpu_seconds": own,
        "seconds_without_workers": alone,
        "workers_cpu_seconds": processor_seconds(resource.RUSAGE_CHILDREN),
        "cpu_share": processor_share,
        "wall_share": wall_share,
        "overhead": processor_share + wall_share,
    }
