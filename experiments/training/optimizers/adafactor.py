"""Adafactor: Adam's mean of squares kept as its row and column means (Shazeer & Stern 2018, arXiv 1804.04235, algorithm 4).

Steps are not multiplied by a parameter's own size, so that learning rates of AdamW carry over; there is no first moment.
"""

import dataclasses

from experiments.training.factored import column_axes, row_axes, scale_by_factored_rms
from experiments.training.transformations import Chain, Parameters, clip_by_norm, decay_matrices
from models.option import NOT_NEGATIVE, POSITIVE, option

TRANSFERS = True  # a step knows no size of gradients, so that Adam's multiples of the learning rate are its own
GROWS = False  # means of rows say nothing of rows that are new


@dataclasses.dataclass(frozen=True)
class Config:
    """Options under `opt`."""

    name: str = option("adafactor", choices=("adafactor",), help="the file in experiments/training/optimizers")
    lr: float = option(2e-3, runtime=True, valid=POSITIVE, help="the peak learning rate")
    decay_power: float = option(
        0.8, runtime=True, valid=POSITIVE, help="the mean of squares forgets a share step^-power of itself a step"
    )
    eps: float = option(1e-30, runtime=True, valid=POSITIVE, help="added to squared gradients")
    clip_rms: float = option(1.0, runtime=True, valid=POSITIVE, help="most that the root mean square of a step may be")
    weight_decay: float = option(0.1, runtime=True, valid=NOT_NEGATIVE, help="of matrices; times the learning rate")
    clip_norm: float | None = option(1.0, runtime=True, valid=POSITIVE, help="of all gradients together; None: none")


def chain(options: Config, parameters: Parameters) -> Chain:
    """Return clipping, division by the factored root of squares, and weight decay."""
    factored = scale_by_factored_rms(options.decay_power, options.eps, options.clip_rms, parameters)
    return Chain(
        clip_by_norm(options.clip_norm),
        (factored, decay_matrices(options.weight_decay, parameters)),
        own_axes={"v_row": row_axes, "v_col": column_axes},
    )
