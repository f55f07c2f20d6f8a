"""The state of a run under way, and names for its leaves: those that a checkpoint has them under."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax


class TrainState(NamedTuple):
    """One run's parameters by path, optimizer state, steps done, and means of the parameters (None: it keeps none).

    Leaves are arrays, on devices or on the host; or what is said of each of them: shapes, logical axes, shardings. In a
    program all have an axis of slots in front. What reads a checkpoint may ask for less: `opt` and `step` are None then.
    """

    params: dict[str, Any]
    opt: Any
    step: Any
    averages: Any = None


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by name, in the tree's order: ".opt[1].mu['embed']"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def from_names(like: Any, leaves: Mapping[str, Any]) -> Any:
    """Return a tree like `like` with other leaves, given by name. Raises KeyError for a name that is missing."""
    ordered = [leaves[name] for name in named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), ordered)
