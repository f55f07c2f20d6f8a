"""Layouts: which are possible, what they are guessed to take, and what makes a program smaller."""

import dataclasses
import subprocess
import sys
import types
from typing import Any

import jax
import pytest

from experiments.benchmarks.chips import load_chips
from experiments.run.freeze import freeze
from experiments.run.schema import Execution, Run
from experiments.training import optimizers, step
from models.accounting import Dispatch
from sweeps.cost import compiled, guess, layouts, machines, smaller
from sweeps.cost.layouts import Layout
from sweeps.study.grid import cases, nest
from tests.support.paths import REPOSITORY
from tests.support.plans import LARGE, SMALL, study_of

CHIP = load_chips()["v5e"]


def frozen(values: dict[str, Any]) -> tuple[Run, Execution]:
    """A run and its execution from dotted keys."""
    return freeze(nest(values))


def test_layouts_use_what_the_sizes_allow():
    """All chips, and axes that divide what they split."""
    run, execution = frozen(SMALL)
    found = list(layouts.possible(run, 24, 16, execution))
    assert len(found) == len(set(found)) > 20
    for layout in found:
        assert layout.devices == 16
        assert run.batch % (layout.data * layout.fsdp) == 0
        assert run.model.heads % layout.tensor == 0
    assert {layout.trials for layout in found if layout.trial == 16} == {16, 32}


def test_layouts_keep_what_the_study_sets():
    run, execution = frozen(SMALL | {"execution.mesh.fsdp": 4, "execution.mesh.trial": 2})
    found = layouts.possible(run, 24, 16, execution)
    assert {(layout.trial, layout.fsdp) for layout in found} == {(2, 4)}


@pytest.mark.parametrize(("mode", "sizes"), [("dropless", {1}), ("capacity", {1, 2, 4})])
def test_experts_are_split_only_where_rows_travel_to_them(mode: str, sizes: set[int]):
    run, execution = frozen(SMALL | {"family": "moe", "model.experts": 4, "model.mode": mode})
    found = layouts.possible(run, 24, 16, execution)
    assert {layout.expert for layout in found} == sizes


def test_a_family_says_what_travels_to_its_experts():
    """Two rows of each token, with a quarter more for what does not come evenly; of a dense model nothing."""
    mixture = {"family": "moe", "model.experts": 4, "model.top_k": 2, "model.expert_ff": 64}
    run, _ = frozen(SMALL | mixture | {"model.mode": "capacity"})
    experts = run.model.depth * 4 * 3 * 128 * 64
    assert layouts.dispatch(run) == Dispatch(params=experts, rows=2 * 1.25)
    for values in (SMALL, SMALL | mixture, SMALL | mixture | {"model.mode": "capacity", "model.top_k": 4}):
        assert layouts.dispatch(frozen(values)[0]) == Dispatch()


def test_small_runs_share_the_slice():
    """Trials first: they do not communicate, and one program holds them all."""
    run, execution = frozen(SMALL)
    best = guess.best_guesses(run, 32, 100, 16, execution, CHIP)[0].layout
    assert (best.trial, best.trials) == (16, 32)


def test_a_large_run_is_split():
    """A billion parameters are sharded; nothing that cannot fit comes first."""
    run, execution = frozen(LARGE | {"model.remat": "full", "model.dtype": "bfloat16"})
    guesses = guess.best_guesses(run, 1, 100, 16, execution, CHIP)
    best = guesses[0].layout
    assert best.fsdp * best.tensor >= 4
    assert all(one.bytes <= CHIP.hbm_bytes for one in guesses)


def test_a_slice_that_a_batch_does_not_fill_is_used_in_part():
    """Three sequences: of 16 chips only the heads can use some."""
    run, execution = frozen(SMALL | {"batch_tokens": 128 * 3})
    best = guess.best_guesses(run, 1, 100, 16, execution, CHIP)[0].layout
    assert best.devices in (2, 4)


def test_parts_and_offloading_are_guessed_to_save_memory():
    layout = Layout(fsdp=16)
    run, execution = frozen(LARGE | {"model.remat": "full"})
    plain = guess.guess(run, layout, 1, 1, CHIP, execution)
    parts = guess.guess(run, layout, 1, 1, CHIP, dataclasses.replace(execution, microbatches=2))
    away = guess.guess(run, layout, 1, 1, CHIP, dataclasses.replace(execution, offload="optimizer"))
    assert parts.bytes < plain.bytes
    assert parts.step_seconds > plain.step_seconds
    params = guess.ledger(run)["params_total"]
    assert plain.bytes - away.bytes == pytest.approx(8 * params / 16, rel=1e-3), "two moments of all but vectors"


