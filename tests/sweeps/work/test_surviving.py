"""What may go wrong on real machines, provoked with real processes: each ends in a correct grid or a clear status."""

import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from experiments.alive import hosts, watchdog
from experiments.cli import InputError, WorkError
from experiments.store import record
from sweeps.executors import local
from sweeps.study import file
from sweeps.study.corpora import prepare_corpora
from sweeps.work import failures, jobs, launch, retries
from sweeps.work import workdir as store
from tests.support.commands import run_command
from tests.support.launching import Launch
from tests.support.paths import REPOSITORY
from tests.support.training import write_config


@pytest.mark.parametrize(
    ("code", "log", "kind"),
    [
        (75, b"", "preempted"),
        (75, b"error: stalled: a dispatch takes more than 300 s", "node"),
        (-15, b"", "preempted"),
        (143, b"", "preempted"),
        (-9, b"", "node"),
        (137, b"", "node"),
        (-11, b"Fatal Python error: Segmentation fault", "node"),
        (2, b"error: opt.lr=-1 must be positive", "user"),
        (1, b"error: XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes", "memory"),
        (1, b"error: /w/runs: no space left; free some and run the same command again", "disk"),
        (1, b"error: /w/runs: cannot be written (read-only file system)", "disk"),
        (1, b"error: XlaRuntimeError: UNAVAILABLE: the coordinator is gone", "node"),
        (75, b"error: gs://b/checkpoints/40 cannot be read now (ValueError: RESOURCE_EXHAUSTED: 429)", "node"),
        (1, b"error: metrics.jsonl: no space left\nerror: Failed: " + str(hosts.Failed()).encode(), "disk"),
        (1, b"error: UNAVAILABLE: gcloud ... RESOURCE_EXHAUSTED: Quota limit 'TPUS' has been exceeded", "node"),
        (1, b"error: XlaRuntimeError: INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory", "memory"),
        (1, b"error: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", "memory"),
        (1, b"error: cudnn: CUDNN_STATUS_ALLOC_FAILED", "memory"),
        (1, b"error: OSError: [Errno 122] Disk quota exceeded: '/w/runs/a/checkpoints'", "disk"),
        (1, b"error: CUDA_ERROR_ECC_UNCORRECTABLE", "node"),
        (1, b"error: OSError: [Errno 116] Stale file handle", "node"),
        (75, b"error: /w/runs: the disk does not answer; run the same command again", "node"),
        (75, b"error: another launcher has taken these runs before they began", "preempted"),
        (75, b"error: the slice lossgrid-1 was preempted", "preempted"),
        (75, b"a warning\nstopped; everything is saved, the same command goes on", "preempted"),
        (1, b"error: TypeError: no such thing", "crash"),
        (1, b"", "crash"),
    ],
)
def test_classes_of_failure(code: int, log: bytes, kind: str):
    """Exit codes, signals (also as a shell reports them), and what the worker said last."""
    assert failures.classify(code, log).kind == kind
    assert failures.classify(-9, log, oom=True).kind == "memory", "the kernel had to free memory"


def test_a_real_memory_error_and_budgets(tmp_path: pathlib.Path):
    """A process with too little address space; budgets as they are typed."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 29,) * 2); bytearray(1 << 30)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert failures.classify(done.returncode, done.stderr).kind == "memory"
    assert retries.parse_budgets("node=0,diverged=1") == retries.BUDGETS | {"node": 0, "diverged": 1}
    for text in ("nodes=1", "node", "node=-1", "node=x"):
        with pytest.raises(InputError, match=f"--retries: '{text}'"):
            retries.parse_budgets(text)


def counted(tmp_path: pathlib.Path, body: str) -> list[str]:
    """A worker command: `body` runs first, with `attempt` (1, 2, …) and `runs`; then the real worker, if it gets there."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, pathlib, sys, time\n"
        "given = next(a.partition('=')[2] for a in sys.argv if a.startswith('--population='))\n"
        "runs = json.loads(pathlib.Path(given).read_text())['fingerprints']\n"
        f"log = pathlib.Path({str(tmp_path)!r}) / 'attempts'\n"
        "with log.open('a') as file: file.write(f'{len(runs)}\\n')\n"
        "attempt = log.read_text().count('\\n')\n"
        "first = not (seen := log.parent / f'seen-{runs[0]}').exists()\n"
        "seen.touch()\n"
        f"{body}\n"
        "sys.stdout.flush()\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'experiments.train', *sys.argv[1:]])\n"
    )
    return [sys.executable, str(script)]


