"""Where do larger batches begin to waste tokens, and does the gradient noise scale foretell it? Batches x learning rates.

    python -m sweeps.launch --study=sweeps/studies/critical_batch.py --workdir=runs/critical_batch
    python -m sweeps.collect --workdir=runs/critical_batch --evaluations --out=curves.csv

The same model at a constant rate in batches from 64 to 4,096 tokens, evaluated at every fortieth of its tokens. From the
steps that each batch takes to one loss, at its best rate, the law `steps_examples` gives the critical batch E_min / S_min
(McCandlish et al. 2018, arXiv 1812.06162); on the way every run estimates its noise scale between the two halves of its
batches (column `noise_scale_tokens`), which should be of the same size.

No fit: the critical batch is read off its curves, and compared with the noise scale.

Also: --law=critical_batch --columns=critical_batch=noise_scale_tokens,loss=loss_nats
Also: --law=steps_examples --columns=S=step,batch=batch_tokens --where="loss_nats>2.28 and loss_nats<2.32"

Cost: 12 runs, 2.40e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, cases, chain, product, tag

WIDTH = {"full": 32, "smoke": 8}
BATCHES = {"full": (64, 256, 1_024, 4_096), "smoke": (128, 512)}
RATES = {"full": (0.5, 1.0, 2.0), "smoke": (1.0,)}
RATE = 8e-3  # of a batch of 1,024 tokens; of others as its root (Adam: Malladi et al. 2022)
STEPS = {"full": 300, "smoke": 10}  # of the largest batches, and as many tokens as so many critical batches
GUESS = 1_500  # of the critical batch, so that all batches reach the same losses
EVALUATIONS = {"full": 40, "smoke": 4}


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), family="dense")
    scale = chosen.scale
    settings = dict(common.SCALES[scale]) | {
        "seq_len": 32,
        "schedule.name": "constant",
        "evaluation.tokens": 16_384,
        "execution.microbatches": 2,
        "execution.noise_scale": True,
    }
    del settings["batch_tokens"]
    model = common.small_model(chosen.family, WIDTH[scale])
    runs = []
    for batch in BATCHES[scale]:
        tokens = STEPS[scale] * (batch + GUESS) // batch * batch
        length = {"batch_tokens": batch, "tokens": tokens, "execution.eval_every_tokens": tokens // EVALUATIONS[scale]}
        for factor in RATES[scale]:
            rate = factor * RATE * (batch / 1_024) ** 0.5
            run = cases(length | {"opt.lr": rate})
            runs.append(tag(run, rate=factor))
    grid = product(cases(settings), model, chain(*runs))
    return tag(common.with_warmup(grid, 0.02), group="critical_batch")
