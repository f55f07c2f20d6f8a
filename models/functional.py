"""Use a model as functions of (family, config): its parameters by path, their axes, its output.

Nothing here knows a trainer: weights, conversion, growth and training all build models this way. `cfg` is a resolved
Config of the family. A path joins the names of modules and parameters: "blocks/attention/query/kernel".
"""

from collections.abc import Mapping
import dataclasses
import functools
import types
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

import models
from models.blocks import past
from models.contract import Output, ParamInfo
from models.growing.layout import Layout

Params = dict[str, Float[Array, "..."]]


def by_path(state: Any) -> dict[str, nnx.Variable]:
    """Return the variables of a module's state by path."""
    found = {}
    for names, variable in nnx.to_flat_state(state):
        path = "/".join(str(name) for name in names)
        found[path] = variable
    return found


def merge(graphdef: Any, params: Params, caches: Mapping[str, Array] | None = None) -> Any:
    """Build a module from its graph definition and its parameters by path, and the same of what it remembers."""
    leaves = []
    for kind, values in ((nnx.Param, params), (nnx.Cache, caches or {})):
        for path, value in values.items():
            names = tuple(path.split("/"))
            leaves.append((names, kind(value)))
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


@functools.cache
def _abstract(family: str, cfg: Any) -> tuple[Any, Any]:
    """Build the model without its values: its graph definition and its parameters."""
    module = nnx.eval_shape(lambda: models.load(family).Model(cfg, nnx.Rngs(params=0)))
    return nnx.split(module)


@functools.cache
def param_info(family: str, cfg: Any) -> Mapping[str, ParamInfo]:
    """Describe every parameter by path: its role and logical axes as said where it is made, and its shape.

    A parameter of stacked layers has the extra leading axis `layers`.
    """
    _, state = _abstract(family, cfg)
    found = {}
    for path, variable in by_path(state).items():
        made_as = variable.get_metadata()
        shape = variable.get_value().shape
        stacked = len(shape) - len(made_as["axes"])
        axes = ("layers",) * stacked + tuple(made_as["axes"])
        found[path] = ParamInfo(made_as["role"], axes, shape)
    return types.MappingProxyType(found)


def param_axes(family: str, cfg: Any) -> dict[str, tuple[str, ...]]:
    """Return the logical axis names of every parameter by path."""
    return {path: info.axes for path, info in param_info(family, cfg).items()}


def param_shapes(family: str, cfg: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by path."""
    return {path: info.shape for path, info in param_info(family, cfg).items()}


def abstract_params(family: str, cfg: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and type of every parameter by path; nothing is computed."""
    _, state = _abstract(family, cfg)
    return {path: variable.get_value() for path, variable in by_path(state).items()}


def layout(family: str, cfg: Any) -> Layout:
    """Describe the model without its values, as growth looks at it."""
    return Layout(family, cfg, param_info(family, cfg))


def init_params(family: str, cfg: Any, seed: int | Integer[Array, ""] = 0) -> Params:
    """Draw initial parameters. `seed` and the runtime options of `cfg` may be traced numbers."""
    module = models.load(family).Model(cfg, nnx.Rngs(params=jax.random.key(seed)))
    return {path: variable.get_value() for path, variable in by_path(nnx.state(module)).items()}


def model(family: str, cfg: Any, params: Params) -> Any:
    """Build the model with these parameters."""
    graphdef, _ = _abstract(family, cfg)
    return merge(graphdef, {path: params[path] for path in param_info(family, cfg)})


def apply(family: str, cfg: Any, params: Params, tokens_BL: Integer[Array, "B L"]) -> Output:
    """Run the model on its parameters."""
    return model(family, cfg, params)(tokens_BL)


# --- position by position


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What a model remembers of the positions so far, by path. A recurrence's is of one size at every `length`."""

    arrays: dict[str, Any]  # arrays, or in a tree of the same form what there is to say of each
    length: int = dataclasses.field(metadata={"static": True})  # positions that a sequence has at most


@functools.cache
def _remembering(family: str, cfg: Any, batch: int, length: int) -> tuple[Any, dict[str, Any]]:
    """Build the model with an empty past, without values: its graph definition, and the variables of the past by path."""

    def make() -> nnx.Module:
        module = models.load(family).Model(cfg, nnx.Rngs(params=0))
        past.remember(module, batch, length)
        return module

    graphdef, remembered, _ = nnx.split(nnx.eval_shape(make), nnx.Cache, ...)
    return graphdef, by_path(remembered)


def start(family: str, cfg: Any, batch: int, length: int) -> State:
    """Return the state of `batch` sequences before their first position, for at most `length` positions.

    A mixture with a capacity has that of sequences of `length` tokens. Raises InputError, naming the field, for a model
    that cannot go position by position, or not so far.
    """
    cfg.check_decoding(length)
    _, variables = _remembering(family, cfg, batch, length)
    arrays = {}
    for path, variable in variables.items():
        value = variable.get_value()
        arrays[path] = jnp.zeros(value.shape, value.dtype)
    return State(arrays, length)


def batch_axes(family: str, cfg: Any, state: State) -> dict[str, int]:
    """Return by path which axis of a state's arrays is that of the sequences."""
    _, variables = _remembering(family, cfg, 1, state.length)
    axes = {}
    for path, variable in variables.items():
        own = len(variable.get_metadata()["axes"])
        axes[path] = len(variable.get_value().shape) - own
    return axes


def decode(
    family: str, cfg: Any, params: Params, state: State, tokens_BL: Integer[Array, "B L"]
) -> tuple[Float[Array, "B L V"], State]:
    """Run the model on the next positions, L of them at most past.MOST_AT_ONCE: their logits, and the state behind them.

    The logits are those of `apply` to all tokens so far, at these positions. For a mixture with a capacity, to a sequence
    that goes on to the state's length.
    """
    batch, number = tokens_BL.shape
    if number > past.MOST_AT_ONCE:
        raise ValueError(f"{number} positions at once; expected at most {past.MOST_AT_ONCE}")
    graphdef, _ = _remembering(family, cfg, batch, state.length)
    module = merge(graphdef, {path: params[path] for path in param_info(family, cfg)}, state.arrays)
    output = module(tokens_BL)
    after = by_path(nnx.state(module, nnx.Cache))
    return output.logits_BLV, State({path: variable.get_value() for path, variable in after.items()}, state.length)
