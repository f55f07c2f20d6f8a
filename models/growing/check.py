"""Check that one model can become another by growing or upcycling."""

import dataclasses
from typing import Any

from models.errors import InputError
from models.growing import maps as growth_maps
from models.growing import upcycling
from models.growing.options import SIZES, Growth, may_differ


def check(source: tuple[str, Any], target: tuple[str, Any], how: Growth) -> None:
    """Raises InputError, naming the fields, where the model of `source` (family, Config) cannot become `target`'s."""
    (family, old), (new_family, new) = source, target
    if family != new_family:
        upcycling.check(source, target)
        if how.masked or "learn" in (how.depth, how.width):
            raise InputError("growth.depth and growth.width take no part in upcycling; expected 'direct'")
        return
    fixed = ("width", "heads") if family == "tokenformer" else ()  # it grows by parameter tokens
    for field in dataclasses.fields(old):
        before, now = getattr(old, field.name), getattr(new, field.name)
        if may_differ(field) or before == now:
            continue
        if field.name in SIZES and field.name not in fixed and now > before:
            continue
        what = "is less than" if field.name in SIZES and now < before else "differs from"
        raise InputError(f"model.{field.name}={now!r} {what} the parent's {before!r}; this cannot be grown")
    if old.depth != new.depth:
        front = getattr(old, "dense_first", 0)
        whole = how.depth in ("direct", "learn")
        growth_maps.check_layers(old.depth - front, new.depth - front, how.order, how.first, how.last, whole)
    if old.depth != new.depth or old.width != new.width:
        if getattr(old, "layerwise", False):
            raise InputError("model.layerwise=True: layers of unequal size cannot be grown; expected False")
    if (old.width_ratio, old.depth_ratio) != (new.width_ratio, new.depth_ratio):
        raise InputError(
            f"model.parametrization={new.parametrization!r}: what the parent learned would be multiplied by other factors at "
            "the new size; expected 'standard'"
        )
    if hasattr(old, "kv_heads") and new.heads // new.kv_heads < old.heads // old.kv_heads:
        raise InputError(
            f"model.heads={new.heads} and model.kv_heads={new.kv_heads} have fewer query heads for a key-value head "
            f"than the parent's {old.heads} and {old.kv_heads}"
        )
