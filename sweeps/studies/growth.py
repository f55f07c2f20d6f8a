"""What does growing a trained model save over training the large one from scratch? Growth factor x timing, with controls.

    python -m sweeps.launch --study=sweeps/studies/growth.py --workdir=runs/growth

A model of 8 layers is stacked from trunks of 4 and of 2 layers (growth factors 2 and 4) after a twentieth to two fifths
of its tokens, and trained on with a new schedule on text that the trunk has not read. Controls
start from scratch with several budgets, so that a grown run can be compared at equal loss: analysis/procedures/growth.py. Columns
lineage_tokens and flops_lineage charge a run with its trunk. The published rule for the timing (ladder.stack_timing) is
of models ten thousand times this size and asks for more than all the text here: hence the grid. 20 runs of 120 thousand
parameters and less, 9.3e12 FLOPs: five to six minutes on two CPU cores.

`growth.py:operators` compares the operators in depth at one trunk; `growth.py:aquila` is AquilaMoE's way: a small dense
model, scaled up in width and depth (AKI-Pro), then scaled out into eight experts. `growth.py:smoke` is the timing study in a
few steps, to see that everything works.

Cost: 20 runs, 9.25e+12 FLOPs.
"""

from sweeps.study import common, rules
from sweeps.study.grid import Grid, branch, cases, chain, derive, over, product, tag

BASE = {"data.corpus": ("embedded",), "model.width": 32, "model.heads": 2, "seq_len": 64, "batch_tokens": 512}
BASE |= {"opt.lr": 4e-3}
DEPTH, TOKENS = 8, 512 * 1_500


def trained(grid: Grid) -> Grid:
    """With a warm-up over a tenth of each run's own tokens."""
    return derive(grid, "schedule.warmup_tokens", rules.share_of_tokens(0.1))


def timing(
    base: Grid = cases(BASE),
    tokens: int = TOKENS,
    starts: tuple[int, ...] = tuple(512 * n for n in (75, 150, 300, 600)),
) -> Grid:
    """Trunks of two depths and several lengths, what grows from each, and controls of equal and larger budgets."""
    trunks = trained(product(base, over("model.depth", 2, 4), over("tokens", *starts)))
    grown = branch(trunks, cases({"model.depth": DEPTH, "tokens": tokens, "schedule.warmup_tokens": tokens // 10}))
    budgets = over("tokens", *(round(tokens * share) for share in (0.5, 1, 1.5, 2)))
    scratch = trained(product(base, cases({"model.depth": DEPTH}), budgets))
    return chain(tag(trunks, group="trunk"), tag(grown, group="grown"), tag(scratch, group="scratch"))


def smoke() -> Grid:
    """The same, tiny."""
    base = {key: value for key, value in BASE.items() if key.startswith(("model", "opt"))} | common.SCALES["smoke"]
    return timing(cases(base), 256 * 20, (256 * 10,))


def operators() -> Grid:
    """One trunk, grown in depth by every operator and order, and not at all."""
    trunk = trained(product(cases(BASE), cases({"model.depth": 4, "tokens": 512 * 300})))
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
    grown = branch(trunk, cases({"model.depth": DEPTH, "tokens": TOKENS, "schedule.warmup_tokens": TOKENS // 10}), ways)
    scratch = trained(product(cases(BASE), cases({"model.depth": DEPTH, "tokens": TOKENS})))
    return chain(tag(trunk, group="trunk"), tag(grown, group="grown"), tag(scratch, group="scratch"))


def aquila() -> Grid:
    """Scale-up by AKI-Pro, then scale-out: 8 experts, 2 of them active."""
    small = trained(product(cases(BASE), cases({"model.depth": 4, "model.ff": 96, "tokens": 512 * 600})))
    wide = {"model.width": 48, "model.heads": 3, "model.ff": 144, "model.depth": DEPTH}
    aki_pro = {"growth.width": "aki", "growth.order": "interpolate"}
    up = branch(small, cases({**wide, **aki_pro, "tokens": 512 * 600, "opt.lr": 3e-3}))
    experts = {"family": "moe", "model.experts": 8, "model.top_k": 2, "model.expert_ff": 144}
    out = branch(up, cases({**experts, "model.load_balance": 1e-3, "tokens": 512 * 600, "opt.lr": 2e-3}))
    return chain(tag(small, group="small"), tag(up, group="scaled up"), tag(out, group="scaled out"))


def get_study(part: str = "timing") -> Grid:
    """The study; the argument after the colon is timing, operators, aquila or smoke."""
    parts = {"timing": timing, "operators": operators, "aquila": aquila, "smoke": smoke}
    if part not in parts:
        raise ValueError(f"{part!r} is not a part of this study; expected one of {', '.join(parts)}")
    return parts[part]()
