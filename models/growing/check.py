"""Check that one model can become another by growing or upcycling."""

import dataclasses
from typing import Any

from models.errors import InputError
from models.growing import maps, upcycling
from models.growing.options import Growth, is_size, may_differ

UNCHANGED = "with tokens=0 the parent is evaluated as it stands"


def check(source: tuple[str, Any], target: tuple[str, Any], how: Growth) -> None:
    """Raise InputError, naming the fields, where the model of `source` (family, Config) cannot become `target`'s."""
    family, old = source
    new_family, new = target
    if family != new_family:
        upcycling.check(source, target)
        if how.masked or "learn" in (how.depth, how.width):
            raise InputError("growth.depth and growth.width take no part in upcycling; expected 'direct'")
        return
    _check_options(old, new)
    if old.depth != new.depth:
        _check_depth(old, new, how)
    if old.depth != new.depth or old.width != new.width:
        if getattr(old, "layerwise", False):
            raise InputError("model.layerwise=True: layers of unequal size cannot be grown; expected False")
    if (old.width_ratio, old.depth_ratio) != (new.width_ratio, new.depth_ratio):
        raise InputError(
            f"model.parametrization={new.parametrization!r}: what the parent learned would be multiplied by other "
            "factors at the new size; expected 'standard'"
        )
    if hasattr(old, "kv_heads"):
        _check_heads(old, new)


def check_unchanged(source: tuple[str, Any], target: tuple[str, Any]) -> None:
    """Raise InputError, naming the field, where a model is not that of `source` (family, Config) but for its free options."""
    family, old = source
    new_family, new = target
    if family != new_family:
        raise InputError(f"family={new_family!r} differs from the parent's {family!r}; {UNCHANGED}")
    for field in dataclasses.fields(old):
        before = getattr(old, field.name)
        now = getattr(new, field.name)
        if before != now and not may_differ(field):
            raise InputError(f"model.{field.name}={now!r} differs from the parent's {before!r}; {UNCHANGED}")


def _check_options(old: Any, new: Any) -> None:
    """Check that only sizes grow, and that other options differ only where they do not change the meaning."""
    for field in dataclasses.fields(old):
        before = getattr(old, field.name)
        now = getattr(new, field.name)
        if before == now or may_differ(field):
            continue
        if not is_size(field):
            raise _cannot_grow(field.name, before, now, "differs from")
        if now < before:
            raise _cannot_grow(field.name, before, now, "is less than")


def _cannot_grow(name: str, before: Any, now: Any, relation: str) -> InputError:
    return InputError(f"model.{name}={now!r} {relation} the parent's {before!r}; this cannot be grown")


def _check_depth(old: Any, new: Any, how: Growth) -> None:
    """Check that the order of copies gives the new depth. Layers of another kind in front are not repeated."""
    front = getattr(old, "dense_first", 0)
    every_layer_alike = how.depth in ("direct", "learn")
    maps.check_layers(old.depth - front, new.depth - front, how.order, how.first, how.last, every_layer_alike)


def _check_heads(old: Any, new: Any) -> None:
    """Check that no key-value head loses query heads that read it."""
    if new.heads // new.kv_heads < old.heads // old.kv_heads:
        raise InputError(
            f"model.heads={new.heads} and model.kv_heads={new.kv_heads} have fewer query heads for a key-value head "
            f"than the parent's {old.heads} and {old.kv_heads}"
        )
