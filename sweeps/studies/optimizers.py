"""What is one optimizer's compute worth in another's? Six optimizers, sizes x tokens, three learning rates at some of them.

    python -m sweeps.launch --study=sweeps/studies/optimizers.py --workdir=runs/optimizers          # or :muon, one of them
    python -m sweeps.collect --workdir=runs/optimizers --out=optimizers.csv
    python -m analysis.compare optimizers.csv --by=optimizer --baseline=adamw --best_of=lr

One law for all, with exponents that they share and an A and a B of each one's own (Volkova et al. 2026, arXiv 2602.07712),
says how much longer one has to train to be where another is, and a law of each, whether that changes with scale
(analysis.compare: exchange rates and crossings). Rates are the rule's of each optimizer (rules.SMALL_RATES) for its batch; at
a few sizes and tokens also half and twice of it: look whether the best is in the middle. Every optimizer has a warm-up and a
cosine, but for schedule_free, which has a constant rate. Decay is each one's own default. SGD has no rule and is left out.
`optimizers.py:smoke` is two sizes at one rate. Here the fit says that exponents of their own are better supported (p = 4e-5).

Fit: --law=chinchilla --columns=N=params_no_embed,D=tokens,loss=loss_nats --where=rate==1 --by=optimizer --shared=E,alpha,beta
Told: all

Cost: 126 runs, 8.70e+12 FLOPs.
Cost of :muon: 21 runs, 1.45e+12 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, cases, chain, product, tag

# Least and most tokens by width; in BRACKET where other learning rates are tried.
SPAN = {
    "full": {
        8: (2**18, 2**22),
        12: (2**18, 2**21),
        16: (2**18, 2**20),
        24: (2**18, 2**19),
        32: (2**18, 2**19),
        48: (2**19, 2**19),
    },
    "smoke": {8: (5_120, 5_120), 16: (5_120, 5_120)},
}
BRACKET = {"full": {16: (2**18, 2**18), 32: (2**18, 2**18)}, "smoke": {}}
CONSTANT = ("schedule_free",)  # what wants no schedule behind its warm-up


def get_study(argument: str = "") -> Grid:
    """Return the study; after the colon full or smoke, and an optimizer for that one alone."""
    names = tuple(rules.SMALL_RATES)
    chosen = common.arguments(argument, scale=("full", "smoke"), optimizer=("all", *names))
    kinds = names if chosen.optimizer == "all" else (chosen.optimizer,)
    trained: Grid = ()
    for name in kinds:
        schedule = "constant" if name in CONSTANT else "cosine"
        options = cases({"opt.name": name, "schedule.name": schedule})
        settings = product(common.settings(chosen.scale, batch_tokens=None), options)
        cells = product(settings, common.span("dense", SPAN[chosen.scale]))
        bracket = product(settings, common.span("dense", BRACKET[chosen.scale]))
        trained = chain(trained, common.with_small_batch(cells, 1), common.with_small_batch(bracket, 0.5, 2))
    return tag(trained, group="optimizers")
