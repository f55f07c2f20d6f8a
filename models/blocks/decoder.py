"""What every family's model is built around: embedding, layers, last norm, head.

A family gives the block and, where it differs, overrides a step of `Decoder`. It counts its own block; `outside` here
counts what stands around the blocks. The options that all families share are in models/blocks/options.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from models.blocks import context as contexts
from models.blocks import stack
from models.blocks.context import Context, ContextOptions, Place
from models.blocks.layers import Linear, Norm, param
from models.blocks.options import Options, untraced
from models.contract import Head, Output, Role
from models.mesh.current import constrain
from models.mesh.exchange import divisible, look_up
from models.mesh.gather import sharded_matmul

HEAD = ("embed", "vocab")  # logical axes of the head's matrix


class Decoder(nnx.Module):
    """Token ids [B, L] to logits [B, L, V]. `cfg` must be resolved; its `init_std` may be a traced number."""

    def __init__(
        self,
        cfg: Any,
        rngs: nnx.Rngs,
        block: Callable[[nnx.Rngs], nnx.Module] | Sequence[stack.Run],
        bias: bool = False,
    ):
        """Make cfg.depth copies of `block`, or the given runs of equal layers. `bias`: the last norm has one."""
        V = cfg.vocab
        D = cfg.width
        runs = block if isinstance(block, Sequence) else [stack.Run(block, cfg.depth)]
        self.cfg = untraced(cfg)
        self.embed = param(rngs, Role.EMBED, {"rows": V, "columns": D}, cfg.init_std)
        self.blocks = stack.stacks(rngs, runs)
        self.norm = Norm(rngs, {"norm": D}, cfg.norm, cfg.norm_eps, bias, last=True)
        head_axes: dict[str, int] = dict(zip(HEAD, (D, V), strict=True))
        self.head = None if cfg.tied else Linear(rngs, Role.HEAD, head_axes, cfg.init_std)

    def look_up(self, tokens_BL: Integer[Array, "B L"], context: Context) -> Float[Array, "B L D"]:
        """Return what enters the first layer."""
        del context
        return look_up(self.embed[...].astype(jnp.dtype(self.cfg.dtype)), tokens_BL)

    def layers(
        self, x_BLD: Float[Array, "B L D"], context: Context | None = None
    ) -> tuple[Float[Array, "B L D"], Output]:
        """Run all layers; what they report besides goes into an Output without logits.

        `context`: of families that have `ContextOptions`; their layers take it as their last argument.
        """
        cfg = self.cfg
        x_BLD = stack.apply_stack(self.blocks, x_BLD, unroll=cfg.unroll, remat=cfg.remat, context=context)
        return x_BLD, Output(None)

    def hidden(
        self, tokens_BL: Integer[Array, "B L"], *counts: Integer[Array, "..."], keys_B: Array | None = None
    ) -> tuple[Float[Array, "B L D"], Output]:
        """Return what enters the head, and the rest of the output.

        `counts`: Output.counts of the whole batch, where these tokens are a part of it. `keys_B`: a random key for each
        sequence, where some of the activations are to be dropped.
        """
        if not isinstance(self.cfg, ContextOptions):
            x_BLD = self._enter(tokens_BL, Context())
            without_context: Any = self.layers  # of a family whose layers take the counts alone
            x_BLD, output = without_context(x_BLD, *counts)
            return self.norm(x_BLD), output
        context = contexts.make(self.cfg, tokens_BL, keys_B)
        before_layers = contexts.of_embedding(context, keys_B)
        x_BLD = self._enter(tokens_BL, before_layers)
        x_BLD = contexts.drop(x_BLD, self.cfg.dropout, before_layers, Place.EMBED)
        x_BLD, output = self.layers(x_BLD, *counts, context=context)
        return self.norm(x_BLD), output

    def _enter(self, tokens_BL: Integer[Array, "B L"], context: Context) -> Float[Array, "B L D"]:
        """Return what enters the first layer, scaled."""
        x_BLD = self.look_up(tokens_BL, context) * self.cfg.embed_multiplier
        return constrain(x_BLD, "batch", "position", "width")

    def head_product(self) -> Head:
        """Return the product with the head's matrix [D, V], tied or not; `readout` scales it."""
        dtype = jnp.dtype(self.cfg.dtype)
        if self.head is None:
            table_VD = self.embed[...].astype(dtype)
            kernel_DV = constrain(divisible(table_VD.T, *HEAD), *HEAD)
        else:
            kernel_DV = self.head.kernel[...].astype(dtype)
            kernel_DV = divisible(kernel_DV, *HEAD)

        def product(kernel_DV: Array, x: Array) -> Array:
            return sharded_matmul(x, kernel_DV, HEAD, jnp.float32)

        return Head(product, kernel_DV, HEAD)

    def readout(self) -> Head:
        """Return the head, which turns last hidden rows into float32 logits.

        Where a mesh splits the vocabulary and it does not divide, there are logits of -inf behind it: a softmax, its
        normaliser and their gradients are those without them.
        """
        head = self.head_product()

        def logits(params: Any, x: Array) -> Array:
            leading = ("batch", "position") if x.ndim == 3 else ("position",)
            y = head.logits(params, x)
            y = constrain(y, *leading, "vocab")
            scaled = y.astype(jnp.float32) * self.cfg.logit_scale
            size = scaled.shape[-1]
            if size == self.cfg.vocab:
                return scaled
            in_vocabulary = jnp.arange(size) < self.cfg.vocab
            return jnp.where(in_vocabulary, scaled, -jnp.inf)

        return Head(logits, head.params, head.axes)

    def __call__(self, tokens_BL: Integer[Array, "B L"], *counts: Integer[Array, "..."]) -> Output:
        x_BLD, output = self.hidden(tokens_BL, *counts)
        head = self.readout()
        logits_BLV = head.logits(head.params, x_BLD)
        return output._replace(logits_BLV=logits_BLV[..., : self.cfg.vocab])


def residual_std(cfg: Options) -> Any:
    """Return the standard deviation of matrices that write to the residual stream."""
    _, writes = cfg.init_stds(cfg.init_std)
    return writes


def outside(cfg: Options, bias: bool = False) -> tuple[dict[str, int], dict[str, float]]:
    """Count parameters by group, and forward matmul FLOPs per token, of what stands around the blocks."""
    assert cfg.vocab is not None
    table = cfg.vocab * cfg.width
    params = {
        "embed": table,
        "head": 0 if cfg.tied else table,
        "norm": cfg.width * (2 if bias else 1),
    }
    return params, {"head": 2.0 * table}
