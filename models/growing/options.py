"""State how a run with a parent starts from it, and which options of a model may change when it grows."""

import dataclasses
from typing import Any

from jaxtyping import Array

from models.errors import InputError
from models.growing.maps import ORDERS
from models.option import BELOW_ONE, NOT_NEGATIVE, check_options, option


@dataclasses.dataclass(frozen=True)
class Growth:
    """Options of a growth. Sizes are those of the two models; equal models need no operator."""

    depth: str = option("direct", choices=("direct", "learn", "zero", "random"), help="what a new layer starts as")
    order: str = option("stack", choices=ORDERS, help="which layer each new one is a copy of: see maps.layers")
    first: int = option(0, help="of the parent's layers, the first that is repeated")
    last: int | None = option(None, help="and the one after the last; none: the parent's depth")
    width: str = option(
        "direct", choices=("direct", "aki", "learn", "zero", "random"), help="what a new channel or head starts as"
    )
    width_map: str = option(
        "random",
        choices=("random", "modulo"),
        help="which channels and heads are copied: drawn (Net2Net), or all in turn",
    )
    split: str = option(
        "even",
        choices=("even", "uneven"),
        help="shares of a channel among what reads its copies: even (bert2BERT), uneven (LEMON) tells them apart",
    )
    noise: float = option(
        0.0, valid=BELOW_ONE, help="share of noise in the layers' matrices; 0.2 helped a little (Du et al. 2024)"
    )
    ramp_tokens: int | Array = option(
        0, runtime=True, valid=NOT_NEGATIVE, help="random: tokens over which the mask rises; 0: there is none"
    )
    learn_steps: int = option(
        100,
        valid=NOT_NEGATIVE,
        help="learn: steps of batch_tokens in which the combination is trained, before the run's own",
    )
    learn_lr: float = option(1e-3, valid=NOT_NEGATIVE, help="learn: learning rate of the combination")
    router_std: float = option(
        0.02, valid=NOT_NEGATIVE, help="upcycling: of the new routers (AquilaMoE's variance 0.02 would be 0.14)"
    )
    optimizer: str | None = option(
        None,
        choices=(None, "fresh", "grown"),
        help="grown: moments go through the operator too; none: grown if the model is the same",
    )
    continue_data: bool = option(
        True, help="go on after the last token that parent and ancestors have read of this data"
    )

    @property
    def masked(self) -> bool:
        """Whether the program of a run has masks: only where an operator may need them."""
        return "random" in (self.depth, self.width)

    def check(self) -> None:
        """Raise InputError, naming the field, for values that no growth can have."""
        check_options(self, "growth")
        if self.ramp_tokens and not self.masked:
            raise InputError(
                f"growth.ramp_tokens={self.ramp_tokens} has no meaning without growth.depth or width 'random'"
            )
        operators = {self.depth, self.width}
        if "learn" in operators and not operators <= {"learn", "direct", "aki"}:
            raise InputError(
                f"growth.depth={self.depth!r} and growth.width={self.width!r}: learn goes with learn or direct only"
            )


def is_size(field: dataclasses.Field[Any]) -> bool:
    """Whether an option is a size, of which a child may have more than its parent."""
    return field.metadata.get("growth") == "size"


def may_differ(field: dataclasses.Field[Any]) -> bool:
    """Whether an option says nothing of what the parameters mean, so that a child may have another value."""
    if field.metadata.get("growth") == "free" or field.metadata.get("runtime"):
        return True
    return not field.metadata.get("numerics", True)


def in_child(field: dataclasses.Field[Any]) -> str:
    """Say in a word what an option of a model may be in a child: "free", "more" than the parent's, or "the same"."""
    if may_differ(field):
        return "free"
    return "more" if is_size(field) else "the same"
