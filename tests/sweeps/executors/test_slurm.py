"""The Slurm executor on a real Slurm (tests/support/slurm.py). Most of its workers are lines of shell: what they do is said here."""

from collections.abc import Callable
import json
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any, cast

from etils import epath
import pytest

from experiments import files, key_values
from experiments.cli import EXIT_AGAIN, InputError
from sweeps import executors
from sweeps.executors.slurm import SlurmExecutor
from sweeps.executors.support import protocol, slurm_queue, slurm_script, slurm_worker
from sweeps.executors.support.event_file import EventFile
from sweeps.executors.support.protocol import End, Event, Failure, NotStarted
from sweeps.executors.support.slurm_worker import SlurmWorker
from sweeps.work.workdir import Workdir
from tests.support.executors import launch, losses, started
from tests.support.fake_place import Clock
from tests.support.slurm import Slurm, failing_sbatch, until

pytestmark = pytest.mark.xdist_group("slurm")  # one cluster

# Takes the place of Python on a host: runs the lines of shell that a population's file has.
INTERPRETER = """#!/bin/bash
for word; do
  case $word in
    --population=*) population=${word#*=} ;;
    --hosts=*) hosts=${word#*=} ;;
  esac
done
. "$population"
"""
SAVES = "trap 'echo saved >&2; exit 75' TERM; while :; do sleep 0.1; done"  # what a worker does that is asked to stop
QUEUED_AGAIN = slurm_queue.State("PENDING", "BeginTime")
SAY = """echo '{"event": "progress", "done": %s}'"""


class Place:
    """An executor, and the workers that it has started."""

    def __init__(self, root: pathlib.Path, options: str = ""):
        self.root = root
        interpreter = root / "interpreter"
        interpreter.write_text(INTERPRETER)
        interpreter.chmod(0o755)
        self.workdir = epath.Path(root / "a 100% workdir")
        self.workdir.mkdir(exist_ok=True)
        usual = {"python": str(interpreter), "minutes": "5", "signal_seconds": "0"}
        given = key_values.read_pairs(options, "options", "KEY=VALUE", "minutes=5")
        executor = executors.load(f"slurm:{key_values.write_pairs(usual | given)}")
        assert isinstance(executor, SlurmExecutor)
        self.executor: SlurmExecutor = executor
        self.events: dict[SlurmWorker, list[Event]] = {}

    def prepare(self, lines: str) -> SlurmWorker:
        """A worker that does what the lines say, once it may."""
        name = f"p{len(list(self.workdir.glob('*.json')))}"
        population = self.workdir / f"{name}.json"
        population.write_text(lines)
        worker = self.executor.start(population, self.workdir, self.workdir / f"{name}.log")
        assert isinstance(worker, SlurmWorker)
        self.events[worker] = []
        return worker

    def start(self, lines: str) -> SlurmWorker:
        """The same, begun."""
        worker = self.prepare(lines)
        worker.go("abc")
        return worker

    def look(self, worker: SlurmWorker) -> End:
        """What a launcher does each turn."""
        end = worker.poll()
        self.events[worker] += worker.events()
        return end

    def end(self, worker: SlurmWorker, hasten: Callable[[], object] | None = None, seconds: float = 30) -> End:
        """Wait for the end of a worker, as a launcher does. `hasten`: jobs that were queued again."""
        seen: list[End] = []

        def over() -> bool:
            if hasten and worker.number and self.executor._queue.state(worker.number) == QUEUED_AGAIN:
                hasten()
            seen.append(self.look(worker))
            return seen[-1] is not None

        until(over, seconds)
        worker.close()
        self.executor.release(worker)
        return seen[-1]

    def until_it_says(self, worker: SlurmWorker, count: int = 1) -> None:
        """Wait until a worker has reported progress so many times."""

        def said() -> bool:
            assert self.look(worker) is None
            return len([event for event in self.events[worker] if event["event"] == "progress"]) >= count

        until(said)

    def log(self, worker: SlurmWorker) -> str:
        return pathlib.Path(worker._job.log).read_text()


