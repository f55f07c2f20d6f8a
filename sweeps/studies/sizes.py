"""Do models of a billion parameters fit, and on what mesh? One dense, one mixture of 8 such experts, one MatMul-free.

    python -m sweeps.plan --study=sweeps/studies/sizes.py --target=v5e-16          # or v5p-128, v6e-256, …
    python -m sweeps.plan --study=sweeps/studies/sizes.py:plain --target=v5e-16    # float32, nothing recomputed

A study to plan more than to train: 20 tokens per parameter are 2e10 tokens and 1.6e20 FLOPs a run (the mixture, by its
active parameters, 2.7e20). `sizes.py` computes in bfloat16 and recomputes each layer in the backward pass (remat); `plain`
leaves both at their defaults, to see what a plan says of what does not fit. `sizes.py:dense` is that family alone.
`sizes.py:remat_dots` is the dense model under another policy of recomputation, `sizes.py:microbatches` in four parts a step,
and `sizes.py:offload` with Adam's moments in the host's memory: what each of these costs and saves. `sizes.py:capacity` is
the mixture whose tokens travel to its experts.

No fit: it is planned, and not trained.

Cost: 3 runs, 5.10e+20 FLOPs.
"""

from sweeps.study.grid import Grid, cases, tag

SEQUENCES = 64  # of a batch
LENGTH = 2048
SHAPE = {"model.width": 2048, "model.depth": 20, "model.vocab": 32_768}
FAMILIES = {
    "dense": SHAPE | {"model.heads": 16},
    # Each expert is as large as the feed-forward of the dense model: 5.9B parameters, of which a token uses 1.8B.
    "moe": SHAPE | {"model.heads": 16, "model.experts": 8, "model.top_k": 2, "model.expert_ff": 5472},
    "matmul_free": SHAPE,
}
SMALLER = {"model.dtype": "bfloat16", "model.remat": "full"}
POLICIES = ("none", "dots", "attention", "offload")
# Of which family, and what it sets.
OPTIONS = {f"remat_{policy}": ("dense", {"model.remat": policy}) for policy in POLICIES}
OPTIONS |= {
    "microbatches": ("dense", {"execution.microbatches": 4}),
    "offload": ("dense", {"execution.offload": "optimizer"}),
    "capacity": ("moe", {"model.mode": "capacity"}),
}


def get_study(which: str = "") -> Grid:
    """Return the study; after the colon: nothing, plain, a family, or an option of one."""
    if which not in ("", "plain", *FAMILIES, *OPTIONS):
        raise ValueError(f"{which!r} is not known; expected plain, {', '.join([*FAMILIES, *OPTIONS])} or nothing")
    family, option = OPTIONS.get(which, (which, {}))
    chosen = [family] if family in FAMILIES else list(FAMILIES)
    settings = {"seq_len": LENGTH, "batch_tokens": SEQUENCES * LENGTH, "tokens": 20_000_000_000, "opt.lr": 3e-4}
    if which != "plain":
        settings |= SMALLER
    points = [settings | {"family": name} | FAMILIES[name] | option for name in chosen]
    return tag(cases(*points), group="sizes")
