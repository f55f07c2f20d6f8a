"""Estimate the gradient noise scale of a run from the microbatches of its steps (McCandlish et al. 2018, appendix A.1).

With gradients of parts of b tokens and of the whole batch of B = P b, both unbiased:

    |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b)        tr(Sigma) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B)

and the noise scale is tr(Sigma) / |G|^2: the batch in tokens at which noise and signal of a step's gradient are alike. Of
one step both are noisy; the scale is the ratio of their means over about the last 100 steps. A gradient's variance is that
between sequences, over the tokens of one.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array
import numpy as np

from models.contract import ParamInfo, Role

KEPT = 0.99  # of the means, from one step to the next
ALL = ""  # the group of all parameters
COLUMN = "noise_scale_tokens"
SIGNAL = "gradient_square"
VARIANCE = "gradient_variance"  # a token's
NORMS = (Role.NORM_SCALE, Role.NORM_SHIFT, Role.LAST_NORM_SCALE, Role.LAST_NORM_SHIFT)
# A layer of TokenFormer has its parts side by side.
MODULES = {"query": "attention", "key": "attention", "value": "attention", "out": "attention", "ff": "mlp"}

Squares = dict[str, Array]  # of the length of a gradient, by group


def group_of(path: str, info: ParamInfo) -> str:
    """Return the group of a parameter: norm, router, or the module of its layer or of the model, such as attention."""
    if info.role in NORMS:
        return "norm"
    if info.role == Role.ROUTER:
        return "router"
    # Layers are stacked under these names, several stacks under numbers.
    names = [name for name in path.split("/") if name not in ("blocks", "first") and not name.isdigit()]
    return MODULES.get(names[0], names[0])


def groups(infos: Mapping[str, ParamInfo]) -> dict[str, str]:
    """Return the group of each parameter by path."""
    return {path: group_of(path, info) for path, info in infos.items()}


def squares(gradients: Mapping[str, Array], group_by_path: Mapping[str, str]) -> Squares:
    """Return the squared length of a gradient, in all and of each group of parameters."""
    found: Squares = {}
    for path, gradient in gradients.items():
        square = jnp.sum(jnp.square(gradient.astype(jnp.float32)))
        for group in (ALL, group_by_path[path]):
            found[group] = found[group] + square if group in found else square
    return found


def estimates(of_part: Squares, of_whole: Squares, parts: int, part_tokens: int) -> dict[str, Array]:
    """Return unbiased |G|^2 and tr(Sigma) a token, as metrics by group.

    `of_part`: mean over the parts of their gradients' squares; `of_whole`: the squares of their mean.
    """
    metrics = {}
    for group, small in of_part.items():
        large = of_whole[group]
        metrics[_name(SIGNAL, group)] = (parts * large - small) / (parts - 1)
        metrics[_name(VARIANCE, group)] = (small - large) * part_tokens * parts / (parts - 1)
    return metrics


def _name(what: str, group: str) -> str:
    return f"{what}/{group}" if group else what


@dataclasses.dataclass
class NoiseScale:
    """The means of a run, by group: of |G|^2 and of tr(Sigma), each with the same weights."""

    means: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def scales(self, metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Take the estimates of the next steps; return the scale after each of them, by the names of metrics."""
        found = {}
        for name in metrics:
            what, _, group = name.partition("/")
            if what == SIGNAL:
                signal = metrics[name]
                variance = metrics[_name(VARIANCE, group)]
                found[_name(COLUMN, group)] = self._scales_of(group, signal, variance)
        return found

    def _scales_of(self, group: str, signal: np.ndarray, variance: np.ndarray) -> np.ndarray:
        scales = np.zeros(len(signal))
        for step, (square, trace) in enumerate(zip(signal.tolist(), variance.tolist(), strict=True)):
            if math.isfinite(square + trace):
                before = self.means.get(group, (0.0, 0.0))
                self.means[group] = (
                    KEPT * before[0] + (1 - KEPT) * square,
                    KEPT * before[1] + (1 - KEPT) * trace,
                )
            scales[step] = self.scale(group)
        return scales

    def scale(self, group: str = ALL) -> float:
        """Return the scale in tokens; not a number where the signal is not told from zero."""
        square, trace = self.means.get(group, (0.0, 0.0))
        return trace / square if square > 0 else math.nan

    def columns(self) -> dict[str, Any]:
        """Return columns of the record."""
        return {_name(COLUMN, group).replace("/", "_"): self.scale(group) for group in self.means}

    def notes(self) -> dict[str, Any]:
        """Return what a checkpoint has to remember."""
        return {group: list(means) for group, means in self.means.items()}

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint remembers."""
        self.means = {group: (square, trace) for group, (square, trace) in notes.items()}
