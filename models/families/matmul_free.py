"""MatMul-free decoder (Zhu et al. 2024, arXiv 2406.02528): ternary weights, and a linear recurrence for attention.

Every matrix but the embedding is a BitLinear: its weights enter the matmul as -1, 0 or 1 times one number, its inputs
as int8. Each layer: h = x + Mlgru(Norm(x)); y = h + Glu(Norm(h)). The defaults follow the released code, with which
the published checkpoints were trained; where the paper's equations differ there is an option. models/convert/ternary.py packs
trained weights to two bits.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.accounting import Accounting
from models.blocks import decoder, layers, stack
from models.blocks.context import Context, ContextOptions, Place, drop
from models.blocks.layers import Norm, param
from models.blocks.options import Options
from models.blocks.past import leading
from models.blocks.recurrence import LastState, linear_recurrence
from models.contract import Head, Output, Role
from models.mesh import gather
from models.mesh.current import backend, constrain
from models.mesh.exchange import divisible
from models.mesh.tokens import flatten_tokens, unflatten_tokens
from models.option import AT_LEAST_ONE, POSITIVE, inherit, missing, option

Stream = Float[Array, "B L D"]  # the residual stream, or what is added to it
Product = Float[Array, "..."]  # [*batch, *O]

ROUNDED = "weights are ternary, inputs have model.act_bits"
LEAST = 1e-5  # a magnitude that is divided by is at least so large


@dataclasses.dataclass(frozen=True)
class Config(ContextOptions):
    """Options of the MatMul-free family besides those of blocks/context.py."""

    ff: int | None = option(
        None, valid=AT_LEAST_ONE, growth="size", help="channel mixer's size; none: 8/3 width rounded up to 256"
    )
    bit_eps: float = option(  # the released module declares 1e-8 and runs with 1e-6
        1e-6, valid=POSITIVE, growth="free", help="is added to the mean square in the norm of a ternary matrix"
    )
    act_bits: int = option(8, choices=(8, 16), help="bits of what enters a matrix; 16: as it is")
    gate_form: str = option(
        "code", choices=("code", "paper"), help="code: Norm(g) silu(s), the released code; paper: sigmoid(g) s"
    )
    lower_bounds: bool = option(True, help="learned floors of the forget gate that rise with depth; the paper has none")

    norm_eps: float = inherit(Options, "norm_eps", default=1e-6)
    tied: bool = missing(Options, "tied", "the head is ternary and the embedding is not")
    quant_weight: str | None = missing(Options, "quant_weight", ROUNDED)
    quant_act: str | None = missing(Options, "quant_act", ROUNDED)
    quant_grad: str | None = missing(Options, "quant_grad", ROUNDED)
    quant_saved: str | None = missing(Options, "quant_saved", ROUNDED)
    quant_kv: str | None = missing(Options, "quant_kv", "there are no keys and values")

    @property
    def numerics_version(self) -> int:
        """As in all families. 2: init_std scales the mixers as well, where it had left them as they are at its default."""
        others = super().numerics_version
        return others if self.init_std == type(self).init_std else max(others, 2)

    def derived(self, seq_len: int) -> dict[str, Any]:
        """Return by name the options that follow from others, as they are or as their rules give them."""
        del seq_len
        return {"ff": self.ff or layers.round_up(8 * self.width // 3, 256)}


def ternary(kernel: Float[Array, "I *O"], entries: int | None = None) -> tuple[Float[Array, "I *O"], Float[Array, ""]]:
    """Round a matrix to whole numbers -1, 0, 1, and return the number that multiplies them: its mean magnitude.

    As BitNet b1.58 does (Ma et al. 2024). `entries`: of the matrix, where it is filled up with zeros behind them.
    """
    if entries in (None, kernel.size):
        magnitude = jnp.mean(jnp.abs(kernel))
    else:
        magnitude = jnp.sum(jnp.abs(kernel)) / entries
    mean = jnp.maximum(magnitude, LEAST)
    # As in the released code, a product with the reciprocal: a quotient would round some entries to other numbers.
    rounded = jnp.round(kernel * (1 / mean))
    return jnp.clip(rounded, -1, 1), mean


def quantise(y_NI: Float[Array, "N I"], bits: int) -> tuple[Float[Array, "N I"], Float[Array, "N 1"]]:
    """Round rows to whole numbers in [-128, 127], halves to even, and return the step of each row; as is at 16 bits."""
    if bits == 16:
        return y_NI, jnp.ones_like(y_NI[:, :1])
    most_N1 = jnp.max(jnp.abs(y_NI), axis=1, keepdims=True)
    levels_N1 = 127 / jnp.maximum(most_N1, LEAST)
    rounded_NI = jnp.round(y_NI * levels_N1)
    return jnp.clip(rounded_NI, -128, 127), 1 / levels_N1


def _normalised_rows(x: Float[Array, "*batch I"], norm_I: Float[Array, "I"], eps: float) -> Float[Array, "N I"]:
    """RMSNorm of flattened rows, in float32."""
    x_NI = flatten_tokens(x).astype(jnp.float32)
    return layers.normalise(x_NI, "rms", eps) * norm_I


def whole_matmul(
    x: Float[Array, "*batch I"],
    norm_I: Float[Array, "I"],
    whole: Float[Array, "I *O"],
    mean: Float[Array, ""],
    eps: float,
    bits: int,
    dtype: Any = None,
) -> Product:
    """Normalise, quantise and multiply with a matrix of -1, 0, 1 times `mean`: [*batch, *O] in `dtype`, or that of `x`.

    At 8 bits both factors are whole numbers that bfloat16 holds exactly, and float32 sums of them are exact in any order.
    """
    y_NI = _normalised_rows(x, norm_I, eps)
    q_NI, step_N1 = quantise(y_NI, bits)
    out = _dot(q_NI.astype(x.dtype), whole.astype(x.dtype), (1,), (0,))
    # One factor a row, for all axes of the output.
    scale_N1 = mean * step_N1
    output_axes = out.ndim - 1
    scale = scale_N1.reshape(-1, *[1] * output_axes)
    scaled = (out * scale).astype(dtype or x.dtype)
    return unflatten_tokens(scaled, x.shape[:-1])


def _dot(a: Array, b: Array, axes_a: Sequence[int], axes_b: Sequence[int]) -> Array:
    """Contract these axes, with sums in float32."""
    if backend() == "cpu":  # which has not all of these products in bfloat16, and none faster than float32
        a = a.astype(jnp.float32)
        b = b.astype(jnp.float32)
    return jnp.tensordot(a, b, axes=(axes_a, axes_b), preferred_element_type=jnp.float32)


class Sums(NamedTuple):
    """What a product gives: its type, if not that of its input, and entries of a matrix that is filled up with zeros."""

    dtype: Any = None
    entries: int | None = None


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def bit_linear(
    x: Float[Array, "*batch I"],
    norm_I: Float[Array, "I"],
    kernel: Float[Array, "I *O"],
    eps: float,
    bits: int,
    axes: tuple[str, ...] = (),
    sums: Sums = Sums(),
) -> Product:
    """Multiply Quantise(RMSNorm(x) norm) with Ternary(kernel), trained straight through both roundings: [*batch, *O].

    With y the normalised rows: d kernel = Quantise(y)^T d out, d y = d out Ternary(kernel)^T, then the gradient of the
    norm; none through the scales, and clipped entries count as unclipped. The backward pass keeps the arguments and
    computes the rounded values again, so that a scan over layers saves no copy of a matrix. `axes`: the logical ones of
    the matrix, where it may be split over devices; what is gathered then are its whole numbers, a byte each.
    """
    whole, mean = _gathered(kernel, axes, sums.entries)
    return whole_matmul(x, norm_I, whole, mean, eps, bits, sums.dtype)


def _gathered(kernel: Array, axes: tuple[str, ...], entries: int | None) -> tuple[Array, Array]:
    """`ternary`, whole along fsdp."""
    whole, mean = ternary(kernel, entries)
    if axes and gather.fully_sharded():
        in_bytes = whole.astype(jnp.int8)
        whole = gather.gathered(in_bytes, *axes).astype(whole.dtype)
    return whole, mean


def _bit_linear_forward(
    x: Array, norm_I: Array, kernel: Array, eps: float, bits: int, axes: tuple[str, ...], sums: Sums
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Return the product, and what the backward pass needs: the arguments themselves."""
    return bit_linear(x, norm_I, kernel, eps, bits, axes, sums), (x, norm_I, kernel)


