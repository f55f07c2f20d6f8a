"""Schedule-free AdamW: a mean of all iterates in place of a falling learning rate (Defazio et al. 2024, arXiv 2405.15682).

The parameters of a run are the mean x, which is evaluated, saved and exported. The state holds the iterate z; gradients
are taken between the two, at y = beta1 x + (1 - beta1) z. It wants schedule.name=constant, and a warm-up.
"""

import dataclasses

import optax

from experiments.training.iterates import average_iterates
from experiments.training.transformations import (
    Chain,
    Parameters,
    clip_by_norm,
    decay_matrices,
    of_sized_gradients,
)
from models.option import BELOW_ONE, NOT_NEGATIVE, POSITIVE, Valid, option

TRANSFERS = True
GROWS = False  # the iterate would grow as parameters do, and not as gradients

INSIDE = Valid("a number above 0 and below 1", lambda value: 0 < value < 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Options under `opt`."""

    name: str = option("schedule_free", choices=("schedule_free",), help="the file in experiments/training/optimizers")
    lr: float = option(
        2e-3, runtime=True, valid=POSITIVE, help="the learning rate, and its peak where it has a schedule"
    )
    beta1: float = option(0.9, runtime=True, valid=INSIDE, help="share of the mean in where gradients are taken")
    beta2: float = option(0.95, runtime=True, valid=BELOW_ONE, help="decay of the mean of squared gradients")
    eps: float = option(1e-8, runtime=True, valid=POSITIVE, help="added to the root of the mean of squares")
    weight_decay: float = option(0.1, runtime=True, valid=NOT_NEGATIVE, help="of matrices; times the learning rate")
    clip_norm: float | None = option(1.0, runtime=True, valid=POSITIVE, help="of all gradients together; None: none")


def chain(options: Config, parameters: Parameters) -> Chain:
    """Return clipping, and the mean of what steps of AdamW without a first moment make of the iterate."""
    adam = optax.scale_by_adam(b1=0.0, b2=options.beta2, eps=options.eps)
    steps = optax.chain(
        of_sized_gradients(adam, parameters),
        decay_matrices(options.weight_decay, parameters),
    )
    return Chain(
        clip_by_norm(options.clip_norm),
        (average_iterates(steps, options.beta1, parameters),),
        mean_share=options.beta1,
    )