def launched(study_path: pathlib.Path, workdir: pathlib.Path, command: list[str], arg: str = "20", **budgets: int):
    """A launch in this process, with another worker command."""
    loaded, held = file.load(f"{study_path}:{arg}"), store.Workdir(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    policy = launch.Policy(budgets=retries.BUDGETS | budgets)
    executor = local.LocalExecutor(command)
    executor.share = lambda populations: None  # as many workers as cores
    return held, launch.launch(loaded, held, executor, policy, progress=False)


def attempts(workdir: pathlib.Path) -> collections.Counter:
    """Ends without a record, by class, of all runs."""
    out = collections.Counter()
    for path in workdir.glob("runs/*/attempts.jsonl"):
        out.update(json.loads(line)["class"] for line in path.read_text().splitlines())
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "classes", "outcome"),
    [
        ("if first: os.kill(os.getpid(), 9)", {"node"}, {"complete": 3}),
        ("if first: sys.exit(75)", {"preempted"}, {"complete": 3}),
        ("if first: sys.exit('error: what is this?')", {"crash"}, {"complete": 3}),
        ("if len(runs) > 1: bytearray(1 << 50)", {"memory"}, {"complete": 3}),
        ("bytearray(1 << 50)", {"memory"}, {"failed": 3}),
        ("print('error: opt.lr is wrong', file=sys.stderr); sys.exit(2)", {"user"}, {"failed": 3}),
    ],
)
def test_retries_by_class(tiny_study, tmp_path, body, classes, outcome):
    """Each class within its budget; out of memory halves a population; what is given up is recorded with its reason."""
    held, result = launched(tiny_study, tmp_path / "w", counted(tmp_path, body))
    assert result.counts == outcome
    assert set(attempts(tmp_path / "w")) == classes
    sizes = [int(n) for n in (tmp_path / "attempts").read_text().split()]
    if outcome == {"failed": 3}:
        reasons = [record.read(p)["reason"] for p in held.root.glob("runs/*/record.json")]
        expected = "attempts: 2 memory" if "memory" in classes else "opt.lr is wrong"
        assert len(reasons) == 3 and all(expected in reason for reason in reasons), reasons
        assert len(sizes) == (2 * 3 + 1 if "memory" in classes else 3 + 1), "a population of two, then each alone"
    elif classes == {"memory"}:
        assert sorted(sizes) == [1, 1, 1, 2]
    else:
        assert len(sizes) == 2 + 2