def _bit_linear_backward(
    eps: float, bits: int, axes: tuple[str, ...], sums: Sums, saved: tuple[Array, Array, Array], d_out: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of x, norm_I and kernel: see `bit_linear`."""
    x, norm_I, kernel = saved
    d_out = d_out.astype(x.dtype)  # also that of float32 logits: only their sums are more than x holds
    normalised_rows = functools.partial(_normalised_rows, eps=eps)
    y_NI, norm_gradient = jax.vjp(normalised_rows, x, norm_I)
    q_NI, step_N1 = quantise(y_NI, bits)
    whole, mean = _gathered(kernel, axes, sums.entries)

    outputs = tuple(range(1, kernel.ndim))
    d_NO = flatten_tokens(d_out, kernel.ndim - 1)
    whole = whole.astype(d_out.dtype)
    d_y_NI = _dot(d_NO, whole, outputs, outputs) * mean
    d_x, d_norm = norm_gradient(d_y_NI)

    def over_rows(a: Array, b: Array) -> Array:
        return _dot(a, b, (0,), (0,))

    # The gradient of a weight is taken with the rounded rows, which are what it was multiplied with.
    rounded_NI = (q_NI * step_N1).astype(d_out.dtype)
    y = unflatten_tokens(rounded_NI, x.shape[:-1])
    d_kernel = gather.weight_gradient(over_rows, y, d_out, axes)
    return d_x, d_norm, d_kernel.astype(kernel.dtype)


bit_linear.defvjp(_bit_linear_forward, _bit_linear_backward)


class BitLinear(nnx.Module):
    """`bit_linear` over the last axis of its input. The first of `axes` is the input's, the others the output's."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        cfg: Config,
        role: Role,
        axes: dict[str, int],
        std: Any,
        draw: Callable = jax.random.normal,
    ):
        self.eps = cfg.bit_eps
        self.bits = cfg.act_bits
        self.axes = tuple(axes)
        self.kernel = param(rngs, role, axes, std, draw=draw)
        input_size = next(iter(axes.values()))
        self.norm = param(rngs, Role.NORM_SCALE, {"norm": input_size}, fill=1.0)

    def __call__(self, x: Float[Array, "*batch I"]) -> Product:
        y = self.product(x, self.norm[...], self.kernel[...])
        return checkpoint_name(y, "product")  # which remat "dots" keeps

    def product(
        self, x: Float[Array, "*batch I"], norm_I: Float[Array, "I"], kernel: Array, sums: Sums = Sums()
    ) -> Product:
        """Multiply with a kernel behind its norm."""
        return bit_linear(x, norm_I, kernel, self.eps, self.bits, self.axes, sums)

    def as_head(self) -> Head:
        """Return the product in float32 as a function of norm and kernel; it rounds them itself."""
        kernel = self.kernel[...]
        sums = Sums(jnp.float32, kernel.size)

        def product(params: dict[str, Array], x: Array) -> Array:
            return self.product(x, params["norm"], params["kernel"], sums)

        params = {"norm": self.norm[...], "kernel": divisible(kernel, *self.axes)}
        return Head(product, params, {"norm": ("norm",), "kernel": self.axes})


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Draw from the uniform distribution of variance 1."""
    return jax.random.uniform(key, shape, dtype, -(3**0.5), 3**0.5)


class Mlgru(nnx.Module):
    """Token mixer: s_t = f_t s_{t-1} + (1 - f_t) silu(i_t), read out through a gate.

    f = floor + (1 - floor) sigmoid(BitLinear(x)), and neither i nor f looks at s. State and gates are float32.
    """

    def __init__(self, rngs: nnx.Rngs, cfg: Config, linear: Callable):
        D = cfg.width
        # Xavier with a gain of 2^-2.5, where the released model's later pass leaves them, as a multiple of the scale that
        # its other matrices have.
        std = cfg.init_std / 0.02 * (2**-2.5 * (2 / (D + D)) ** 0.5)
        enter = {"embed": D, "ff": D}
        self.gate_form = cfg.gate_form
        self.candidate = linear(rngs, cfg, Role.READS, enter, std, _uniform)
        self.forget = linear(rngs, cfg, Role.READS, enter, std, _uniform)
        self.gate = linear(rngs, cfg, Role.READS, enter, std, _uniform)
        self.out = linear(rngs, cfg, Role.WRITES, {"ff": D, "embed": D}, std, _uniform)
        self.gate_norm = Norm(rngs, {"norm": D}, "rms", cfg.norm_eps) if cfg.gate_form == "code" else None
        self.size = D
        self.past: LastState | None = nnx.data(None)

    def remember(self, batch: int, length: int) -> None:
        """Give the layer an empty past: models/blocks/past.py."""
        del length
        self.past = LastState(leading(self.out.norm, batch), self.size)

    def __call__(self, x_BLD: Stream, floor_D: Float[Array, "D"] | None, context: Context = Context()) -> Stream:
        i_BLD = self.candidate(x_BLD).astype(jnp.float32)
        i_BLD = constrain(i_BLD, "batch", "position", "ff")
        f_BLD = self.forget(x_BLD).astype(jnp.float32)
        f_BLD = jax.nn.sigmoid(f_BLD)
        f_BLD = constrain(f_BLD, "batch", "position", "ff")
        g_BLD = constrain(self.gate(x_BLD), "batch", "position", "ff")
        if floor_D is not None:
            f_BLD = floor_D + (1 - floor_D) * f_BLD
        new_BLD = jax.nn.silu(i_BLD) * (1 - f_BLD)
        decay_BLD = context.forget(f_BLD)
        s_BLD = linear_recurrence(decay_BLD, new_BLD, past=self.past)
        if self.gate_norm is not None:
            o_BLD = self.gate_norm(g_BLD) * jax.nn.silu(s_BLD)
        else:
            g_BLD = g_BLD.astype(jnp.float32)
            o_BLD = jax.nn.sigmoid(g_BLD) * s_BLD
        return self.out(o_BLD.astype(x_BLD.dtype))


class Glu(nnx.Module):
    """Channel mixer: silu(gate) up, both from one matrix with one ternary scale, then down."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, linear: Callable):
        assert cfg.ff is not None
        D = cfg.width
        F = cfg.ff
        self.gate_up = linear(rngs, cfg, Role.READS, {"embed": D, "pair": 2, "ff": F}, cfg.init_std)
        self.down = linear(rngs, cfg, Role.WRITES, {"ff": F, "embed": D}, decoder.residual_std(cfg))

    def __call__(self, x_BLD: Stream) -> Stream:
        h_BLPF = self.gate_up(x_BLD)
        h_BLPF = constrain(h_BLPF, "batch", "position", "pair", "ff")
        gate_BLF = h_BLPF[:, :, 0]
        up_BLF = h_BLPF[:, :, 1]
        h_BLF = jax.nn.silu(gate_BLF) * up_BLF
        return self.down(h_BLF)


