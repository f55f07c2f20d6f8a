"""What the studies share: their arguments, sizes that every family has, common settings, remarks for the reader.

A study remains a file that can be read by itself: nothing here chooses an axis.
"""

import dataclasses
import types
from typing import Any
import warnings

import models
from sweeps.study import rules
from sweeps.study.grid import Grid, cases, chain, derive, tag

# What the runs of a study have in common. "smoke" is to see that everything works: too short for a law.
SCALES: dict[str, dict[str, Any]] = {
    "full": {"data.corpus": ("embedded",), "seq_len": 64, "batch_tokens": 512},
    "smoke": {
        "data.corpus": ("embedded:1",),
        "seq_len": 32,
        "batch_tokens": 256,
        "evaluation.tokens": 2_048,
        "execution.tensorboard": False,
    },
}


def arguments(text: str | None, **known: tuple[Any, ...] | str) -> Any:
    """A study's argument, "moe,smoke" or "family=moe,scale=smoke", as attributes.

    `known`: by name the choices, of which the first is the default; or a text that is the default of a free choice.
    A word without a name is taken for the first option that has such a choice and is not set yet, else for the first
    free one. Raises ValueError for a word that is none.
    """
    out: dict[str, str] = {}
    for word in filter(None, (text or "").split(",")):
        name, _, value = word.rpartition("=")
        name = name or _named(word, known, out)
        if name not in known:
            raise ValueError(f"{word!r}: unknown option; expected one of {', '.join(known)}")
        if isinstance(known[name], tuple) and value not in known[name]:
            raise ValueError(f"{value!r} is not a {name} of this study; expected one of {', '.join(known[name])}")
        out[name] = value
    return types.SimpleNamespace(**{n: c if isinstance(c, str) else c[0] for n, c in known.items()} | out)


def _named(word: str, known: dict[str, Any], taken: dict[str, str]) -> str:
    left = [name for name in known if name not in taken]
    for name in left:
        if isinstance(known[name], tuple) and word in known[name]:
            return name
    for name in left:
        if isinstance(known[name], str):
            return name
    choices = [choice for name in left if isinstance(known[name], tuple) for choice in known[name]]
    raise ValueError(f"{word!r} is not a choice of this study; expected one of {', '.join(choices)}")


def common(scale: str, **options: Any) -> Grid:
    """One point with what all runs of a scale have in common, and these options (`__` stands for a dot) besides."""
    return cases(SCALES[scale] | {name.replace("__", "."): value for name, value in options.items()})


def sized(family: str, **sizes: Any) -> Grid:
    """One point: a family at these sizes, those left out that it does not have."""
    known = {field.name for field in dataclasses.fields(models.load(family).Config)}
    return cases({"family": family} | {f"model.{name}": size for name, size in sizes.items() if name in known})


def small(family: str, width: int, depth: int = 2) -> Grid:
    """A model of the common small shape: heads of 8, mixtures of 4 experts."""
    return sized(family, width=width, depth=depth, heads=max(1, width // 8), experts=4)


def warmed(grid: Grid, share: float = 0.1) -> Grid:
    """With a warm-up over that share of each run's own tokens."""
    return derive(grid, "schedule.warmup_tokens", rules.share_of_tokens(share))


def tuned(grid: Grid, *factors: float) -> Grid:
    """With the learning rate that the family's rule gives, times each factor (the tag `rate`, where there are several)."""
    if not factors:
        return derive(grid, "opt.lr", rules.small_lr)
    return chain(*(tag(derive(grid, "opt.lr", rules.small_lr, scale=f), rate=float(f)) for f in factors))


class Remark(UserWarning):
    """Something that the reader of a study should see; `sweeps.study.file.load` collects it among the notes."""


def remark(text: str) -> None:
    """Say it."""
    warnings.warn(text, Remark, stacklevel=2)
