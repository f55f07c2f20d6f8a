"""Name the points of a grid for a reader, by what sets them apart."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.study.grid import Point, column

Shown = dict[str, Any]  # keys and tags of a point that may be a part of its label


def point_labels(grid: Sequence[Point]) -> list[str]:
    """Label each point by its group, and the tags and keys in which it differs from others and that no rule has set.

    A label that is not unique gets a number.
    """
    candidates = [_candidates(point) for point in grid]
    varying = _varying(candidates)
    labels = []
    count = collections.Counter()
    for point, candidate in zip(grid, candidates, strict=True):
        shown = {key: value for key, value in candidate.items() if key in varying}
        label = _label(point, shown)
        count[label] += 1
        if count[label] > 1:
            label = f"{label} ({count[label]})"
        labels.append(label)
    return labels


def _candidates(point: Point) -> Shown:
    """Return the keys and tags of a point, but for what a rule has set, and for the group."""
    ruled = _set_by_rules(point.tags)
    shown: Shown = {}
    for key, value in point.values.items():
        if column(key) not in ruled:
            shown[key] = value
    parent = shown.get("parent")
    if isinstance(parent, Point):
        shown["parent"] = f"({_apart_from_child(parent, point)})"
    for name, value in point.tags.items():
        if name != "group" and not name.startswith("rule_"):
            shown[name] = value
    return shown


def _set_by_rules(tags: Mapping[str, Any]) -> set[str]:
    """Return the columns of keys that a rule has set. A rule that is scaled is an axis: its values are shown."""
    ruled = set()
    for name, rule in tags.items():
        if name.startswith("rule_") and " x " not in str(rule):
            ruled.add(name.removeprefix("rule_"))
    return ruled


def _apart_from_child(parent: Point, child: Point) -> Point:
    """Return the keys of a parent that it has not in common with its child."""
    own = {}
    for key, value in parent.values.items():
        if key != "parent" and child.values.get(key) != value:
            own[key] = value
    return Point(own)


def _varying(candidates: Sequence[Shown]) -> set[str]:
    """Return the keys that have several values, or that some points lack."""
    values: dict[str, set[str]] = collections.defaultdict(set)
    present = collections.Counter()
    for candidate in candidates:
        present.update(candidate.keys())
        for key, value in candidate.items():
            values[key].add(repr(value))
    varying = set()
    for key, found in values.items():
        everywhere = present[key] == len(candidates)
        if len(found) > 1 or not everywhere:
            varying.add(key)
    return varying


def _label(point: Point, shown: Shown) -> str:
    """Join the group of a point and what is shown of it."""
    group = str(point.tags.get("group", ""))
    differences = str(Point(shown))
    return f"{group} {differences}".strip() or "run"
