"""Prove that a config resumes bit for bit on the machine at hand, and keep the proof.

    python -m experiments.verify_resume --config=FILE.py [--config.x=y] --workdir=DIR [--steps=200] [--kills=3]

The run is trained twice from its first step, in processes of its own: once undisturbed, once killed with SIGKILL after
random steps and started again. Both are compared where they have taken --steps steps (or ended): every array of the
checkpoint as it is read back, every row of the metrics, and at the end the record. What is trained is the config itself,
not a shortened one. DIR/resume_certificate.json says what was compared, on what machine, and what differed. Exit code 0
when all bits agree, 1 when not. --processes=2 trains on as many processes that join each other (experiments/alive/hosts.py), as
the hosts of a slice do; all of them are killed, one first.
"""

from collections.abc import Mapping, Sequence
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from absl import flags
from etils import epath

from experiments import cli, files
from experiments.cli import EXIT_AGAIN, EXIT_FAILURE
from experiments.run import config_file
from experiments.run.schema import Run
from experiments.store import inherit, segments
from models.errors import InputError

Row = dict[str, Any]  # of metrics, of a record, or the certificate

SCHEMA = 1
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
POLL_SECONDS = 0.002
GRACE_SECONDS = 30.0  # for the other processes to end once one has


class Trainee:
    """One of the two trainings: the command, in processes that can be killed."""

    def __init__(self, arguments: Sequence[str], folder: epath.Path, processes: int = 1):
        self.folder = folder
        self._count = processes
        workdir = f"--workdir={os.fspath(folder)}"
        self._command = [sys.executable, "-m", "experiments.train", *arguments, workdir]
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the processes, or let them go on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        known = os.environ.get("PYTHONPATH")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([ROOT, known]) if known else ROOT}
        several = self._count > 1
        port = _free_port() if several else 0
        self._processes = []
        for rank in range(self._count):
            command = list(self._command)
            if several:
                command.append(f"--hosts=localhost:{port},{rank},{self._count}")
            name = f"log.{rank}" if rank else "log"
            with open(self.folder / name, "ab") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            self._processes.append(process)

    def _over(self) -> bool:
        """Tell whether one of them has ended; the others cannot go on."""
        return any(process.poll() is not None for process in self._processes)

    def steps(self) -> int:
        """Return the last step in the metrics log."""
        rows = segments.read(self.folder)
        return max((row["step"] for row in rows), default=0)

    def saved(self) -> list[int]:
        """Return the steps with a committed checkpoint."""
        folder = self.folder / "checkpoints"
        if not folder.exists():
            return []
        names = [path.name for path in folder.iterdir()]
        return sorted(int(name) for name in names if name.isdigit())

    def kill_after(self, step: int, rank: int = 0) -> dict[str, int]:
        """Send SIGKILL once that step is in the log, first to one of them. Raises RuntimeError when it ends before."""
        while self.steps() < step:
            if self._over():
                raise RuntimeError(f"{self.folder}: ended before it could be killed ({self._last_line()})")
            time.sleep(POLL_SECONDS)
        first = self._processes[rank]
        first.send_signal(signal.SIGKILL)
        if first.wait() != -signal.SIGKILL:
            raise RuntimeError(f"{self.folder}: ended before it could be killed; raise --steps")
        self.end()
        return {"after_step": self.steps(), "resumed_from_step": max(self.saved(), default=0), "rank": rank}

    def finish(self, step: int) -> None:
        """Wait until the checkpoint of that step is there, and stop it. Raises RuntimeError when it fails."""
        while not self._over() and step not in self.saved():
            time.sleep(10 * POLL_SECONDS)
        if not (self.folder / "record.json").exists() and not self._over():
            self._processes[0].terminate()  # of which it tells the others
        self._wait_for_all()
        statuses = {process.returncode for process in self._processes}
        if not statuses <= {0, EXIT_AGAIN} or step not in self.saved():
            raise RuntimeError(f"{self.folder}: training failed ({self._last_line()})")

    def _wait_for_all(self) -> None:
        """Wait until all have ended; those that have not GRACE_SECONDS after the first are killed."""
        first_ended = None
        while any(process.poll() is None for process in self._processes):
            if self._over():
                first_ended = first_ended or time.monotonic()
                if time.monotonic() - first_ended > GRACE_SECONDS:
                    self.end()
            time.sleep(10 * POLL_SECONDS)

    def end(self) -> None:
        """Leave no process behind."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _last_line(self) -> str:
        """Return the last line that the training has printed."""
        log = (self.folder / "log").read_bytes()
        lines = log.decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "it said nothing"

    def rows(self, until: int) -> list[Row]:
        """Return the metrics up to a step, without what a clock has measured."""
        rows = segments.read(self.folder)
        return [_without_clock(row) for row in rows if row["step"] <= until]

    def columns(self) -> Row:
        """Return the columns of the record, without what a clock has measured."""
        from experiments.store import record

        return _without_clock(record.read(self.folder / "record.json")["columns"])


def _without_clock(row: Row) -> Row:
    """Return a row without what a clock has measured."""
    from experiments.store import record

    return {name: value for name, value in row.items() if not record.is_of_the_day(name)}


def _free_port() -> int:
    """Return a port of this machine that nobody uses now."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def schedule(run: Run, steps: int, kills: int, draw: random.Random) -> tuple[int, int, list[int]]:
    """Return the steps between checkpoints, the step at which both are compared, and after which steps to kill.

    Raises InputError when there are too few steps for so many kills.
    """
    last = min(run.steps, steps)
    every = max(1, last // (3 * kills + 1))
    if last < 3 * kills + 1:
        raise InputError(f"--kills={kills}: expected at most {max(0, (last - 1) // 3)} for {last} steps")
    last = last if last == run.steps else every * (last // every)
    return every, last, sorted(draw.sample(range(1, last - every), kills))


def compare(whole: Trainee, killed: Trainee, step: int, ended: bool) -> Row:
    """Return what agrees and what does not, for the certificate. `ended`: the run has a record at that step."""
    from experiments.store import stored_state

    state = stored_state.digests(whole.folder / "checkpoints", step)
    other_state = stored_state.digests(killed.folder / "checkpoints", step)
    differences = _differing("state", state, other_state)
    rows = whole.rows(step)
    other_rows = killed.rows(step)
    for number, (row, other_row) in enumerate(zip(rows, other_rows, strict=False)):
        if row != other_row:
            differences.append(f"metrics row {number}")
    if len(rows) != len(other_rows):
        differences.append(f"metrics have {len(rows)} and {len(other_rows)} rows")
    if ended:
        differences += _differing("record", whole.columns(), killed.columns())
    text = "".join(f"{name}{digest}" for name, digest in state.items())
    return {
        "bit_exact": not differences,
        "differences": differences,
        "step": step,
        "record_compared": ended,
        "leaves": len(state),
        "metrics_rows": len(rows),
        "state_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def _differing(what: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names under which two mappings differ, one of them perhaps lacking it."""
    names = sorted({*one, *other})
    return [f"{what} {name}" for name in names if one.get(name) != other.get(name)]


def verify(
    run: Run, arguments: Sequence[str], workdir: epath.Path, steps: int, kills: int, seed: int, processes: int = 1
) -> Row:
    """Train both, compare, and return the certificate. `arguments`: of experiments.train, without --workdir."""
    draw = random.Random(seed)
    every, last, targets = schedule(run, steps, kills, draw)
    scratch = workdir / "verify_resume"
    if scratch.exists():
        shutil.rmtree(scratch)  # ours, of an earlier proof
    arguments = [*arguments, *_execution_flags(every * run.batch_tokens)]
    whole = Trainee(arguments, scratch / "whole", processes)
    killed = Trainee(arguments, scratch / "killed", processes)
    start = time.monotonic()
    try:
        whole.start()
        whole.finish(last)
        events = _train_with_kills(killed, targets, last, draw, processes)
    finally:
        whole.end()
        killed.end()
    found = compare(whole, killed, last, last == run.steps)
    seconds = round(time.monotonic() - start, 1)
    return _certificate(killed, found, events, arguments, processes) | {"seed": seed, "seconds": seconds}


def _execution_flags(checkpoint_every_tokens: int) -> list[str]:
    """Return the flags under which all steps are logged and all checkpoints kept, at steps that no clock decides."""
    options = {
        "checkpoint_every_tokens": checkpoint_every_tokens,
        "checkpoint_every_seconds": 1e9,
        "keep_checkpoints": 1000,
        "log_every_steps": 1,
        "tensorboard": "false",
    }
    return [f"--config.execution.{name}={value}" for name, value in options.items()]


def _train_with_kills(
    trainee: Trainee, targets: Sequence[int], last: int, draw: random.Random, processes: int
) -> list[dict[str, int]]:
    """Train to the last step, killed after each target and started again; returns what happened at each kill."""
    events = []
    for target in targets:
        trainee.start()
        step = max(target, trainee.steps())
        events.append(trainee.kill_after(step, draw.randrange(processes)))
    trainee.start()
    trainee.finish(last)
    return events


def _certificate(
    trainee: Trainee, found: Row, events: list[dict[str, int]], arguments: Sequence[str], processes: int
) -> Row:
    """Return what was compared, of which run, and on what machine."""
    from experiments.run import identity, stored
    from experiments.store import record

    held = files.read_json(trainee.folder / "run.json")
    run = stored.read(held["run"], held["schema"])
    return {
        "schema": SCHEMA,
        **found,
        "kills": events,
        "processes": processes,
        "arguments": list(arguments),
        "numerics": identity.numerics_version(run),
        "fingerprint": held["fingerprint"],
        "run": held["run"],
        "environment": record.environment(),
    }


def main(_: list[str]) -> int:
    """Run the command line."""
    given = flags.FLAGS
    if given.config is None:
        raise InputError("--config is missing; expected --config=FILE.py")
    if "://" in given.workdir:
        raise InputError(f"--workdir={given.workdir}: expected a local folder")
    run, _execution = inherit.resolve(*config_file.frozen())
    workdir = epath.Path(os.path.abspath(given.workdir))
    arguments = [arg for arg in sys.argv[1:] if arg.lstrip("-").startswith(("config=", "config."))]
    seed = given.seed
    if seed is None:
        seed = random.SystemRandom().randrange(10**9)
    certificate = verify(run, arguments, workdir, given.steps, given.kills, seed, given.processes)
    path = workdir / "resume_certificate.json"
    files.write_json(path, certificate)
    if certificate["bit_exact"]:
        print(f"{_agreement(certificate)}; killed after steps {_places(certificate)}; {path}")
        return 0
    differences = ", ".join(certificate["differences"][:5])
    print(
        f"not bit-exact: {differences}; killed after steps {_places(certificate)}; see {path}",
        file=sys.stderr,
    )
    return EXIT_FAILURE


def _agreement(certificate: Row) -> str:
    """Say what was compared and agrees."""
    record = ", the record" if certificate["record_compared"] else ""
    return (
        f"bit-exact at step {certificate['step']}: {certificate['leaves']} arrays, "
        f"{certificate['metrics_rows']} rows of metrics{record}"
    )


def _places(certificate: Row) -> str:
    """Say where the run was killed, and from where it went on."""
    return ", ".join(f"{kill['after_step']} (from {kill['resumed_from_step']})" for kill in certificate["kills"])


if __name__ == "__main__":
    config_file.define()
    cli.define_path("workdir", None, "folder for the certificate and both trainings")
    cli.define_integer("steps", 200, "compare after so many steps of the config", lower_bound=4)
    cli.define_integer("kills", 3, "how often to kill", lower_bound=1)
    cli.define_integer("processes", 1, "train on so many processes of this machine together", lower_bound=1)
    cli.define_integer("seed", None, "which steps to kill after; default: drawn afresh")
    cli.run(
        main,
        required=["workdir"],
        check=config_file.check_arguments,
        overrides=config_file.names,
    )
