"""SOAP: Adam in the axes of Shampoo's preconditioners, for the matrices of layers; AdamW for all else.

Vyas et al. 2024 (arXiv 2409.11321, algorithm 3; github.com/nikhilvyas/SOAP). As there, the first step of matrices only
finds the axes.
"""

import dataclasses

import optax

from experiments.training.orthogonal import hidden_matrices
from experiments.training.rotated import left_axes, right_axes, scale_by_rotated_adam
from experiments.training.transformations import Chain, Parameters, among, clip_by_norm, decay_matrices
from models.option import AT_LEAST_ONE, BELOW_ONE, NOT_NEGATIVE, POSITIVE, option

GROWS = False  # axes of a smaller matrix are none of a larger one


@dataclasses.dataclass(frozen=True)
class Config:
    """Options under `opt`."""

    name: str = option("soap", choices=("soap",), help="the file in experiments/training/optimizers")
    lr: float = option(2e-3, runtime=True, valid=POSITIVE, help="the peak learning rate")
    beta1: float = option(0.95, runtime=True, valid=BELOW_ONE, help="decay of the mean of gradients")
    beta2: float = option(0.95, runtime=True, valid=BELOW_ONE, help="decay of the means of squares and of products")
    eps: float = option(1e-8, runtime=True, valid=POSITIVE, help="added to the root of the mean of squares")
    every_steps: int = option(10, valid=AT_LEAST_ONE, help="steps between two looks for the axes")
    weight_decay: float = option(0.1, runtime=True, valid=NOT_NEGATIVE, help="of matrices; times the learning rate")
    clip_norm: float | None = option(1.0, runtime=True, valid=POSITIVE, help="of all gradients together; None: none")


def chain(options: Config, parameters: Parameters) -> Chain:
    """Return clipping, Adam in rotated axes, Adam of the rest, and weight decay."""
    hidden = hidden_matrices(parameters)
    rotated = scale_by_rotated_adam(options.beta1, options.beta2, options.eps, options.every_steps, parameters)
    adam = optax.scale_by_adam(b1=options.beta1, b2=options.beta2, eps=options.eps)
    return Chain(
        clip_by_norm(options.clip_norm),
        (
            among(hidden, rotated),
            among(parameters.keys() - hidden, adam),
            decay_matrices(options.weight_decay, parameters),
        ),
        own_axes={
            "left": left_axes,
            "left_basis": left_axes,
            "right": right_axes,
            "right_basis": right_axes,
        },
    )
