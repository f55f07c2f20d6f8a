"""Do losses of time series scale, and of series unlike those that were trained on? Dense models and mixtures, sizes x tokens.

    python -m sweeps.launch --study=sweeps/studies/series.py --workdir=runs/series

Seasons, trends and autoregressive series, one symbol a value. Parts 1 to 3 are trained on; parts 4 to 6 are of the same kinds
with longer periods, steeper lines and another memory, and no sequence of them is read. Yao et al. 2024 (arXiv 2410.12360)
find power laws of parameters and of data, in and out of the distribution alike. What is left to learn of a part is its
loss above its true entropy (`entropy_part_N`).

They are not alike here. In the distribution the exponent of data is 0.53 for dense models and 0.49 for mixtures, out of it 0.08:
steeper lines gain a third over 32 times the tokens, longer periods and another memory nothing, and larger models no more
than small ones. Three processes are no variety of series.

Fit: --law=kaplan --by=family --columns="N=params_active,loss=(loss_part_1+loss_part_2+loss_part_3-entropy_part_1-entropy_part_2-entropy_part_3)/3"
Told: N_c, D_c
Fit: --law=kaplan_d --by=family --where=width==32 --columns="loss=(loss_part_1+loss_part_2+loss_part_3-entropy_part_1-entropy_part_2-entropy_part_3)/3"
Told: all
Fit: --law=kaplan_d --columns="loss=(loss_part_4+loss_part_5+loss_part_6-entropy_part_4-entropy_part_5-entropy_part_6)/3"
Told: all

Cost: 48 runs, 3.68e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, over, product, tag

BINS = 32
VALUES = 127  # of a document: with the separator a sequence
TRAINED = (
    "seasonal,noise=1,shortest=8,longest=24",
    "trend,noise=1,flattest=0,steepest=0.5",
    "autoregressive,noise=2,memory=0.9",
)
UNSEEN = (
    "seasonal,noise=1,shortest=25,longest=40",
    "trend,noise=1,flattest=0.6,steepest=1",
    "autoregressive,noise=2,memory=0.5",
)
DOCUMENTS = {"full": 6_500, "smoke": 200}
WIDTHS = {"full": (8, 12, 16, 32), "smoke": (8,)}
STEPS = {"full": (125, 250, 500, 1_000, 2_000, 4_000), "smoke": (20,)}
BATCH_TOKENS = 512
HARDLY = 1e-6  # the least weight that a part may have: in no run here does it come to a sequence


def texts(scale: str) -> Grid:
    """Make one point: all series, of which the unseen ones are evaluated only."""
    corpus = []
    for kind in TRAINED + UNSEEN:
        corpus.append(f"synthetic:{kind},bins={BINS},length={VALUES},documents={DOCUMENTS[scale]}")
    return cases(
        {
            "data.corpus": tuple(corpus),
            "data.weights": (1.0,) * len(TRAINED) + (HARDLY,) * len(UNSEEN),
            "evaluation.weights": (1.0,) * len(corpus),
            "data.tokenizer": f"symbols:{BINS}",
            "data.holdout": 0.05,
            "seq_len": VALUES + 1,
            "batch_tokens": BATCH_TOKENS,
        }
    )


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    sizes = chain(*(common.small_models(family, WIDTHS[scale]) for family in ("dense", "moe")))
    lengths = over("tokens", *(BATCH_TOKENS * steps for steps in STEPS[scale]))
    grid = product(texts(scale), sizes, lengths)
    return tag(common.with_warmup(common.with_small_lr(grid)), group="series")
