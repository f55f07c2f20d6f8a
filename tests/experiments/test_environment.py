"""What a record says of the program and the machine that made it."""

import shutil
import subprocess

from experiments import train
from experiments.run.schema import Execution
from experiments.store import record
from tests.support.commands import run_command
from tests.support.paths import REPOSITORY

PROGRAM = "import json; from experiments.store import record; print(json.dumps(record.environment()))"


def git(folder, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def environment_of(folder) -> dict:
    import json
    import os
    import sys

    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_record_names_the_commit_and_whether_files_differ(tmp_path):
    for package in ("models", "experiments"):
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert environment_of(tmp_path)["commit"] is None and environment_of(tmp_path)["dirty"] is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "all")
    clean = environment_of(tmp_path)
    assert clean["commit"] == git(tmp_path, "rev-parse", "HEAD") and clean["dirty"] is False
    (tmp_path / "fit.json").write_text("{}")
    assert environment_of(tmp_path)["dirty"] is False, "results are no part of the program"
    (tmp_path / "models" / "families" / "mine.py").write_text("")
    assert environment_of(tmp_path)["dirty"] is True


def test_a_copy_inside_of_another_checkout_has_no_commit(tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "another project", "--allow-empty")
    inside = tmp_path / "vendor"
    for package in ("models", "experiments"):
        shutil.copytree(REPOSITORY / package, inside / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert environment_of(inside)["commit"] is None


def test_a_record_names_the_libraries_that_numbers_depend_on():
    from importlib import metadata

    found = record.environment()
    for name in ("jax", "flax", "optax", "grain"):
        assert found[name] == metadata.version(name)


def test_devices_that_cannot_be_had_any_more_are_said(capsys):
    train.set_up_devices(Execution(cpu_devices=3, compile_cache=None))
    assert "execution.cpu_devices=3 is too late" in capsys.readouterr().err
    train.set_up_devices(Execution(cpu_devices=8, compile_cache=None))
    train.set_up_devices(Execution(compile_cache=None))
    assert capsys.readouterr().err == ""


def test_preparing_leaves_no_folder_behind(tmp_path):
    """In the folder for temporary files of the system."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(50):
        (texts / f"{number}.txt").write_text(f"a text with the number {number} and more words " * 20)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    flags = (f"--config.data.corpus=('{texts}',)", f"--config.execution.data_root={tmp_path}/data")
    done = run_command("experiments.prepare", "--config=experiments/configs/smoke.py", *flags, TMPDIR=str(scratch))
    assert done.returncode == 0, done.stderr
    assert list(scratch.iterdir()) == []
