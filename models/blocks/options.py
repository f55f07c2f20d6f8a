"""Declare the options that all families share."""

from collections.abc import Sequence
import dataclasses
from typing import Any, TypeVar

from jaxtyping import Array

from models.blocks import stack
from models.errors import InputError
from models.numerics.formats import parse
from models.numerics.parametrization import Parametrization
from models.numerics.precision import Precision
from models.option import AT_LEAST_ONE, AXIS_MOST, POSITIVE, Valid, check_options, inherit, option

Resolved = TypeVar("Resolved", bound="Options")

# A family whose attention names what it gives adds "attention".
REMAT = tuple(policy for policy in stack.REMAT if policy != "attention")

DEPTH = Valid("at least 1, and at most 10000", lambda depth: 1 <= depth <= 10_000)


@dataclasses.dataclass(frozen=True)
class Options(Parametrization, Precision):
    """Options of every family. None means: derived by the rule in the help."""

    width: int = option(256, valid=AT_LEAST_ONE, growth="size", help="size of the residual stream")
    depth: int = option(4, valid=DEPTH, growth="size", help="layers")
    vocab: int | None = option(None, valid=AT_LEAST_ONE, help="rows of the embedding; none: as the tokenizer has")
    norm: str = option("rms", choices=("rms", "layer"), help="RMSNorm or LayerNorm")
    norm_eps: float = option(1e-5, valid=POSITIVE, growth="free", help="is added to the mean square in a norm")
    tied: bool = option(False, help="the head is the embedding, transposed")
    init_std: float | Array = option(  # an array while it is traced
        0.02, runtime=True, valid=POSITIVE, help="standard deviation of initial weights"
    )
    dtype: str = option(
        "float32",
        choices=("float32", "bfloat16"),
        growth="free",
        help="of activations; parameters, norms, softmax and loss are float32",
    )
    unroll: bool | None = option(None, numerics=False, help="unroll the layers or scan; none: as the backend likes")
    remat: str = option("none", numerics=False, choices=REMAT, help="what the backward pass computes again")

    # A family that says where the others scale it takes them.
    parametrization: str = inherit(Parametrization, "parametrization", choices=("standard",))

    @property
    def numerics_version(self) -> int:
        """The version of the numbers of models with these options, raised where a change concerns only some of them.

        Runs of others keep their fingerprints (experiments/run/identity.py). 2: logits of models in bfloat16 are sums in
        float32, where they had been rounded to bfloat16.
        """
        return 2 if self.dtype == "bfloat16" else 1

    @property
    def causal(self) -> bool:
        """Whether no logit depends on a later token; if not, a held-out loss says nothing about generating text."""
        return True

    @property
    def reads_separator(self) -> bool:
        """Whether what is computed depends on which id separates documents, so that `resolve` wants the tokenizer's."""
        return False

    @property
    def predicts_everywhere(self) -> bool:
        """Whether every position predicts the next token, and every prediction counts in the loss."""
        return True

    @property
    def first_prediction(self) -> int:
        """The first position of a sequence whose logits predict a token; those before it only read."""
        return 0

    def is_counted(self, inputs_BL: Any) -> Any:
        """Tell of which positions the predicted token counts in the loss [B, L]; None: of all.

        `inputs_BL`: what the model reads, of numpy or of jax.
        """
        del inputs_BL

    def prompt(self, ids: Sequence[int], separator: int) -> list[int]:
        """Return the tokens that a model reads before it goes on from a text of these `ids`."""
        return [separator, *ids]

    def derived(self, seq_len: int) -> dict[str, Any]:
        """Return by name the options that follow from others, as they are or as their rules give them."""
        del seq_len
        return {}

    def resolve(self: Resolved, vocab: int, seq_len: int, separator: int | None = None) -> Resolved:
        """Return the same options with every derived one filled in; `vocab` and `separator` are the tokenizer's."""
        del separator
        return dataclasses.replace(self, vocab=self.vocab or vocab, **self.derived(seq_len))

    def check(self, seq_len: int) -> None:
        """Raise InputError, naming the fields, for what cannot be built and for options that would do nothing."""
        del seq_len
        self.check_precision()
        check_options(self, "model", most=AXIS_MOST)

    def longest(self, seq_len: int | None) -> int | None:
        """Return how many positions a sequence has at most, position by position; None: any number.

        `seq_len`: of the training, where it is known.
        """
        del seq_len
        return None

    def check_decoding(self, length: int) -> None:
        """Raise InputError, naming the fields, where a model cannot go on position by position, or not so far."""
        del length

    def check_parts(self, seq_len: int) -> None:
        """Raise InputError, naming the fields, where a batch in parts would give other numbers than a whole one."""
        for name in ("quant_grad", "quant_saved"):
            text = getattr(self, name)
            if text is None or not parse(text, f"model.{name}").mixes(seq_len):
                continue
            example = text.split("b")[0] + "b32"
            raise InputError(
                f"model.{name}={text!r} has scales over the tokens of a batch, which execution.microbatches > 1 would "
                f"cut; expected execution.microbatches=1, or a block that divides seq_len={seq_len}, such as {example}"
            )


def untraced(cfg: Any) -> Any:
    """Return the config for a module to keep, runtime options at their defaults: a traced number outlives its trace."""
    plain = {field.name: field.default for field in dataclasses.fields(cfg) if field.metadata.get("runtime")}
    return dataclasses.replace(cfg, **plain)