@pytest.mark.parametrize("name", optimizers.optimizer_names())
def test_a_plan_knows_every_byte_of_an_optimizer(name: str):
    """Of the arrays that a run really has: what it holds, what offloading takes away, and where gradients are taken."""
    sizes = {"model.width": 32, "model.depth": 2, "model.heads": 2, "model.vocab": 64}
    run, execution = frozen(SMALL | sizes | {"opt.name": name, "averaging.ema": True})
    state = step.init_state(run, run)
    params = sum(leaf.size for leaf in state.params.values())
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert guess.state_bytes(run) * params == pytest.approx(held)
    point = 4 * params if name == "schedule_free" else 0
    assert guess.step_bytes(run) * params == pytest.approx(held + 4 * params + point)
    plain = guess.guess(run, Layout(), 1, 1, CHIP, execution)
    offloaded = dataclasses.replace(execution, offload="optimizer")
    away = guess.guess(run, Layout(), 1, 1, CHIP, offloaded)
    moved = 0
    for leaf in jax.tree.leaves(state.opt):
        is_table = leaf.ndim == 2 and 64 in leaf.shape  # the embedding and the head; other vectors are stacked
        moved += leaf.nbytes if leaf.ndim > 2 or is_table else 0
    assert plain.bytes - away.bytes == pytest.approx(moved, rel=0.01)


def test_a_launcher_that_counts_bytes_takes_no_device():
    """On a TPU's host the first process that asks for a device has it, and its workers then have none."""
    code = (
        "from jax._src import xla_bridge\n"
        "from experiments.run.freeze import freeze\n"
        "from sweeps.cost import guess\n"
        "for name in ('soap', 'schedule_free', 'adafactor'):\n"
        "    run, _ = freeze({'opt': {'name': name}, 'averaging': {'ema': True}})\n"
        "    assert guess.step_bytes(run) > 8\n"
        "assert not xla_bridge._backends"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def test_parts_of_a_batch_are_whole_on_every_layout():
    run, execution = frozen(LARGE | {"execution.microbatches": 2})
    for layout in layouts.possible(run, 1, 16, execution):
        assert run.batch % (2 * layout.data * layout.fsdp) == 0


def test_nothing_is_proposed_that_a_run_has_already():
    """Nor what is larger than it has."""
    (cell,) = study_of(cases(LARGE | {"model.remat": "full", "execution.microbatches": 4})).cells
    proposed = [options for options, _ in smaller.smaller_options(cell)]
    assert proposed == [
        {"model.remat": "offload"},
        {"model.remat": "offload", "execution.offload": "optimizer"},
        {"model.dtype": "bfloat16"},
    ]
    changed = smaller.changed(cell, proposed[1])
    assert changed.run.model.remat == "offload"
    assert changed.execution.offload == "optimizer"
    assert changed.execution.microbatches == 4


def test_what_needs_more_memory_than_what_did_not_fit_is_not_compiled():
    """Layouts come by their guessed time: of a model that fits nowhere, each that is compiled needs less than the last."""
    study = study_of(cases(LARGE))
    cell = study.cells[0]
    target = machines.target("v5e-16")
    chip = CHIP
    asked = []

    class Compiler:
        """One for which nothing fits."""

        def __init__(self):
            self.target = target

        def __call__(self, run, layout, execution):
            asked.append(layout)
            return types.SimpleNamespace(fits=False, evaluation_bytes=0, checkpoint_bytes=0, peak_bytes=1)

    _, tried = compiled.find_layout(study.cells, Compiler(), chip, 2)
    guesses = guess.best_guesses(cell.run, 1, cell.run.steps, target.devices, cell.execution, chip)
    needed = [next(one.bytes for one in guesses if one.layout == layout) for layout in asked]
    assert len(tried) == len(asked) >= 1
    assert needed == sorted(set(needed), reverse=True)
    assert sorted({one.bytes for one in guesses}, reverse=True) != [one.bytes for one in guesses], "some are left out"
