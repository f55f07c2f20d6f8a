"""In which shares should the parts of a corpus be read? RegMix proxies, and upsampling at the end of training.

    python -m sweeps.launch --study=sweeps/studies/mixtures.py --workdir=runs/mixtures          # or mixtures.py:ending

`proxies`: small models on mixtures drawn from Dirichlet distributions of several strengths around equal shares (Liu et al.
2024, arXiv 2407.01492: strengths 0.1 to 5, no share below 2e-4), and a few of them at a larger size, to see whether the
order of mixtures stays the same. Tags share_1, share_2, … are what a regression or the law `mixing` starts from.
`ending`: one trunk on equal shares, and cooldowns from several points of it that read mostly one part; beside them the
same cooldowns on equal shares, and the whole run on the end's shares.

All runs are evaluated on the same held-out text, equal shares of all parts (evaluation.weights), and columns loss_part_1,
loss_part_2, … have each part's own loss. Parts are source text of installed packages; `parts=a.jsonl+b.jsonl` names others.

Fit: --law=mixing
Told: t_1, t_2, t_3, t_4
Also: --law=mixing_linear,mixing_lightgbm
Also of curves: --law=bimix --columns=proportion=share_1,S=step,loss=loss_part_1

Cost: 36 runs, 8.65e+11 FLOPs.
Cost of :ending: 11 runs, 7.54e+11 FLOPs.
"""

import dataclasses

import numpy as np

from sweeps.studies import wsd
from sweeps.study import common, rules
from sweeps.study.grid import Grid, branch, cases, chain, derive, product, tag

PARTS = "embedded/jax:1+embedded/pandas:1+embedded/scipy:1+embedded/matplotlib:1"
STRENGTHS = (0.1, 0.3, 1.0, 2.0, 5.0)
LEAST = 2e-4


@dataclasses.dataclass(frozen=True)
class Proxies:
    """Sizes of the study of proxies."""

    draws: int  # of each strength
    widths: tuple[int, ...]
    larger_widths: tuple[int, ...]
    steps: int


PROXIES = {"full": Proxies(6, (16,), (32,), 400), "smoke": Proxies(1, (8,), (), 20)}
ENDS = {"full": (0.1, 0.2, 0.4), "smoke": (0.5,)}  # share of the tokens that the end has
UPSAMPLED = 0.7  # share of the first part at the end
ENDING = {"full": (32, 1_000), "smoke": (8, 40)}  # width, steps


def dirichlet(parts: int, draws: int, seed: int = 0) -> list[tuple[float, ...]]:
    """Draw shares [parts], `draws` for each strength; rounded, so that no run's identity hangs on the last digit."""
    draw = np.random.default_rng(seed)
    mixtures = []
    for strength in STRENGTHS:
        for shares in draw.dirichlet(np.full(parts, strength), draws):
            kept = np.maximum(shares, LEAST)
            normalised = kept / kept.sum()
            mixtures.append(tuple(round(float(share), 4) for share in normalised))
    return mixtures


def mixed(shares: tuple[float, ...]) -> Grid:
    """Make one point: training records in these shares."""
    names = {f"share_{part}": share for part, share in enumerate(shares, start=1)}
    return tag(cases({"data.weights": shares}), **names)


def proxies(scale: str, base: Grid, parts: int) -> Grid:
    """Train small models on all mixtures, larger ones on every fifth."""
    sizes = PROXIES[scale]
    whole = sizes.steps * common.batch_tokens(scale)
    tokens = cases({"tokens": whole, "execution.eval_every_tokens": whole // 8})
    mixtures = chain(*map(mixed, dirichlet(parts, sizes.draws)))
    small = product(common.small_models("dense", sizes.widths), mixtures)
    larger = product(common.small_models("dense", sizes.larger_widths), mixtures[::5])
    grid = product(base, tokens, chain(tag(small, group="proxy"), tag(larger, group="larger")))
    return common.with_warmup(common.with_small_lr(grid))


def ending(scale: str, base: Grid, parts: int) -> Grid:
    """Train a trunk, cooldowns of several lengths on the upsampled part and on equal shares, and controls."""
    width, steps = ENDING[scale]
    batch = common.batch_tokens(scale)
    tokens = steps * batch
    equal = {"data.weights": (round(1 / parts, 4),) * parts}
    others = round((1 - UPSAMPLED) / (parts - 1), 4)
    upsampled = {"data.weights": (UPSAMPLED, *[others] * (parts - 1))}
    size = product(base, common.small_model("dense", width))
    warm = {"schedule.warmup_tokens": tokens // 20}
    groups = []
    for share in ENDS[scale]:
        end = round(share * steps) * batch
        start = cases({"tokens": tokens - end, "schedule.name": "constant", **warm})
        trunk = derive(product(size, start, cases(equal)), "opt.lr", rules.constant_lr)
        cooled = cases(wsd.cooldown(end, end))
        groups += [
            tag(trunk, group="trunk", end_share=share),
            tag(branch(trunk, cooled, cases(upsampled)), group="upsampled", end_share=share),
            tag(branch(trunk, cooled), group="equal", end_share=share),
        ]
    decay = round(ENDS[scale][0] * steps) * batch
    whole = product(size, cases(wsd.cooldown(tokens, decay) | warm), cases(upsampled, equal))
    throughout = derive(whole, "opt.lr", rules.constant_lr)
    return chain(*groups, tag(throughout, group="throughout", end_share=1.0))


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon proxies or ending, full or smoke, and parts=NAME+NAME+…."""
    chosen = common.arguments(argument, part=("proxies", "ending"), scale=("full", "smoke"), parts=PARTS)
    corpora = tuple(chosen.parts.split("+"))
    if len(corpora) < 2:
        raise ValueError(f"parts={chosen.parts}: expected two or more, joined by +")
    settings = {key: value for key, value in common.SCALES[chosen.scale].items() if key != "data.corpus"}
    base = cases(settings | {"data.corpus": corpora, "evaluation.weights": (1.0,) * len(corpora)})
    make = {"proxies": proxies, "ending": ending}[chosen.part]
    return make(chosen.scale, base, len(corpora))
