"""Do images, text and arithmetic want models of the same size for their compute? Sizes x tokens of each.

    python -m sweeps.launch --study=sweeps/studies/modalities.py --workdir=runs/modalities

Henighan et al. 2020 (arXiv 2010.14701) find power laws with a constant in every modality, and an exponent of the best size
that hardly depends on it. Small grey images as rows of pixels, sums, and source text: the first two have a known entropy
(`entropy_nats`), by which the reducible loss is what a model has yet to learn. The exponent of the best size follows from
each modality's own law.

Of text every coefficient is told; losses on images vary too little, and those on arithmetic scatter too much.

Fit: --law=chinchilla --by=modality --columns=N=params_no_embed
Told: nothing

Cost: 63 runs, 5.96e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, product, tag

# Corpus and tokenizer of each.
MODALITIES = {
    "images": ("synthetic:images,documents={}", "symbols:16"),
    "arithmetic": ("synthetic:arithmetic,documents={}", "bytes"),
    "text": ("embedded", "bytes"),
}
DOCUMENTS = {"full": 80_000, "smoke": 500}
# Least and most tokens by width.
SPAN = {
    "full": {
        8: (2**18, 2**23),
        12: (2**18, 2**22),
        16: (2**18, 2**21),
        24: (2**18, 2**20),
        32: (2**18, 2**19),
        48: (2**19, 2**19),
    },
    "smoke": {8: (5_120, 5_120), 16: (5_120, 5_120)},
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
    texts = chain(*(text_of(modality, scale) for modality in MODALITIES))
    settings = common.settings(scale, batch_tokens=None, data__corpus=None)
    grid = product(settings, texts, common.span(chosen.family, SPAN[scale]))
    return tag(common.with_small_batch(grid), group="modalities")
