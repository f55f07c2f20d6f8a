"""Make grids: a grid is a tuple of points, a point is a few config keys with their values.

    over("model.width", 128, 256)                 one key, several values
    cases({"seq_len": 128, "seed": 1}, …)         several keys that belong together
    product(a, b)                                 every combination
    chain(a, b)                                   one after the other
    tag(grid, group="isoflop")                    names for the reader and the fit; not part of a run
    derive(grid, "opt.lr", rules.step_law_lr)     a key by a rule of the others
    branch(trunk, grid)                           runs that start from others' last checkpoints
    reevaluate(trunk, grid)                       and those that take no step: others evaluated under other options

Nothing is filled in or checked here beyond what the algebra itself can get wrong: sweeps/study/cells.py freezes every
point.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import itertools
from typing import Any

from experiments.cli import InputError
from experiments.run import identity
from experiments.run.freeze import freeze
from experiments.run.schema import OF_TRAINING
from sweeps.study.rules import Rule


@dataclasses.dataclass(frozen=True)
class Point:
    """Dotted config keys and their values, and tags, which become columns of the grid but do not change the run."""

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The point as a config. A parent that is a point is named by its digest, until its run has a fingerprint."""
        parent = self.values.get("parent")
        if isinstance(parent, Point):
            return nest({**self.values, "parent": parent.digest})
        return nest(self.values)

    @functools.cached_property
    def digest(self) -> str:
        """A name that stands for the fingerprint of the point's run while its data are not known."""
        run, _ = freeze(self.config)
        return identity.fingerprint(run, (str(run.data),))

    def __str__(self) -> str:
        words = []
        for key, value in self.values.items():
            name = key if key.startswith("growth.") else key.rpartition(".")[2]
            words.append(f"{name}={_short(value)}")
        return " ".join(words)


Grid = tuple[Point, ...]


def _short(value: Any) -> str:
    """Write a value as it stands in the name of a point."""
    if isinstance(value, Point):
        return f"({value})"
    if isinstance(value, list | tuple):
        return "+".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- axes


def over(key: str, *values: Any) -> Grid:
    """Make one point per value of a config key. Raises InputError when there is no value."""
    if not values:
        raise InputError(f"over({key!r}) has no values; expected at least one")
    return tuple(Point({key: value}) for value in values)


def tags_over(name: str, *values: Any) -> Grid:
    """Make one point per value of a tag, for rules that ask for it (such as a budget in FLOPs)."""
    if not values:
        raise InputError(f"tags_over({name!r}) has no values; expected at least one")
    return tuple(Point({}, {name: value}) for value in values)


def cases(*settings: Mapping[str, Any]) -> Grid:
    """Make one point per mapping of config keys to values; one mapping alone holds what all points have in common."""
    if not settings:
        raise InputError("cases() has no settings; expected at least one mapping of config keys to values")
    return tuple(Point(dict(setting)) for setting in settings)


# --- combining them


def product(*grids: Grid) -> Grid:
    """Combine every point of each grid with all of the others, the last varying fastest.

    Raises InputError if two set one key.
    """
    return tuple(functools.reduce(_joined, points) for points in itertools.product(*grids))


def _joined(left: Point, right: Point) -> Point:
    """Return a point with the keys and tags of both."""
    values = _union("key", left.values, right.values)
    tags = _union("tag", left.tags, right.tags)
    return Point(values, tags)