LOSES = """
if first:
    import runpy
    from experiments.training import trial
    plain = trial.Trial.log
    def log(self, first, metrics, speed):
        plain(self, first, metrics | {"loss": metrics["loss"] * float("nan")}, speed)
    trial.Trial.log = log
    runpy.run_module("experiments.train", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "outcome"), [(0, {"diverged": 3}), (1, {"complete": 3})])
def test_a_diverged_run_is_trained_again_where_asked(
    undisturbed,
    tiny_study,
    tmp_path,
    monkeypatch,
    budget,
    outcome,
):
    """Losses that are lost once, as by a chip that computes wrongly: a result by default; with a budget trained again, to
    the losses of runs that nobody has disturbed, the first records kept aside."""
    held, result = launched(tiny_study, tmp_path / "w", counted(tmp_path, LOSES), "200", diverged=budget)
    assert result.counts == outcome
    assert len(list(held.root.glob("runs/*/record.replaced.json"))) == 3 * budget
    for path in held.root.glob("runs/*/record.replaced.json"):
        assert record.read(path)["status"] == "diverged"
    if budget:
        losses = {p.parent.name: record.read(p)["columns"]["loss_nats"] for p in held.root.glob("runs/*/record.json")}
        assert losses == undisturbed.losses()


def test_a_frozen_worker_is_killed_and_its_runs_go_on(tiny_study, tmp_path, monkeypatch):
    """A worker that is stopped (SIGSTOP) after it has reported is no longer waited for."""
    monkeypatch.setattr(jobs, "FROZEN_SECONDS", 1.0)
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", {})
    say = "print(json.dumps({'event': 'alive'}), flush=True)"
    body = f"if first: {say}; os.kill(os.getpid(), 19)"
    body += "\nsys.exit('error: seen')"  # the second try is seen, and that is enough
    _, result = launched(tiny_study, tmp_path / "w", counted(tmp_path, body), crash=0)
    lines = [line for p in (tmp_path / "w").glob("runs/*/attempts.jsonl") for line in p.read_text().splitlines()]
    assert any("no sign of life" in line for line in lines) and result.counts == {"failed": 3}


HANG = """
import threading, sys
from experiments import train
from experiments.data import batches
plain = batches.Batches.records
def stuck(self, start, stop):
    if start > 8 * 20:
        threading.Event().wait()  # as a read from a file system that went away
    return plain(self, start, stop)
