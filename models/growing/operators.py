"""Turn a trained model's parameters into the initial parameters of a larger one.

Du et al. 2024 (arXiv 2405.15319) order the growth operators by what a new element starts as, in depth and in width:

    direct  a copy: layers again (G_stack), channels again with what reads them shared out among the copies (Net2Net)
    learn   a combination of all old ones that is trained first (LiGO, Wang et al. 2023)
    zero    something that adds nothing yet: the larger model is the same function
    random  a fresh value behind a mask that rises from 0 to 1 while the larger model trains (MSG, Yao et al. 2024)

and `aki` in width: a copy as in direct, whose output channels come from the layer after (bert2BERT, Chen et al. 2022).
Everything follows from the roles and the logical axes of the parameters, so it holds for all families. What is the same
function: zero, in depth, and in width where norms are RMSNorm and norm_eps shrinks with the width; random while its mask
is 0; direct in width where every channel has equally many copies and norms do not round (not in the matmul_free family,
whose matrices have one scale each). models/growing/upcycling.py turns a dense model into a mixture of experts.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float
import numpy as np

from models.growing import depth, learned, masks, width
from models.growing.check import check
from models.growing.layout import Layout, same
from models.growing.noise import add_noise
from models.growing.options import Growth
from models.growing.plan import GrowingParameter, growing_parameters

Params = Mapping[str, Float[np.ndarray, "..."]]


class Plan:
    """What becomes of every parameter of a model that grows: maps of its axes, and the operators on them.

    `seed` decides which channels are copied and the noise. Raises InputError for models or parameters that do not fit.
    """

    def __init__(self, source: Layout, target: Layout, how: Growth, seed: int):
        check((source.family, source.cfg), (target.family, target.cfg), how)
        self.how = how
        self.parameters = growing_parameters(source, target, how, seed)
        self._seed = seed
        self._old = source.cfg
        self._new = target.cfg
        self._tied = target.tied
        self._same = same(source, target)

    # --- copies, zeros and random values

    def grow(self, params: Params, fresh: Params, moments: bool = False) -> dict[str, Float[np.ndarray, "..."]]:
        """Return the larger model's parameters; `fresh` are its own initial ones, for what starts as a random value.

        `moments`: the same for Adam's moments of the parameters: copies are whole, and what is new starts at zero.
        """
        if self.learns:
            raise ValueError("a learned growth needs `expand`")
        grown = {}
        for path, value in params.items():
            one = self.parameters[path]
            start = np.zeros_like(fresh[path]) if moments else np.array(fresh[path])
            value = np.asarray(value)
            if one.depth is None:
                value = self._widen(one, value, start, moments)
            else:
                in_old_layers = start[~one.depth.new]
                value = self._widen(one, value, in_old_layers, moments)
                value = depth.deepen(one, one.depth, value, start, operator=self.how.depth, moments=moments)
            grown[path] = value
        if moments or self._same:
            return grown
        return {
            path: add_noise(self.parameters[path], value, self._new, self.how, self._seed)
            for path, value in grown.items()
        }

    def _widen(self, one: GrowingParameter, value: np.ndarray, fresh: np.ndarray, moments: bool) -> np.ndarray:
        """Grow one parameter in width by the chosen operator; those of no wider axis stay."""
        if not one.is_wider:
            return value
        operator = self.how.width
        if operator in ("direct", "aki"):
            return self._copy(one, value, moments)
        joined = width.joined_heads(self._old, self._new)
        return width.put_beside_new(one, value, fresh, zero=operator == "zero", joined=joined, moments=moments)

    def _copy(self, one: GrowingParameter, value: np.ndarray, moments: bool) -> np.ndarray:
        aki = self.how.width == "aki"
        shares_of_head = self._tied and one.target.is_last_norm
        return width.copy_channels(one, value, aki=aki, shares_of_head=shares_of_head, moments=moments)

    # --- random values behind masks

    def added(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Return by path what a mask multiplies: see `masks.new_entries`."""
        return {path: masks.new_entries(one, self.how) for path, one in self.parameters.items()}

    # --- a learned combination

    @property
    def learns(self) -> bool:
        """Whether the combination has to be trained before the model can start."""
        in_depth = any(one.depth is not None for one in self.parameters.values())
        in_width = any(one.is_wider for one in self.parameters.values())
        return (self.how.depth == "learn" and in_depth) or (self.how.width == "learn" and in_width)

    @property
    def _grouped(self) -> bool:
        return getattr(self._old, "kv_heads", None) != getattr(self._old, "heads", None)

    def combination(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Return the matrices with which the combination starts."""
        return learned.first_combination(self.parameters, self.how, self._seed, self._grouped)

    def widened(self, params: Params) -> Params:
        """Return what the combination starts from: the old parameters, wide already where only depth is learned."""
        if self.how.width == "learn":
            return params
        return {path: self._copy(self.parameters[path], value, False) for path, value in params.items()}

    def expand(self, matrices: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Float[Array, "..."]]:
        """Return the larger model's parameters as the combination has them, from those of `widened`; differentiable."""
        return learned.expand(self.parameters, matrices, params, self.how, self._grouped)
