"""Turn a dense model's parameters into a mixture of experts: sparse upcycling (Komatsuzaki et al. 2023), AquilaMoE's scale-out.

Every expert is a copy of the dense feed-forward, or of one of its slices (fine-grained: expert_ff = ff / g); routers
are new. Expert number c g + s is slice s of copy c, and the g experts of one copy start with one router column: while
they do, the top_k of a token are whole copies, if g divides top_k.

The function is the same, for any router, where the weights of the chosen sum to 1 (renormalise, or softmax_after), no
token is dropped and g divides top_k. Down matrices are multiplied by g / routed_scaling for that, and by what is
expected to be missing where the weights do not sum to 1 (softmax: experts / top_k; sigmoid: 2 / top_k). Shared experts,
where the target has them, start with a down matrix of zeros.

A family that can start so says in its file which family it starts from (UPCYCLED_FROM), and which of its parameters
continue which (`upcycled_parameter`).
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from jaxtyping import Float
import numpy as np

import models
from models.contract import ParamInfo, Role
from models.errors import InputError
from models.growing.layout import Layout
from models.growing.options import Growth, may_differ

Params = Mapping[str, Float[np.ndarray, "..."]]


def slices(source_cfg: Any, target_cfg: Any) -> int:
    """Return into how many experts one dense feed-forward is cut."""
    return source_cfg.ff // target_cfg.expert_ff


def check(source: tuple[str, Any], target: tuple[str, Any]) -> None:
    """Raise InputError, naming the fields, where `source` (family, Config) is no model that `target` continues."""
    family, old = source
    new_family, new = target
    if getattr(models.load(new_family), "UPCYCLED_FROM", None) != family:
        raise InputError(f"family={new_family!r} cannot start from a parent of family {family!r}; expected {family!r}")
    for field in dataclasses.fields(old):
        if field.name == "ff" and not new.dense_first:
            continue  # the mixture has no layer of that size
        before = getattr(old, field.name)
        now = getattr(new, field.name)
        if before != now and not may_differ(field):
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
    """Return the mixture's parameters from the dense model's; `fresh` are its own initial ones.

    `moments`: the same for Adam's moments, of which routers have none. Raises InputError for models that do not fit.
    """
    check((source.family, source.cfg), (target.family, target.cfg))
    origin_of = models.load(target.family).upcycled_parameter
    cut = slices(source.cfg, target.cfg)
    draw = np.random.default_rng([seed, 3])
    upcycled = {}
    for path, parameter in target.parameters.items():
        origin = origin_of(path, target.cfg)
        if origin is None:
            upcycled[path] = _new_parameter(parameter, fresh[path], cut, draw, how.router_std, moments)
            continue
        from_path, layers = origin
        value = params[from_path][layers]
        if "experts" in parameter.axes:
            value = _as_experts(value, source.parameters[from_path], cut, target.cfg.experts)
            if parameter.role == Role.WRITES and not moments:
                value = cut / _sum_of_weights(target.cfg) * value
        upcycled[path] = value
    return upcycled


def _sum_of_weights(cfg: Any) -> float:
    """Return what the weights of a token's experts add up to, or are expected to."""
    if cfg.renormalise or cfg.score == "softmax_after":
        return cfg.routed_scaling
    if cfg.score == "softmax":
        return cfg.routed_scaling * (cfg.top_k / cfg.experts)
    return cfg.routed_scaling * (cfg.top_k / 2)


def _as_experts(
    value: Float[np.ndarray, "Y I O"], dense: ParamInfo, cut: int, experts: int
) -> Float[np.ndarray, "Y E I2 O2"]:
    """Cut a feed-forward matrix along its hidden axis, and repeat all slices for each copy."""
    hidden = dense.axes.index("ff")
    one_copy = np.stack(np.split(value, cut, hidden), axis=1)
    return np.tile(one_copy, (1, experts // cut, 1, 1)).astype(np.float32)


def _new_parameter(
    parameter: ParamInfo, fresh: np.ndarray, cut: int, draw: np.random.Generator, router_std: float, moments: bool
) -> np.ndarray:
    """Start what the dense model has not: router columns, one a copy; shared experts that add nothing; others as fresh."""
    if moments or parameter.role == Role.WRITES:
        return np.zeros_like(fresh)
    if parameter.role == Role.ROUTER and parameter.input_axis is not None:
        layers, inputs, experts = parameter.shape
        columns = router_std * draw.standard_normal((layers, inputs, experts // cut))
        return np.repeat(columns, cut, axis=2).astype(np.float32)
    return np.array(fresh)