batches.Batches.records = stuck
"""


def test_the_watchdog_dumps_stacks_and_says_again(tmp_path: pathlib.Path):
    """Real process, real hang: all stacks on stderr, one error line, exit code 75. A slow first time is no hang."""
    code = (
        "import time, threading\nfrom experiments.alive.watchdog import Watchdog\n"
        "dog = Watchdog(3.0, 0.2)\n"
        "def step(seconds):\n    with dog.watch('step', 'a step'): time.sleep(seconds)\n"
        "step(0.5)\nfor _ in range(5): step(0.02)\nprint('fine', flush=True)\nstep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
    assert done.returncode == 75 and done.stdout == "fine\n", done.stderr
    assert "error: stalled: a step takes more than" in done.stderr
    assert "in step" in done.stderr and "Thread" in done.stderr, "where it hangs, and all threads"
    assert failures.classify(done.returncode, done.stderr.encode()).kind == "node"


def test_the_watchdog_does_not_count_time_in_which_the_process_was_stopped(tmp_path: pathlib.Path):
    """Ctrl-Z for longer than the limit, and fg: nothing is late."""
    code = (
        "import time\nfrom experiments.alive.watchdog import Watchdog\ndog = Watchdog(1.0, 1.0)\n"
        "for i in range(3):\n    with dog.watch('step'):\n        if i == 2: print('now', flush=True)\n"
        "        end = time.thread_time() + 0.05\n        while time.thread_time() < end: pass\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"now\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.0)
    process.send_signal(signal.SIGCONT)
    assert process.wait(20) == 0
    process.stdout.close()


def test_its_last_words_name_every_thread(tmp_path: pathlib.Path):
    """Also where sys.stderr is no file, as in a notebook: who waits, and what for."""
    code = (
        "import io, sys, threading\nfrom experiments.alive.watchdog import Watchdog\n"
        "sys.stderr = io.TextIOWrapper(io.BytesIO())\n"
        "def reads_ahead(): threading.Event().wait()\n"
        "threading.Thread(target=reads_ahead, daemon=True).start()\n"
        "dog = Watchdog(3.0, 0.2)\nwith dog.watch('step'): pass\n"
        "def takes_a_step():\n    with dog.watch('step', 'a step'): threading.Event().wait()\n"
        "takes_a_step()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
    assert done.returncode == 75, done.stderr
    for function in ("in reads_ahead", "in takes_a_step", "in _run"):
        assert function in done.stderr, done.stderr


def test_work_that_takes_as_long_as_its_first_time_is_sound():
    """Longer than the floor each time: no evaluation of a large model is late the second time because it is not the first."""
    late = []
    dog = watchdog.Watchdog(30.0, 0.1, late.append)
    for _ in range(3):
        with dog.watch("evaluate"):
            time.sleep(0.4)
    assert not late


def test_limits_of_the_watchdog():
    """Unlimited without a factor; generous the first time; never below the floor; what failed is no measure."""
    dog = watchdog.Watchdog(10.0, 5.0)
    assert dog.limit("step") == watchdog.FIRST_SECONDS
    with pytest.raises(OSError), dog.watch("step"):
        raise OSError
    assert dog.limit("step") == watchdog.FIRST_SECONDS
    dog._longest["step"] = 2.0
    assert dog.limit("step") == 20.0
    dog._longest["step"] = 0.01
    assert dog.limit("step") == 5.0
    off = watchdog.Watchdog(None, 5.0)
    with off.watch("step"):
        assert off._thread is None


@pytest.mark.slow
def test_a_run_that_hangs_ends_with_again_and_goes_on(tiny, tmp_path):
    """The data of a step never comes: stacks, exit code 75; the same command then ends as if nothing had been."""
    (tmp_path / "hang.py").write_text(
        HANG + "import runpy\nsys.argv[0] = 'train'\nrunpy.run_module('experiments.train', run_name='__main__')\n"
    )
    options = {"execution.stall_factor": 2.0, "execution.stall_seconds": 1.0, "execution.steps_per_dispatch": 10}
    config = write_config(tiny, tmp_path / "config.py", tokens=256 * 60, **options)
    flags = [f"--config={config}", f"--workdir={tmp_path}/run"]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(tmp_path / "hang.py"), *flags]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 75 and "error: stalled" in done.stderr and "in stuck" in done.stderr, done.stderr
    assert run_command("experiments.train", *flags).returncode == 0


@pytest.mark.slow
def test_a_full_disk_ends_the_launch_and_no_run(tiny_study, tmp_path, small_disk):
    """The workers' disk is full: a clear line, exit code 1, no run is recorded as failed; with room all complete."""
    folder, remount = small_disk
    started = Launch(tiny_study, folder / "w", "20")
    (folder / "filler").write_bytes(bytes(760_000))  # room for claims and logs, not for checkpoints
    done = started("--retries=disk=1")
    assert done.returncode == 1 and "no space left" in done.stderr, done.stderr
    assert "failed" not in started.status()["counts"] and started.status()["counts"].get("waiting", 0) > 0
    remount("size=60m")
    assert started().returncode == 0 and started.status()["counts"] == {"complete": 3}


def trunk_and_branch(tmp_path, corpus, data_root):
    """A study of a trunk and a branch, its workdir, and the trunk's node."""
    (tmp_path / "study.py").write_text(
        '"""A trunk and a branch."""\nfrom sweeps.study.grid import branch, cases, chain, over\n'
        "def get_study():\n"
        "    base = cases({'model.width': 16, 'model.depth': 1, 'model.heads': 1, 'batch_tokens': 256, 'seq_len': 32,\n"
        f"        'tokens': 256 * 20, 'data.corpus': ({str(corpus)!r},), 'evaluation.tokens': 2048,\n"
        f"        'execution.tensorboard': False, 'execution.data_root': {str(data_root)!r}}})\n"
        "    return chain(base, branch(base, over('opt.lr', 1e-4)))\n"
    )
    loaded, held = file.load(str(tmp_path / "study.py")), store.Workdir(tmp_path / "w")
    held.root.mkdir()
    nodes = store.identify(loaded, prepare_corpora(loaded, progress=False))
    return loaded, held, next(node for node in nodes if node.run.parent is None)


