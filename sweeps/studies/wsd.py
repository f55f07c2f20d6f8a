"""How does the loss depend on tokens, at the price of one long run a size? A tree: constant-rate trunks, cooldown branches.

    python -m sweeps.launch --study=sweeps/studies/wsd.py --workdir=runs/wsd

Each size trains once at a constant rate. At 80% of each number of tokens D a cooldown branches off that takes the last
20% of D (1 - sqrt, Hagele et al. 2024, arXiv 2405.18392), with the trunk's optimizer state and on text that the trunk
has not read. The trunk is a line of runs, one to each branching point: what DESIGN calls a graph of runs. In the grid,
`lineage_tokens` of the cooldowns is D and `flops_lineage` what a run of that length costs by itself; fit with
--where="group=='cooldown'" and these columns. `check` adds the same D trained from scratch, to see what is lost.

Cost: 24 runs, 9.95e+11 FLOPs.
Cost of :check: 36 runs, 2.58e+12 FLOPs.
"""

from collections.abc import Iterator

from sweeps.study import common, rules
from sweeps.study.file import cost
from sweeps.study.grid import Grid, branch, cases, chain, derive, product, tag

COOLDOWN = 0.2  # of all tokens
WIDTHS = {"full": (16, 32, 48), "smoke": (8,)}
STEPS = {"full": (250, 500, 1_000, 2_000), "smoke": (20, 40)}


def tree(size: Grid, lengths: tuple[int, ...]) -> Iterator[tuple[Grid, Grid]]:
    """For each number of tokens, the piece of the trunk that leads to its branching point, and the cooldown from there.

    `size` is one point without tokens, schedule and learning rate.
    """
    trunk, done = None, 0
    for tokens in lengths:
        decay = round(COOLDOWN * tokens)
        piece = {"tokens": tokens - decay - done, "schedule.name": "constant"}
        if trunk is None:
            warm = {"schedule.warmup_tokens": lengths[0] // 10}
            trunk = derive(product(size, cases(piece | warm)), "opt.lr", rules.constant_lr)
        else:
            trunk = branch(trunk, cases(piece | {"schedule.warmup_tokens": 0}))
        done = tokens - decay
        yield trunk, branch(trunk, cases(cooldown(decay, decay)))


def cooldown(tokens: int, decay: int) -> dict[str, object]:
    """A run that ends in a cooldown to zero; one that is nothing else when the two are equal."""
    decay_only = {"schedule.warmup_tokens": 0} if tokens == decay else {}
    shape = {"schedule.name": "wsd", "schedule.decay_tokens": decay, "schedule.final": 0.0}
    return {"tokens": tokens, **shape, **decay_only}


def get_study(argument: str = "") -> Grid:
    """The study; after the colon full or smoke, `check` for the controls from scratch, and a family."""
    chosen = common.arguments(argument, scale=("full", "smoke"), controls=("without", "check"), family="dense")
    lengths = tuple(common.SCALES[chosen.scale]["batch_tokens"] * steps for steps in STEPS[chosen.scale])
    trunks, cooldowns, scratch = [], [], []
    for width in WIDTHS[chosen.scale]:
        size = product(common.common(chosen.scale), common.small(chosen.family, width))
        for (trunk, end), tokens in zip(tree(size, lengths), lengths, strict=True):
            warm = {"schedule.warmup_tokens": lengths[0] // 10}
            alone = product(size, cases(cooldown(tokens, round(COOLDOWN * tokens)) | warm))
            trunks.append(trunk)
            cooldowns.append(end)
            scratch.append(derive(alone, "opt.lr", rules.constant_lr))
    paid, alone = cost(chain(*trunks, *cooldowns)).flops, cost(chain(*scratch)).flops
    common.remark(
        f"one trunk a size: {paid:.3g} FLOPs where runs from scratch take {alone:.3g}; {1 - paid / alone:.0%} saved"
    )
    parts = [tag(chain(*trunks), group="trunk"), tag(chain(*cooldowns), group="cooldown")]
    return chain(*parts, *([tag(chain(*scratch), group="scratch")] if chosen.controls == "check" else []))
