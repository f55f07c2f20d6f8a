"""What is text worth when it is read again? Sizes x epochs over the same number of tokens.

    python -m sweeps.launch --study=sweeps/studies/repetition.py --workdir=runs/repetition

Every run trains on as many tokens; `epochs` says how often it reads the first 1/epochs of them (data.unique_tokens; less
text is a prefix of more). Muennighoff et al. 2023 (arXiv 2305.16264) find four epochs about as good as fresh text; the
law `data_constrained` is fitted to this grid with U = data_unique_tokens.

Cost: 21 runs, 2.96e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, product, tag

EPOCHS = {"full": (1, 2, 4, 8, 16, 32, 64), "smoke": (1, 4)}
WIDTHS = {"full": (16, 32, 48), "smoke": (16,)}
STEPS = {"full": 1_000, "smoke": 40}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    tokens = STEPS[chosen.scale] * common.batch_tokens(chosen.scale)
    sizes = common.small_models(chosen.family, WIDTHS[chosen.scale])
    texts = []
    for epochs in EPOCHS[chosen.scale]:
        text = cases({"data.unique_tokens": tokens // epochs})
        texts.append(tag(text, epochs=epochs))
    grid = product(common.settings(chosen.scale), sizes, chain(*texts), cases({"tokens": tokens}))
    return tag(common.with_warmup(common.with_small_lr(grid)), group="repetition")
