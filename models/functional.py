"""Use a model as functions of (family, config): its parameters by path, their axes, its output.

Nothing here knows a trainer: weights, conversion, growth and training all build models this way. `cfg` is a resolved
Config of the family. A path joins the names of modules and parameters: "blocks/attention/query/kernel".
"""

from collections.abc import Mapping
import functools
import types
from typing import Any

from flax import nnx
import jax
from jaxtyping import Array, Float, Integer

import models
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


def merge(graphdef: Any, params: Params) -> Any:
    """Build a module from its graph definition and its parameters by path."""
    leaves = []
    for path, value in params.items():
        names = tuple(path.split("/"))
        leaves.append((names, nnx.Param(value)))
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
