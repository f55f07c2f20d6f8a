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
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Integer


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

    `logits(params, x)`: float32 [*batch, V] from x [*batch, D]; each row by itself. `params`: a tree of arrays, cast as the
    function multiplies them; `axes`: a tuple of logical names for each.
    """

    logits: Callable[[Any, Float[Array, "*batch D"]], Float[Array, "*batch V"]]
    params: Any
    axes: Any