def _union(kind: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Join two mappings that have no name in common. Raises InputError, naming it, where they have."""
    both = sorted(left.keys() & right.keys())
    if both:
        raise InputError(f"two axes set the {kind} {both[0]!r}; each may be set by one only")
    return {**left, **right}


def chain(*grids: Grid) -> Grid:
    """Put the points of all grids in one, in order. A run that occurs twice is trained once."""
    return tuple(itertools.chain(*grids))


def tag(grid: Grid, **tags: Any) -> Grid:
    """Add tags to all points. Raises InputError for a tag that is set already."""
    return tuple(dataclasses.replace(point, tags=_union("tag", point.tags, tags)) for point in grid)


def branch(parents: Grid, *grids: Grid) -> Grid:
    """Combine every parent with every combination of the grids, as runs that start from the parent's last checkpoint.

    A child has its parent's config keys unless a grid sets them anew, but neither its growth nor its tags. The
    parents have to be in the study as well, or trained in its workdir: chain(trunk, branch(trunk, ...)).
    """
    return _children(parents, product(*grids), _NOT_OF_CHILDREN)


def reevaluate(parents: Grid, *grids: Grid) -> Grid:
    """Combine parents and grids as `branch` does, as runs that take no step: the parents, evaluated under other options.

    A child has its parent's config keys but for those that only training reads.
    """
    untrained = product(cases({"tokens": 0}), *grids)
    return _children(parents, untrained, (*_NOT_OF_CHILDREN, *OF_TRAINING))


_NOT_OF_CHILDREN = ("parent", "growth")  # sections and keys


def _children(parents: Grid, children: Grid, left_out: tuple[str, ...]) -> Grid:
    """Combine every parent with every child, which takes the parent's keys over but for those of some sections."""
    combined = []
    for parent, child in itertools.product(parents, children):
        inherited = {}
        for key, value in parent.values.items():
            section, _, _ = key.partition(".")
            if section not in left_out or key == "opt.name":
                inherited[key] = value
        combined.append(Point({**inherited, **child.values, "parent": parent}, child.tags))
    return tuple(combined)


# --- rules


def derive(grid: Grid, key: str, rule: Rule, *, scale: float = 1.0) -> Grid:
    """Set a key by a rule of each point's other options, and note the rule's name in the tag `rule_<column of the key>`.

    The rule sees the point frozen as it stands, so rules are applied in the order in which they need each other.
    `scale` multiplies the value, for brackets around a rule; whole numbers stay whole, and the tag then says so. Raises
    InputError when the key is set already, the point cannot be frozen or the value is no number; the text names the point.
    """
    if not isinstance(rule, Rule):
        raise InputError(
            f"derive({key!r}): {rule!r} is not a rule; expected one of sweeps/study/rules.py, or @rules.rule"
        )
    name = rule.name if scale == 1 else f"{rule.name} x {scale:g}"
    return tuple(_derived(point, key, rule, scale, name) for point in grid)


def _derived(point: Point, key: str, rule: Rule, scale: float, name: str) -> Point:
    """Return the point with one key by a rule of the others, and the rule's name beside it."""
    try:
        run, _ = freeze(point.config)
        value = rule(run, point.tags)
    except (InputError, KeyError) as error:
        raise InputError(f"derive {key!r} by {rule.name} at point ({point}): {error.args[0]}") from error
    if scale != 1:
        value = _scaled(value, scale, f"derive {key!r} by {rule.name} x {scale:g} at point ({point})")
    return _joined(point, Point({key: value}, {f"rule_{column(key)}": name}))


def _scaled(value: Any, scale: float, where: str) -> Any:
    """Return a number times a factor, whole where the number is. Raises InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: {value!r} cannot be scaled; expected a rule that gives a number")
    scaled = value * scale
    return round(scaled) if isinstance(value, int) else scaled


def column(key: str) -> str:
    """Return the column of the grid that a config key becomes: the sections `model` and `opt` are not named."""
    section, _, name = key.rpartition(".")
    if section in ("", "model", "opt"):
        return name
    return f"{section}_{name}".replace(".", "_")


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested dictionaries, and leave those that are given as values as they are.

    Raises InputError for a key that is set twice, or is both a value and a section.
    """
    config: dict[str, Any] = {}
    for key, value in _leaves(values):
        *sections, name = key.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise InputError(f"config key {key!r}: {section!r} is set to a value as well")
        if isinstance(node.get(name), dict):
            raise InputError(f"config key {key!r} is set as a section as well")
        if name in node:
            raise InputError(f"config key {key!r} is set twice")
        node[name] = value
    return config


def _leaves(values: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """Go through dotted keys and their values; a mapping is a section. An empty one sets nothing."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{section}{key}.")
        else:
            yield f"{section}{key}", value