@pytest.fixture
def place(slurm: Slurm, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Place]:
    """Makes executors whose questions to Slurm follow each other quickly."""
    monkeypatch.setattr(slurm_queue, "ASK_SECONDS", 1.0)
    monkeypatch.setattr(slurm_queue, "SOON_SECONDS", 0.2)
    return lambda options="": Place(tmp_path, options)


# --- options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("slots=0", "'slots=0' is too small; expected slots of at least 1"),
        ("minutes=-5", "'minutes=-5' is too small; expected minutes of at least 1"),
        ("hosts=0", "'hosts=0' is too small; expected hosts of at least 1"),
        ("cpus=0", "'cpus=0' is too small; expected cpus of at least 1"),
        ("gpus=-1", "'gpus=-1' is too small; expected gpus of at least 0"),
        ("mem_gb=-1", "'mem_gb=-1' is too small; expected mem_gb of at least 0"),
        ("port=99999", "port=99999: expected at most 65535"),
        ("minutes=2,signal_seconds=120", "signal_seconds=120: expected less than minutes=2"),
        ("sbatch=END", "sbatch=END: expected options such as"),
        ("sbatch=--comment='x", "sbatch=--comment='x: No closing quotation"),
        ("sbatch=--exclusive --nodes=2", "--nodes=2 is not for sbatch= and setup=; expected hosts="),
        ("sbatch=-ofile", "-ofile is not for sbatch= and setup=; the launcher sets it"),
        ("setup=/nowhere.sh", "setup=/nowhere.sh: cannot be read"),
        ("exclude=n[1", "'exclude=n[1' has a bracket or quote without its other end"),
        ("exclude=n[1,3],nope=1", "'nope=1' is no option"),
    ],
)
def test_options_that_no_job_could_have_are_one_line(options: str, named: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slurm_queue, "check_installed", lambda: None)
    with pytest.raises(InputError, match=re.escape(named)):
        executors.load(f"slurm:{options}")


@pytest.mark.parametrize(
    ("options", "gpus"),
    [("cpus=2", 0), ("gpus=2", 2), ("gres=gpu", 1), ("gres=gpu:a100:4", 4), ("gres=gpu:4", 4), ("gres=shard:8", 0)],
)
def test_the_hardware_of_a_job_follows_from_its_options(options: str, gpus: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slurm_queue, "check_installed", lambda: None)
    executor = executors.load(f"slurm:hosts=2,{options}")
    assert executor.hardware() == (protocol.Hardware("gpu", 2 * gpus) if gpus else protocol.Hardware("cpu", 1))
    assert ("cpu_devices" in executor.options()) == (gpus == 0)


# --- how a job ends


def test_a_job_ends_as_its_worker_does(place: Callable[..., Place], slurm: Slurm):
    """Its exit status, its events, each once, and its log; in a workdir whose path needs quotes."""
    here = place()
    events = SAY % 1 + "; echo no event; " + SAY % 2
    ends = {
        f"{events}; exit 0": 0,
        "echo error: broken >&2; exit 1": 1,
        "exit 2": 2,
        "exit 75": EXIT_AGAIN,
        "kill -KILL $$": -9,
    }
    workers = {here.start(lines): end for lines, end in ends.items()}
    for worker, end in workers.items():
        assert here.end(worker) == end
    first, second, *_ = workers
    assert [event.get("done") for event in here.events[first]] == [1, 2]
    assert "error: broken" in here.log(second)
    assert not list((here.workdir / "slurm").glob("*/job")), "nothing that only a running job needs"
    until(lambda: not slurm("squeue", "--noheader"))


class ScriptedQueue:
    """Says of a job what it is told to: when the real Slurm queues a job again cannot be held."""

    def __init__(self) -> None:
        self.name = "COMPLETED"

    def look(self) -> None: ...

    def hurry(self) -> None: ...

    def state(self, number: str) -> slurm_queue.State:
        return slurm_queue.State(self.name)


