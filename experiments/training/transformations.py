"""What optimizers are made of besides optax's own pieces: clipping that may be off, decay of matrices, multiples.

A width or depth transfer gives each parameter multiples of the options (models/numerics/parametrization.py). The pieces
here apply them; experiments/training/optimizer.py applies the learning rate's, which is the same for all optimizers.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jaxtyping import Array
import optax

from models.contract import ParamInfo
from models.numerics.parametrization import Factors, is_matrix


class Parameter(NamedTuple):
    """What an optimizer knows of a parameter besides its values: role, logical axes and sizes; multiples of options."""

    info: ParamInfo
    factors: Factors

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of its logical axes."""
        return self.info.axes


Parameters = Mapping[str, Parameter]


class Chain(NamedTuple):
    """What an optimizer does to gradients, for a learning rate of 1: first `clip`, then every one of `links`.

    clip: what looks at all gradients together, such as clipping by their norm.
    links: what treats each parameter by itself, whatever other parameters are there; so that moments which lie in the
        host's memory can be fetched one parameter at a time. They are told the step's learning rate, as `lr`.
    own_axes: for state that has not its parameter's shape, by the name of its field: its logical axes. Each of them is one
        of the parameter's and has its size ("rows" may stand for "vocab", where that is not to be split).
    mean_share: where the parameters are the mean of iterates (iterates.py): how far towards it gradients are taken.

    The saved state is the tuple of their states, in this order. A leaf of it follows a parameter where `init` makes it
    from the parameter by a tree.map over all of them; it then has the parameter's shape, is split over devices as the
    parameter is, grows with it, and may lie with the host; but for its own axes and growth where the chain gives it some.
    All else is a number.
    """

    clip: optax.GradientTransformation
    links: tuple[optax.GradientTransformation, ...]
    own_axes: Mapping[str, Callable[[Parameter], tuple[str, ...]]] = MappingProxyType({})
    mean_share: Any = None


STACKED = ("layers", "experts", "pair")  # axes along which whole matrices stand side by side


def own_axes(axes: Sequence[str]) -> tuple[int, ...]:
    """Return which logical axes are those of one matrix or vector of a stack."""
    return tuple(axis for axis, name in enumerate(axes) if name not in STACKED)


def holds_matrices(axes: Sequence[str]) -> bool:
    """Say whether a parameter with these logical axes is a matrix of two axes, or a stack of such."""
    return len(own_axes(axes)) == 2


def matrix_axes(axes: Sequence[str]) -> tuple[int, int]:
    """Return which logical axes are the two of each matrix, where `holds_matrices`."""
    first, last = own_axes(axes)
    return first, last


def by_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Apply a function to the path and the value of every parameter of a tree, such that optax sees whose they are."""
    return jax.tree_util.tree_map_with_path(lambda keys, leaf: function(keys[-1].key, leaf), tree)


def times(arrays: Mapping[str, Array], multiples: Mapping[str, float]) -> dict[str, Array]:
    """Multiply each parameter's array by its number. Where that is 1 the array stays, so that nothing is compiled."""
    out = {}
    for path, array in arrays.items():
        multiple = multiples[path]
        out[path] = array if multiple == 1 else array * multiple
    return out


def clip_by_norm(norm: Any) -> optax.GradientTransformation:
    """Clip all gradients together to a norm; None: not at all."""
    if norm is None:
        return optax.identity()
    return optax.clip_by_global_norm(norm)


def among(paths: Set[str], inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let a transformation see some parameters only. The others' updates stay as they are, and its state leaves them out."""

    # Not a mask of all parameters: updates may come one parameter at a time.
    def mask(tree: Mapping[str, Any]) -> dict[str, bool]:
        return {path: path in paths for path in tree}

    return optax.masked(inner, mask)


def of_sized_gradients(inner: optax.GradientTransformation, parameters: Parameters) -> optax.GradientTransformation:
    """Let a transformation see each gradient over the size that its parameter's gradients have."""
    inverse_sizes = {path: 1 / parameter.factors.gradient_size for path, parameter in parameters.items()}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return inner.update(times(updates, inverse_sizes), state, params)

    return optax.GradientTransformation(inner.init, update)


def decay_mask(axes: Mapping[str, tuple[str, ...]]) -> dict[str, bool]:
    """Say for each parameter whether it decays: it has two or more axes besides the stack of layers; no norm, no bias."""
    return {path: is_matrix(names) for path, names in axes.items()}


def decay_matrices(weight_decay: Any, parameters: Parameters) -> optax.GradientTransformation:
    """Add matrices times weight_decay, and times their own multiple of it, to the updates (decoupled decay)."""
    mask = decay_mask({path: parameter.axes for path, parameter in parameters.items()})
    multiples = {path: parameter.factors.weight_decay for path, parameter in parameters.items()}

    # Not a mask of all parameters: updates may come one parameter at a time.
    def mask_of(updates: Mapping[str, Array]) -> dict[str, bool]:
        return {path: mask[path] for path in updates}

    decay = optax.add_decayed_weights(weight_decay, mask_of)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return decay.update(updates, state, times(params, multiples))

    return optax.GradientTransformation(decay.init, update)
