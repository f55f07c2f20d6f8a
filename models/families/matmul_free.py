"""MatMul-free decoder (Zhu et al. 2024, arXiv 2406.02528): ternary weights, and a linear recurrence for attention.

Every matrix but the embedding is a BitLinear: its weights enter the matmul as -1, 0 or 1 times one number, its inputs
as int8. Each layer: h = x + Mlgru(Norm(x)); y = h + Glu(Norm(h)). The defaults follow the released code, with which
the published checkpoints were trained; where the paper's equations differ there is an option. models/convert/ternary.py packs
trained weights to two bits.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, ClassVar

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.accounting import Accounting
from models.blocks import decoder, layers, stack
from models.blocks.layers import Norm, param
from models.blocks.recurrence import linear_recurrence
from models.contract import Output, Role
from models.errors import InputError
from models.mesh import gather
from models.mesh.current import backend, constrain
from models.mesh.tokens import flatten_tokens, unflatten_tokens

TERNARY_GROUPS = ("head", "mixer", "mlp")  # of `account`: the ternary matrices, and nothing else


@dataclasses.dataclass(frozen=True)
class Config(decoder.Options):
    """Options of the MatMul-free family besides those of decoder.Options."""

    ff: int | None = None  # 8/3 width rounded up to a multiple of 256
    norm_eps: float = 1e-6
    bit_eps: float = 1e-6  # of the norm inside a BitLinear; the released module declares 1e-8 and runs with 1e-6
    act_bits: int = 8  # of what enters a matrix; 16: as it is
    gate_form: str = "code"  # code: Norm(g) silu(s), the released code; paper: sigmoid(g) s
    lower_bounds: bool = True  # learned floors of the forget gate that rise with depth; the paper has none

    choices: ClassVar = decoder.Options.choices | {"gate_form": ("code", "paper")}
    counts: ClassVar = (*decoder.Options.counts, "ff")
    unrounded: ClassVar = dict.fromkeys(
        ("quant_weight", "quant_act", "quant_grad", "quant_saved"), "weights are ternary, inputs have model.act_bits"
    ) | {"quant_kv": "there are no keys and values"}

    def resolve(self, vocab: int, seq_len: int) -> "Config":
        """The same options with every derived one filled in."""
        ff = self.ff or 256 * -(-(8 * self.width // 3) // 256)
        return dataclasses.replace(super().resolve(vocab, seq_len), ff=ff)

    def check(self, seq_len: int) -> None:
        """Raises InputError, naming the fields, for sizes and choices that cannot be built."""
        super().check(seq_len)
        if self.tied:
            raise InputError("model.tied=True cannot be: the head is ternary and the embedding is not; expected False")
        if self.act_bits not in (8, 16):
            raise InputError(f"model.act_bits={self.act_bits} is not known; expected 8 or 16")
        if not 0 < self.bit_eps < float("inf"):
            raise InputError(f"model.bit_eps={self.bit_eps} must be a positive number")


def ternary(kernel: Float[Array, "I *O"]) -> tuple[Float[Array, "I *O"], Float[Array, ""]]:
    """A matrix as whole numbers -1, 0, 1, and the number that multiplies them: its mean magnitude (BitNet b1.58)."""
    mean = jnp.maximum(jnp.mean(jnp.abs(kernel)), 1e-5)
    return jnp.clip(jnp.round(kernel * (1 / mean)), -1, 1), mean


def quantise(y_NI: Float[Array, "N I"], bits: int) -> tuple[Float[Array, "N I"], Float[Array, "N 1"]]:
    """Rows as whole numbers in [-128, 127], halves to even, and the step of each row; unchanged at 16 bits."""
    if bits == 16:
        return y_NI, jnp.ones_like(y_NI[:, :1])
    levels_N1 = 127 / jnp.maximum(jnp.max(jnp.abs(y_NI), axis=1, keepdims=True), 1e-5)
    return jnp.clip(jnp.round(y_NI * levels_N1), -128, 127), 1 / levels_N1


def _rows(x: Float[Array, "*batch I"], norm_I: Float[Array, "I"], eps: float) -> Float[Array, "N I"]:
    """RMSNorm of flattened rows, in float32."""
    return layers.normalise(flatten_tokens(x).astype(jnp.float32), "rms", eps) * norm_I


def whole_matmul(
    x: Float[Array, "*batch I"],
    norm_I: Float[Array, "I"],
    whole: Float[Array, "I *O"],
    mean: Float[Array, ""],
    eps: float,
    bits: int,
) -> Float[Array, "..."]:
    """RMSNorm, quantisation, and the product with a matrix of -1, 0, 1 times `mean`: [*batch, *O] in the type of `x`.

    At 8 bits both factors are whole numbers that bfloat16 holds exactly, and float32 sums of them are exact in any order.
    """
    q_NI, step_N1 = quantise(_rows(x, norm_I, eps), bits)
    out = _dot(q_NI.astype(x.dtype), whole.astype(x.dtype), 1, 0)
    out = (out * (mean * step_N1).reshape(-1, *[1] * (out.ndim - 1))).astype(x.dtype)
    return unflatten_tokens(out, x.shape[:-1])


def _dot(a: Array, b: Array, axes_a: Any, axes_b: Any) -> Array:
    if backend() == "cpu":  # which has not all of these products in bfloat16, and none faster than float32
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.tensordot(a, b, axes=(axes_a, axes_b), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def bit_linear(
    x: Float[Array, "*batch I"],
    norm_I: Float[Array, "I"],
    kernel: Float[Array, "I *O"],
    eps: float,
    bits: int,
    axes: tuple[str, ...] = (),
) -> Float[Array, "..."]:
    """Quantise(RMSNorm(x) norm) times Ternary(kernel), trained straight through both roundings: [*batch, *O].

    With y the normalised rows: d kernel = Quantise(y)^T d out, d y = d out Ternary(kernel)^T, then the gradient of the norm;
    none through the scales, and clipped entries count as unclipped. The backward pass keeps the arguments and computes
    the rounded values again, so that a scan over layers saves no copy of a matrix. `axes`: the logical ones of the matrix,
    where it may be split over devices; what is gathered then are its whole numbers, a byte each.
    """
    return whole_matmul(x, norm_I, *_gathered(kernel, axes), eps, bits)


def _gathered(kernel: Array, axes: tuple[str, ...]) -> tuple[Array, Array]:
    """`ternary`, whole along fsdp."""
    whole, mean = ternary(kernel)
    if axes and gather.fully_sharded():
        whole = gather.gathered(whole.astype(jnp.int8), *axes).astype(whole.dtype)
    return whole, mean


def _bit_linear_forward(
    x: Array, norm_I: Array, kernel: Array, eps: float, bits: int, axes: tuple[str, ...]
) -> tuple[Array, Any]:
    return bit_linear(x, norm_I, kernel, eps, bits, axes), (x, norm_I, kernel)


def _bit_linear_backward(
    eps: float, bits: int, axes: tuple[str, ...], saved: Any, d_out: Array
) -> tuple[Array, Array, Array]:
    x, norm_I, kernel = saved
    y_NI, norm_gradient = jax.vjp(functools.partial(_rows, eps=eps), x, norm_I)
    q_NI, step_N1 = quantise(y_NI, bits)
    whole, mean = _gathered(kernel, axes)
    d_NO, outputs = flatten_tokens(d_out, kernel.ndim - 1), tuple(range(1, kernel.ndim))
    d_x, d_norm = norm_gradient(_dot(d_NO, whole.astype(d_out.dtype), outputs, outputs) * mean)
    y = unflatten_tokens((q_NI * step_N1).astype(d_out.dtype), x.shape[:-1])
    d_kernel = gather.weight_gradient(lambda a, b: _dot(a, b, 0, 0), y, d_out, axes)
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
        self.norm = param(rngs, Role.NORM_SCALE, {"norm": next(iter(axes.values()))}, fill=1.0)

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "..."]:
        y = bit_linear(x, self.norm[...], self.kernel[...], self.eps, self.bits, self.axes)
        return checkpoint_name(y, "product")


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uniform of variance 1."""
    return jax.random.uniform(key, shape, dtype, -(3**0.5), 3**0.5)


