"""In which shares should the parts of a corpus be read? RegMix proxies, and upsampling at the end of training.

    python -m sweeps.launch --study=sweeps/studies/mixtures.py --workdir=runs/mixtures          # or mixtures.py:ending

`proxies`: small models on mixtures drawn from Dirichlet distributions of several strengths around equal shares (Liu et al.
2024, arXiv 2407.01492: strengths 0.1 to 5, no share below 2e-4), and a few of them at a larger size, to see whether the
order of mixtures stays the same. Tags share_1, share_2, … are what a regression or the law `mixing` starts from.
`ending`: one trunk on equal shares, and cooldowns from several points of it that read mostly one part; beside them the
same cooldowns on equal shares, and the whole run on the end's shares.

All runs are evaluated on the same held-out text, equal shares of all parts (evaluation.weights), and columns loss_part_1,
loss_part_2, … have each part's own loss. Parts are source text of installed packages; `parts=a.jsonl+b.jsonl` names others.

Cost: 36 runs, 8.65e+11 FLOPs.
Cost of :ending: 11 runs, 7.54e+11 FLOPs.
"""

import numpy as np

from sweeps.studies import wsd
from sweeps.study import common as recipe
from sweeps.study import rules
from sweeps.study.grid import Grid, branch, cases, chain, derive, product, tag

PARTS = "embedded/jax:1+embedded/pandas:1+embedded/scipy:1+embedded/matplotlib:1"
STRENGTHS = (0.1, 0.3, 1.0, 2.0, 5.0)
LEAST = 2e-4
PROXIES = {"full": (6, (16,), (32,), 400), "smoke": (1, (8,), (), 20)}  # draws a strength, widths, larger ones, steps
ENDS = {"full": (0.1, 0.2, 0.4), "smoke": (0.5,)}  # share of the tokens that the end has
UPSAMPLED = 0.7  # share of the first part at the end
ENDING = {"full": (32, 1_000), "smoke": (8, 40)}  # width, steps


def dirichlet(parts: int, draws: int, seed: int = 0) -> list[tuple[float, ...]]:
    """Shares [parts], `draws` for each strength; rounded, so that a run's identity does not hang on the last digit."""
    draw = np.random.default_rng(seed)
    out = []
    for strength in STRENGTHS:
        for shares in draw.dirichlet(np.full(parts, strength), draws):
            kept = np.maximum(shares, LEAST)
            out.append(tuple(round(float(share), 4) for share in kept / kept.sum()))
    return out


def mixed(shares: tuple[float, ...]) -> Grid:
    """One point: training records in these shares."""
    return tag(cases({"data.weights": shares}), **{f"share_{i}": share for i, share in enumerate(shares, start=1)})


def proxies(scale: str, base: Grid, parts: int) -> Grid:
    """Small models on all mixtures, larger ones on every fifth."""
    draws, widths, larger, steps = PROXIES[scale]
    tokens = cases({"tokens": steps * recipe.SCALES[scale]["batch_tokens"]})
    mixtures = chain(*map(mixed, dirichlet(parts, draws)))
    small = [product(recipe.small("dense", width), mixtures) for width in widths]
    large = [product(recipe.small("dense", width), mixtures[::5]) for width in larger]
    grid = product(base, tokens, chain(tag(chain(*small), group="proxy"), tag(chain(*large), group="larger")))
    return recipe.warmed(recipe.tuned(grid))


def ending(scale: str, base: Grid, parts: int) -> Grid:
    """A trunk, cooldowns of several lengths on the upsampled part and on equal shares, and controls."""
    width, steps = ENDING[scale]
    batch = recipe.SCALES[scale]["batch_tokens"]
    tokens, equal = steps * batch, (round(1 / parts, 4),) * parts
    upsampled = (UPSAMPLED, *[round((1 - UPSAMPLED) / (parts - 1), 4)] * (parts - 1))
    size, out = product(base, recipe.small("dense", width)), []
    warm = {"schedule.warmup_tokens": tokens // 20}
    for share in ENDS[scale]:
        end = round(share * steps) * batch
        start = cases({"tokens": tokens - end, "schedule.name": "constant", **warm})
        trunk = derive(product(size, start, cases({"data.weights": equal})), "opt.lr", rules.constant_lr)
        cooled = cases(wsd.cooldown(end, end))
        out += [
            tag(trunk, group="trunk", end_share=share),
            tag(branch(trunk, cooled, cases({"data.weights": upsampled})), group="upsampled", end_share=share),
            tag(branch(trunk, cooled), group="equal", end_share=share),
        ]
    decay = round(ENDS[scale][0] * steps) * batch
    whole = product(
        size, cases(wsd.cooldown(tokens, decay) | warm), cases(*({"data.weights": w} for w in (upsampled, equal)))
    )
    return chain(*out, tag(derive(whole, "opt.lr", rules.constant_lr), group="throughout", end_share=1.0))


def get_study(argument: str = "") -> Grid:
    """The study; after the colon proxies or ending, full or smoke, and parts=NAME+NAME+…."""
    chosen = recipe.arguments(argument, part=("proxies", "ending"), scale=("full", "smoke"), parts=PARTS)
    corpora = tuple(chosen.parts.split("+"))
    if len(corpora) < 2:
        raise ValueError(f"parts={chosen.parts}: expected two or more, joined by +")
    common = {key: value for key, value in recipe.SCALES[chosen.scale].items() if key != "data.corpus"}
    base = cases(common | {"data.corpus": corpora, "evaluation.weights": (1.0,) * len(corpora)})
    return {"proxies": proxies, "ending": ending}[chosen.part](chosen.scale, base, len(corpora))
