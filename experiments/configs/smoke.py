"""Small enough for half a minute on a CPU: 60 thousand parameters, half a million bytes of text.

    python -m experiments.train --config=experiments/configs/smoke.py --workdir=runs/smoke

The argument after a colon is the family, as in smoke.py:moe.
"""

from typing import Any

from experiments.configs import default

SIZES = {"width": 48, "depth": 3, "heads": 3}


def get_config(family: str | None = None) -> Any:
    """Return the defaults of a family, made small."""
    config = default.get_config(family)
    for name, size in SIZES.items():
        if name in config.model:  # not every family has heads
            config.model[name] = size
    config.update({"tokens": 500_000, "batch_tokens": 1_024, "seq_len": 128})
    config.opt.lr = 8e-3
    config.schedule.warmup_tokens = 25_000
    return config
