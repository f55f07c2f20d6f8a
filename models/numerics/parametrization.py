"""Width and depth transfer: how scales follow from a model's size, so that what was tuned small holds when it is large.

With m = width / base_width and k = depth / base_depth (CompleteP only; else 1), a = depth_alpha, and the options' own
values as tuned at the base size (init_std, lr, weight_decay, eps):

                           standard              mup            completep
    init of hidden matrix  std                   std / sqrt(m)  std / sqrt(m)
      that writes back     std / sqrt(2 depth)   std / sqrt(m)  std / sqrt(m)
    lr of hidden matrix    lr                    lr / m         lr k^(a-1) / m
    lr of block vector     lr                    lr             lr k^(a-1)
    decay, hidden matrix   weight_decay          weight_decay   weight_decay m
    eps outside blocks     eps                   eps / m        eps / m
    eps in blocks          eps                   eps / m        eps / (m k^a)
    residual branch        x + S(x)              x + S(x)       x + k^-a S(x)
    logits                 x W                   x W / m        x W / m
    attention scores       q k / sqrt(size)      q k / size     q k / size

Embedding and head keep std, lr and weight_decay. Decay is multiplied by the learning rate. muP: Yang et al. 2022 (arXiv
2203.03466); CompleteP: Dey et al. 2025 (arXiv 2505.01618); the table: EleutherAI/nanoGPT-mup, with eps as its later
version has it. Depth enters only through CompleteP; depth_alpha 1 is the paper's choice, 0.5 the older depth-muP.
experiments/training/optimizer.py applies `factors`, models/blocks/decoder.py and the families the rest.
"""

from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Array, Float

from models.contract import ParamInfo, Role
from models.option import AT_LEAST_ONE, POSITIVE, Valid, option, when

PARAMETRIZATIONS = ("standard", "mup", "completep")
TRANSFERS = when("parametrization", "mup", "completep")
COMPLETEP = when("parametrization", "completep")
HALF_TO_ONE = Valid("from 0.5 to 1", lambda value: 0.5 <= value <= 1)
OUTSIDE_LAYERS = (Role.EMBED, Role.HEAD, Role.LAST_NORM_SCALE, Role.LAST_NORM_SHIFT)


class Factors(NamedTuple):
    """What is multiplied for one parameter: its learning rate, its weight decay, and what meets its gradient.

    gradient_size: how large its gradient is, against that at the base size. Whatever an optimizer adds to gradients or
        compares them with (Adam's eps) is multiplied by it.
    """

    lr: float = 1.0
    weight_decay: float = 1.0
    gradient_size: float = 1.0


def is_matrix(axes: Sequence[str]) -> bool:
    """Whether a parameter with these logical axes has two or more besides the stack of layers: no norm, no bias."""
    return sum(name != "layers" for name in axes) >= 2


@dataclasses.dataclass(frozen=True)
class Parametrization:
    """Options of how scales follow from sizes, and what follows from them. A family that has rules says so."""

    if TYPE_CHECKING:
        # Options of every family, declared with the others (models/blocks/options.py).
        width: int
        depth: int

    parametrization: str = option(
        "standard", choices=PARAMETRIZATIONS, help="how scales of weights and learning rates follow the size"
    )
    base_width: int = option(
        256, valid=AT_LEAST_ONE, when=TRANSFERS, help="width at which the other options were tuned"
    )
    base_depth: int = option(2, valid=AT_LEAST_ONE, when=COMPLETEP, help="depth at which the other options were tuned")
    depth_alpha: float = option(
        1.0, valid=HALF_TO_ONE, when=COMPLETEP, help="power of the depth that divides residual branches"
    )
    embed_multiplier: float = option(1.0, valid=POSITIVE, help="multiplies what enters the first layer")
    logit_multiplier: float = option(1.0, valid=POSITIVE, help="multiplies the logits")

    @property
    def transfers(self) -> bool:
        """Whether scales follow from the size."""
        return self.parametrization != "standard"

    @property
    def width_ratio(self) -> float:
        """Width over the base width; 1 where the width does not matter."""
        return self.width / self.base_width if self.transfers else 1.0

    @property
    def depth_ratio(self) -> float:
        """Depth over the base depth; 1 where the depth does not matter."""
        return self.depth / self.base_depth if self.parametrization == "completep" else 1.0

    @property
    def residual_scale(self) -> float:
        """What the output of a layer's parts is multiplied by before it is added to the residual stream."""
        return self.depth_ratio**-self.depth_alpha

    @property
    def logit_scale(self) -> float:
        """What logits are multiplied by, in training as in evaluation."""
        return self.logit_multiplier / self.width_ratio

    def init_stds(self, std: float | Float[Array, ""]) -> tuple[Any, Any]:
        """Return the standard deviations of hidden matrices, and of those that write to the residual stream (GPT-2's rule)."""
        hidden = std / self.width_ratio**0.5
        writes = hidden if self.transfers else std / (2 * self.depth) ** 0.5
        return hidden, writes

    def factors(self, param: ParamInfo) -> Factors:
        """Return what is multiplied for one parameter."""
        width = self.width_ratio
        depth = self.depth_ratio
        if param.role in OUTSIDE_LAYERS:
            return Factors(gradient_size=1 / width)
        lr = depth ** (self.depth_alpha - 1)
        gradient_size = 1 / (width * depth**self.depth_alpha)
        # A router maps the width to a fixed number of experts, as the head does: its matrix is no hidden one.
        if not is_matrix(param.axes) or param.role == Role.ROUTER:
            return Factors(lr, gradient_size=gradient_size)
        # Each step then decays a hidden matrix by lr x weight_decay at every width; muP's table leaves that out.
        weight_decay = width if self.parametrization == "completep" else 1.0
        return Factors(lr / width, weight_decay, gradient_size)
