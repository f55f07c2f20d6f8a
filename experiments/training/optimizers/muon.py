"""Muon: momentum made orthogonal for the matrices of layers; AdamW for embedding, head, routers and vectors.

Jordan et al. 2024 (github.com/KellerJordan/Muon); size of the update and decay: Liu et al. 2025 (Moonlight, arXiv 2502.16982,
eq. 4), so that learning rates and decays of AdamW carry over.
"""

import dataclasses

import optax

from experiments.training.orthogonal import hidden_matrices, orthogonalize
from experiments.training.transformations import Chain, Parameters, among, clip_by_norm, decay_matrices
from models.option import AT_LEAST_ONE, BELOW_ONE, NOT_NEGATIVE, POSITIVE, option


@dataclasses.dataclass(frozen=True)
class Config:
    """Options under `opt`."""

    name: str = option("muon", choices=("muon",), help="the file in experiments/training/optimizers")
    lr: float = option(2e-3, runtime=True, valid=POSITIVE, help="the peak learning rate, of all parameters")
    momentum: float = option(0.95, runtime=True, valid=BELOW_ONE, help="of the matrices of layers, Nesterov's")
    iterations: int = option(5, valid=AT_LEAST_ONE, help="of Newton and Schulz, which make a matrix orthogonal")
    beta1: float = option(0.9, runtime=True, valid=BELOW_ONE, help="AdamW's, for the rest")
    beta2: float = option(0.95, runtime=True, valid=BELOW_ONE, help="AdamW's, for the rest")
    eps: float = option(1e-8, runtime=True, valid=POSITIVE, help="AdamW's, for the rest")
    weight_decay: float = option(0.1, runtime=True, valid=NOT_NEGATIVE, help="of matrices; times the learning rate")
    clip_norm: float | None = option(1.0, runtime=True, valid=POSITIVE, help="of all gradients together; None: none")


def chain(options: Config, parameters: Parameters) -> Chain:
    """Return clipping, orthogonal momentum of matrices, Adam's moments of the rest, and weight decay."""
    hidden = hidden_matrices(parameters)
    rest = parameters.keys() - hidden
    momentum = optax.trace(options.momentum, nesterov=True)
    orthogonal = orthogonalize(options.iterations, parameters)
    adam = optax.scale_by_adam(b1=options.beta1, b2=options.beta2, eps=options.eps)
    return Chain(
        clip_by_norm(options.clip_norm),
        (
            among(hidden, optax.chain(momentum, orthogonal)),
            among(rest, adam),
            decay_matrices(options.weight_decay, parameters),
        ),
    )
