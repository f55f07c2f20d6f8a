"""Every option of every family: another value makes another program, and where it would do nothing it is refused.

Cases come from the declarations, so that a new option is tested by being declared. Programs are traced, never run.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest

from experiments.run.schema import Loss
from experiments.training.loss import objective
import models
from models import functional, option
from models.blocks import attention
from models.errors import InputError
from tests.support.families import TINY

VOCAB = 32
LENGTH = 16
# The sizes of all programs here; `unroll` is set so that the other value of it is another program on a CPU too.
SMALL = {"depth": 2, "unroll": False}

# Other values of options, where doubling or halving a number gives none.
OTHER_VALUES = {
    "quant_weight": ("int4",),
    "quant_act": ("int4",),
    "quant_grad": ("int4",),
    "quant_saved": ("int4",),
    "quant_kv": ("int4",),
    "window": (4,),
    "chunk": (8,),
    "layerwise_heads": ((1.0, 1.0),),
    "layerwise_ff": ((1.0, 2.0),),
    "layerwise_divisor": (16,),
    "depth_alpha": (0.5,),
    "mix_share": (1.0,),
    "bias_rate": (0.1,),
    "dropout": (0.5,),
    "attention_dropout": (0.5,),
    "separator": (3,),
}
# Options besides those of an option's condition that it needs at these sizes.
COMPANIONS = {
    "topk_group": {"n_group": 4, "experts": 8, "topk_group": 2},
    "n_group": {"experts": 8},
    "priority": {"top_k": 2},
    "base_depth": {"depth": 4},
    "depth_alpha": {"depth": 4},
    "layerwise_ff": {"layerwise_divisor": 16},
}
# Options under which a condition, by the name that it is about, does not hold, where it takes more than one.
OUTSIDE = {
    ("moe", "ff_is_read"): {"expert_ff": 24, "dense_first": 0},
    ("moe", "top_k"): {"top_k": 1, "renormalise": False},
}


def config(family: str, **values):
    """A checked and resolved config of small sizes. Raises InputError for values that cannot be."""
    cfg = models.load(family).Config(**TINY[family] | SMALL | values)
    cfg.check(LENGTH)
    resolved = cfg.resolve(VOCAB, LENGTH, separator=0)
    resolved.check(LENGTH)  # as a run is checked that is read back
    return resolved


@functools.cache
def program(family: str, cfg, length: int = LENGTH) -> str:
    """The text of what a run computes: its initial parameters, its objective's gradient, and what a rule sets."""

    def compute(params, tokens):
        model = functional.model(family, cfg, params)
        keys_B = jax.random.split(jax.random.key(0), len(tokens))
        hidden, output = model.hidden(tokens, keys_B=keys_B)
        head = model.readout()
        total, _ = objective(head.logits(head.params, hidden), tokens, Loss(), output.aux, cfg)
        return total, output.state

    shapes = jax.eval_shape(lambda: functional.init_params(family, cfg))
    tokens = jax.ShapeDtypeStruct((2, length), jnp.int32)
    start = jax.make_jaxpr(lambda seed: functional.init_params(family, cfg, seed))(0)
    step = jax.make_jaxpr(jax.grad(compute, has_aux=True))(shapes, tokens)
    return f"{start}\n{step}"


def fields(family: str) -> dict[str, dataclasses.Field]:
    """The options that a family has, by name."""
    cls = models.load(family).Config
    names = {row.name for row in option.describe(cls)}
    return {field.name: field for field in dataclasses.fields(cls) if field.name in names}


def where_it_applies(family: str, name: str) -> dict:
    """Options under which the conditions of an option hold."""
    declared = fields(family)
    values: dict = {}
    for condition in declared[name].metadata["when"]:
        for other, value in condition.example.items():
            values |= where_it_applies(family, other) | {other: value}
    return values


