"""Make a child's first state from its parent's last checkpoint: read it, let it grow, learn how where that is asked for.

Which parent that is, and whether it can become the child, is for experiments/store/inherit.py to say; how parameters grow,
for models/growing.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np
import optax

from experiments.cli import InputError
from experiments.run.schema import Run
from experiments.store import stored_state, weights
from experiments.store.inherit import Parent
from experiments.store.train_state import TrainState, from_names, named_leaves
from experiments.training import optimizer_state, step
from models import functional
from models.growing import operators, upcycling
from models.growing.layout import Layout

Params = Mapping[str, Float[np.ndarray, "..."]]
Arrays = dict[str, Array]
Batch = Callable[[int], np.ndarray]  # tokens of a step of learned growth, by its number
Grow = Callable[[Params, bool], dict[str, np.ndarray]]  # parameters, and whether they are moments instead


def first_state(parent: Parent, child: Run, fresh: TrainState, batch: Batch) -> TrainState:
    """Return the child's first state, on the host.

    fresh: the state that it would have without a parent.
    batch: the tokens of a step of learned growth, by its number.

    Raises InputError for a checkpoint that does not fit.
    """
    source = functional.layout(parent.family, parent.model)
    target = functional.layout(child.family, child.model)
    keeps_optimizer = parent.keeps_optimizer(child)
    before = _read_state(parent, keeps_optimizer)
    plan = parent.plan(child)

    def grow(values: Params, moments: bool) -> dict[str, np.ndarray]:
        if plan is None:
            return upcycling.upcycle(source, target, values, fresh.params, child.growth, child.seed, moments)
        return plan.grow(values, fresh.params, moments)

    if plan is not None and plan.learns:
        grown = combine(child, plan, before.params, batch)
    else:
        grown = grow(before.params, False)
    params = {path: np.asarray(grown[path], np.float32) for path in fresh.params}
    if not keeps_optimizer:
        infos = functional.param_info(child.family, child.model)
        opt = optimizer_state.with_params(child, infos, fresh.opt, params)
        return fresh._replace(params=params, opt=opt)
    assert parent.run is not None, "weights have no optimizer state, which inherit.find has checked"
    followed = _followed_parameters(parent.run, source)
    opt = _grow_optimizer_state(before.opt, fresh.opt, followed, grow, source)
    return fresh._replace(params=params, opt=opt)


def _read_state(parent: Parent, with_optimizer: bool) -> TrainState:
    """Read the parent's last state; without what is not asked for. Raises InputError where it is not its last step's."""
    if parent.run is None:
        # Converted weights lie in one file, without a run and its steps.
        return TrainState(weights.load(parent.directory).params, None, None)
    run = parent.run
    abstract = step.abstract_state(run)
    opt = abstract.opt if with_optimizer else None
    like = TrainState(abstract.params, opt, None)
    folder = parent.directory / "checkpoints"
    found, at = stored_state.read_state(folder, like)
    if at != run.steps:
        raise InputError(f"{folder} ends at step {at}; expected the parent's last, {run.steps}")
    return found


def _followed_parameters(run: Run, layout: Layout) -> dict[str, str]:
    """Return the path of the parameter that a leaf of the optimizer's state follows, by the leaf's name."""
    params = {}
    for path, shape in layout.shapes.items():
        params[path] = jax.ShapeDtypeStruct(shape, np.float32)
    leaves = optimizer_state.state_leaves(run, layout.parameters, params)
    # State with axes of its own does not grow (optimizers.grows): it goes on as it is, in an equal model.
    return {name: leaf.path for name, leaf in leaves.items() if leaf.axes == layout.parameters[leaf.path].axes}


def _grow_optimizer_state(before: Any, fresh: Any, followed: Mapping[str, str], grow: Grow, source: Layout) -> Any:
    """Return the child's optimizer state: what follows parameters grown as moments are, everything else as it was.

    before: the parent's, and `fresh` the one that the child would have without it.
    followed: paths of the parameters that leaves of `before` follow, by the leaf's name.
    source: the parent's model.

    Raises InputError where the child's optimizer does not have the same leaves.
    """
    wanted = named_leaves(fresh)
    moments: dict[str, dict[str, np.ndarray]] = {}  # one value a parameter: Adam has two such, mu and nu
    grown: dict[str, np.ndarray] = {}
    for name, leaf in named_leaves(before).items():
        path = followed.get(name)
        if path is None:
            grown[name] = np.asarray(leaf)
        else:
            moment = name.removesuffix(_name_in_dict(path))
            moments.setdefault(moment, {})[path] = leaf
    for moment, values in moments.items():
        # A moment of some parameters only (an optimizer in two halves) grows as if it were zero for the others.
        missing = source.shapes.keys() - values.keys()
        zeros = {}
        for path in missing:
            shape = source.shapes[path]
            zeros[path] = np.zeros(shape, np.float32)
        grown_moment = grow(values | zeros, True)
        for path, value in grown_moment.items():
            name = moment + _name_in_dict(path)
            if name in wanted or not missing:
                grown[name] = value
    if grown.keys() != wanted.keys():
        differ = min(grown.keys() ^ wanted.keys())
        raise InputError(f"growth.optimizer='grown' needs the parent's optimizer, but its state differs in {differ}")
    return from_names(fresh, grown)


def _name_in_dict(path: str) -> str:
    """Return how the name of a leaf ends that follows a parameter: "['embed']"."""
    key = jax.tree_util.DictKey(path)
    return jax.tree_util.keystr((key,))


def combine(run: Run, plan: operators.Plan, params: Params, batch: Batch) -> dict[str, np.ndarray]:
    """Learn how to grow: train the combination on the run's own loss with everything else as it is, then apply it.

    growth.learn_steps steps of Adam (LiGO, Wang et al. 2023). On one device: the combination is not split over a mesh.
    """
    source = dict(plan.widened(params))
    adam = optax.adam(run.growth.learn_lr)

    @jax.jit
    def update(learned: Arrays, opt: Any, source: Arrays, tokens_BT: Array) -> tuple[Arrays, Any, Array]:
        def loss(learned: Arrays) -> Array:
            grown = plan.expand(learned, source)
            total, _ = step.objective(run, run, grown, tokens_BT)
            return total

        nats, gradient = jax.value_and_grad(loss)(learned)
        change, opt = adam.update(gradient, opt)
        changed = optax.apply_updates(learned, change)
        return cast(Arrays, changed), opt, nats

    learned = jax.tree.map(jnp.asarray, plan.combination())
    opt = adam.init(learned)
    for number in range(run.growth.learn_steps):
        tokens_BT = batch(number)
        learned, opt, _ = update(learned, opt, source, tokens_BT)
    grown = plan.expand(learned, source)
    on_host = {}
    for path, value in grown.items():
        on_host[path] = np.asarray(value)
    return on_host
