"""What a command line may say: nothing is dropped, paths are paths, counts may be written as people write them."""

import os

import pytest

from tests.support.commands import command, run_command
from tests.support.data import python

CONFIG = "--config=experiments/configs/smoke.py"


@pytest.mark.parametrize(
    ("module", "flags", "stray", "meant"),
    [
        ("experiments.train", (CONFIG, "--workdir=w"), "opt.lr=1e-9", "did you mean --config.opt.lr=1e-9?"),
        ("experiments.train", (CONFIG, "--workdir=w"), "config.opt.lr=1e-9", "did you mean --config.opt.lr=1e-9?"),
        ("experiments.train", (CONFIG, "--workdir=w"), "opt.lrr=1e-9", "did you mean --config.opt.lr=1e-9?"),
        ("experiments.train", (CONFIG, "--workdir=w"), "\u2014workdir=x", "did you mean --workdir=x?"),
        ("experiments.prepare", (CONFIG,), "data.holdout=0.1", "did you mean --config.data.holdout=0.1?"),
        ("experiments.verify_resume", (CONFIG, "--workdir=w"), "kills=3", "did you mean --kills=3?"),
        ("sweeps.launch", ("--study=sweeps/studies/quickstart.py", "--workdir=w"), "retry_failed", "--retry_failed?"),
        ("sweeps.collect", ("--workdir=w", "--out=g.csv"), "more", "takes flags only"),
        ("experiments.convert", ("--source=a", "--out=b"), "imprt", "did you mean 'import'?"),
    ],
)
def test_an_argument_that_no_command_takes_is_refused_with_the_flag_that_was_meant(module, flags, stray, meant):
    done = command(module, *flags, stray)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and meant in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("module", "flags", "meant"),
    [
        ("experiments.train", (CONFIG, "--workdri=w"), "did you mean --workdir=w?"),
        ("experiments.train", (CONFIG, "--opt.lr=1e-9"), "did you mean --config.opt.lr=1e-9?"),
        ("experiments.train", (CONFIG, "--confg=x"), "did you mean --config=x?"),
        ("sweeps.launch", ("--retry_faild",), "did you mean --retry_failed?"),
        ("analysis.trend", ("g.csv", "--colums=X=a"), "did you mean --columns=X=a?"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_nearest_one(module, flags, meant):
    done = command(module, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and meant in done.stderr
    assert len(done.stderr.splitlines()) == 1


PATHS = """
import sys
from experiments import cli
def main(_):
    print(cli.flags.FLAGS.workdir, cli.flags.FLAGS.steps)
cli.define_path("workdir", None, "a folder")
cli.define_integer("steps", 3, "a count", lower_bound=1)
sys.argv[1:] = %r
cli.run(main, required=["workdir"])
"""


def test_a_home_folder_is_expanded_in_the_path_of_a_flag():
    assert python(PATHS % ["--workdir=~/x"]).stdout == f"{os.path.expanduser('~')}/x 3\n"
    assert python(PATHS % ["--workdir", "~/x"]).stdout == f"{os.path.expanduser('~')}/x 3\n"


@pytest.mark.parametrize("empty", ["--workdir=", "--workdir= "])
def test_an_empty_path_is_refused(empty):
    done = python(PATHS % [empty])
    assert done.returncode == 2
    assert "--workdir" in done.stderr and "empty" in done.stderr and len(done.stderr.splitlines()) == 1


def test_every_path_of_every_command_is_declared_as_one():
    """A flag that is declared as plain text is no path: its help does not speak of a file or folder to read or write."""
    words = ("folder", "file to write", "write the", "write this")
    done = python(
        "import ast, pathlib\n"
        "for room in ('experiments', 'sweeps', 'analysis'):\n"
        "    for path in sorted(pathlib.Path(room).rglob('*.py')):\n"
        "        for node in ast.walk(ast.parse(path.read_text())):\n"
        "            name = getattr(getattr(node, 'func', None), 'attr', '')\n"
        "            if name in ('DEFINE_string', 'DEFINE_integer'):\n"
        "                print(path, name, ' '.join(ast.unparse(node).split()))\n"
    )
    for line in done.stdout.splitlines():
        assert "DEFINE_integer" not in line, line
        assert not any(word in line for word in words), line


@pytest.mark.parametrize(("text", "steps"), [("1e3", 1000), ("2.5e3", 2500), ("1_000", 1000), ("12", 12)])
def test_whole_numbers_may_be_written_as_people_write_them(text, steps):
    assert python(PATHS % ["--workdir=w", f"--steps={text}"]).stdout == f"w {steps}\n"


@pytest.mark.parametrize("text", ["1.5", "1e-3", "many", "", "nan", "inf", "0", "-1"])
def test_what_is_no_whole_number_is_refused(text):
    done = python(PATHS % ["--workdir=w", f"--steps={text}"])
    assert done.returncode == 2
    assert "--steps" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_count_of_a_config_may_be_written_as_people_write_it(tmp_path):
    flags = (CONFIG, f"--workdir={tmp_path}/w", "--config.execution.data_root=/dev/null/none")
    done = run_command("experiments.train", *flags, "--config.tokens=1e9")
    assert "data_root" in done.stderr, done.stderr
    done = run_command("experiments.train", *flags, "--config.tokens=1.5e0")
    assert done.returncode == 2
    assert done.stderr == "error: --config.tokens=1.5e0 is not a whole number\n"
