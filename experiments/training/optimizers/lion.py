"""Lion: the sign of a blend of the gradient and its running mean, with decoupled decay (Chen et al. 2023, arXiv 2302.06675).

Its step is as long for every entry: it wants a third to a tenth of AdamW's learning rate, and as many times its decay.
"""

import dataclasses

import optax

from experiments.training.transformations import Chain, Parameters, clip_by_norm, decay_matrices
from models.option import BELOW_ONE, NOT_NEGATIVE, POSITIVE, option

TRANSFERS = True  # a sign knows no size, so that Adam's multiples of the learning rate are its own


@dataclasses.dataclass(frozen=True)
class Config:
    """Options under `opt`."""

    name: str = option("lion", choices=("lion",), help="the file in experiments/training/optimizers")
    lr: float = option(3e-4, runtime=True, valid=POSITIVE, help="the peak learning rate")
    beta1: float = option(0.9, runtime=True, valid=BELOW_ONE, help="share of the mean in what the sign is taken of")
    beta2: float = option(0.99, runtime=True, valid=BELOW_ONE, help="decay of the mean of gradients")
    weight_decay: float = option(0.5, runtime=True, valid=NOT_NEGATIVE, help="of matrices; times the learning rate")
    clip_norm: float | None = option(1.0, runtime=True, valid=POSITIVE, help="of all gradients together; None: none")


def chain(options: Config, parameters: Parameters) -> Chain:
    """Return clipping, the sign, and weight decay."""
    sign = optax.scale_by_lion(options.beta1, options.beta2)
    return Chain(clip_by_norm(options.clip_norm), (sign, decay_matrices(options.weight_decay, parameters)))
