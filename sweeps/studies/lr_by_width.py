"""Does the best peak learning rate move with width? 12 runs, tokens fixed.

    python -m sweeps.launch --study=sweeps/studies/lr_by_width.py --workdir=runs/lr_by_width

Most of it at width 512: minutes on an accelerator, hours on a laptop (`sweeps.plan` measures it).

No fit: the best learning rate of each width is read off.

Cost: 12 runs, 8.53e+14 FLOPs.
"""

from sweeps.study.grid import Grid, over, product


def lr_by_width(family: str) -> Grid:
    """Does the best peak learning rate move with width? 12 runs, tokens fixed."""
    widths = over("model.width", 128, 256, 512)
    rates = over("opt.lr", 1e-3, 2e-3, 4e-3, 8e-3)
    return product(over("family", family), widths, rates)


def get_study(family: str = "dense") -> Grid:
    """Return the study; the argument after the colon is the family."""
    return lr_by_width(family)
