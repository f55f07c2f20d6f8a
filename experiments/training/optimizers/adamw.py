"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019) on matrices only, after clipping by global norm."""

import dataclasses

import optax

from experiments.training.transformations import (
    Chain,
    Parameters,
    clip_by_norm,
    decay_matrices,
    of_sized_gradients,
)
from models.option import BELOW_ONE, NOT_NEGATIVE, POSITIVE, option

TRANSFERS = True


@dataclasses.dataclass(frozen=True)
class Config:
    """Options under `opt`."""

    name: str = option("adamw", choices=("adamw",), help="the file in experiments/training/optimizers")
    lr: float = option(2e-3, runtime=True, valid=POSITIVE, help="the peak learning rate")
    beta1: float = option(0.9, runtime=True, valid=BELOW_ONE, help="decay of the mean of gradients")
    beta2: float = option(0.95, runtime=True, valid=BELOW_ONE, help="decay of the mean of squared gradients")
    eps: float = option(1e-8, runtime=True, valid=POSITIVE, help="added to the root of the mean of squares")
    weight_decay: float = option(0.1, runtime=True, valid=NOT_NEGATIVE, help="of matrices; times the learning rate")
    clip_norm: float | None = option(1.0, runtime=True, valid=POSITIVE, help="of all gradients together; None: none")


def chain(options: Config, parameters: Parameters) -> Chain:
    """Return clipping, Adam's moments, and weight decay."""
    adam = optax.scale_by_adam(b1=options.beta1, b2=options.beta2, eps=options.eps)
    # Adam takes one eps for all parameters. Its result does not change when gradients and eps shrink together, so that a
    # gradient divided by c does what c times eps would do, and one state serves all. Clipping sees gradients as they are.
    return Chain(
        clip_by_norm(options.clip_norm),
        (
            of_sized_gradients(adam, parameters),
            decay_matrices(options.weight_decay, parameters),
        ),
    )