@pytest.mark.parametrize("queued_again", [True, False])
def test_a_worker_that_saved_is_not_over_before_slurm_has_had_time_to_queue_it_again(
    queued_again: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """For a moment Slurm calls a preempted job over; its runs are not to be given to another one by then."""
    clock = Clock()
    monkeypatch.setattr(slurm_worker, "time", clock)
    queue = ScriptedQueue()
    (tmp_path / "exit").write_text(str(EXIT_AGAIN))
    log = str(tmp_path / "log")
    job = slurm_script.Job("a job", str(tmp_path), log, (), token="", directives=(), setup=(), hosts=1, cpus=1)
    worker = SlurmWorker(cast(Any, queue), job)
    worker.number = "7"
    assert worker.poll() is None
    clock.sleep(slurm_worker.LATE_SECONDS / 2)
    if queued_again:
        queue.name = "PENDING"
        assert worker.poll() is None
        queue.name = "COMPLETED"
        assert worker.poll() is None, "it waits anew"
    clock.sleep(slurm_worker.LATE_SECONDS)
    assert worker.poll() == EXIT_AGAIN


@pytest.mark.parametrize(
    ("setup", "lines", "reason"),
    [
        ("module load cuda", ":", r"could not start its worker: the setup of the job failed at: module load cuda"),
        (
            "#SBATCH --comment=hello\nsrun() { echo 'srun: error: no step' >&2; return 1; }",
            ":",
            r"srun: error: no step",
        ),
    ],
)
def test_what_goes_wrong_before_the_worker_is_not_its_runs_fault(
    setup: str, lines: str, reason: str, place: Callable[..., Place], tmp_path: pathlib.Path
):
    (tmp_path / "setup.sh").write_text(setup)
    here = place(f"setup={tmp_path}/setup.sh")
    end = here.end(here.start(lines))
    assert isinstance(end, NotStarted) and end.kind == "node" and re.search(reason, end.reason), end


def test_options_reach_slurm_and_the_job(place: Callable[..., Place], slurm: Slurm, tmp_path: pathlib.Path):
    """Those that we know, any other, those of a setup file, whose lines run first; PYTHONPATH is ours, once."""
    (tmp_path / "setup.sh").write_text("#!/bin/bash\n#SBATCH --comment=hello --nice=7 # friendly\nexport MINE=1\n")
    here = place(f"exclude=node[1,3-9],cpus=2,sbatch=--mail-type=END --nice=8,setup={tmp_path}/setup.sh")
    here.executor._options.check()
    with pytest.raises(InputError, match="Invalid node name"):
        here.executor.check(here.workdir)
    here = place(f"exclude=node[1],cpus=2,sbatch=--mail-type=END --nice=8,setup={tmp_path}/setup.sh")
    here.executor.check(here.workdir)
    for _ in range(2):
        worker = here.start('echo "$MINE $SLURM_CPUS_ON_NODE $PYTHONPATH $LOSSGRID_CLAIM" >&2')
        assert here.end(worker) == 0
        mine, cpus, path, token = here.log(worker).split()
        assert (mine, cpus, token) == ("1", "2", "abc")
        assert path.count(protocol.ROOT) == 1
        assert worker.number is not None
        shown = slurm("scontrol", "show", "job", worker.number)
        assert shown and {"Comment=hello", "Nice=8", "NodeList=node2"} <= set(shown.split())


def test_a_job_can_be_read_before_there_is_one(place: Callable[..., Place], slurm: Slurm):
    """Its scripts, which a shell understands, and what Slurm says; nothing is written and none is queued."""
    here = place("hosts=2,partition=cancel")
    text = here.executor.rehearse(here.workdir)
    job, _, rest = text.removeprefix("# job.sh\n").partition("# host.sh\n")
    host, _, said = rest.partition("sbatch --test-only: ")
    for script in (job, host):
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""
    assert "#SBATCH --partition=cancel\n" in job and "on nodes node[1-2] in partition cancel" in said
    assert not slurm("squeue", "--noheader") and not list(here.workdir.iterdir())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("partition=nope", "invalid partition specified: nope"),
        ("gres=gpu:9", "Invalid generic resource"),
        ("constraint=a100", "Invalid feature"),
        ("reservation=nope", "reservation is invalid"),
        ("hosts=9", ""),
        ("sbatch=--nope=3", "unrecognized option"),
    ],
)
def test_what_slurm_refuses_is_said_before_anything_is_written(options: str, named: str, place: Callable[..., Place]):
    here = place(options)
    with pytest.raises(InputError, match=named or "node configuration is not available"):
        here.executor.check(here.workdir)
    if not named:  # Slurm would take such a job, and never start it
        return
    end = here.end(here.start(":"))  # and later, when an administrator has taken it away
    assert isinstance(end, NotStarted) and end.kind == "user", end