class Mlgru(nnx.Module):
    """Token mixer: s_t = f_t s_{t-1} + (1 - f_t) silu(i_t), read out through a gate.

    f = floor + (1 - floor) sigmoid(BitLinear(x)), and neither i nor f looks at s. State and gates are float32.
    """

    def __init__(self, rngs: nnx.Rngs, cfg: Config, linear: Callable):
        D = cfg.width
        # Xavier with a gain of 2^-2.5, whatever the config's std: where the released model's later pass leaves them.
        std = 2**-2.5 * (2 / (D + D)) ** 0.5
        enter = {"embed": D, "ff": D}
        self.gate_form = cfg.gate_form
        self.candidate = linear(rngs, cfg, Role.READS, enter, std, _uniform)
        self.forget = linear(rngs, cfg, Role.READS, enter, std, _uniform)
        self.gate = linear(rngs, cfg, Role.READS, enter, std, _uniform)
        self.out = linear(rngs, cfg, Role.WRITES, {"ff": D, "embed": D}, std, _uniform)
        self.gate_norm = Norm(rngs, {"norm": D}, "rms", cfg.norm_eps) if cfg.gate_form == "code" else None

    def __call__(self, x_BLD: Float[Array, "B L D"], floor_D: Float[Array, "D"] | None) -> Float[Array, "B L D"]:
        i_BLD = constrain(self.candidate(x_BLD).astype(jnp.float32), "batch", "position", "ff")
        f_BLD = constrain(jax.nn.sigmoid(self.forget(x_BLD).astype(jnp.float32)), "batch", "position", "ff")
        g_BLD = constrain(self.gate(x_BLD), "batch", "position", "ff")
        if floor_D is not None:
            f_BLD = floor_D + (1 - floor_D) * f_BLD
        s_BLD = linear_recurrence(f_BLD, jax.nn.silu(i_BLD) * (1 - f_BLD))
        if self.gate_norm is not None:
            o_BLD = self.gate_norm(g_BLD) * jax.nn.silu(s_BLD)
        else:
            o_BLD = jax.nn.sigmoid(g_BLD.astype(jnp.float32)) * s_BLD
        return self.out(o_BLD.astype(x_BLD.dtype))


