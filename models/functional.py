"""Use a model as functions of (family, config): its parameters by path, their axes, its output.

Nothing here knows a trainer: weights, conversion, growth and training all build models this way. `cfg` is a resolved
Config of the family. A path joins the names of modules and parameters: "blocks/attention/query/kernel".
"""

import functools
from typing import Any

from flax import nnx
import jax
from jaxtyping import Array, Float, Integer

import models
from models.contract import Output, Role
from models.growing import options
from models.mesh import rules

Params = dict[str, Float[Array, "..."]]


@functools.cache
def _abstract(family: str, cfg: Any) -> tuple[Any, Any]:
    """Build the model without its values: its graph definition and its parameters."""
    module = nnx.eval_shape(lambda: models.load(family).Model(cfg, nnx.Rngs(params=0)))
    return nnx.split(module)


@functools.cache
def _axes(family: str, cfg: Any) -> dict[str, tuple[str, ...]]:
    """Find the logical axes of each parameter by path."""
    _, state = _abstract(family, cfg)
    axes = rules.logical_axes(state)
    return {"/".join(map(str, path)): names for path, names in axes.items()}


def param_axes(family: str, cfg: Any) -> dict[str, tuple[str, ...]]:
    """Return the logical axis names of every parameter by path."""
    return _axes(family, cfg)


def param_roles(family: str, cfg: Any) -> dict[str, Role]:
    """Return the role of every parameter by path: what it does in the model, as said where it is made."""
    _, state = _abstract(family, cfg)
    roles = {}
    for path, variable in nnx.to_flat_state(state):
        roles["/".join(map(str, path))] = variable.get_metadata()["role"]
    return roles


def param_shapes(family: str, cfg: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by path."""
    abstract = jax.eval_shape(lambda: init_params(family, cfg))
    return {path: leaf.shape for path, leaf in abstract.items()}


def layout(family: str, cfg: Any) -> options.Layout:
    """Describe the model without its values, as growth needs it."""
    return options.Layout(family, cfg, param_axes(family, cfg), param_shapes(family, cfg))


def init_params(family: str, cfg: Any, seed: int | Integer[Array, ""] = 0) -> Params:
    """Draw initial parameters. `seed` and the runtime options of `cfg` may be traced numbers."""
    module = models.load(family).Model(cfg, nnx.Rngs(params=jax.random.key(seed)))
    state = nnx.to_flat_state(nnx.state(module))
    return {"/".join(map(str, path)): variable.get_value() for path, variable in state}


def model(family: str, cfg: Any, params: Params) -> Any:
    """Build the model with these parameters."""
    graphdef, _ = _abstract(family, cfg)
    leaves = []
    for path in _axes(family, cfg):
        names = tuple(path.split("/"))
        leaves.append((names, nnx.Param(params[path])))
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


def apply(family: str, cfg: Any, params: Params, tokens_BL: Integer[Array, "B L"]) -> Output:
    """Run the model on its parameters."""
    return model(family, cfg, params)(tokens_BL)
