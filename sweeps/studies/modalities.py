"""Do images, text and arithmetic want models of the same size for their compute? IsoFLOPs on each.

    python -m sweeps.launch --study=sweeps/studies/modalities.py --workdir=runs/modalities

Henighan et al. 2020 (arXiv 2010.14701) find power laws with a constant in every modality, and an exponent of the best size
that hardly depends on it. Small grey images as rows of pixels, sums, and source text: the first two have a known entropy
(`entropy_nats`), by which the reducible loss is what a model has yet to learn.

At these budgets the smallest size is the best one on images; larger ones would show where that ends.

Fit: --law=chinchilla --by=modality
Told: nothing

Cost: 36 runs, 7.79e+11 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, derive, product, tag, tags_over

# Corpus and tokenizer of each.
MODALITIES = {
    "images": ("synthetic:images,documents={}", "symbols:16"),
    "arithmetic": ("synthetic:arithmetic,documents={}", "bytes"),
    "text": ("embedded", "bytes"),
}
DOCUMENTS = {"full": 20_000, "smoke": 500}
BUDGETS = {
    "full": {5e9: (8, 16, 24, 32), 1.5e10: (8, 16, 24, 32), 4.5e10: (16, 24, 32, 48)},
    "smoke": {4e8: (8, 16)},
}


def text_of(modality: str, scale: str) -> Grid:
    """Make one point: the text of a modality."""
    corpus, tokenizer = MODALITIES[modality]
    if corpus == "embedded" and scale == "smoke":
        corpus = "embedded:1"
    point = cases({"data.corpus": (corpus.format(DOCUMENTS[scale]),), "data.tokenizer": tokenizer})
    return tag(point, modality=modality)


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    budgets = []
    for budget, widths in BUDGETS[scale].items():
        budgets.append(product(tags_over("budget_flops", budget), common.small_models(chosen.family, widths)))
    texts = chain(*(text_of(modality, scale) for modality in MODALITIES))
    settings = {key: value for key, value in common.SCALES[scale].items() if key != "data.corpus"}
    grid = derive(product(cases(settings), texts, chain(*budgets)), "tokens", rules.tokens_of_budget)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="isoflop")
