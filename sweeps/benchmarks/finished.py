"""How long `sweeps.launch` takes to say that nothing is left to do, in a study of many runs that all have their record.

The command is timed as a user starts it, a process with its imports. What its parts take is then measured in this process,
by the functions that a launch calls.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from experiments.data.options import Data
from experiments.store import record
from sweeps.benchmarks.touched import touched
from sweeps.executors.local import LocalExecutor
from sweeps.executors.support.protocol import python_path
from sweeps.study import file as studies
from sweeps.study.corpora import prepare_corpora
from sweeps.work.launch import launch
from sweeps.work.workdir import Workdir, identify

# Four sizes, three seeds, and as many learning rates as it takes.
STUDY = '''"""How long does it take to see that all is done? Costs nothing."""
from sweeps.study.grid import cases, over, product


def get_study(runs):
    base = cases({{"model.depth": 3, "model.heads": 3, "tokens": 65_536, "data.corpus": {corpus!r}}})
    rates = [1e-3 * 1.001**step for step in range(int(runs) // 12 + 1)]
    points = product(base, over("model.width", 48, 96, 144, 192), over("opt.lr", *rates), over("seed", 1, 2, 3))
    return points[: int(runs)]
'''
RESULTS = {"loss_nats": 2.5, "loss_nats_sem": 0.01, "bits_per_byte": 1.2, "eval_tokens": 65536, "censored": 0}


def measure_finished(runs: int, root: str, corpus: Sequence[str] = Data().corpus) -> dict[str, float]:
    """Launch a study whose runs are all recorded, with corpora in `root`; return the seconds that it took, and for what."""
    with tempfile.TemporaryDirectory() as scratch:
        one = time_command(FinishedStudy(1, os.path.join(scratch, "one"), root, corpus))
        study = FinishedStudy(runs, os.path.join(scratch, "all"), root, corpus)
        found = time_command(study) | time_parts(study)
    return {"runs": runs, **found, "seconds_of_a_study_of_one_run": one["seconds"]}


@dataclasses.dataclass(frozen=True)
class FinishedStudy:
    """A study of so many runs, in a folder of its own."""

    runs: int
    folder: str
    root: str  # of prepared corpora
    corpus: Sequence[str]

    def __post_init__(self) -> None:
        """Write the study file, and the record of each run: all with the numbers of the first."""
        os.makedirs(self.folder)
        with open(os.path.join(self.folder, "finished.py"), "w") as file:
            file.write(STUDY.format(corpus=tuple(self.corpus)))
        study = studies.load(self.spec, self.root)
        nodes = identify(study, prepare_corpora(study))
        first = nodes[0]
        made = record.make(first.run, first.fingerprint, first.manifests, "complete", None, RESULTS)
        workdir = Workdir(self.workdir)
        for node in nodes:
            folder = workdir.run_dir(node.fingerprint)
            os.makedirs(folder)
            with open(folder / "record.json", "w") as file:
                json.dump(made | {"fingerprint": node.fingerprint}, file, indent=1)

    @property
    def spec(self) -> str:
        """What --study is given."""
        return os.path.join(self.folder, f"finished.py:{self.runs}")

    @property
    def workdir(self) -> str:
        """What --workdir is given."""
        return os.path.join(self.folder, "work")


def time_command(study: FinishedStudy) -> dict[str, float]:
    """Launch a finished study as a process of its own; return its wall and processor seconds."""
    flags = [f"--study={study.spec}", f"--workdir={study.workdir}", f"--data_root={study.root}"]
    command = [sys.executable, "-m", "sweeps.launch", *flags]
    before = _cpu_seconds_of_children()
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": python_path()})
    seconds = time.monotonic() - began
    if done.returncode or "nothing to do" not in done.stdout:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}; expected nothing to do")
    return {"seconds": seconds, "cpu_seconds": _cpu_seconds_of_children() - before}


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def time_parts(study: FinishedStudy) -> dict[str, float]:
    """Load and launch a finished study in this process; return processor seconds, and the files opened for each run."""
    began = time.process_time()
    loaded = studies.load(study.spec, study.root)
    loaded_at = time.process_time()
    workdir = Workdir(study.workdir)
    with touched(study.workdir) as seen:
        outcome = launch(loaded, workdir, LocalExecutor(), progress=False)
    ended = time.process_time()
    if outcome.trained:
        raise RuntimeError(f"{outcome.trained} runs were trained; expected none")
    return {
        "cpu_seconds_to_load": loaded_at - began,
        "cpu_seconds_to_launch": ended - loaded_at,
        "files_opened_for_a_run": len(seen.paths) / study.runs,
    }
