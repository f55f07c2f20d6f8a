"""Say what an optimizer's state is made of: which parameter a leaf follows, along which axes, and where iterates lie.

experiments/training/optimizer.py makes and changes the state; which optimizer it is nothing here knows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.run.schema import Run
from experiments.store.train_state import TrainState, from_names, named_leaves
from experiments.training.iterates import ITERATE, between
from experiments.training.offload import is_away
from experiments.training.optimizer import ParamInfos, chain_of, followed_parameters, transform
from experiments.training.transformations import Parameter
from models.contract import ParamInfo


class Leaf(NamedTuple):
    """A leaf of an optimizer's state that follows a parameter: the parameter's path, its field, and its logical axes."""

    path: str
    field: str
    axes: tuple[str, ...]


def state_leaves(run: Run, infos: ParamInfos, params: Mapping[str, Any]) -> dict[str, Leaf]:
    """Return the leaves of an optimizer's state that follow a parameter, by name.

    Raises ValueError for a leaf that has neither the shape that its axes say nor none at all: neither sharding nor growth
    would know what to do with it.
    """
    chain = chain_of(run, infos)
    init = transform(run, infos).init
    leaves = {}
    for name, path in followed_parameters(init, params).items():
        info = infos[path]
        field = _field(name, path)
        axes = info.axes
        if field in chain.own_axes:
            factors = run.model.factors(info)
            axes = chain.own_axes[field](Parameter(info, factors))
        leaves[name] = Leaf(path, field, axes)
    state = jax.eval_shape(init, params)
    for name, leaf in named_leaves(state).items():
        expected: tuple[int, ...] = ()
        if name in leaves:
            followed = leaves[name]
            expected = _shape(infos[followed.path], followed.axes)
        if leaf.shape != expected:
            raise ValueError(f"optimizer state {name} has shape {leaf.shape}; expected {expected}")
    return leaves


def _field(name: str, path: str) -> str:
    """Return the field of a state in which a leaf lies: "mu" of "[0].mu['embed']"."""
    key = jax.tree_util.DictKey(path)
    moment = name.removesuffix(jax.tree_util.keystr((key,)))
    _, _, field = moment.rpartition(".")
    return field


def _shape(info: ParamInfo, axes: tuple[str, ...]) -> tuple[int, ...]:
    """Return the sizes of axes of a parameter."""
    sizes = dict(zip(info.axes, info.shape, strict=True))
    if "vocab" in sizes:
        sizes["rows"] = sizes["vocab"]  # how state names a vocabulary that is not to be split
    return tuple(sizes[name] for name in axes)


def state_axes(run: Run, infos: ParamInfos, params: Mapping[str, Any]) -> Any:
    """Return the logical axes of every leaf of the optimizer's state: its parameter's, its own, or none for a number."""
    state = jax.eval_shape(transform(run, infos).init, params)
    leaves = state_leaves(run, infos, params)
    axes_by_name: dict[str, tuple[str, ...]] = {}
    for name in named_leaves(state):
        axes_by_name[name] = leaves[name].axes if name in leaves else ()
    return from_names(state, axes_by_name)


# --- parameters that are a mean of iterates


def gradient_point(run: Run, infos: ParamInfos, state: TrainState) -> dict[str, Array]:
    """Return the parameters at which gradients are taken: those of the state, but for means of iterates."""
    share = chain_of(run, infos).mean_share
    if share is None:
        return state.params
    iterate = {}
    opt = named_leaves(state.opt)
    for name, path in _iterates(run, infos, state.params).items():
        leaf = opt[name]
        if is_away(leaf):
            leaf = jax.device_put(leaf, jax.memory.Space.Device)
        iterate[path] = leaf.reshape(state.params[path].shape)
    return between(state.params, iterate, share)


def with_params(run: Run, infos: ParamInfos, opt: Any, given: Mapping[str, Any]) -> Any:
    """Return the optimizer's state after some parameters were set other than by it: their iterates have the same value."""
    if chain_of(run, infos).mean_share is None or not given:
        return opt
    leaves = named_leaves(opt)
    params = {}
    for path, info in infos.items():
        params[path] = jax.ShapeDtypeStruct(info.shape, jnp.float32)
    for name, path in _iterates(run, infos, params).items():
        if path in given:
            leaves[name] = given[path]
    return from_names(opt, leaves)


def _iterates(run: Run, infos: ParamInfos, params: Mapping[str, Any]) -> dict[str, str]:
    """Return the paths of the parameters whose iterates lie in the leaves of a state, by the leaf's name."""
    leaves = state_leaves(run, infos, params)
    return {name: leaf.path for name, leaf in leaves.items() if leaf.field == ITERATE}