class Block(nnx.Module):
    """One layer: token and channel mixer, each behind a norm and around a residual."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, linear: Callable):
        self.dropout = cfg.dropout
        self.mixer_norm = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps)
        self.mixer = Mlgru(rngs, cfg, linear)
        self.mlp_norm = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps)
        self.mlp = Glu(rngs, cfg, linear)

    def __call__(self, x_BLD: Stream, floor_D: Float[Array, "D"] | None, context: Context) -> Stream:
        normalised_BLD = self.mixer_norm(x_BLD)
        mixed_BLD = self.mixer(normalised_BLD, floor_D, context)
        mixed_BLD = drop(mixed_BLD, self.dropout, context, Place.MIXER)
        x_BLD = x_BLD + mixed_BLD
        normalised_BLD = self.mlp_norm(x_BLD)
        fed_BLD = self.mlp(normalised_BLD)
        fed_BLD = drop(fed_BLD, self.dropout, context, Place.FEED_FORWARD)
        x_BLD = x_BLD + fed_BLD
        return constrain(x_BLD, "batch", "position", "width")


def floors(gamma_YD: Float[Array, "Y D"]) -> Float[Array, "Y D"]:
    """Return lower bounds of the forget gates (HGRN, Qin et al. 2023): 0 in the first layer, rising with depth, below 1."""
    share_YD = jax.nn.softmax(gamma_YD, axis=0)
    return jnp.cumsum(share_YD, axis=0) - share_YD[:1]


class Model(decoder.Decoder):
    """Token ids [B, L] to logits [B, L, V]. `linear` builds its matrices (models/convert/ternary.py has a packed form)."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs, linear: Callable = BitLinear):
        super().__init__(cfg, rngs, lambda rngs: Block(rngs, cfg, linear))
        # In place of the one that a decoder makes, after its draw: initial values stay those of earlier versions.
        sizes = (cfg.width, cfg.vocab)
        head_axes = dict(zip(decoder.HEAD, sizes, strict=True))
        self.head = linear(rngs, cfg, Role.HEAD, head_axes, cfg.init_std)
        floors = {"layers": cfg.depth, "norm": cfg.width}
        self.gamma = param(rngs, Role.FLOOR, floors) if cfg.lower_bounds else None

    def head_product(self) -> Head:
        """Return the product with the ternary head."""
        return self.head.as_head()

    def layers(self, x_BLD: Stream, context: Context = Context()) -> tuple[Stream, Output]:
        """Run all layers, each with the floor of its forget gate."""
        cfg = self.cfg
        floors_YD = None if self.gamma is None else floors(self.gamma[...])
        x_BLD = stack.apply_stack(self.blocks, x_BLD, floors_YD, unroll=cfg.unroll, remat=cfg.remat, context=context)
        return x_BLD, Output(None)


