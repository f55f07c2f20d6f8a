"""A trained model's parameters as the initial parameters of a larger one: the growth operators.

Du et al. 2024 (arXiv 2405.15319) order them by what a new element starts as, in depth and in width:

    direct  a copy: layers again (G_stack), channels again with what reads them shared out among the copies (Net2Net)
    learn   a combination of all old ones that is trained first (LiGO, Wang et al. 2023)
    zero    something that adds nothing yet: the larger model is the same function
    random  a fresh value behind a mask that rises from 0 to 1 while the larger model trains (MSG, Yao et al. 2024)

and `aki` in width: a copy as in direct, whose output channels come from the layer after (bert2BERT, Chen et al. 2022).
Everything follows from the logical axes of the parameters, so it holds for all families. What is the same function:
zero, in depth, and in width where norms are RMSNorm and norm_eps shrinks with the width; random while its mask is 0;
direct in width where every channel has equally many copies and norms do not round (not in the matmul_free family, whose
matrices have one scale each). models/growing/upcycling.py turns a dense model into a mixture of experts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from models.errors import InputError
from models.growing import maps as growth_maps
from models.growing.check import check
from models.growing.maps import Map
from models.growing.options import Growth, Layout

Params = Mapping[str, Float[np.ndarray, "..."]]

_ELEMENTS, _HEADS = ("embed", "columns", "norm", "ff"), ("heads", "kv_heads")
_CLOSED = -20.0  # below the others before a softmax: a share of e^-20


def same(source: Layout, target: Layout) -> bool:
    """Whether two models have the same parameters, so that nothing has to grow."""
    return source.family == target.family and dict(source.shapes) == dict(target.shapes)


def input_axis(path: str, axes: Sequence[str]) -> int | None:
    """Which axis of a matrix its input is contracted with; None for vectors and look-up tables."""
    own = [i for i, name in enumerate(axes) if name not in ("layers", "experts")]
    if len(own) < 2 or axes[own[0]] == "rows":
        return None
    transposed = path.endswith("/key") and axes[own[0]] == "ff"  # a Pattention's keys stand in rows
    return own[-1] if transposed else own[0]


def is_scale(path: str, axes: Sequence[str]) -> bool:
    """Whether a parameter multiplies what a norm has made of unit size."""
    return sum(name != "layers" for name in axes) == 1 and path.endswith(("/scale", "/norm"))


def writes(path: str, axes: Sequence[str]) -> bool:
    """Whether a parameter of a layer is the last on the way to the residual stream."""
    inside = {"query", "key", "value"} & set(path.split("/")[:-1])
    return axes[0] == "layers" and axes[-1] == "embed" and not inside and not path.endswith("/key")


class Plan:
    """What becomes of every parameter: the maps of its axes, and the operators on them.

    `seed` decides which channels are copied and the noise. Raises InputError for parameters that do not fit.
    """

    def __init__(self, source: Layout, target: Layout, how: Growth, seed: int):
        check(source[:2], target[:2], how)
        self.source, self.target, self.how, self.seed = source, target, how, seed
        if differ := sorted(source.axes.keys() ^ target.axes.keys()):
            raise InputError(
                f"parameter {differ[0]} is in one of the two models only: the parent cannot be grown to this"
            )
        self._maps: dict[tuple[Any, ...], Map] = {}
        self.widths = {path: self._of_width(path) for path in target.axes}
        self.depths = {path: self._of_depth(path) for path in target.axes}

    def _of_width(self, path: str) -> list[Map | None]:
        names, sizes = self.target.axes[path], zip(self.source.shapes[path], self.target.shapes[path], strict=True)
        return [
            None if old == new or name == "layers" else self._map(path, name, old, new)
            for name, (old, new) in zip(names, sizes, strict=True)
        ]

    def _map(self, path: str, name: str, old: int, new: int) -> Map:
        how, key = self.how, (name if name in _HEADS else "", old, new)
        if key in self._maps:
            return self._maps[key]
        if name in _HEADS:
            sizes = [(cfg.heads, cfg.kv_heads) for cfg in (self.source.cfg, self.target.cfg)]
            both = growth_maps.heads(*sizes, how.width_map, self.seed)
            index = growth_maps.of_heads(both[_HEADS.index(name)], self.target.cfg.head_size)
        elif name in _ELEMENTS:
            index = growth_maps.elements(old, new, how.width_map, self.seed)
        else:
            raise InputError(f"parameter {path} has {new} {name}, the parent's {old}; this cannot be grown")
        uneven = np.random.default_rng([self.seed, old, new, 1]) if how.split == "uneven" else None
        return self._maps.setdefault(key, growth_maps.of_index(index, uneven))

    def _of_depth(self, path: str) -> Map | None:
        old, new = (layout.shapes[path][0] for layout in (self.source, self.target))
        if self.target.axes[path][0] != "layers" or old == new:
            return None
        how = self.how
        return growth_maps.of_index(growth_maps.layers(old, new, how.order, how.first, how.last))

    # --- values

    def grow(self, params: Params, fresh: Params, moments: bool = False) -> dict[str, Float[np.ndarray, "..."]]:
        """The larger model's parameters; `fresh` are its own initial ones, for what starts as a random value.

        `moments`: the same for Adam's moments of the parameters: copies are whole, and what is new starts at zero.
        """
        if self.learns:
            raise ValueError("a learned growth needs `expand`")
        out = {}
        for path, value in params.items():
            start = np.zeros_like(fresh[path]) if moments else np.array(fresh[path])
            depth = self.depths[path]
            rows = start if depth is None else start[~depth.new]
            wide = self._widen(path, np.asarray(value), rows, moments)
            deep = wide if depth is None else self._deepen(path, wide, start, depth, moments)
            out[path] = deep if moments else self._noisy(path, deep)
        return out

    def _widen(self, path: str, value: np.ndarray, fresh: np.ndarray, moments: bool) -> np.ndarray:
        maps, axes = self.widths[path], self.target.axes[path]
        if not any(maps):
            return value
        reads, operator = input_axis(path, axes), self.how.width
        if operator in ("direct", "aki"):
            return self._copied(path, value, moments)
        old = np.ix_(
            *(range(n) if m is None else np.flatnonzero(~m.new) for n, m in zip(fresh.shape, maps, strict=True))
        )
        for axis, m in enumerate(maps):
            if m is not None:
                value = value.take(m.index[~m.new], axis)
        if is_scale(path, axes):
            # Old channels have to come out of the norm as they did, though its mean now counts zeros as well.
            value = value if moments else value * (value.shape[-1] / fresh.shape[-1]) ** 0.5
        elif operator == "zero" and not moments:
            outputs = _any_new(maps, fresh.shape, [axis for axis in range(len(axes)) if axis != reads])
            entered = maps[reads].new if reads is not None and maps[reads] is not None else None
            inputs = False if entered is None else _along(entered, reads, len(axes))
            fresh = np.where(outputs & ~np.asarray(inputs), 0, fresh)
        if reads is not None and axes[reads] == "heads" and maps[reads] is not None:
            fresh[(slice(None),) * reads + (self._joined(),)] = 0
        fresh[old] = value
        return fresh

    def _joined(self) -> np.ndarray:
        """Dimensions of new query heads that read an old key-value head, whose values are not zero as a new one's are."""
        old, new = self.source.cfg, self.target.cfg
        head = np.arange(new.heads)
        group, member = head // (new.heads // new.kv_heads), head % (new.heads // new.kv_heads)
        joined = (group < old.kv_heads) & (member >= old.heads // old.kv_heads)
        return np.repeat(joined, new.head_size)

    def _copied(self, path: str, value: np.ndarray, moments: bool) -> np.ndarray:
        """Net2Net, and aki's exchange of the new output channels for the next layer's."""
        maps, axes = self.widths[path], self.target.axes[path]
        reads, after = input_axis(path, axes), value
        # A tied head reads the last norm: there the shares go into its scale.
        shared = reads if reads is not None else (len(axes) - 1 if self._tied_norm(path) else None)
        if self.how.width == "aki" and axes[0] == "layers" and not is_scale(path, axes):
            after = np.concatenate([value[1:], value[-1:]])
        new = np.zeros((), bool)
        for axis, m in enumerate(maps):
            if m is None:
                continue
            share = _along(m.share, axis, len(axes)).astype(value.dtype) if axis == shared and not moments else 1
            value, after = (v.take(m.index, axis) * share for v in (value, after))
            if axis != reads:
                new = new | _along(m.new, axis, len(axes))
        return np.where(new, after, value)

    def _tied_norm(self, path: str) -> bool:
        return getattr(self.target.cfg, "tied", False) and path in ("norm/scale", "norm/bias")

    def _deepen(self, path: str, value: np.ndarray, fresh: np.ndarray, depth: Map, moments: bool) -> np.ndarray:
        out, new = value[depth.index], depth.new
        if self.how.depth == "direct":
            return out
        out[new] = fresh[new]
        if moments:
            return out
        if path == "gamma":  # matmul_free: floors add up over layers by a softmax; a new one shall add nothing
            out[new] = out[~new].min(axis=0) + _CLOSED
        elif self.how.depth == "zero" and writes(path, self.target.axes[path]):
            out[new] = 0
        return out

    def _noisy(self, path: str, value: np.ndarray) -> np.ndarray:
        """W <- (1 - noise) W + noise e, with e as prts draws it: variance 2 / (5 d), behind a layer's output 1 / (d l^2)."""
        axes, cfg, share = self.target.axes[path], self.target.cfg, self.how.noise
        if not share or axes[0] != "layers" or input_axis(path, axes) is None or same(self.source, self.target):
            return value
        std = 1 / (cfg.width**0.5 * cfg.depth) if writes(path, axes) else (0.4 / cfg.width) ** 0.5
        draw = np.random.default_rng([self.seed, *path.encode()])
        return ((1 - share) * value + share * std * draw.standard_normal(value.shape)).astype(value.dtype)

    # --- random: masks

    def added(self) -> dict[str, Float[np.ndarray, "..."]]:
        """1 for what a mask multiplies, else 0; by path, with size 1 along axes that it does not depend on.

        Masked are a matrix's new output channels, and what a new layer writes: so the new parts add nothing at first.
        """
        out = {path: np.zeros(shape, np.float32) for path, shape in mask_shapes(self.target).items()}
        for path, axes in self.target.axes.items():
            if is_scale(path, axes):
                continue
            maps, depth = self.widths[path], self.depths[path]
            if self.how.width == "random":
                outputs = [axis for axis in range(len(axes)) if axis != input_axis(path, axes)]
                out[path] += _any_new(maps, out[path].shape, outputs)
            if self.how.depth == "random" and depth is not None and writes(path, axes):
                out[path] = np.maximum(out[path], _along(depth.new, 0, len(axes)))
        return out

    # --- learn

    @property
    def learns(self) -> bool:
        """Whether the combination has to be trained before the model can start."""
        deep = self.how.depth == "learn" and any(m is not None for m in self.depths.values())
        return deep or (self.how.width == "learn" and any(any(maps) for maps in self.widths.values()))

    def combination(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Where the combination starts: identities again and again in depth, an identity above noise in width."""
        out, draw = {}, np.random.default_rng([self.seed, 2])
        for path in sorted(self.target.axes):
            depth = self.depths[path]
            if self.how.depth == "learn" and depth is not None:
                out[f"depth:{path}"] = np.eye(depth.source, dtype=np.float32)[depth.index]
            for axis, m in enumerate(self.widths[path] if self.how.width == "learn" else ()):
                if m is not None and (key := self._key(path, axis)) not in out:
                    old, new = self.source.shapes[path][axis], len(m.index)
                    noise = draw.normal(0, new**-0.5, (new - old, old))
                    out[key] = np.concatenate([np.eye(old), noise]).astype(np.float32)
        return out

    def _key(self, path: str, axis: int) -> str:
        """The matrix that widens an axis. Query, key and value have one each; a layer's output reads the value's."""
        name, module = self.target.axes[path][axis], path.split("/")[-2] if "/" in path else ""
        if name not in _HEADS:
            return f"width:{'ff' if name == 'ff' else 'embed'}:{self.source.shapes[path][axis]}"
        grouped = self.source.cfg.heads != self.source.cfg.kv_heads
        return f"width:{'value' if module == 'out' and not grouped else module}"

    def widened(self, params: Params) -> Params:
        """What the combination starts from: the old parameters, wide already where only depth is learned."""
        return params if self.how.width == "learn" else {p: self._copied(p, v, False) for p, v in params.items()}

    def expand(self, learned: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Float[Array, "..."]]:
        """The larger model's parameters as the combination has them, from those of `widened`; differentiable."""
        out = {}
        for path, value in params.items():
            for axis, m in enumerate(self.widths[path] if self.how.width == "learn" else ()):
                if m is not None:
                    value = jnp.moveaxis(jnp.tensordot(value, learned[self._key(path, axis)], (axis, 1)), -1, axis)
            if (depth := self.depths[path]) is not None:
                mix = learned.get(f"depth:{path}")
                value = value[depth.index] if mix is None else jnp.tensordot(mix, value, 1)
            out[path] = jnp.asarray(value)
        return out


def _along(values: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """A vector as an array that varies along one axis."""
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _any_new(maps: Sequence[Map | None], shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Whether an entry is new along one of `axes`."""
    new = np.zeros([1] * len(shape), bool)
    for axis in axes:
        if (m := maps[axis]) is not None:
            new = new | _along(m.new, axis, len(shape))
    return new


def mask_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Shapes of a program's masks: those of the parameters, with size 1 along the input and over experts."""
    return {
        path: tuple(
            1 if name == "experts" or axis == input_axis(path, axes) else size
            for axis, (name, size) in enumerate(zip(axes, layout.shapes[path], strict=True))
        )
        for path, axes in layout.axes.items()
    }


def masked(
    params: dict[str, Float[Array, "..."]], added: Mapping[str, Float[Array, "..."]], tokens: Any, ramp_tokens: Any
) -> dict[str, Float[Array, "..."]]:
    """Parameters with what is new multiplied by min(1, tokens / ramp_tokens); as they are where there is no ramp."""
    share = jnp.where(ramp_tokens > 0, jnp.minimum(1.0, tokens / jnp.maximum(ramp_tokens, 1)), 1.0)
    return jax.tree.map(lambda p, new: p * (1 - new * (1 - share)), params, dict(added))