# --- what Slurm does to a job


def test_a_job_that_is_queued_again_goes_on(place: Callable[..., Place], slurm: Slurm):
    """It is the same worker to its launcher; the exit status of its first attempt is not its end."""
    here = place()
    worker = here.start(
        f'[ -e "$population.mark" ] && {SAY % 2} && exit 0; touch "$population.mark"; {SAY % 1}; {SAVES}'
    )
    here.until_it_says(worker)
    assert worker.number and slurm("scontrol", "requeue", worker.number) is not None
    assert here.end(worker, slurm.hasten) == 0
    assert [event["done"] for event in here.events[worker] if event["event"] == "progress"] == [1, 2]
    assert here.log(worker).count("saved") == 1


@pytest.mark.parametrize(
    ("partition", "lines", "kind"),
    [
        ("main", SAVES, EXIT_AGAIN),  # within the time that it is given
        pytest.param("main", "trap '' TERM; sleep 100", 0, marks=pytest.mark.slow),  # it is queued again, and ends then
        pytest.param("cancel", "trap '' TERM; sleep 100", "preempted", marks=pytest.mark.slow),
    ],
    ids=["saves", "again", "cancelled"],
)
def test_a_job_that_is_preempted(partition: str, lines: str, kind: object, place: Callable[..., Place], slurm: Slurm):
    here = place(f"partition={partition}")
    worker = here.start(f'[ -e "$population.mark" ] && exit 0; touch "$population.mark"; {SAY % 1}; {lines}')
    here.until_it_says(worker)
    slurm("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 0.1")
    end = here.end(worker, slurm.hasten)
    assert (end.kind if isinstance(end, Failure) else end) == kind, end


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["scancel"], Failure("preempted", "is CANCELLED")),
        (["scontrol", "requeuehold"], NotStarted("node", "job requeued in held state")),
    ],
    ids=["cancelled", "held"],
)
def test_a_job_that_is_taken_away(command: list[str], expected: Failure, place: Callable[..., Place], slurm: Slurm):
    """It saves first; that it has not finished is no fault of its runs."""
    here = place()
    worker = here.start(f"{SAY % 1}; {SAVES}")
    here.until_it_says(worker)
    assert worker.number and slurm(*command, worker.number) is not None
    end = here.end(worker)
    assert isinstance(end, type(expected)) and end.kind == expected.kind and expected.reason in end.reason, end
    assert "saved" in here.log(worker)
    until(lambda: not slurm("squeue", "--noheader"))


def test_a_worker_is_asked_to_stop(place: Callable[..., Place], slurm: Slurm):
    """One that runs saves; one that waits, or is just being submitted, leaves the queue."""
    here = place()
    saves = here.start(f"{SAY % 1}; {SAVES}")
    here.until_it_says(saves)
    saves.stop()
    new = here.start("sleep 100")
    new.stop()
    assert here.end(saves) == EXIT_AGAIN
    assert isinstance(here.end(new), Failure)
    waits = place("sbatch=--hold").start(":")
    until(lambda: waits.poll() is None and waits.number and slurm("squeue", "--noheader", f"--jobs={waits.number}"))
    waits.stop()
    assert isinstance(until(waits.poll), Failure)
    assert not slurm("squeue", "--noheader")