def account(cfg: Config, seq_len: int) -> Accounting:
    """Count a resolved config. Groups: embed, head, mixer, mlp, norm, floor; a token costs the same at every length.

    As in the paper, a ternary multiplication counts as one: FLOPs compare with those of the dense family.
    A ternary matrix has a norm of its input's size: five of a layer have `width` inputs, one has `ff`.
    An element of the state: silu(i) (1 - f) takes 3, the recurrence 2, the gate 1, the floor 2.
    """
    del seq_len
    assert cfg.ff is not None
    D = cfg.width
    F = cfg.ff
    Y = cfg.depth
    params, matmul = decoder.outside(cfg)
    bit_norms = Y * (5 * D + F) + D  # the last is the head's
    layer_norms = 3 if cfg.gate_form == "code" else 2
    params["mixer"] = Y * 4 * D * D
    params["mlp"] = Y * 3 * D * F
    params["norm"] += Y * layer_norms * D + bit_norms
    params["floor"] = Y * D if cfg.lower_bounds else 0
    matmul["mixer"] = 2.0 * params["mixer"]
    matmul["mlp"] = 2.0 * params["mlp"]
    of_element = 8.0 if cfg.lower_bounds else 6.0
    recurrence = {"recurrence": Y * D * of_element}
    return Accounting(params, params, matmul, recurrence, recurrence, {})
