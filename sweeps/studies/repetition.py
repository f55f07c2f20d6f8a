"""What is text worth when it is read again? Sizes x tokens x epochs.

    python -m sweeps.launch --study=sweeps/studies/repetition.py --workdir=runs/repetition

`epochs` says how often a run reads its text: the first tokens/epochs of the corpus (data.unique_tokens; less text is a
prefix of more). Several numbers of tokens at one epoch tell what fresh text is worth; without them no law could say what
repeated text is worth beside it. Muennighoff et al. 2023 (arXiv 2305.16264) find four epochs about as good as fresh text.

Fit: --law=data_decay --where="epochs<=16"
Told: A, B, beta, R_D
Also: --law=data_constrained,utility_decay --where="epochs<=16"

Cost: 80 runs, 8.29e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, product, tag

EPOCHS = {"full": (1, 4, 8, 16, 64), "smoke": (1, 4)}
WIDTHS = {"full": (8, 16, 32, 48), "smoke": (16,)}
STEPS = {"full": (250, 500, 1_000, 2_000), "smoke": (40,)}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    sizes = common.small_models(chosen.family, WIDTHS[chosen.scale])
    texts = []
    for steps in STEPS[chosen.scale]:
        tokens = steps * common.batch_tokens(chosen.scale)
        for epochs in EPOCHS[chosen.scale]:
            text = cases({"tokens": tokens, "data.unique_tokens": tokens // epochs})
            texts.append(tag(text, epochs=epochs))
    grid = product(common.settings(chosen.scale), sizes, chain(*texts))
    return tag(common.with_warmup(common.with_small_lr(grid)), group="repetition")
