"""What are parameters in the encoder worth, and what in the decoder? Sizes of the one x sizes of the other, on pairs.

    python -m sweeps.launch --study=sweeps/studies/translation.py --workdir=runs/translation

A cipher of words in another order (`synthetic:cipher`): a translation is certain once the words are known, so that what is
left of the loss is what a model has not learned. Depths of encoder and decoder vary apart; columns params_encoder and
params_decoder are the sizes of law `encoder_decoder` (Ghorbani et al. 2021, arXiv 2109.07740). `languages`: two ciphers of one
language, with marks in front of their sentences, in five mixtures x widths; loss_part_1 is that of the pair whose share the
tag `proportion` says, for law `language_weight` (Fernandes et al. 2023, arXiv 2302.09650).

No fit: after 1,200 steps no size has learned the words, and deeper models are no better than shallow ones (1.30 to 1.61
nats); a grid for `encoder_decoder` has to train longer.

Also: --law=encoder_decoder,encoder_scaling,decoder_scaling
Also of :languages: --law=language_weight --columns=loss=loss_part_1

Cost: 9 runs, 6.71e+12 FLOPs.
Cost of :languages: 20 runs, 1.10e+13 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, over, product, tag

PAIRS = (40, 40)
DEPTHS = {"full": (1, 3, 8), "smoke": (1, 2)}
WIDTHS = {"full": (16, 24, 40, 64), "smoke": (16,)}
SHARES = {"full": (0.1, 0.3, 0.5, 0.8, 0.999), "smoke": (0.5,)}
WORDS = 500
DOCUMENTS = {"full": 24_000, "smoke": 3_000}
ROWS = 16  # a step
STEPS = {"full": 1_200, "smoke": 20}


def cipher(scale: str, seed: int = 0, mark: str = "") -> str:
    """Return the name of a corpus of pairs."""
    own = f",mark={mark}" if mark else ""
    return f"synthetic:cipher,words={WORDS},length=4,seed={seed},documents={DOCUMENTS[scale]}{own}"


def rows(scale: str, *corpora: str) -> Grid:
    """Make one point: pairs in rows."""
    return common.settings(
        scale,
        data__corpus=corpora,
        data__between=" = ",
        data__pairs=PAIRS,
        seq_len=sum(PAIRS),
        batch_tokens=ROWS * sum(PAIRS),
        tokens=STEPS[scale] * ROWS * sum(PAIRS),
    )


def sizes(scale: str) -> Grid:
    """Make a point a depth of the encoder and a depth of the decoder."""
    depths = over("model.encoder_depth", *DEPTHS[scale]), over("model.depth", *DEPTHS[scale])
    model = common.sized_model("encoder_decoder", width=32, heads=4)
    return product(rows(scale, cipher(scale)), model, *depths)


def languages(scale: str) -> Grid:
    """Make a point a share of the first of two pairs, and a width."""
    corpora = cipher(scale, 1, "x"), cipher(scale, 2, "y")
    mixtures = []
    for share in SHARES[scale]:
        weights = cases({"data.weights": (share, round(1 - share, 3))})
        mixtures.append(tag(weights, proportion=share))
    return product(rows(scale, *corpora), chain(*mixtures), common.small_models("encoder_decoder", WIDTHS[scale]))


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and sizes or languages."""
    chosen = common.arguments(argument, scale=("full", "smoke"), what=("sizes", "languages"))
    grid = sizes(chosen.scale) if chosen.what == "sizes" else languages(chosen.scale)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="translation")
