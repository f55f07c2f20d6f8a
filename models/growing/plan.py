"""Find where the elements of every parameter of a larger model come from: maps of its layers, channels and heads.

What an operator does with old and new elements is left to width.py, depth.py, masks.py and learned.py.
"""

import dataclasses

from jaxtyping import Integer
import numpy as np

from models.contract import ParamInfo
from models.errors import InputError
from models.growing import maps
from models.growing.layout import Layout
from models.growing.maps import Map
from models.growing.options import Growth

HEAD_AXES = ("heads", "kv_heads")  # of size heads times head_size
_CHANNEL_AXES = ("embed", "columns", "norm", "ff")


@dataclasses.dataclass(frozen=True)
class GrowingParameter:
    """A parameter of both models and the maps of its axes; None for an axis that stays as it is."""

    path: str
    source: ParamInfo
    target: ParamInfo
    widths: tuple[Map | None, ...]  # one for each axis; never of layers
    depth: Map | None  # of layers

    @property
    def is_wider(self) -> bool:
        """Whether an axis besides the layers grows."""
        return any(width is not None for width in self.widths)

    @property
    def wider_axes(self) -> list[tuple[int, Map]]:
        """The axes that grow, besides the layers, and their maps."""
        return [(axis, width) for axis, width in enumerate(self.widths) if width is not None]


def growing_parameters(source: Layout, target: Layout, how: Growth, seed: int) -> dict[str, GrowingParameter]:
    """Find the maps of every parameter by path. `seed` decides which channels are copied.

    Raises InputError for parameters that are in one model only, or of which an axis grows that has no map.
    """
    only_one = sorted(source.parameters.keys() ^ target.parameters.keys())
    if only_one:
        raise InputError(
            f"parameter {only_one[0]} is in one of the two models only: the parent cannot be grown to this"
        )
    found = {}
    for path, new in target.parameters.items():
        old = source.parameters[path]
        widths: list[Map | None] = []
        for name, old_size, new_size in zip(new.axes, old.shape, new.shape, strict=True):
            # Layers have a map of their own: what happens to a new layer is another operator's matter.
            if name == "layers" or old_size == new_size:
                widths.append(None)
                continue
            if name in HEAD_AXES:
                index = _index_of_heads(name, source, target, how, seed)
            elif name in _CHANNEL_AXES:
                index = maps.elements(old_size, new_size, how.width_map, seed)
            else:
                raise InputError(
                    f"parameter {path} has {new_size} {name}, the parent's {old_size}; this cannot be grown"
                )
            # The draw depends on the sizes alone, so that all parameters share a channel out alike.
            uneven = np.random.default_rng([seed, old_size, new_size, 1]) if how.split == "uneven" else None
            widths.append(maps.of_index(index, uneven))
        found[path] = GrowingParameter(path, old, new, tuple(widths), _map_of_layers(old, new, how))
    return found


def _index_of_heads(name: str, source: Layout, target: Layout, how: Growth, seed: int) -> Integer[np.ndarray, "T"]:
    """Find the source of each dimension of the query heads, or of the key-value heads."""
    old_heads = (source.cfg.heads, source.cfg.kv_heads)
    new_heads = (target.cfg.heads, target.cfg.kv_heads)
    of_queries, of_groups = maps.heads(old_heads, new_heads, how.width_map, seed)
    return maps.of_heads(of_queries if name == "heads" else of_groups, target.cfg.head_size)


def _map_of_layers(old: ParamInfo, new: ParamInfo, how: Growth) -> Map | None:
    """Find the source of each layer; None for what is not in the layers, or where they are as many."""
    old_depth = old.shape[0]
    new_depth = new.shape[0]
    if not new.in_layers or old_depth == new_depth:
        return None
    return maps.of_index(maps.layers(old_depth, new_depth, how.order, how.first, how.last))
