"""Share among studies what they have in common: arguments, sizes of every family, settings, remarks for the reader.

A study remains a file that can be read by itself: nothing here chooses an axis.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import itertools
import math
import types
from typing import Any
import warnings

from experiments.key_values import read_pairs, refusal
from experiments.run.freeze import freeze
import models
from sweeps.study import rules
from sweeps.study.grid import Grid, cases, chain, derive, over, product, tag

ARGUMENT = "the study's argument"  # in messages
# Base of the frequencies of heads of 8 over 64 positions, where three of the four of 1e4 hardly turn. Measured on 262
# thousand tokens over three seeds: 0.04 nats less at width 16 and 0.07 at 48, and half the scatter at 48.
SHORT_ROPE = 30.0
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
    """Read a study's argument, "moe,smoke" or "family=moe,scale=smoke", as attributes.

    `known`: by name the choices, of which the first is the default; or a text that is the default of a free choice.
    A word without a name is taken for the first option that has such a choice and is not set yet, else for the first
    free one. Raises InputError for a word that is none.
    """

    def option_of(word: str, given: Mapping[str, str]) -> str:
        return _option_of(word, known, given)

    given = read_pairs(text, ARGUMENT, "OPTION=VALUE", "scale=smoke", option_of)
    for name, value in given.items():
        if name not in known:
            raise refusal(ARGUMENT, f"{name}={value}", "is no option of this study", f"one of {', '.join(known)}")
        choices = known[name]
        if isinstance(choices, tuple) and value not in choices:
            raise refusal(ARGUMENT, value, f"is not a {name} of this study", f"one of {', '.join(choices)}")
    defaults = {name: choices if isinstance(choices, str) else choices[0] for name, choices in known.items()}
    return types.SimpleNamespace(**defaults | given)


def _option_of(word: str, known: Mapping[str, tuple[Any, ...] | str], given: Mapping[str, str]) -> str:
    """Return the option to which a word without a name belongs."""
    open_choices = {name: choices for name, choices in known.items() if name not in given}
    listed = {name: choices for name, choices in open_choices.items() if isinstance(choices, tuple)}
    for name, choices in listed.items():
        if word in choices:
            return name
    for name in open_choices:
        if name not in listed:
            return name
    expected = ", ".join(itertools.chain(*listed.values()))
    raise refusal(ARGUMENT, word, "is not a choice of this study", f"one of {expected}")


def settings(scale: str, **options: Any) -> Grid:
    """Make one point with what all runs of a scale have in common, and these options (`__` stands for a dot) besides.

    What is None is left to a rule.
    """
    more = {name.replace("__", "."): value for name, value in options.items()}
    settled = SCALES[scale] | more
    return cases({name: value for name, value in settled.items() if value is not None})


def batch_tokens(scale: str) -> int:
    """Return the tokens of one step at a scale."""
    return SCALES[scale]["batch_tokens"]


def sized_model(family: str, **sizes: Any) -> Grid:
    """Make one point: a family at these sizes, those left out that it does not have."""
    fields = dataclasses.fields(models.load(family).Config)
    known = {field.name for field in fields}
    options = {f"model.{name}": size for name, size in sizes.items() if name in known}
    return cases({"family": family} | options)


def shaped_model(family: str, shape: Mapping[str, int], **sizes: Any) -> Grid:
    """Make one point: a family at a shape of `rules.shape_of_size`, and at these other sizes."""
    by_name = {key.removeprefix("model."): size for key, size in shape.items()}
    return sized_model(family, **by_name, **sizes)


def small_model(family: str, width: int, depth: int = 2, **options: Any) -> Grid:
    """Make one point: a model of the common small shape, with heads of 8, mixtures of 4 experts, and these options."""
    return sized_model(family, width=width, depth=depth, heads=max(1, width // 8), experts=4, **options)


def small_models(family: str, widths: Iterable[int], **options: Any) -> Grid:
    """Make one point per width, each a model of the common small shape."""
    return chain(*(small_model(family, width, **options) for width in widths))


def doublings(least: int, most: int) -> tuple[int, ...]:
    """Return the least, and its doublings up to the most."""
    count = round(math.log2(most / least))
    return tuple(least * 2**doubling for doubling in range(count + 1))


def span(family: str, lengths: Mapping[int, tuple[int, int]]) -> Grid:
    """Make a grid of sizes and tokens for a law of both: by width the least and the most tokens, and what lies between by doublings.

    What a law of two separate terms asks of a grid: positions that heads of 8 can tell apart (SHORT_ROPE), steps enough for few
    tokens, and a rate for that batch (`with_small_batch`).
    """
    cells: Grid = ()
    for width, (least, most) in lengths.items():
        tokens = over("tokens", *doublings(least, most))
        cells = chain(cells, product(small_model(family, width, rope_theta=SHORT_ROPE), tokens))
    return cells


def with_small_batch(grid: Grid, *factors: float) -> Grid:
    """Add the batch of `rules.small_batch`, the learning rate for it times each factor, a warm-up, and evaluations on the way."""
    batched = derive(grid, "batch_tokens", rules.small_batch)
    rated = with_warmup(with_small_lr(batched, *factors, rule=rules.small_batch_lr))
    return derive(rated, "execution.eval_every_tokens", rules.share_of_tokens(1 / 8))


def with_warmup(grid: Grid, share: float = 0.1) -> Grid:
    """Add a warm-up over that share of each run's own tokens."""
    return derive(grid, "schedule.warmup_tokens", rules.share_of_tokens(share))


def with_small_lr(grid: Grid, *factors: float, rule: rules.Rule = rules.small_lr) -> Grid:
    """Add the learning rate of a rule, times each factor (the tag `rate`, where there are several)."""
    if not factors:
        return derive(grid, "opt.lr", rule)
    rates = []
    for factor in factors:
        scaled = derive(grid, "opt.lr", rule, scale=factor)
        rates.append(tag(scaled, rate=float(factor)))
    return chain(*rates)


def flops_of(grid: Grid) -> float:
    """Return the training FLOPs of the runs of a grid, those that they start from left out."""
    total = 0.0
    for point in grid:
        run, _ = freeze(point.config)
        total += rules.ledger_per_token(run)["flops_total"] * run.tokens
    return total


def tokens_for(model: Grid, flops: float) -> int:
    """Return the tokens, in whole steps, for which the model of a grid's one point is trained with so many FLOPs."""
    (point,) = model
    run, _ = freeze(point.config)
    per_token = rules.ledger_per_token(run)["flops_total"]
    return rules.rounded("tokens", flops / per_token, run.batch_tokens)


class Remark(UserWarning):
    """Something that the reader of a study should see; `sweeps.study.file.load` collects it among the notes."""


def remark(text: str) -> None:
    """Tell the reader of a study something: it becomes one of its notes."""
    warnings.warn(text, Remark, stacklevel=2)
