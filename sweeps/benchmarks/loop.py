"""What the launcher's loop costs by itself: many runs that wait, many workers that only talk, and nothing that ends.

The workers are processes that report their progress four times a second, as those of small runs do, and do nothing else.
What the loop takes is the processor time of its thread. It opens files at a heartbeat, each 15 s; between two of them it
should open none.
"""

from collections.abc import Sequence
import dataclasses
import json
import math
import sys
import tempfile
import time

from sweeps.benchmarks.touched import Touched, touched
from sweeps.executors.local import LocalExecutor, Place
from sweeps.executors.support.subprocess_worker import SubprocessWorker, wait_for_output
from sweeps.study.cells import freeze_points
from sweeps.study.grid import cases
from sweeps.work import populations
from sweeps.work.display import Display
from sweeps.work.scheduler import Scheduler
from sweeps.work.workdir import Node, Workdir

PROGRESS = {"event": "progress", "done": 1, "steps": 100, "loss": 2.5, "tokens_per_second": 1e5}
TALK = f"import time\nwhile True:\n    print({json.dumps(PROGRESS)!r}, flush=True)\n    time.sleep(0.25)"
LOCK = "/.lock"  # is taken by every heartbeat


@dataclasses.dataclass
class Polls:
    """What was seen of the loop from the time on when all workers were there. Times are of its thread."""

    count: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    opened: int = 0  # files and folders, by polls without a heartbeat
    heartbeats: int = 0
    opened_by_heartbeats: int = 0

    def note(self, paths: Sequence[str]) -> None:
        """Count a poll that has opened these paths."""
        self.count += 1
        if LOCK in paths:
            self.heartbeats += 1
            self.opened_by_heartbeats += len(paths)
        else:
            self.opened += len(paths)


class TalkingExecutor(LocalExecutor):
    """Room for `slots` workers that only talk. Has the launch stop some seconds after all have begun."""

    def __init__(self, slots: int, seconds: float, seen: Touched):
        super().__init__([sys.executable, "-S", "-E", "-c", TALK])
        self._free = [Place(None, {})] * slots
        self.slots = slots
        self.scheduler: Scheduler | None = None
        self.polls = Polls()
        self._seconds = seconds
        self._seen = seen
        self._began = math.nan  # on the monotonic clock, as `_cpu_before` on the thread's
        self._cpu_before = math.nan

    def wait(self, workers: Sequence[SubprocessWorker], seconds: float) -> None:
        """Wait for output. Each poll waits once: what was opened since the last time is that of one poll."""
        wait_for_output(workers, seconds)
        now = time.monotonic()
        paths = self._seen.paths
        self._seen.paths = []
        if math.isnan(self._began):
            if len(workers) == self.slots:
                self._began = now
                self._cpu_before = time.thread_time()
            return
        self.polls.note(paths)
        self.polls.wall_seconds = now - self._began
        self.polls.cpu_seconds = time.thread_time() - self._cpu_before
        if self.polls.wall_seconds >= self._seconds and self.scheduler:
            self.scheduler.stops += 1


def waiting_nodes(count: int) -> list[Node]:
    """Return so many runs that nobody has trained."""
    (cell,) = freeze_points(cases({"model.width": 16, "model.depth": 1, "model.heads": 1}))
    nodes = []
    for number in range(count):
        run = dataclasses.replace(cell.run, seed=number)
        nodes.append(Node(f"{number:016x}", f"run{number}", run, cell.execution, ("none",)))
    return nodes


def measure_loop(runs: int, jobs: int, seconds: float) -> dict[str, float]:
    """Have the scheduler run for so long with `jobs` workers and `runs` runs; return what it took of one core."""
    to_train = populations.each_alone(waiting_nodes(runs))
    with tempfile.TemporaryDirectory() as scratch, touched(scratch) as seen:
        executor = TalkingExecutor(jobs, seconds, seen)
        with Display("loop", to_train, recorded=0, total=runs) as display:
            scheduler = Scheduler(Workdir(scratch), executor, to_train, display)
            executor.scheduler = scheduler
            scheduler.run()
    polls = executor.polls
    return {
        "runs": runs,
        "jobs": jobs,
        "wall_seconds": polls.wall_seconds,
        "cpu_seconds": polls.cpu_seconds,
        "core_share": polls.cpu_seconds / polls.wall_seconds,
        "polls": polls.count,
        "files_opened_by_polls": polls.opened,
        "heartbeats": polls.heartbeats,
        "files_opened_by_heartbeats": polls.opened_by_heartbeats,
    }