@pytest.mark.slow
def test_a_worker_that_does_not_hear_is_killed(place: Callable[..., Place], slurm: Slurm):
    """Slurm kills it after a while; that srun calls this success is not believed."""
    here = place()
    deaf = here.start(f"trap '' TERM; {SAY % 1}; sleep 100")
    here.until_it_says(deaf)
    deaf.stop(force=True)
    end = here.end(deaf)
    assert isinstance(end, Failure) and end.kind == "preempted", end


def test_the_next_launch_cancels_what_a_dead_one_has_left_queued(place: Callable[..., Place], slurm: Slurm):
    """A job that runs holds its runs itself, and is left alone."""
    here, queue = place(), place("sbatch=--hold")
    runs, waits = here.start(f"{SAY % 1}; {SAVES}"), queue.start(":")
    here.until_it_says(runs)
    until(lambda: waits.poll() is None and waits.number)
    here.executor.clear(here.workdir)
    time.sleep(0.3)
    assert waits.number in slurm.states(), "its launcher lives"
    for path in here.workdir.glob("slurm/*/job"):
        value = files.read_json(path)
        value["launcher"]["started"] = "1"
        files.write_json(path, value)
    here.executor.clear(here.workdir)
    assert isinstance(until(waits.poll), Failure)
    assert here.look(runs) is None and runs.number in slurm.running()


def test_a_job_that_slurm_has_forgotten_is_over(place: Callable[..., Place], slurm: Slurm):
    """Accounting is switched off: nothing to ask, and nothing is said about that."""
    queue = slurm_queue.Queue()
    queue.watch("999999")

    def state() -> slurm_queue.State | None:
        queue.look()
        return queue.state("999999")

    found = until(state)
    assert isinstance(found, slurm_queue.State) and found.over and found.name == slurm_queue.UNKNOWN
    assert queue.notices == []


