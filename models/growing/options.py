"""State how a model grows, and what of a model growth looks at."""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from jaxtyping import Array

from models.errors import InputError, nearest
from models.growing.maps import ORDERS
from models.option import option

CHOICES = {
    "depth": ("direct", "learn", "zero", "random"),
    "order": ORDERS,
    "width": ("direct", "aki", "learn", "zero", "random"),
    "width_map": ("random", "modulo"),
    "split": ("even", "uneven"),
    "optimizer": (None, "fresh", "grown"),
}

SIZES = ("width", "depth", "heads", "kv_heads", "ff", "expert_ff", "state", "attention_tokens", "ff_tokens")


# Options besides sizes in which a model may differ from its parent: how it computes, not what its parameters mean.
FREE = ("norm_eps", "bit_eps", "attention_tau", "ff_tau", "init", "dtype", "chunk", "mode", "capacity_factor")
FREE += ("priority", "balance_layers", "bias_rate")
FREE += ("quant_weight", "quant_act", "quant_grad", "quant_saved", "quant_kv")


@dataclasses.dataclass(frozen=True)
class Growth:
    """How a run with a parent starts from it. Sizes are those of the two models; equal models need no operator."""

    depth: str = "direct"  # direct | learn | zero | random
    order: str = "stack"  # stack | interpolate | gradual: see growth_maps.layers
    first: int = 0  # of the parent's layers, the first that is repeated
    last: int | None = None  # and the one after the last; its depth
    width: str = "direct"  # direct | aki | learn | zero | random
    width_map: str = "random"  # which channels and heads are copied: random (Net2Net) | modulo: all in turn
    # Of a channel among what reads its copies: even (bert2BERT) | uneven (LEMON), which tells them apart.
    split: str = "even"
    noise: float = 0.0  # share of noise in the layers' matrices; 0.2 helped a little (Du et al. 2024)
    ramp_tokens: int | Array = option(0, runtime=True)  # random: over which the mask rises; 0: there is none
    learn_steps: int = 100  # learn: steps of batch_tokens in which the combination is trained, before the run's own
    learn_lr: float = 1e-3
    router_std: float = 0.02  # upcycling: of the new routers (AquilaMoE's "variance 0.02" would be 0.14)
    # fresh | grown: moments go through the operator too; None: grown if the model is the same.
    optimizer: str | None = None
    continue_data: bool = True  # go on after the last token that parent and ancestors have read of this data

    @property
    def masked(self) -> bool:
        """Whether the program of a run has masks: only where an operator may need them."""
        return "random" in (self.depth, self.width)

    def check(self) -> None:
        """Raises InputError, naming the field, for values that no growth can have."""
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise InputError(f"growth.{name}={value!r} is not known; {nearest(str(value), filter(None, known))}")
        if not 0 <= self.noise < 1:
            raise InputError(f"growth.noise={self.noise} must be in [0, 1)")
        for name in ("ramp_tokens", "learn_steps", "learn_lr", "router_std"):
            if getattr(self, name) < 0:
                raise InputError(f"growth.{name}={getattr(self, name)} must not be negative")
        if self.ramp_tokens and not self.masked:
            raise InputError(
                f"growth.ramp_tokens={self.ramp_tokens} has no meaning without growth.depth or width 'random'"
            )
        both = {self.depth, self.width}
        if "learn" in both and not both <= {"learn", "direct", "aki"}:
            raise InputError(
                f"growth.depth={self.depth!r} and growth.width={self.width!r}: learn goes with learn or direct only"
            )


class Layout(NamedTuple):
    """A model without its values: family, resolved Config, logical axes and shape of every parameter by path."""

    family: str
    cfg: Any
    axes: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, tuple[int, ...]]


def may_differ(field: dataclasses.Field[Any]) -> bool:
    """Whether an option says nothing of what the parameters mean."""
    return field.name in FREE or bool(field.metadata.get("runtime")) or not field.metadata.get("numerics", True)
