"""How does the loss depend on tokens, at the price of one long run a size? A tree: constant-rate trunks, cooldown branches.

    python -m sweeps.launch --study=sweeps/studies/wsd.py --workdir=runs/wsd

Each size trains once at a constant rate. At 80% of each number of tokens D a cooldown branches off that takes the last
20% of D (1 - sqrt, Hagele et al. 2024, arXiv 2405.18392), with the trunk's optimizer state and on text that the trunk
has not read. The trunk is a line of runs, one to each branching point: what DESIGN calls a graph of runs. In the grid,
`lineage_tokens` of the cooldowns is D and `flops_lineage` what a run of that length costs by itself; fit with
--where="group=='cooldown'" and these columns. `sweeps.collect --evaluations` has the whole curves, to which the annealing
law is fitted (--law=annealing --where="inherited==0"). `check` adds the same D trained from scratch, to see what is lost.

Fit: --law=chinchilla --where="group=='cooldown'" --columns=N=params_no_embed,D=lineage_tokens,C=flops_lineage
Told: A, alpha
Fit: --law=kaplan --where="group=='cooldown'" --columns=N=params_no_embed,D=lineage_tokens
Told: all
Also of curves: --law=annealing,annealing_curve
Also of curves: --law=plateau,broken,broken_2,broken_3 --columns=X=tokens,loss=loss_nats --where=width==32

Cost: 52 runs, 2.77e+12 FLOPs.
Cost of :check: 78 runs, 6.84e+12 FLOPs.
"""

from collections.abc import Iterator

from sweeps.study import common, rules
from sweeps.study.cells import cost
from sweeps.study.grid import Grid, branch, cases, chain, derive, product, tag

COOLDOWN = 0.2  # of all tokens
# Least and most tokens of a cooldown's end, by width; between them by doublings.
SPAN = {
    "full": {
        8: (2**18, 2**23),
        12: (2**18, 2**22),
        16: (2**18, 2**22),
        24: (2**18, 2**21),
        32: (2**18, 2**20),
        48: (2**19, 2**20),
        64: (2**19, 2**19),
    },
    "smoke": {8: (5_120, 10_240)},
}
BATCH = {"full": 256, "smoke": 256}  # tokens a step of a trunk, which has one batch for all of its ends


def tree(size: Grid, lengths: tuple[int, ...]) -> Iterator[tuple[Grid, Grid]]:
    """Yield, for each number of tokens, the piece of the trunk that leads to its branching point, and its cooldown.

    `size` is one point without tokens, schedule and learning rate.
    """
    trunk = None
    done = 0  # tokens of the trunk so far
    for tokens in lengths:
        decay = round(COOLDOWN * tokens)
        piece = {"tokens": tokens - decay - done, "schedule.name": "constant"}
        if trunk is None:
            trunk = derive(product(size, cases(piece | warm_up(lengths))), "opt.lr", rules.small_batch_lr, scale=0.5)
        else:
            trunk = branch(trunk, cases(piece | {"schedule.warmup_tokens": 0}))
        done = tokens - decay
        yield trunk, branch(trunk, cases(cooldown(decay, decay)))


def warm_up(lengths: tuple[int, ...]) -> dict[str, int]:
    """Return config keys of the warm-up, which is the same for all lengths."""
    return {"schedule.warmup_tokens": lengths[0] // 10}


def cooldown(tokens: int, decay: int) -> dict[str, object]:
    """Return config keys of a run that ends in a cooldown to zero, and is nothing else when the two are equal."""
    keys = {"tokens": tokens, "schedule.name": "wsd", "schedule.decay_tokens": decay, "schedule.final": 0.0}
    if tokens == decay:
        keys["schedule.warmup_tokens"] = 0
    return keys


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, `check` for the controls from scratch, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), controls=("without", "check"), family="dense")
    trunk: Grid = ()
    cooldowns: Grid = ()
    scratch: Grid = ()
    for width, (least, most) in SPAN[chosen.scale].items():
        lengths = common.doublings(least, most)
        # The annealing law is one of curves: the longest has twenty points.
        settings = common.settings(
            chosen.scale, batch_tokens=BATCH[chosen.scale], execution__eval_every_tokens=most // 20
        )
        size = product(settings, common.small_model(chosen.family, width, rope_theta=common.SHORT_ROPE))
        for piece, end in tree(size, lengths):
            trunk = chain(trunk, piece)
            cooldowns = chain(cooldowns, end)
        for tokens in lengths:
            alone = product(size, cases(cooldown(tokens, round(COOLDOWN * tokens)) | warm_up(lengths)))
            scratch = chain(scratch, derive(alone, "opt.lr", rules.small_batch_lr, scale=0.5))
    paid = cost(chain(trunk, cooldowns)).flops
    alone_flops = cost(scratch).flops
    saved = 1 - paid / alone_flops
    common.remark(
        f"one trunk a size: {paid:.3g} FLOPs where runs from scratch take {alone_flops:.3g}; {saved:.0%} saved"
    )
    grid = chain(tag(trunk, group="trunk"), tag(cooldowns, group="cooldown"))
    if chosen.controls == "check":
        return chain(grid, tag(scratch, group="scratch"))
    return grid
