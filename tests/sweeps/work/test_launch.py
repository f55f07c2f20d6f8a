"""Studies that are launched with real workers, killed, damaged and launched again; the sweep commands."""

import json
import os
import pathlib
import signal
import subprocess

import pandas as pd
import pytest

from experiments.alive import lease
from experiments.cli import InputError
from experiments.run import identity
from experiments.store import record
from sweeps import executors
from sweeps.executors import local
from sweeps.study import file
from sweeps.study.corpora import prepare_corpora
from sweeps.watch import grid_table
from sweeps.work import launch as launching
from sweeps.work import workdir as store
from tests.support.commands import run_command
from tests.support.launching import STUDY, Launch


def test_launch_status_collect(undisturbed: Launch, tmp_path: pathlib.Path):
    """Every run once, every column there, tags of points that share a run kept; a second launch has nothing to do."""
    again = undisturbed()
    assert again.returncode == 0 and "nothing to do" in again.stdout
    path = tmp_path / "status.json"
    done = run_command("sweeps.status", f"--workdir={undisturbed.workdir}", f"--json={path}")
    assert done.returncode == 0, done.stderr
    value = json.loads(path.read_text())
    assert value["counts"] == {"complete": 3} and len(value["runs"]) == 3 and value["schema"] == 1
    assert all(run.keys() == {"fingerprint", "name", "status", "reason"} for run in value["runs"])
    assert all(run["fingerprint"] in done.stdout and run["name"] in done.stdout for run in value["runs"])
    assert undisturbed.claimed() == []
    out = tmp_path / "grid.parquet"
    done = run_command("sweeps.collect", f"--workdir={undisturbed.workdir}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    grid_table.write(pd.read_parquet(out), tmp_path / "grid.csv")
    for grid in (pd.read_parquet(out), pd.read_csv(tmp_path / "grid.csv")):
        assert len(grid) == 3 == grid["fingerprint"].nunique() and set(grid["status"]) == {"complete"}
        assert sorted(zip(grid["width"], grid["lr"], strict=True)) == [(16, 1e-2), (16, 3e-2), (32, 1e-2)]
        assert set(grid["tokens"]) == {200 * 256} and set(grid["group"]) == {"rates", "wide"}
        shared = grid[(grid["width"] == 16) & (grid["lr"] == 1e-2)].iloc[0]
        assert shared["group"] == "rates" and shared["group_all"] == "rates|again" and shared["note"] == 1
        assert grid["loss_nats"].between(1, 4).all() and (grid["loss_nats_sem"] > 0).all()
        assert (grid["params_total"] > 0).all() and grid["flops_total"].dtype == float
    points = json.loads((undisturbed.workdir / "study.json").read_text())["points"]
    assert len(points) == 4 and len({p["fingerprint"] for p in points}) == 3
    given = [json.loads(p.read_text()) for p in undisturbed.workdir.glob("populations/*.json")]
    assert sorted(len(value["runs"]) for value in given) == [1, 2], "one population a signature"
    cores = len(local.available_cores())
    assert {value["execution"]["cpu_devices"] for value in given} == {1 if cores < 4 else cores // 2}


def test_a_mesh_that_no_worker_has_is_refused_before_anything_is_written(write_study, tmp_path: pathlib.Path):
    """Also where other runs of the study could be trained."""
    text = STUDY.replace('over("model.width", 32)', 'over("execution.mesh.data", 4096)')
    study = file.load(f"{write_study(text)}:4")
    held = store.Workdir(tmp_path / "w")
    with pytest.raises(
        InputError, match=r"^wide.*: execution.mesh.data=4096 asks for 4096 devices; there are \d+: expected"
    ):
        launching.launch(study, held, local.LocalExecutor(), launching.Policy())
    assert not [path.name for path in held.root.iterdir() if path.is_file()] and not (held.root / "runs").exists()


def test_a_lost_or_damaged_record_costs_one_run(undisturbed: Launch, tmp_path: pathlib.Path, tiny_study: pathlib.Path):
    """A truncated record is a row with a reason and exit code 1; the next launch trains what is missing, no more."""
    launch = Launch(tiny_study, tmp_path / "w", "200")
    subprocess.run(["cp", "-r", str(undisturbed.workdir), str(tmp_path / "w")], check=True)
    before = undisturbed.losses()
    cut, gone = sorted(before)[:2]
    path = launch.workdir / "runs" / cut / "record.json"
    path.write_text(path.read_text()[:200])
    (launch.workdir / "runs" / gone / "record.json").unlink()
    runs = {run["fingerprint"]: run for run in launch.status()["runs"]}
    assert runs[cut]["status"] == "lost" and "record.json" in runs[cut]["reason"]
    assert runs[gone]["status"] == "waiting" and "step 200" in runs[gone]["reason"]
    out = tmp_path / "grid.csv"
    done = run_command("sweeps.collect", f"--workdir={launch.workdir}", f"--out={out}")
    assert done.returncode == 1 and str(path) in done.stderr and "Traceback" not in done.stderr
    grid = pd.read_csv(out).set_index("fingerprint")
    assert len(grid) == 3 and grid.loc[cut, "status"] == "lost" and pd.isna(grid.loc[cut, "loss_nats"])
    assert grid.loc[cut, "params_total"] > 0, "what is known without a record is there"
    assert grid["loss_nats"].notna().sum() == 1
    others = {name: (launch.workdir / "runs" / name / "record.json").stat().st_mtime_ns for name in sorted(before)[2:]}
    done = launch()
    assert done.returncode == 0 and "training 2 as" in done.stderr
    assert launch.losses() == before
    assert others == {name: (launch.workdir / "runs" / name / "record.json").stat().st_mtime_ns for name in others}


def test_nohup_stays_in_force_and_a_batch_systems_signal_saves(tmp_path: pathlib.Path, tiny_study: pathlib.Path):
    """SIGHUP under nohup stops nothing; SIGUSR1, which Slurm sends before a time limit, stops the launch and saves."""
    launch = Launch(tiny_study, tmp_path / "w", "1000")
    process = launch.start("nohup")
    launch.until(launch.claimed)
    process.send_signal(signal.SIGHUP)
    logs = launch.until(lambda: list(launch.workdir.glob("runs/*/metrics/*.jsonl")))
    launch.until(lambda: logs[0].read_text().count("\n") > 3)
    assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75 and "the same command goes on" in out, err
    assert launch.claimed() == []
    assert list(launch.workdir.glob("runs/*/checkpoints/*")), "what was under way is saved"


def test_stopped_killed_and_launched_twice(undisturbed: Launch, tmp_path: pathlib.Path, tiny_study: pathlib.Path):
    """SIGTERM, then kill -9 on the launcher, then two launchers at once and kill -9 on a worker: the grid is that of the
    undisturbed study to the last bit, and no step was logged twice.
    """
    launch = Launch(tiny_study, tmp_path / "w", "200")
    process = launch.start()
    pids = [c["worker"]["pid"] for c in launch.until(launch.claimed)]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 75 and "the same command goes on" in out, err
    assert all(lease.started(pid) is None for pid in pids) and launch.claimed() == []

    process = launch.start()
    launch.until(launch.claimed)
    assert launch.status()["counts"].get("running"), "while they are claimed by processes that live"
    launch.until(lambda: list(launch.workdir.glob("runs/*/metrics/*.jsonl")))
    process.kill()
    process.wait()
    launch.until(lambda: "running" not in launch.status()["counts"])  # workers save and end with their launcher
    workers = [claim["worker"]["pid"] for claim in launch.claimed()]
    assert workers and all(lease.started(pid) is None for pid in workers)
    assert {"lost", "waiting", "complete"} >= launch.status()["counts"].keys()

    launchers = [launch.start(), launch.start()]
    pids = {process.pid for process in launchers}
    victim = launch.until(lambda: [c for c in launch.claimed() if c["launcher"]["pid"] in pids])[0]
    os.kill(victim["worker"]["pid"], signal.SIGKILL)
    said = [process.communicate(timeout=120) for process in launchers]
    assert [process.returncode for process in launchers] == [0, 0], said
    assert "SIGKILL" in said[0][1] + said[1][1] and "trying again (node, 1 of 5)" in said[0][1] + said[1][1]
    assert launch.losses() == undisturbed.losses()
    assert launch.steps_logged() == undisturbed.steps_logged()
    assert launch.claimed() == []


def test_one_bad_run_does_not_take_its_neighbours_with_it(tiny_study: pathlib.Path, tmp_path: pathlib.Path):
    """A run that cannot start is recorded as failed with its reason, one that diverges as diverged; others complete."""
    launch = Launch(tiny_study, tmp_path / "w", "20+diverge")
    loaded = file.load(f"{tiny_study}:20+diverge")
    names = {n.fingerprint: n for n in store.identify(loaded, prepare_corpora(loaded, progress=False))}
    bad = next(f for f, n in names.items() if n.run.opt.lr == 3e-2)
    folder = launch.workdir / "runs" / bad
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    done = launch()
    assert done.returncode == 1 and "--retry_failed" in done.stdout
    runs = {run["fingerprint"]: run for run in launch.status()["runs"]}
    assert runs[bad]["status"] == "failed" and "run.json is damaged" in runs[bad]["reason"]
    wide = next(f for f, n in names.items() if n.run.opt.lr == 1e30)
    assert runs[wide]["status"] == "diverged" and "not finite" in runs[wide]["reason"]
    assert launch.status()["counts"] == {"complete": 2, "diverged": 1, "failed": 1}
    again = launch()
    assert again.returncode == 1 and "nothing to do" in again.stdout, "a failed run stays failed until asked"
    (folder / "run.json").unlink()
    assert launch("--retry_failed").returncode == 0
    assert launch.status()["counts"] == {"complete": 3, "diverged": 1}


def test_plan_measures_and_trains_nothing(tiny_study: pathlib.Path, tmp_path: pathlib.Path):
    """The formats that other programs rely on, and counts that agree with the ledger."""
    path = tmp_path / "plan.json"
    done = run_command("sweeps.plan", f"--study={tiny_study}:20", f"--json={path}")
    assert done.returncode == 0, done.stderr
    value = json.loads(path.read_text())
    assert value["target"] == "cpu" and [s["runs"] for s in value["signatures"]] == [2, 1]
    keys = "name runs fits peak_bytes flops_per_step collective_bytes step_seconds_bound bound_by compile_seconds"
    assert all(set(keys.split()) <= s.keys() for s in value["signatures"])
    assert {"chip_hours", "price_usd", "flops"} <= value["totals"].keys()
    cells = {identity.fingerprint(c.run, ()): c for c in file.load(f"{tiny_study}:20").cells}
    flops = sum(record.ledger(c.run)["flops_total"] for c in cells.values())
    assert value["totals"]["flops"] == pytest.approx(flops)
    for signature in value["signatures"]:
        assert signature["fits"] and signature["peak_bytes"] > 12 * signature["params_total"], (
            "parameters and two moments"
        )
        assert 1e-5 < signature["step_seconds_bound"] < 10 and signature["flops_per_step"] > 1e6
    assert sorted(os.listdir(tmp_path)) == ["plan.json"]


@pytest.mark.parametrize(
    ("command", "flags", "named"),
    [
        ("launch", ["--study={s}:100000000", "--workdir={w}"], "rates width=16 lr=0.01: tokens=25600000000"),
        ("launch", ["--study={s}", "--workdir={s}"], "is a file; expected a folder"),
        ("launch", ["--study={s}", "--workdir={s}/w"], "is a file; expected a folder"),
        ("launch", ["--study={s}", "--workdir={w}/[a]"], "under a path with '[' in it"),
        ("plan", ["--study={s}", "--target=v5e-17"], "no slice; expected one of v5e-1, v5e-4"),
        ("status", ["--workdir={w}"], "holds no study.json"),
        ("collect", ["--workdir={w}", "--out=grid.xls"], "expected .parquet or .csv"),
    ],
)
def test_bad_input_is_one_line(
    command: str, flags: list[str], named: str, tiny_study: pathlib.Path, tmp_path: pathlib.Path
):
    """Exit code 2, the field and what was expected, no traceback, nothing written."""
    flags = [flag.format(s=tiny_study, w=tmp_path / "w") for flag in flags]
    done = run_command(f"sweeps.{command}", *flags)
    assert done.returncode == 2, done.stderr
    wrong = [line for line in done.stderr.splitlines() if line.startswith("error: ")]  # others: a corpus is prepared
    assert len(wrong) == 1 and named in wrong[0] and "Traceback" not in done.stderr
    assert not (tmp_path / "w" / "study.json").exists()


def test_bad_studies_and_names_are_told_apart(tiny_study: pathlib.Path, tmp_path: pathlib.Path):
    """What is wrong with a study file, with its place; an executor that is not known."""
    with pytest.raises(InputError, match=r"nowhere\.py"):
        file.load("nowhere.py")
    with pytest.raises(InputError, match=r"tiny\.py, line 7: ValueError: .*'x'"):
        file.load(f"{tiny_study}:x")
    with pytest.raises(InputError, match="did you mean 'local'"):
        executors.load("lokal")
    for text, named in (
        ("x = 1", "get_study"),
        ("def get_study(): return []", "empty"),
        ("def get_study(): return 3", "int"),
    ):
        (tmp_path / "s.py").write_text(text)
        with pytest.raises(InputError, match=named):
            file.load(str(tmp_path / "s.py"))
    (tmp_path / "study.json").write_text('{"schema": 1, "points": [{}]}')
    with pytest.raises(InputError, match=r"study\.json is damaged"):
        store.Workdir(tmp_path).read_study()
    (tmp_path / "study.json").write_text('{"schema": 99, "points": []}')
    with pytest.raises(InputError, match="schema 99.*update"):
        store.Workdir(tmp_path).read_study()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_workdir_is_one_line(tiny_study: pathlib.Path, tmp_path: pathlib.Path):
    """Exit code 1 and the path."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w").chmod(0o500)
    done = Launch(tiny_study, tmp_path / "w")()
    assert done.returncode == 1 and "cannot be written" in done.stderr