def test_a_job_that_slurm_names_again_is_not_forgotten(monkeypatch: pytest.MonkeyPatch):
    """squeue leaves out a job once (a controller that has just come back): what it says later holds."""
    running = slurm_queue.State("RUNNING")
    answers = [{}, {"7": running}]
    monkeypatch.setattr(slurm_queue, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(slurm_queue, "_states", lambda: answers.pop(0) if len(answers) > 1 else answers[0])
    monkeypatch.setattr(slurm_queue, "_recorded_state", lambda number: slurm_queue.State(slurm_queue.UNKNOWN))
    queue = slurm_queue.Queue()
    queue.watch("7")

    def known_to_run() -> bool:
        queue.look()
        return queue.state("7") == running

    until(known_to_run)
    for _ in range(20):
        assert known_to_run()


# --- sbatch


@pytest.mark.parametrize("when", ["before", "after"])
def test_sbatch_that_fails_leaves_nothing_behind(
    when: str, place: Callable[..., Place], slurm: Slurm, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """No worker has started, through no fault of its runs; a job that Slurm has taken all the same is cancelled."""
    here = place()
    path = failing_sbatch(tmp_path / "bin", 100, [when], ["Socket timed out on send/recv operation"])
    monkeypatch.setenv("PATH", path)
    end = here.end(here.start("sleep 100"))
    assert end == NotStarted("node", "sbatch: Batch job submission failed: Socket timed out on send/recv operation")
    until(lambda: "RUNNING" not in slurm.states().values() and not slurm("squeue", "--noheader"))


# --- several hosts


def test_hosts_of_a_job_end_together(place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch):
    """The first that ends badly says how and why, whatever its rank; the others have a while, and are ended."""
    monkeypatch.setattr(slurm_script, "GRACE_SECONDS", 1)
    here = place("hosts=2")
    worker = here.start(
        f"{SAY % 1}; [ $SLURM_PROCID = 1 ] && sleep 0.3 && echo 'error: the second host' >&2 && exit 75; sleep 100"
    )
    assert here.end(worker) == EXIT_AGAIN
    assert [event["event"] for event in here.events[worker]].count("progress") == 1, "the first host speaks"
    assert "error: the second host" in here.log(worker)


def test_hosts_meet_where_the_job_runs_now(place: Callable[..., Place], slurm: Slurm, tmp_path: pathlib.Path):
    """Slurm queues a job again, on other hosts: they join the first host of that attempt."""
    (tmp_path / "setup.sh").write_text("hostname() { echo host${SLURM_RESTART_COUNT:-0}; }\n")
    here = place(f"hosts=2,setup={tmp_path}/setup.sh")
    lines = f'echo "$hosts" >> "$population.$SLURM_PROCID"; [ "${{hosts%%:*}}" = host1 ] && exit 0; {SAY % 1}; {SAVES}'
    worker = here.start(lines)
    here.until_it_says(worker)
    assert worker.number and slurm("scontrol", "requeue", worker.number) is not None
    assert here.end(worker, slurm.hasten) == 0
    port = 61440 + int(worker.number) % 4096
    for rank in (0, 1):
        met = (here.workdir / f"p0.json.{rank}").read_text().split()
        assert met == [f"host0:{port},{rank},2", f"host1:{port},{rank},2"]


# --- events


def test_events_are_read_once(tmp_path: pathlib.Path):
    """What a worker has said before is not read again, by the kernel's count of bytes; a half line waits."""

    def bytes_read() -> int:
        return int(pathlib.Path("/proc/self/io").read_text().split()[1])

    path = epath.Path(tmp_path / "stdout")
    events = EventFile(path)
    assert events.read() == []
    line = json.dumps({"event": "progress", "text": "x" * 1000}) + "\n"
    with open(path, "w") as file:
        file.write(line * 2000)
        file.flush()
        assert len(events.read()) == 2000
        before = bytes_read()
        file.write('no event\n{"event": "record"}\n{"event": "pro')
        file.flush()
        assert events.read() == [{"event": "record"}]
        file.write('gress"}\n')
        file.flush()
        assert events.read() == [{"event": "progress"}]
    assert bytes_read() - before < 100_000


# --- slowly


@pytest.mark.slow
def test_a_controller_that_is_away_keeps_nobody_waiting(
    place: Callable[..., Place], slurm: Slurm, monkeypatch: pytest.MonkeyPatch
):
    """Twenty seconds without it: events come, a worker that ends is over; no call waits, and it is said once."""
    monkeypatch.setattr(slurm_queue, "AWAY_SECONDS", 5.0)
    here = place()
    ends = here.start(f"{SAY % 1}; sleep 10; {SAY % 2}")
    saves = here.start(f"{SAY % 1}; {SAVES}")
    for worker in (ends, saves):
        here.until_it_says(worker)
    slurm.stop_controller()
    stopped_at = time.monotonic()
    ended, slowest = None, 0.0
    while time.monotonic() - stopped_at < 20:
        before = time.monotonic()
        ended = ended if ended is not None else here.look(ends)
        assert here.look(saves) is None
        saves.stop()
        slowest = max(slowest, time.monotonic() - before)
        time.sleep(0.2)
    assert ended == 0 and slowest < 5
    slurm.start_controller()
    assert here.end(saves) == EXIT_AGAIN
    said = [event["text"] for events in here.events.values() for event in events if event["event"] == "say"]
    assert [text.partition(" (")[0] for text in said] == ["Slurm does not answer", "Slurm answers again"]


@pytest.mark.slow
def test_a_job_whose_time_is_up(place: Callable[..., Place]):
    """It is told so long before to save; what does not hear is over all the same, through no fault of its runs."""
    told = place("minutes=1,signal_seconds=50")
    hears = told.start(SAVES)
    cut = place("minutes=1,sbatch=--signal=TERM@1")
    deaf = cut.start("trap '' TERM; sleep 300")
    assert told.end(hears, seconds=150) == EXIT_AGAIN
    end = cut.end(deaf, seconds=150)
    assert isinstance(end, Failure) and end.kind == "preempted" and "is TIMEOUT" in end.reason, end


@pytest.mark.slow
def test_a_limit_of_jobs_is_no_failure(
    slurm_with_limits: Slurm, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """Slurm takes two: there are two slots until one is over. What it has recorded is asked for once it has forgotten."""
    monkeypatch.setattr(slurm_queue, "ASK_SECONDS", 1.0)
    slurm = slurm_with_limits
    assert slurm("sacctmgr", "--immediate", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=2") is not None
    here = Place(tmp_path, "account=lab,slots=3")
    until(lambda: (slurm("sacctmgr", "--noheader", "show", "qos", "format=MaxSubmitJobsPU") or "").split() == ["2"])
    first, second = here.start(f"{SAY % 1}; {SAVES}"), here.start(f"{SAY % 1}; {SAVES}")
    here.until_it_says(first)
    here.until_it_says(second)
    refused = here.end(here.start(":"))
    assert (
        isinstance(refused, NotStarted) and refused.kind == "node" and "QOSMaxSubmitJobPerUserLimit" in refused.reason
    )
    assert here.executor.slots == 2
    first.stop()
    assert here.end(first) == EXIT_AGAIN
    assert here.executor.slots == 3
    assert here.end(here.start(":")) == 0
    assert first.number is not None
    until(
        lambda: "FAILED" in (slurm("sacct", "--noheader", "--allocations", f"--jobs={first.number}", "-oState") or "")
    )
    assert slurm_queue._recorded_state(first.number) == slurm_queue.State("FAILED")


# --- studies


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("options", ["slots=2", "slots=1,hosts=2"])
def test_a_study_comes_to_its_end(
    options: str, executor_study: pathlib.Path, at_home: dict[str, float], tmp_path: pathlib.Path
):
    done = launch(executor_study, tmp_path / "w", f"slurm:minutes=10,{options}")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "w") == pytest.approx(at_home, rel=1e-5)


@pytest.mark.slow
def test_a_launcher_that_is_asked_to_stop_leaves_nothing_behind(
    slurm: Slurm, executor_study: pathlib.Path, tmp_path: pathlib.Path
):
    """Its jobs save and end; the same command goes on: no step is taken twice."""
    long, workdir = pathlib.Path(f"{executor_study}:400"), tmp_path / "w"
    process = started(long, workdir, "slurm:minutes=10,slots=2")
    until(lambda: len(list(workdir.glob("runs/*/metrics"))) == 2, 120)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=90)
    assert process.returncode == EXIT_AGAIN and "the same command goes on" in out, err
    until(lambda: not slurm("squeue", "--noheader"))
    done = launch(long, workdir, "slurm:minutes=10,slots=2")
    assert done.returncode == 0, done.stderr
    for path in workdir.glob("runs/*/record.json"):
        taken = list(Workdir(workdir).curve(path.parent.name).steps)
        assert taken == sorted(set(taken)) and len(taken) > 1


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_what_python_cannot_import_on_a_host_is_the_reason(executor_study: pathlib.Path, tmp_path: pathlib.Path):
    """Said in the record, after one more try and not five."""
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/bash\nexec {sys.executable} -c 'import nothing_there'\n")
    broken.chmod(0o755)
    done = launch(executor_study, tmp_path / "w", f"slurm:minutes=10,slots=3,python={broken}")
    assert done.returncode == 1, done.stderr
    reasons = [json.loads(path.read_text())["reason"] for path in tmp_path.glob("w/runs/*/record.json")]
    found = [reason for reason in reasons if "its parent" not in reason]
    expected = "exit code 1: ModuleNotFoundError: No module named 'nothing_there' (attempts: 2 crash)"
    assert found == [expected] * 2, reasons
