"""What a process does before its first step: each function is traced once, and nothing is loaded that it does not need."""

import collections
import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import prepare
from experiments.run import freeze
from experiments.training import program as programs
from experiments.training import step
import models
from tests.support.families import TINY
from tests.support.paths import REPOSITORY

SHAPE = {"seq_len": 16, "batch_tokens": 64, "tokens": 640}


def frozen(family="dense", **execution):
    run, default = freeze.freeze({"family": family, "model": TINY[family]} | SHAPE)
    return run, dataclasses.replace(default, **execution)


@pytest.fixture
def traced(monkeypatch):
    """How often each pure function of a step was traced, by its name."""
    counts = collections.Counter()

    def count(name):
        function = getattr(step, name)

        def counted(*args, **options):
            counts[name] += 1
            return function(*args, **options)

        monkeypatch.setattr(step, name, counted)

    for name in ("init_state", "train_step", "objective", "eval_step"):
        count(name)
    return counts


@pytest.mark.parametrize(
    "options",
    [{}, {"slots": 3, "packing": "vmap"}, {"slots": 3, "packing": "map", "microbatches": 4}],
    ids=lambda options: "-".join(map(str, options.values())) or "one run",
)
def test_every_function_of_a_program_is_traced_once(options, traced):
    how = dict(options)
    slots = how.pop("slots", 1)
    run, execution = frozen(**how)
    program = programs.Program(run, slots, execution, jax.devices()[:1])
    assert not traced, "a program is made from shapes"
    rows = [run] * slots
    state = program.init(rows)
    values = program.stack_values(rows)
    steps = np.ones(slots, np.int32)
    tokens = np.zeros(program.token_shape(), np.uint16)
    for _ in range(2):
        state, _ = program.train(state, values, tokens, steps)
        program.evaluate(state.params, tokens, steps)
    assert traced == {"init_state": 1, "train_step": 1, "objective": 1, "eval_step": 1}


@pytest.mark.parametrize("family", models.family_names())
def test_the_state_is_known_without_tracing_its_initialisation(family):
    run, _ = frozen(family)
    expected = jax.eval_shape(lambda: step.init_state(run, run))
    found = step.abstract_state(run)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert leaf.shape == other.shape
        assert leaf.dtype == other.dtype


# Trains a run in the folder of its arguments, and prints what was loaded at its first step and at its end.
LOADED = """
import json, sys
from etils import epath
from experiments import train
from experiments.run import freeze

LATER = ("orbax", "tensorstore", "pandas", "tensorflow_datasets")
loaded = []

def report(event):
    if event["event"] in ("progress", "record"):
        loaded.append([name for name in LATER if name in sys.modules])

run, execution = freeze.freeze(json.loads(sys.argv[1]))
train.train([run], [epath.Path(sys.argv[2])], execution, report)
print(json.dumps([loaded[0], loaded[-1]]))
"""


def train_by(script: str, config, tmp_path):
    """Run a script in a process of its own, on a config whose text is prepared and a new folder."""
    run, execution = freeze.freeze(config)
    prepare.prepare(run.data, execution.data_root, progress=False)
    command = [sys.executable, "-c", script, config.to_json_best_effort(), str(tmp_path / "run")]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_what_a_first_step_does_not_need_is_not_loaded_before_it(tiny, tmp_path):
    """Orbax takes as long to load as a small program takes to be traced; the first checkpoint needs it."""
    done = train_by(LOADED, tiny(tokens=2_560), tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[], ["orbax", "tensorstore"]]


FAILS = """
import json, sys
from etils import epath
from experiments import train
from experiments.run import freeze

def report(event):
    if event["event"] == "progress":
        raise OSError("nobody listens")

run, execution = freeze.freeze(json.loads(sys.argv[1]))
try:
    train.train([run], [epath.Path(sys.argv[2])], execution, report)
except OSError as error:
    print(error, "orbax" in sys.modules)
"""


def test_an_error_before_the_first_save_waits_for_none(tiny, tmp_path):
    done = train_by(FAILS, tiny(tokens=2_560), tmp_path)
    assert done.stdout == "nobody listens False\n", done.stderr
