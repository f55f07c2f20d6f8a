"""What does growing a trained model save over training the large one from scratch? Growth factor x timing, with controls.

    python -m sweeps.launch --study=sweeps/studies/growth.py --workdir=runs/growth

A model of 8 layers is stacked from trunks of 4 and of 2 layers (growth factors 2 and 4) after a twentieth to two fifths
of its tokens, and trained on with a new schedule on text that the trunk has not read. Controls
start from scratch with several budgets, so that a grown run can be compared at equal loss: analysis/procedures/growth.py. Columns
lineage_tokens and flops_lineage charge a run with its trunk. The published rule for the timing (rules.stack_timing) is
of models ten thousand times this size and asks for more than all the text here: hence the grid. 20 runs of 120 thousand
parameters and less, 9.3e12 FLOPs: five to six minutes on two CPU cores.

`growth.py:operators` compares the operators in depth at one trunk; `growth.py:aquila` is AquilaMoE's way: a small dense
model, scaled up in width and depth (AKI-Pro), then scaled out into eight experts. `growth.py:smoke` is the timing study in a
few steps, to see that everything works.

No fit: what it saves is read at equal loss, by `analysis.speedup`.

Cost: 20 runs, 9.25e+12 FLOPs.
"""

from sweeps.study import common
from sweeps.study.grid import Grid, branch, cases, chain, over, product, tag

BASE = {"data.corpus": ("embedded",), "model.width": 32, "model.heads": 2, "seq_len": 64, "batch_tokens": 512}
BASE |= {"opt.lr": 4e-3}
DEPTH = 8
TOKENS = 512 * 1_500
STARTS = tuple(512 * steps for steps in (75, 150, 300, 600))  # tokens of a trunk when it grows


def grown_for(tokens: int) -> dict[str, int]:
    """Return config keys of a model of full depth that trains on for so many tokens, with a warm-up of its own."""
    return {"model.depth": DEPTH, "tokens": tokens, "schedule.warmup_tokens": tokens // 10}


def timing(
    base: Grid = cases(BASE),
    tokens: int = TOKENS,
    starts: tuple[int, ...] = STARTS,
) -> Grid:
    """Make trunks of two depths and several lengths, what grows from each, and controls of equal and larger budgets."""
    trunks = common.with_warmup(product(base, over("model.depth", 2, 4), over("tokens", *starts)))
    grown = branch(trunks, cases(grown_for(tokens)))
    budgets = over("tokens", *(round(tokens * share) for share in (0.5, 1, 1.5, 2)))
    scratch = common.with_warmup(product(base, cases({"model.depth": DEPTH}), budgets))
    return chain(tag(trunks, group="trunk"), tag(grown, group="grown"), tag(scratch, group="scratch"))


def smoke() -> Grid:
    """Make the study of timing, tiny."""
    model = {key: value for key, value in BASE.items() if key.startswith(("model", "opt"))}
    base = cases(model | common.SCALES["smoke"])
    return timing(base, tokens=256 * 20, starts=(256 * 10,))


def operators() -> Grid:
    """Make one trunk, grown in depth by every operator and order, and not at all."""
    trunk = common.with_warmup(product(cases(BASE), cases({"model.depth": 4, "tokens": 512 * 300})))
    ways = chain(
        over("growth.order", "stack", "interpolate"),
        cases(
            {"growth.first": 1, "growth.last": 3},
            {"growth.noise": 0.2},
            {"growth.depth": "zero"},
            {"growth.depth": "random", "growth.ramp_tokens": TOKENS // 10},
            {"growth.depth": "learn"},
        ),
    )
    grown = branch(trunk, cases(grown_for(TOKENS)), ways)
    scratch = common.with_warmup(product(cases(BASE), cases({"model.depth": DEPTH, "tokens": TOKENS})))
    return chain(tag(trunk, group="trunk"), tag(grown, group="grown"), tag(scratch, group="scratch"))


def aquila() -> Grid:
    """Scale a model up by AKI-Pro, then out: 8 experts, 2 of them active."""
    tokens = 512 * 600  # of each of the three
    small = common.with_warmup(product(cases(BASE), cases({"model.depth": 4, "model.ff": 96, "tokens": tokens})))
    wide = {"model.width": 48, "model.heads": 3, "model.ff": 144, "model.depth": DEPTH}
    aki_pro = {"growth.width": "aki", "growth.order": "interpolate"}
    up = branch(small, cases({**wide, **aki_pro, "tokens": tokens, "opt.lr": 3e-3}))
    experts = {"family": "moe", "model.experts": 8, "model.top_k": 2, "model.expert_ff": 144, "model.ff": None}
    out = branch(up, cases({**experts, "model.load_balance": 1e-3, "tokens": tokens, "opt.lr": 2e-3}))
    return chain(tag(small, group="small"), tag(up, group="scaled up"), tag(out, group="scaled out"))


def get_study(part: str = "timing") -> Grid:
    """Return the study; the argument after the colon is timing, operators, aquila or smoke."""
    parts = {"timing": timing, "operators": operators, "aquila": aquila, "smoke": smoke}
    if part not in parts:
        raise ValueError(f"{part!r} is not a part of this study; expected one of {', '.join(parts)}")
    return parts[part]()