def other_values(family: str, name: str, around: dict) -> list:
    """Other valid values of an option, `around` being the options that are set besides."""
    field = fields(family)[name]
    now = getattr(config(family, **around), name)
    if name in OTHER_VALUES:
        candidates = OTHER_VALUES[name]
    elif field.metadata["choices"]:
        candidates = field.metadata["choices"]
    elif isinstance(now, bool):
        candidates = (not now,)
    elif isinstance(now, int):
        candidates = (now * 2, now // 2, now + 1, 1)
    else:
        candidates = (now / 2, now + 1.0)
    return [value for value in candidates if value != now and is_valid(family, around | {name: value})]


def is_valid(family: str, values: dict) -> bool:
    try:
        config(family, **values)
    except InputError:
        return False
    return True


def cases():
    """All options of all families; those that a family has from another one with the slow tests."""
    for family in models.family_names():
        parent = models.load(family).Config.__mro__[1]
        inherited = {field.name: field for field in dataclasses.fields(parent)}
        for name, field in fields(family).items():
            if len(field.metadata["choices"]) == 1:  # a family for which no other choice of its parent has a rule
                continue
            same = name in inherited and inherited[name].metadata == field.metadata
            again = same and family != "dense"
            yield pytest.param(family, name, marks=pytest.mark.slow if again else ())


@pytest.mark.parametrize(("family", "name"), cases())
def test_another_value_is_another_program(monkeypatch, family, name):
    around = where_it_applies(family, name) | COMPANIONS.get(name, {})
    length = LENGTH
    if name == "attention_kernel":  # on a CPU there is one kind only
        monkeypatch.setattr(attention, "backend", lambda: "tpu")
        length = attention.LANES
    before = program(family, config(family, **around), length)
    values = other_values(family, name, around)
    assert values, f"model.{name} has no other value at these sizes"
    differ = [value for value in values if program(family, config(family, **around | {name: value}), length) != before]
    default = fields(family)[name].default
    if default == "auto":  # which is one of the others, whichever the backend is good at
        assert differ, f"no value of model.{name} makes another program"
    else:
        choices = fields(family)[name].metadata["choices"]
        expected = values if choices else values[:1]
        assert [value for value in expected if value not in differ] == []


def conditional():
    for family in models.family_names():
        for name, field in fields(family).items():
            if field.metadata["when"]:
                yield pytest.param(family, name)


@pytest.mark.parametrize(("family", "name"), conditional())
def test_outside_its_condition_an_option_is_refused(family, name):
    around = where_it_applies(family, name)
    default = fields(family)[name].default
    with_companions = without(around | COMPANIONS.get(name, {}), name)
    value = next(value for value in other_values(family, name, with_companions) if value != default)
    for condition in fields(family)[name].metadata["when"]:
        outside = OUTSIDE.get((family, condition.name)) or where_it_does_not_hold(family, name, condition)
        with pytest.raises(
            InputError, match=rf"^model\.{name}={re.escape(repr(value))} has an effect only where"
        ) as error:
            models.load(family).Config(**TINY[family] | around | outside | {name: value}).check(LENGTH)
        assert condition.text in str(error.value) and "\n" not in str(error.value)
        assert str(error.value).endswith(f"change that, or leave model.{name} at {default!r}")


def where_it_does_not_hold(family: str, name: str, condition: option.When) -> dict:
    """Values of the options that a condition is about under which it does not hold, and nothing else is wrong."""
    around = where_it_applies(family, name)
    for other in condition.example:
        declared = fields(family)[other]
        kind = type(condition.example[other])
        values = declared.metadata["choices"] or (kind(0), kind(1))
        for value in (declared.default, *values):
            outside = around | {other: value}
            cfg = models.load(family).Config(**TINY[family] | outside)
            if not condition.holds(getattr(cfg, condition.name)) and is_valid(family, without(outside, name)):
                return {other: value}
    raise AssertionError(f"{condition.text} holds always")


def without(values: dict, name: str) -> dict:
    """The options but for one, and for those that have no effect then."""
    return {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize("family", models.family_names())
def test_the_table_of_options_has_a_line_of_help_for_each(family):
    rows = option.describe(models.load(family).Config)
    assert [row.name for row in rows if not row.help] == []
    assert all(row.allowed for row in rows)


def test_options_that_a_family_has_not_are_not_listed():
    names = {row.name for row in option.describe(models.load("moe").Config)}
    assert not names & {"layerwise", "layerwise_ff", "quant_grad"}
    with pytest.raises(InputError, match="model.layerwise_divisor=16 has an effect only where model.layerwise=True"):
        models.load("moe").Config(layerwise_divisor=16).check(LENGTH)
