"""What does a TokenFormer save that grows by tokens of parameters while it is trained? Four lineages, beside runs from scratch.

    python -m sweeps.launch --study=sweeps/studies/tokenformer.py --workdir=runs/tokenformer

Wang et al. 2024 (arXiv 2410.23168) add rows of keys and values to a trained model, in steps from 124M to 1.4B parameters,
and pay a fraction of training the largest from scratch. Here 16 rows in each projection (four times as many in the
feed-forward) become 32 and then 64, each time for half as long as the first model was trained. Rows that are new have keys
of zero, so that the function is the same at the start. Runs of 64 rows from scratch have several budgets; what growing saves
is read at equal loss, all ancestors counted (flops_lineage).

No fit: runs from scratch bracket two of its losses, which are too few for `growth_speedup`. The largest model is 0.22 nats
below the one from scratch that has cost nearly as much.

Cost: 17 runs, 1.69e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, branch, cases, chain, over, product, tag

STEPS = {"full": (200, 400, 800, 1_600), "smoke": (10,)}  # of the first model; half as many of each that it becomes
FROM_SCRATCH = {"full": (100, 200, 400, 800, 1_600), "smoke": (10,)}
ROWS = (16, 32, 64)


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke."""
    scale = common.arguments(argument, scale=("full", "smoke")).scale
    batch = common.batch_tokens(scale)
    base = product(common.settings(scale), common.small_model("tokenformer", 32))
    groups = []
    for steps in STEPS[scale]:
        first = product(base, cases({"model.attention_tokens": ROWS[0], "tokens": steps * batch}))
        stage = common.with_warmup(common.with_small_lr(first))
        groups.append(tag(stage, group="trunk", rows=ROWS[0], first_steps=steps))
        for rows in ROWS[1:]:
            tokens = steps // 2 * batch
            own = {"tokens": tokens, "schedule.warmup_tokens": tokens // 10}
            stage = branch(stage, cases({"model.attention_tokens": rows, **own}))
            group = "grown" if rows == ROWS[-1] else "between"
            groups.append(tag(stage, group=group, rows=rows, first_steps=steps))
    lengths = over("tokens", *(steps * batch for steps in FROM_SCRATCH[scale]))
    scratch = product(base, over("model.attention_tokens", ROWS[-1]), lengths)
    groups.append(tag(common.with_warmup(common.with_small_lr(scratch)), group="scratch", rows=ROWS[-1]))
    return chain(*groups)
