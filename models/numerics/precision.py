"""Say in which number formats a model multiplies: the options of a config, and the recipe that they make.

A format is written as text: "e4m3" is a float of 4 exponent and 3 mantissa bits (and a sign), "int8" a whole number;
"e4m3b32" has a scale for every 32 entries along the contracted axis. Without a block there is one scale for each vector
that is contracted, a row of activations or a column of weights: never one for a whole tensor, which would let a token
see the magnitudes of later ones and of other sequences, and would depend on how a batch is split over devices.

models/numerics/formats.py rounds, models/numerics/matmul.py multiplies.
"""

import dataclasses

from models.numerics.formats import Format, parse
from models.option import When, option

KERNELS = ("auto", "simulated", "real")
EIGHT_BIT_FLOATS = ("e4m3", "e5m2")  # for which there are matmul instructions
EIGHT_BIT = When(
    "eight_bit",
    "quant_act and quant_weight, or quant_grad and quant_saved, are e4m3 or e5m2",
    bool,
    {"quant_act": "e4m3", "quant_weight": "e4m3"},
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Formats of what enters the three matmuls of a linear layer; None: as it is.

    forward Y = act(X) weight(W); backward dX = grad(dY) saved(W)^T and dW = saved(X)^T grad(dY), each scaled along the
    axis that it contracts. `saved` None: the backward pass uses what the forward pass rounded X and W to.
    """

    weight: Format | None = None
    act: Format | None = None
    grad: Format | None = None
    saved: Format | None = None
    kernel: str = "auto"


@dataclasses.dataclass(frozen=True)
class Precision:
    """Options: formats (as `parse` reads them) of what enters the matmuls of all linear layers; None: not rounded.

    Embedding, head, norms, routers and the products of attention are left as they are.
    """

    quant_weight: str | None = option(
        None,
        growth="free",
        help="forward: matrices (Kumar et al. 2024: P_w); these five: a format such as e4m3, e5m2, int8, e4m3b32",
    )
    quant_act: str | None = option(None, growth="free", help="forward: what is multiplied with them (P_a)")
    quant_grad: str | None = option(None, growth="free", help="backward: the gradient that comes in")
    quant_saved: str | None = option(
        None, growth="free", help="backward: matrices and activations, rounded anew; none: as in the forward pass"
    )
    quant_kv: str | None = option(
        None, growth="free", help="forward: keys and values of attention, each head's by itself (P_kv)"
    )
    quant_kernel: str = option(
        "auto",
        numerics=False,
        choices=KERNELS,
        when=EIGHT_BIT,
        help="real: 8-bit matmuls of the hardware; auto: if it has them",
    )

    @property
    def quant(self) -> Recipe | None:
        """Return the recipe; None when nothing is to be rounded. Raises InputError for what is no format."""
        formats = {}
        for name in ("weight", "act", "grad", "saved"):
            text = getattr(self, f"quant_{name}")
            if text is not None:
                formats[name] = parse(text, f"model.quant_{name}")
        return Recipe(**formats, kernel=self.quant_kernel) if formats else None

    @property
    def eight_bit(self) -> bool:
        """Whether there are matmul instructions for one of the products: both of its factors are 8-bit floats."""
        recipe = self.quant or Recipe()
        forward = str(recipe.act) in EIGHT_BIT_FLOATS and str(recipe.weight) in EIGHT_BIT_FLOATS
        backward = str(recipe.grad) in EIGHT_BIT_FLOATS and str(recipe.saved) in EIGHT_BIT_FLOATS
        return forward or backward

    @property
    def kv_format(self) -> Format | None:
        """Return the format of keys and values. Raises InputError for what is no format."""
        return None if self.quant_kv is None else parse(self.quant_kv, "model.quant_kv")

    def check_precision(self) -> None:
        """Raise InputError for what is no format."""
        # Both parse their formats, and raise for what is none.
        _ = self.quant
        _ = self.kv_format
