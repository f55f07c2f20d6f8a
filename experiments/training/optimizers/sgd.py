"""SGD with momentum, which is the sum of earlier gradients (Sutskever et al. 2013), and decoupled weight decay."""

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

    name: str = option("sgd", choices=("sgd",), help="the file in experiments/training/optimizers")
    lr: float = option(0.1, runtime=True, valid=POSITIVE, help="the peak learning rate")
    momentum: float = option(0.9, runtime=True, valid=BELOW_ONE, help="what is left of the sum of gradients a step")
    nesterov: bool = option(False, help="take the sum as it will be after one more such gradient")
    weight_decay: float = option(1e-3, runtime=True, valid=NOT_NEGATIVE, help="of matrices; times the learning rate")
    clip_norm: float | None = option(1.0, runtime=True, valid=POSITIVE, help="of all gradients together; None: none")


def chain(options: Config, parameters: Parameters) -> Chain:
    """Return clipping, momentum, and weight decay."""
    momentum = optax.trace(options.momentum, nesterov=options.nesterov)
    # Multiples of the learning rate are those of steps that do not depend on a gradient's size. Divided by it, SGD's do
    # not either: what is left is muP's table for SGD, 1 for hidden matrices and the width for all else.
    return Chain(
        clip_by_norm(options.clip_norm),
        (
            of_sized_gradients(momentum, parameters),
            decay_matrices(options.weight_decay, parameters),
        ),
    )
