"""What every family's model is built around: embedding, layers, last norm, head; and the options that all share.

A family gives the block and, where it differs, overrides a step of `Decoder`. It counts its own block; `account` here
adds what stands around the blocks.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, ClassVar

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from models.blocks import stack
from models.blocks.layers import Linear, Norm, param
from models.contract import Head, Output, Role
from models.errors import InputError, nearest
from models.mesh.current import constrain
from models.mesh.exchange import look_up
from models.mesh.gather import sharded_matmul
from models.numerics.formats import parse
from models.numerics.parametrization import Parametrization
from models.numerics.precision import KERNELS, Precision
from models.option import option


@dataclasses.dataclass(frozen=True)
class Options(Parametrization, Precision):
    """Options of every family. None means: derived by the rule in the comment."""

    width: int = 256
    depth: int = 4
    vocab: int | None = None  # as many as the tokenizer has
    norm: str = "rms"
    norm_eps: float = 1e-5
    tied: bool = False
    init_std: float | Array = option(0.02, runtime=True)  # an array while it is traced
    dtype: str = "float32"  # of activations; parameters, norms, softmax and loss are float32
    unroll: bool | None = option(None, numerics=False)  # layers unrolled or scanned; None: as the backend likes
    remat: str = option("none", numerics=False)  # what the backward pass computes again: layers.fold_stack

    # What a field may be; a family adds its own.
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "norm": ("rms", "layer"),
        "dtype": ("float32", "bfloat16"),
        "remat": tuple(policy for policy in stack.REMAT if policy != "attention"),  # a family that names it adds it
        "quant_kernel": KERNELS,
        "parametrization": ("standard",),  # a family that says where the others scale it adds them
    }
    # Fields that must be at least 1 where they are set.
    counts: ClassVar[tuple[str, ...]] = ("width", "depth", "vocab", "base_width", "base_depth")

    @property
    def causal(self) -> bool:
        """Whether no logit depends on a later token; if not, a held-out loss says nothing about generating text."""
        return True

    def resolve(self, vocab: int, seq_len: int) -> "Options":
        """The same options with every derived one filled in."""
        del seq_len
        return dataclasses.replace(self, vocab=self.vocab or vocab)

    def check(self, seq_len: int) -> None:
        """Raises InputError, naming the fields, for sizes and choices that cannot be built."""
        del seq_len
        for name, known in self.choices.items():
            if (value := getattr(self, name)) not in known:
                raise InputError(f"model.{name}={value!r} is not known; {nearest(str(value), known, 'choice')}")
        for name in self.counts:
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"model.{name}={value} must be at least 1")
        for name in ("norm_eps", "init_std", "embed_multiplier", "logit_multiplier"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise InputError(f"model.{name}={value} must be a positive number")
        self.check_precision()
        if not 0.5 <= self.depth_alpha <= 1:
            raise InputError(f"model.depth_alpha={self.depth_alpha} must be from 0.5 to 1")

    def check_parts(self, seq_len: int) -> None:
        """Raises InputError, naming the fields, where a batch that is computed in parts gives other numbers than a whole one."""
        for name in ("quant_grad", "quant_saved"):
            text = getattr(self, name)
            if text is not None and parse(text, f"model.{name}").mixes(seq_len):
                raise InputError(
                    f"model.{name}={text!r} has scales over the tokens of a batch, which execution.microbatches > 1 would "
                    f"cut; expected execution.microbatches=1, or a block that divides seq_len={seq_len}, such as {text.split('b')[0]}b32"
                )


class Decoder(nnx.Module):
    """Token ids [B, L] to logits [B, L, V]. `cfg` must be resolved; its `init_std` may be a traced number."""

    def __init__(
        self,
        cfg: Any,
        rngs: nnx.Rngs,
        block: Callable[[nnx.Rngs], nnx.Module] | Sequence[tuple[Callable[[nnx.Rngs], nnx.Module], int]],
        bias: bool = False,
    ):
        """cfg.depth copies of `block`; or the runs of equal layers that `layers.stacks` takes."""
        V, D = cfg.vocab, cfg.width
        self.cfg = untraced(cfg)
        self.embed = param(rngs, Role.EMBED, {"rows": V, "columns": D}, cfg.init_std)
        self.blocks = stack.stacks(rngs, block if isinstance(block, Sequence) else [(block, cfg.depth)])
        self.norm = Norm(rngs, {"norm": D}, cfg.norm, cfg.norm_eps, bias, last=True)
        self.head = None if cfg.tied else Linear(rngs, Role.HEAD, {"embed": D, "vocab": V}, cfg.init_std)

    def look_up(self, tokens_BL: Integer[Array, "B L"]) -> Float[Array, "B L D"]:
        """What enters the first layer."""
        return look_up(self.embed[...].astype(jnp.dtype(self.cfg.dtype)), tokens_BL)

    def layers(self, x_BLD: Float[Array, "B L D"]) -> tuple[Float[Array, "B L D"], Output]:
        """All layers; what they report besides goes into an Output without logits."""
        return stack.apply_stack(self.blocks, x_BLD, unroll=self.cfg.unroll, remat=self.cfg.remat), Output(None)

    def hidden(
        self, tokens_BL: Integer[Array, "B L"], *counts: Integer[Array, "..."]
    ) -> tuple[Float[Array, "B L D"], Output]:
        """What enters the head, and the rest of the output. `counts`: of the whole batch, if these tokens are a part."""
        x_BLD = self.look_up(tokens_BL) * self.cfg.embed_multiplier
        x_BLD = constrain(x_BLD, "batch", "position", "width")
        x_BLD, output = self.layers(x_BLD, *counts)
        return self.norm(x_BLD), output

    def readout(self) -> Head:
        """The head, tied or not."""
        if self.head is None:
            axes, table_VD = ("embed", "vocab"), self.embed[...].astype(jnp.dtype(self.cfg.dtype))
            product = lambda table_DV, x: sharded_matmul(x, table_DV, axes)  # noqa: E731
            return Head(self._scaled(product), constrain(table_VD.T, *axes), axes)
        graphdef, state = nnx.split(self.head)
        params = {path[-1]: leaf.get_value() for path, leaf in nnx.to_flat_state(state)}
        if isinstance(self.head, Linear):  # others round their matrix before they multiply it
            params = {name: leaf.astype(jnp.dtype(self.cfg.dtype)) for name, leaf in params.items()}
        axes = {name: self.head.axes if name == "kernel" else ("norm",) * leaf.ndim for name, leaf in params.items()}

        def call(params: Any, x: Array) -> Array:
            return nnx.merge(graphdef, nnx.from_flat_state([((name,), nnx.Param(w)) for name, w in params.items()]))(x)

        return Head(self._scaled(call), params, axes)

    def _scaled(self, call: Callable[[Any, Array], Array]) -> Callable[[Any, Array], Array]:
        def logits(params: Any, x: Array) -> Array:
            leading = ("batch", "position") if x.ndim == 3 else ("position",)
            return constrain(call(params, x), *leading, "vocab").astype(jnp.float32) * self.cfg.logit_scale

        return logits

    def __call__(self, tokens_BL: Integer[Array, "B L"], *counts: Integer[Array, "..."]) -> Output:
        x_BLD, output = self.hidden(tokens_BL, *counts)
        head = self.readout()
        return output._replace(logits_BLV=head.logits(head.params, x_BLD))


def untraced(cfg: Any) -> Any:
    """The config for a module to keep, runtime options at their defaults: a traced number would outlive its trace."""
    plain = {field.name: field.default for field in dataclasses.fields(cfg) if field.metadata.get("runtime")}
    return dataclasses.replace(cfg, **plain)


def residual_std(cfg: Any) -> Any:
    """Standard deviation of matrices that write to the residual stream."""
    return cfg.init_stds(cfg.init_std)[1]


def outside(cfg: Any, bias: bool = False) -> tuple[dict[str, int], dict[str, float]]:
    """Parameters by group, and forward matmul FLOPs per token, of what stands around the blocks."""
    V, D = cfg.vocab, cfg.width
    params = {"embed": V * D, "head": 0 if cfg.tied else V * D, "norm": D * (2 if bias else 1)}
    return params, {"head": 2.0 * V * D}
