"""Apply the optimizer that a run names: to gradients, and to state in the host's memory.

Nothing here knows which optimizer it is: see experiments/training/optimizers. All take a `Run` whose runtime options may
be traced numbers, so that one compiled program serves every learning rate and decay.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, cast

import jax
from jaxtyping import Array
import optax

from experiments.run.schema import Run
from experiments.store.train_state import from_names, named_leaves
from experiments.training import optimizers
from experiments.training.offload import in_turn
from experiments.training.transformations import Chain, Parameter, times
from models.contract import ParamInfo

Gradients = dict[str, Array]
ParamInfos = Mapping[str, ParamInfo]


def chain_of(run: Run, infos: ParamInfos) -> Chain:
    """Return what the run's optimizer does to gradients. `infos`: roles and logical axes of the parameters, by path."""
    parameters = {}
    for path, info in infos.items():
        factors = run.model.factors(info)
        parameters[path] = Parameter(info, factors)
    module = optimizers.load(run.opt.name)
    return module.chain(run.opt, parameters)


def transform(run: Run, infos: ParamInfos, offload: str = "none") -> optax.GradientTransformationExtraArgs:
    """Return the run's optimizer. Its updates are for a learning rate of 1: the train step multiplies them by `lr`.

    Where the model's parametrization asks for it, each parameter has its own multiple of the learning rate
    (models/numerics/parametrization.py). `offload` "optimizer": the state that follows parameters comes from the host's
    memory and goes back there (experiments/training/offload.py). Beside `lr` an update may be told `is_taken`: whether its
    result will be.
    """
    chain = chain_of(run, infos)
    each_parameter = optax.chain(*chain.links)
    lr_multiples = {path: run.model.factors(info).lr for path, info in infos.items()}

    def update(updates: Any, state: Any, params: Any = None, *, lr: Any = 1.0, is_taken: Any = True) -> tuple[Any, Any]:
        clip_state, *link_states = state
        updates, clip_state = chain.clip.update(updates, clip_state, params)
        after: Any = None
        if offload == "none":
            updates, after = each_parameter.update(updates, tuple(link_states), params, lr=lr, is_taken=is_taken)
        else:
            at_rate = functools.partial(each_parameter.update, lr=lr, is_taken=is_taken)
            alone = optax.GradientTransformation(each_parameter.init, at_rate)
            updates, after = _update_in_turn(alone, updates, tuple(link_states), params)
        multiplied = times(cast(Gradients, updates), lr_multiples)
        return multiplied, (clip_state, *after)

    whole = optax.chain(chain.clip, *chain.links)
    return optax.GradientTransformationExtraArgs(whole.init, update)


def followed_parameters(init: Callable[[Any], Any], params: Mapping[str, Any]) -> dict[str, str]:
    """Return, for each leaf of an optimizer's state that follows a parameter, the parameter's path, by the leaf's name.

    optax finds them: they are what `init` makes by a tree.map over all parameters.
    """
    state = jax.eval_shape(init, params)
    paths = {path: path for path in params}
    found: dict[str, str] = {}

    def mark() -> None:
        marked = optax.tree_map_params(
            init,
            lambda leaf, path: leaf if isinstance(leaf, optax.MaskedNode) else path,
            state,
            paths,
            transform_non_params=lambda leaf: None,
            is_leaf=lambda node: isinstance(
                node, optax.MaskedNode
            ),  # a parameter that this part of the state leaves out
        )
        found.update(named_leaves(marked))

    jax.eval_shape(mark)  # optax makes a state: nothing of it is computed, and no device is asked for
    return found


def _update_in_turn(
    each_parameter: optax.GradientTransformation, grads: Gradients, state: Any, params: dict[str, Array]
) -> tuple[Gradients, Any]:
    """Update one parameter after the other, as if each were the only one, with its own part of the state."""
    leaves = named_leaves(state)
    names_by_path: dict[str, list[str]] = {path: [] for path in params}
    for name, path in followed_parameters(each_parameter.init, params).items():
        names_by_path[path].append(name)
    new_leaves: dict[str, Array] = {}

    def update(path: str, own: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        names = names_by_path[path]
        alone = {path: params[path]}
        like = jax.eval_shape(each_parameter.init, alone)
        shapes = named_leaves(like)
        fetched = {}
        for name, leaf in zip(names, own, strict=True):
            fetched[name] = leaf.reshape(shapes[name].shape)
        before = from_names(like, leaves | fetched)
        updates, after = each_parameter.update({path: grads[path]}, before, alone)
        update_of_path = cast(Gradients, updates)[path]
        # What follows no parameter, such as a count of steps, comes out the same of all of them.
        new_leaves.update(named_leaves(after))
        return update_of_path, tuple(new_leaves[name] for name in names)

    own_leaves = {path: tuple(leaves[name] for name in names) for path, names in names_by_path.items()}
    updates, kept = in_turn(update, params, own_leaves)
    for path, names in names_by_path.items():
        new_leaves |= dict(zip(names, kept[path], strict=True))
    return updates, from_names(state, new_leaves)
