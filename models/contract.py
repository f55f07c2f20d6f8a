"""What a family file exports, and the arithmetic that every family's counts share.

A family is one file `models/<name>.py` with
    Config                      a frozen dataclass: every option, declared once; `check()` raises InputError
    Model(cfg, rngs)            an nnx.Module; `model(tokens_BL) -> Output`
    account(cfg, seq_len)       -> Accounting

Arrays end in their axes, one capital per axis: B batch, L query position, M key position, D width, F feed-forward,
H heads, G key-value heads, R query heads per key-value head, K head size, V vocabulary, E experts, C experts that a
token goes to, S slots per expert, P a gate and what it multiplies, Y stacked layers, N rows of flattened tokens (B
times L).
"""

from collections.abc import Callable
import enum
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Integer


class Role(enum.StrEnum):
    """What a parameter does in its model: said where it is made, read by growth and by the transfer of learning rates.

    A bias has the role of its matrix; the logical axes tell the two apart.
    """

    EMBED = "embed"  # a table: a row of it is looked up for a token or a position
    READS = "reads"  # makes values inside a layer from what enters it
    QUERY = "query"  # the same, for the queries of attention
    KEY = "key"
    VALUE = "value"
    WRITES = "writes"  # the last of a sublayer: its output is added to the residual stream
    HEAD = "head"  # makes logits from what the last norm gives
    ROUTER = "router"  # scores experts: its outputs are as many at every width
    TOKEN_KEYS = (
        "token_keys"  # of TokenFormer: rows that an input is compared with, so that the last axis is contracted
    )
    FLOOR = "floor"  # of MatMul-free: lower bounds of forget gates, which add up over layers through a softmax
    NORM_SCALE = "norm_scale"  # multiplies what a norm has made of unit size
    NORM_SHIFT = "norm_shift"  # is added to that
    LAST_NORM_SCALE = "last_norm_scale"  # the same two of the norm between the layers and the head
    LAST_NORM_SHIFT = "last_norm_shift"


class ParamInfo(NamedTuple):
    """A parameter without its values: its role, and a size for each of its logical axes."""

    role: Role
    axes: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def in_layers(self) -> bool:
        """Whether it is stacked over layers, so that there are more of it in a deeper model."""
        return self.axes[0] == "layers"

    @property
    def input_axis(self) -> int | None:
        """The axis with which its input is contracted; None for vectors and look-up tables."""
        own = [axis for axis, name in enumerate(self.axes) if name not in ("layers", "experts")]
        if len(own) < 2 or self.role == Role.EMBED:
            return None
        return own[-1] if self.role == Role.TOKEN_KEYS else own[0]

    @property
    def is_norm_scale(self) -> bool:
        """Whether it multiplies what a norm has made of unit size."""
        return self.role in (Role.NORM_SCALE, Role.LAST_NORM_SCALE)

    @property
    def is_last_norm(self) -> bool:
        """Whether it belongs to the norm between the layers and the head."""
        return self.role in (Role.LAST_NORM_SCALE, Role.LAST_NORM_SHIFT)

    @property
    def writes(self) -> bool:
        """Whether it is the last of a layer on the way to the residual stream."""
        return self.in_layers and self.role == Role.WRITES


class Output(NamedTuple):
    """Logits, and by name: terms that training adds to its loss, numbers to report, and parameters set by a rule.

    aux: each is weighted by the option of its name in the family's Config.
    metrics: go to the metrics log as they are.
    state: parameters (by path) that the optimizer does not train, with the values that they have after this step.
    counts: whole numbers, summed over the tokens, that aux, metrics and state depend on other than by a mean over tokens.
        A model that has some takes those of the whole batch as arguments behind the tokens, where these are a part of it.
    """

    logits_BLV: Float[Array, "B L V"] | None
    aux: dict[str, Float[Array, ""]] = {}  # noqa: RUF012
    metrics: dict[str, Float[Array, ""]] = {}  # noqa: RUF012
    state: dict[str, Float[Array, "..."]] = {}  # noqa: RUF012
    counts: tuple[Integer[Array, "..."], ...] = ()


class Head(NamedTuple):
    """What turns the last hidden rows into logits, as a function of its parameters.

    `logits(params, x)`: float32 [*batch, V] from x [*batch, D]; each row by itself. V may be more than the vocabulary, so
    that a mesh divides it: logits behind it are -inf. `params`: a tree of arrays, cast as the function multiplies them;
    `axes`: a tuple of logical names for each.
    """

    logits: Callable[[Any, Float[Array, "*batch D"]], Float[Array, "*batch V"]]
    params: Any
    axes: Any
