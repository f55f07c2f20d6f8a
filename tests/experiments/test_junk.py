"""Whatever is written for an option, the answer is a run that can be computed with, or one line that names the option."""

from collections.abc import Iterator
import functools
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from experiments.configs import smoke
from experiments.run import freeze, identity
from experiments.run.schema import Execution, Run
from experiments.store import record
from experiments.training import step
import models
from models.errors import InputError
from models.mesh import mesh

WHOLE = (-(10**30), -3, -1, 0, 1, 2, 2**31 - 1, 2**31, 2**32, 2**63, 10**30)
REAL = (-0.5, 0.5, 1e-320, 1e-60, 1e39, 1e300, math.nan, math.inf, -math.inf)
TEXT = ("", " ", "nan", "abc", "\x00", "-1", "~", "/")
SEVERAL = ((), (0.0,), (-1.0,), (math.nan,), (1e-60,), ("",), (1, 2, 3), [[1]])
OTHER = (True, False, None, {}, {"a": 1}, b"x")
JUNK = (*WHOLE, *REAL, *TEXT, *SEVERAL, *OTHER)
SECTIONS_ONCE = "dense"  # all families have the same options outside of `model`


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Go through the dotted names of all options."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def config(family: str, path: str, value: Any) -> dict[str, Any]:
    """A small config with one option replaced."""
    values = smoke.get_config(family).to_dict()
    *sections, name = path.split(".")
    node = values
    for section in sections:
        node = node[section]
    node[name] = value
    return values


def frozen(family: str, path: str, value: Any) -> tuple[Run, Execution] | None:
    """The run with one option replaced; None where that is refused in one line that names the option."""
    try:
        return freeze.freeze(config(family, path, value))
    except InputError as error:
        assert path.rpartition(".")[2] in str(error), f"{path}={value!r}: {error}"
        assert "\n" not in str(error)
        return None


@functools.cache
def survivors(family: str) -> list[tuple[str, Any]]:
    """Every option of a family with every junk value that is not refused."""
    found = []
    for path in leaves(smoke.get_config(family).to_dict()):
        if family == SECTIONS_ONCE or path.startswith("model."):
            found += [(path, value) for value in JUNK if frozen(family, path, value)]
    return found


@pytest.mark.parametrize("family", models.family_names())
def test_what_is_accepted_can_be_named_counted_and_computed_with(family):
    for path, value in survivors(family):
        run, _ = freeze.freeze(config(family, path, value))
        identity.fingerprint(run, ("0",))
        identity.signature(run)
        counted = record.ledger(run) | record.columns(run)
        assert counted["params_total"] > 0 and math.isfinite(counted["flops_total"]), f"{path}={value!r}"
        for name, number in identity.runtime_values(run).items():
            in_program = np.float32(number)
            assert not np.isnan(in_program), f"{path}={value!r}: {name}"
            assert bool(in_program) == bool(number), f"{path}={value!r}: {name} vanishes"
            assert np.isfinite(in_program) or number == math.inf, f"{path}={value!r}: {name} overflows"


@pytest.mark.parametrize("family", models.family_names())
def test_what_is_accepted_can_be_traced(family):
    traced = set()

    @settings(max_examples=30, deadline=None, database=None)
    @given(st.sampled_from(survivors(family)))
    def check(drawn: tuple[str, Any]) -> None:
        path, value = drawn
        run, execution = freeze.freeze(config(family, path, value))
        try:
            mesh.fill(execution.mesh, 8, 1, run.batch, "cpu", execution.microbatches)
        except InputError as error:
            assert "execution.mesh" in str(error)
        program = identity.representative(run)
        if identity.signature(run) in traced:
            return
        traced.add(identity.signature(run))
        tokens = jax.ShapeDtypeStruct((run.batch, run.seq_len + 1), np.uint16)
        state = step.abstract_state(program)
        jax.eval_shape(lambda state, tokens: step.train_step(program, program, state, tokens), state, tokens)

    check()


REFUSED = {
    "execution.mesh.fsdp": 0,
    "execution.compile_cache": " ",
    "execution.mesh.tensor": -1,
    "execution.mesh.trial": 0,
    "execution.cpu_devices": 0,
    "execution.steps_per_dispatch": 2**53,
    "execution.eval_every_tokens": -5,
    "execution.checkpoint_every_tokens": -5,
    "execution.log_every_steps": 0,
    "execution.keep_checkpoints": 0,
    "execution.stall_seconds": -1.0,
    "execution.data_root": "",
    "seed": 2**32,
    "evaluation.tokens": 1,
    "opt.eps": 1e-60,
    "opt.lr": 1e39,
    "tokens": 1e300,
    "model.width": 2**63,
    "model.depth": 2**31,
    "growth.noise": math.nan,
}


@pytest.mark.parametrize("path", REFUSED)
def test_values_that_cannot_be_are_refused(path):
    assert frozen("dense", path, REFUSED[path]) is None
