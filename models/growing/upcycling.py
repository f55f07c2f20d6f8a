"""A dense model's parameters as a mixture of experts: sparse upcycling (Komatsuzaki et al. 2023), AquilaMoE's scale-out.

Every expert is a copy of the dense feed-forward, or of one of its slices (fine-grained: expert_ff = ff / g); routers
are new. Expert number c g + s is slice s of copy c, and the g experts of one copy start with one router column: while
they do, the top_k of a token are whole copies, if g divides top_k.

The function is the same, for any router, where the weights of the chosen sum to 1 (renormalise, or softmax_after), no
token is dropped and g divides top_k. Down matrices are multiplied by g / routed_scaling for that, and by what is
expected to be missing where the weights do not sum to 1 (softmax: experts / top_k; sigmoid: 2 / top_k). Shared experts,
where the target has them, start with a down matrix of zeros.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from jaxtyping import Float
import numpy as np

from models.errors import InputError
from models.growing.options import Growth, Layout, may_differ

Params = Mapping[str, Float[np.ndarray, "..."]]


def slices(source_cfg: Any, target_cfg: Any) -> int:
    """Into how many experts one dense feed-forward is cut."""
    return source_cfg.ff // target_cfg.expert_ff


def check(source: tuple[str, Any], target: tuple[str, Any]) -> None:
    """Raises InputError, naming the fields, where `source` (family, Config) is no dense model of `target`'s sizes."""
    (family, old), (new_family, new) = source, target
    if (family, new_family) != ("dense", "moe"):
        raise InputError(f"family={new_family!r} cannot start from a parent of family {family!r}; expected {family!r}")
    for field in dataclasses.fields(old):
        before, now = getattr(old, field.name), getattr(new, field.name)
        if field.name == "ff" and not new.dense_first:
            continue
        if not (before == now or may_differ(field)):
            raise InputError(f"model.{field.name}={now!r} differs from the parent's {before!r}; upcycling keeps it")
    if old.bias:
        raise InputError("model.bias=True cannot be upcycled: experts have no biases")
    if old.layerwise:
        raise InputError("model.layerwise=True cannot be upcycled: layers of unequal size")
    if old.ff % new.expert_ff:
        raise InputError(f"model.expert_ff={new.expert_ff} does not divide the parent's model.ff={old.ff}")
    if new.experts % slices(old, new):
        raise InputError(
            f"model.experts={new.experts} is not a multiple of the {slices(old, new)} slices of "
            f"model.expert_ff={new.expert_ff} that the parent's model.ff={old.ff} has"
        )


def upcycle(
    source: Layout, target: Layout, params: Params, fresh: Params, how: Growth, seed: int, moments: bool = False
) -> dict[str, Float[np.ndarray, "..."]]:
    """The mixture's parameters from the dense model's; `fresh` are its own initial ones.

    `moments`: the same for Adam's moments, of which routers have none. Raises InputError for models that do not fit.
    """
    check(source[:2], target[:2])
    old, cfg = source.cfg, target.cfg
    out = {path: np.zeros_like(value) if moments else np.array(value) for path, value in fresh.items()}
    parts, front = slices(old, cfg), cfg.dense_first
    for path, value in params.items():
        stack, _, rest = path.partition("/")
        if stack != "blocks":
            out[path] = value
            continue
        if front:
            out[f"first/{rest}"] = value[:front]
        module, _, name = rest.partition("/")
        if module != "mlp":
            out[path] = value[front:]
            continue
        scale = 1.0 if moments or not name.startswith("down") else parts / _weight(cfg)
        out[f"blocks/mlp/{name.removesuffix('/kernel')}"] = scale * _experts(value[front:], name, parts, cfg.experts)
    if not moments:
        _routers(out, cfg, parts, np.random.default_rng([seed, 3]), how.router_std)
    return out


def _weight(cfg: Any) -> float:
    """What the weights of a token's experts add up to, or are expected to."""
    if cfg.renormalise or cfg.score == "softmax_after":
        return cfg.routed_scaling
    return cfg.routed_scaling * (cfg.top_k / cfg.experts if cfg.score == "softmax" else cfg.top_k / 2)


def _experts(value: Float[np.ndarray, "Y I O"], name: str, parts: int, experts: int) -> Float[np.ndarray, "Y E I2 O2"]:
    """Slices of the hidden axis, all of them again for each copy."""
    axis = 1 if name.startswith("down") else 2
    return np.tile(np.stack(np.split(value, parts, axis), axis=1), (1, experts // parts, 1, 1)).astype(np.float32)


def _routers(out: dict[str, Any], cfg: Any, parts: int, draw: np.random.Generator, std: float) -> None:
    """New router columns, one a copy; the shared experts add nothing."""
    path, shared = "blocks/mlp/router/out/kernel", "blocks/mlp/shared/down/kernel"
    layers, rows, experts = out[path].shape
    columns = std * draw.standard_normal((layers, rows, experts // parts))
    out[path] = np.repeat(columns, parts, axis=2).astype(np.float32)
    if shared in out:
        out[shared] = np.zeros_like(out[shared])