class Glu(nnx.Module):
    """Channel mixer: silu(gate) up, both from one matrix with one ternary scale, then down."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, linear: Callable):
        D, F = cfg.width, cfg.ff
        self.gate_up = linear(rngs, cfg, Role.READS, {"embed": D, "pair": 2, "ff": F}, cfg.init_std)
        self.down = linear(rngs, cfg, Role.WRITES, {"ff": F, "embed": D}, decoder.residual_std(cfg))

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        h_BLPF = constrain(self.gate_up(x_BLD), "batch", "position", "pair", "ff")
        return self.down(jax.nn.silu(h_BLPF[:, :, 0]) * h_BLPF[:, :, 1])


class Block(nnx.Module):
    """One layer: token and channel mixer, each behind a norm and around a residual."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, linear: Callable):
        self.mixer_norm = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps)
        self.mixer = Mlgru(rngs, cfg, linear)
        self.mlp_norm = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps)
        self.mlp = Glu(rngs, cfg, linear)

    def __call__(self, x_BLD: Float[Array, "B L D"], floor_D: Float[Array, "D"] | None = None) -> Float[Array, "B L D"]:
        x_BLD = x_BLD + self.mixer(self.mixer_norm(x_BLD), floor_D)
        x_BLD = x_BLD + self.mlp(self.mlp_norm(x_BLD))
        return constrain(x_BLD, "batch", "position", "width")


def floors(gamma_YD: Float[Array, "Y D"]) -> Float[Array, "Y D"]:
    """Lower bounds of the forget gates (HGRN, Qin et al. 2023): 0 in the first layer, rising with depth, below 1."""
    share_YD = jax.nn.softmax(gamma_YD, axis=0)
    return jnp.cumsum(share_YD, axis=0) - share_YD[:1]


class Model(decoder.Decoder):
    """Token ids [B, L] to logits [B, L, V]. `linear` builds its matrices (models/convert/ternary.py has a packed form)."""

    def __init__(self, cfg: Config, rngs: nnx.Rngs, linear: Callable = BitLinear):
        super().__init__(cfg, rngs, lambda rngs: Block(rngs, cfg, linear))
        self.head = linear(rngs, cfg, Role.HEAD, {"embed": cfg.width, "vocab": cfg.vocab}, cfg.init_std)
        floors = {"layers": cfg.depth, "norm": cfg.width}
        self.gamma = param(rngs, Role.FLOOR, floors) if cfg.lower_bounds else None

    def layers(self, x_BLD: Float[Array, "B L D"]) -> tuple[Float[Array, "B L D"], Output]:
        """All layers, each with the floor of its forget gate."""
        inputs = () if self.gamma is None else (floors(self.gamma[...]),)
        return stack.apply_stack(self.blocks, x_BLD, *inputs, unroll=self.cfg.unroll, remat=self.cfg.remat), Output(
            None
        )


def account(cfg: Config, seq_len: int) -> Accounting:
    """Counts of a resolved config. Groups: embed, head, mixer, mlp, norm, floor; a token costs the same at every length.

    As in the paper, a ternary multiplication counts as one: FLOPs compare with those of the dense family.
    """
    del seq_len
    D, F, Y = cfg.width, cfg.ff, cfg.depth
    params, matmul = decoder.outside(cfg)
    bit_norms = Y * (5 * D + F) + D
    params |= {
        "mixer": Y * 4 * D * D,
        "mlp": Y * 3 * D * F,
        "norm": params["norm"] + Y * (3 if cfg.gate_form == "code" else 2) * D + bit_norms,
        "floor": Y * D if cfg.lower_bounds else 0,
    }
    # An element: silu(i) (1 - f) takes 3, the recurrence 2, the gate 1, the floor 2.
    recurrence = {"recurrence": Y * D * (8.0 if cfg.lower_bounds else 6.0)}
    matmul |= {"mixer": 2.0 * params["mixer"], "mlp": 2.0 * params["mlp"]}
    return Accounting(params, params, matmul, recurrence, recurrence, {})


def ternary_params(cfg: Config) -> int:
    """How many of a resolved config's parameters are ternary."""
    params = account(cfg, 1).params
    return sum(params[group] for group in TERNARY_GROUPS)
