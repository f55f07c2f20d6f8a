"""Small enough for half a minute on a CPU: 60 thousand parameters, half a million bytes of text.

python -m experiments.train --config=experiments/configs/smoke.py --workdir=runs/smoke
"""

from typing import Any

from experiments.configs import default


def get_config(family: str | None = None) -> Any:
    """The defaults of a family, made small."""
    config = default.get_config(family)
    config.model.update({"width": 48, "depth": 3, "heads": 3})
    config.update({"tokens": 500_000, "batch_tokens": 1_024, "seq_len": 128})
    config.opt.lr = 8e-3
    config.schedule.warmup_tokens = 25_000
    return config