def test_a_deleted_parent_checkpoint_is_named(tmp_path, corpus, data_root):
    """A trunk that is complete and has no checkpoint left: named before anything starts, with what to do."""
    loaded, held, trunk = trunk_and_branch(tmp_path, corpus, data_root)
    made = record.make(trunk.run, trunk.fingerprint, trunk.manifests, "complete")
    record.write(held.run_dir(trunk.fingerprint), made)
    with pytest.raises(InputError, match="has no checkpoint left; delete it to train it again"):
        launch.launch(loaded, held, local.LocalExecutor(), progress=False)


def test_a_censored_parent_fails_its_children(tmp_path, corpus, data_root):
    """A branch does not start from a trunk that was stopped early, and says so."""
    loaded, held, trunk = trunk_and_branch(tmp_path, corpus, data_root)
    folder = held.run_dir(trunk.fingerprint)
    (folder / "checkpoints" / "10").mkdir(parents=True)
    made = record.make(trunk.run, trunk.fingerprint, trunk.manifests, "complete", "dominated", {"censored": 1})
    record.write(folder, made)
    assert launch.launch(loaded, held, local.LocalExecutor(), progress=False).counts == {"complete": 1, "failed": 1}
    (reason,) = [
        r["reason"] for p in held.root.glob("runs/*/record.json") if (r := record.read(p))["reason"] != "dominated"
    ]
    assert trunk.fingerprint in reason and "stopped early" in reason


@pytest.mark.slow
def test_verify_resume_proves_and_disproves(tiny, tmp_path):
    """Bit-exact on this machine, with a certificate; a run that was tampered with is found out."""
    config = write_config(tiny, tmp_path / "config.py", tokens=256 * 60)
    command = ("experiments.verify_resume", f"--config={config}", f"--workdir={tmp_path}/w", "--steps=60", "--kills=2")
    done = run_command(*command)
    assert done.returncode == 0 and "bit-exact at step 60" in done.stdout, done.stdout + done.stderr
    value = json.loads((tmp_path / "w" / "resume_certificate.json").read_text())
    assert value["bit_exact"] and value["record_compared"] and not value["differences"]
    assert len(value["kills"]) == 2 and value["leaves"] > 10 and value["metrics_rows"] >= 60
    assert value["environment"]["jax"] and len(value["state_sha256"]) == 64

    from etils import epath

    from experiments import verify_resume

    folder = epath.Path(tmp_path / "w" / "verify_resume")
    trainees = [verify_resume.Trainee([], folder / name) for name in ("whole", "killed")]
    path = sorted((tmp_path / "w" / "verify_resume" / "killed" / "metrics").iterdir())[-1]
    rows = path.read_text().splitlines()
    before = len(trainees[1].rows(60)) - len(rows)
    changed = json.loads(rows[0]) | {"loss": 1.0}
    path.write_text("\n".join([json.dumps(changed), *rows[1:]]) + "\n")
    found = verify_resume.compare(*trainees, 60, True)
    assert not found["bit_exact"] and found["differences"] == [f"metrics row {before}"]
    shutil.rmtree(tmp_path / "w" / "verify_resume" / "killed" / "checkpoints" / "60")
    with pytest.raises(WorkError, match="checkpoints/60 cannot be read"):
        verify_resume.compare(*trainees, 60, True)


def test_verify_resume_says_what_it_expects(tiny, tmp_path):
    """Too few steps for so many kills; no config."""
    config = write_config(tiny, tmp_path / "config.py", tokens=256 * 60)
    command = ("experiments.verify_resume", f"--workdir={tmp_path}/w")
    done = run_command(*command, f"--config={config}", "--steps=8", "--kills=4")
    assert done.returncode == 2 and "--kills=4: expected at most 2 for 8 steps" in done.stderr, done.stderr
    done = run_command(*command)
    assert done.returncode == 2 and "--config is missing" in done.stderr
