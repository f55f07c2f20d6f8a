"""The learning rate as a function of tokens, and the optax chain.

Both take a `Run` whose runtime options may be traced numbers: one compiled program serves every learning rate,
schedule length and decay. (optax's own schedules branch on their arguments in Python, so they cannot.)
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array
import optax

from experiments.run.schema import Run
from experiments.training.offload import in_turn
from models.mesh.rules import is_axes
from models.numerics.parametrization import Factors, is_matrix


def decay_mask(axes: Any) -> Any:
    """Weight decay touches what has two or more axes besides the stack of layers: no norm, no bias."""
    return jax.tree.map(is_matrix, axes, is_leaf=is_axes)


def transform(run: Run, axes: dict[str, Any], offload: str = "none") -> optax.GradientTransformation:
    """Clipping, Adam moments and decoupled weight decay. The learning rate is applied by the train step.

    `axes` has the logical axis names of the parameters by path. Where the model's parametrization asks for it, each
    parameter has its own multiple of the learning rate, of weight_decay and of eps (models/numerics/parametrization.py).
    `offload` "optimizer": the moments come from the host's memory and go back there (experiments/training/offload.py).
    """
    opt, factors = run.opt, {path: run.model.factors(path, names) for path, names in axes.items()}
    clip = optax.clip_by_global_norm(opt.clip_norm) if opt.clip_norm is not None else optax.identity()
    adam = optax.scale_by_adam(b1=opt.beta1, b2=opt.beta2, eps=opt.eps)
    mask = decay_mask(axes)
    decay = lambda tree: optax.add_decayed_weights(opt.weight_decay, {path: mask[path] for path in tree})  # noqa: E731
    chain = optax.chain(clip, adam, decay(axes))

    def times(tree: dict[str, Any], factor: Callable[[Factors], float]) -> dict[str, Any]:
        numbers = {path: factor(factors[path]) for path in tree}
        return {path: leaf if numbers[path] == 1 else leaf * numbers[path] for path, leaf in tree.items()}

    def change(grads: Any, state: Any, params: Any) -> tuple[Any, Any, Any]:
        # Adam takes one eps. Its result does not change when gradients and eps shrink together, so that gradients over c
        # do what c eps would do: one Adam, whose state has one shape. Clipping looks at the gradients as they are.
        updates, moments = adam.update(times(grads, lambda f: 1 / f.eps), state[1], params)
        updates, decayed = decay(updates).update(updates, state[2], times(params, lambda f: f.weight_decay))
        return times(updates, lambda f: f.lr), moments, decayed

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        grads, clipped = clip.update(grads, state[0], params)
        if offload == "none":
            updates, moments, decayed = change(grads, state, params)
            return updates, (clipped, moments, decayed)
        adams, count = state[1], None

        def one(path: str, moments: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            nonlocal count
            mu, nu = ({path: moment} for moment in moments)
            alone = (clipped, adams._replace(mu=mu, nu=nu), state[2])
            updates, after, _ = change({path: grads[path]}, alone, {path: params[path]})
            count = after.count
            return updates[path], (after.mu[path], after.nu[path])

        updates, kept = in_turn(one, params, {path: (adams.mu[path], adams.nu[path]) for path in grads})
        mu, nu = ({path: pair[i] for path, pair in kept.items()} for i in (0, 1))
        return updates, (clipped, adams._replace(count=count, mu=mu, nu=nu), state[2])

    return optax.GradientTransformation(chain.init, update)
