"""Multiply rows with the matrices of their experts, whatever number of rows each has.

N rows, C choices of each, E experts of F units, R rows sorted by expert, Z blocks of S rows of one expert.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from models.blocks import dispatch
from models.mesh.current import backend
from models.numerics.formats import Format, straight_through

KERNELS = ("auto", "blocks", "ragged")
TILES = (512, 256, 128)  # rows that a TPU's kernel takes at a time
BLOCKS_PER_EXPERT = 4  # of a balanced load: more leave fewer rows empty, and make smaller products

Activation = Callable[[Array], Array]


class Matrices(NamedTuple):
    """The experts' feed-forward weights; `gate` is None without a gate."""

    gate_EDF: Float[Array, "E D F"] | None
    up_EDF: Float[Array, "E D F"]
    down_EFD: Float[Array, "E F D"]


def feed_forward(
    product: Callable[[Array, Array], Array], x: Array, weights: Matrices, act: Activation, form: Format | None = None
) -> Array:
    """Compute act(x gate) * (x up) down, or act(x up) down without a gate.

    `product(x, w)` multiplies each row, rounded to `form`, with its own expert's matrix.
    """

    def named_product(x: Array, w: Array) -> Array:
        return _named(product(x, w))

    x = straight_through(x, form, -1)
    up = named_product(x, weights.up_EDF)
    gate = None
    if weights.gate_EDF is not None:
        gate = named_product(x, weights.gate_EDF)
    h = _units(act, form, gate, up)
    return named_product(h, weights.down_EFD)


def _named(product: Array) -> Array:
    """Name what remat "dots" keeps."""
    return checkpoint_name(product, "product")


def _units(act: Activation, form: Format | None, gate: Array | None, up: Array) -> Array:
    """Return what an expert's units give to its second matrix."""
    h = act(up) if gate is None else act(gate) * up
    return straight_through(h, form, -1)


def is_ragged(kernel: str) -> bool:
    """Tell whether `kernel` (see `dropless`) is ragged on this backend."""
    return kernel == "ragged" or (kernel == "auto" and backend() == "tpu")


def block_rows(assignments: int, experts: int, kernel: str) -> tuple[int, int]:
    """Return (blocks, rows of one) that hold any `assignments`, however they fall.

    Each expert wastes less than one block.
    """
    if is_ragged(kernel):
        return assignments, 1
    size = math.ceil(assignments / (BLOCKS_PER_EXPERT * experts))
    return assignments // size + experts, size


def dropless(
    x_ND: Float[Array, "N D"],
    expert_NC: Integer[Array, "N C"],
    weight_NC: Float[Array, "N C"],
    weights: Matrices,
    act: Activation,
    kernel: str,
    form: Format | None = None,
) -> Float[Array, "N D"]:
    """Serve every assignment (MegaBlocks, Gale et al. 2022). `kernel` says how rows meet their expert's matrix.

    ragged: rows sorted by expert and `grouped`, for which a TPU has a kernel; elsewhere it expands to E products over all
    rows. blocks: each expert's rows fill whole blocks, of which `block_feed_forward` takes one after the other. auto: what
    the backend is good at.
    """
    E = weights.up_EDF.shape[0]
    blocks, size = block_rows(expert_NC.size, E, kernel)
    place_A, chosen_E = dispatch.places(expert_NC.reshape(-1), E)
    # Each expert's rows start with a block of their own, behind the blocks of the experts before it.
    blocks_E = -(-chosen_E // size)
    end_E = jnp.cumsum(blocks_E)
    start_E = (end_E - blocks_E) * size
    row_NC = start_E[expert_NC] + place_A.reshape(expert_NC.shape)
    x_RD: Array = dispatch.take(x_ND, row_NC, blocks * size)
    if is_ragged(kernel):
        y_RD = feed_forward(lambda x, w: grouped(x, w, chosen_E), x_RD, weights, act, form)
        return dispatch.give_back(y_RD, row_NC, weight_NC)
    block_Z = jnp.arange(blocks)
    owner_Z = jnp.sum(block_Z[:, None] >= end_E, axis=1)  # E, which is nobody, for blocks behind the last one
    x_ZSD = straight_through(x_RD.reshape(blocks, size, -1), form, -1)
    y_ZSD: Array = block_feed_forward(act, form, x_ZSD, weights, owner_Z)
    return dispatch.give_back(y_ZSD.reshape(blocks * size, -1), row_NC, weight_NC)


# --- block after block


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def block_feed_forward(
    act: Activation,
    form: Format | None,
    x_ZSD: Float[Array, "Z S D"],
    weights: Matrices,
    owner_Z: Integer[Array, "Z"],
) -> Float[Array, "Z S D"]:
    """Give each block of rows to its owner's feed-forward, one block after the other; zeros to those of owner E.

    No matrix is copied for later, and what lies between the products stays in cache. The backward pass adds each block's
    part of a matrix's gradient where the sum is, in float32. Derived by jax, there would be a gradient for every block,
    several times the experts' matrices, and then a scatter over all of them.
    """
    y_ZSD, _ = _blocks_forward(act, form, x_ZSD, weights, owner_Z)
    return y_ZSD


class _Saved(NamedTuple):
    """What the backward pass of the blocks needs."""

    x_ZSD: Array
    gate_ZSF: Array | None
    up_ZSF: Array
    weights: Matrices
    owner_Z: Array


def _blocks_forward(
    act: Activation, form: Format | None, x_ZSD: Array, weights: Matrices, owner_Z: Array
) -> tuple[Array, _Saved]:
    def serve(_: None, block: tuple[Array, Array]) -> tuple[None, tuple[Array | None, Array, Array]]:
        x_SD, owner = block

        def multiply() -> tuple[Array | None, Array, Array]:
            own = _matrices_of(weights, owner)
            up_SF = x_SD @ own.up_EDF
            gate_SF = None if own.gate_EDF is None else x_SD @ own.gate_EDF
            h_SF = _units(act, form, gate_SF, up_SF)
            return gate_SF, up_SF, h_SF @ own.down_EFD

        return None, _where_owned(weights, owner, multiply)

    _, (gate_ZSF, up_ZSF, y_ZSD) = jax.lax.scan(serve, None, (x_ZSD, owner_Z))
    gate_ZSF, up_ZSF, y_ZSD = jax.tree.map(_named, (gate_ZSF, up_ZSF, y_ZSD))
    return y_ZSD, _Saved(x_ZSD, gate_ZSF, up_ZSF, weights, owner_Z)


def _blocks_backward(
    act: Activation, form: Format | None, saved: _Saved, d_y_ZSD: Array
) -> tuple[Array, Matrices, None]:
    weights = saved.weights

    def add(d_weights: Matrices, block: tuple[Array, Array | None, Array, Array, Array]) -> tuple[Matrices, Array]:
        x_SD, gate_SF, up_SF, owner, d_y_SD = block

        def multiply() -> tuple[Matrices, Array]:
            own = _matrices_of(weights, owner)
            h_SF, pull = jax.vjp(functools.partial(_units, act, form), gate_SF, up_SF)
            d_gate_SF, d_up_SF = pull(d_y_SD @ own.down_EFD.T)
            d_x_SD = d_up_SF @ own.up_EDF.T
            d_gate_DF = None
            if own.gate_EDF is not None:
                d_x_SD = d_x_SD + d_gate_SF @ own.gate_EDF.T
                d_gate_DF = _outer(x_SD, d_gate_SF)
            return Matrices(d_gate_DF, _outer(x_SD, d_up_SF), _outer(h_SF, d_y_SD)), d_x_SD

        part, d_x_SD = _where_owned(weights, owner, multiply)
        d_weights = jax.tree.map(lambda total, part: total.at[owner].add(part, mode="drop"), d_weights, part)
        return d_weights, d_x_SD

    nothing = jax.tree.map(lambda matrix: jnp.zeros(matrix.shape, jnp.float32), weights)
    blocks = (saved.x_ZSD, saved.gate_ZSF, saved.up_ZSF, saved.owner_Z, d_y_ZSD)
    d_weights, d_x_ZSD = jax.lax.scan(add, nothing, blocks)
    d_weights = jax.tree.map(lambda total, matrix: total.astype(matrix.dtype), d_weights, weights)
    return d_x_ZSD, d_weights, None


block_feed_forward.defvjp(_blocks_forward, _blocks_backward)


def _outer(rows_SI: Array, rows_SO: Array) -> Array:
    """Return the gradient of a matrix from its rows in and the gradients of its rows out, in float32."""
    return jnp.matmul(rows_SI.T, rows_SO, preferred_element_type=jnp.float32)


def _matrices_of(weights: Matrices, owner: Array) -> Matrices:
    """Return one expert's matrices, without the axis of experts."""
    return jax.tree.map(lambda matrix: jax.lax.dynamic_index_in_dim(matrix, owner, keepdims=False), weights)


def _where_owned(weights: Matrices, owner: Array, compute: Callable[[], Any]) -> Any:
    """Return what `compute` gives for a block that has an owner, and zeros for one without.

    Rows of a block without an owner are zeros, which give zeros: to pass over it is only a matter of time, and a GPU
    would have to ask the host.
    """
    if backend() != "cpu":
        return compute()
    experts = weights.up_EDF.shape[0]
    nothing = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), jax.eval_shape(compute))
    return jax.lax.cond(owner < experts, compute, lambda: nothing)


# --- all rows at once


def grouped(
    x_RI: Float[Array, "R I"], w_EIO: Float[Array, "E I O"], size_E: Integer[Array, "E"], interpret: bool = False
) -> Float[Array, "R O"]:
    """Multiply each row with its expert's matrix, where the first `size_E[0]` rows are of the first expert, and so on.

    On a TPU with the kernels of MegaBlocks as jax has them: of jax.lax.ragged_dot XLA (0.10) expands the gradient of the
    matrices to E products over all rows. Kernels cannot be split by XLA: where it has an axis to split, ragged_dot it is.
    `interpret`: the kernels step by step on any backend, to check them.
    """
    if (backend() != "tpu" or _xla_may_split()) and not interpret:
        return jax.lax.ragged_dot(x_RI, w_EIO, size_E)
    from jax.experimental.pallas.ops.tpu.megablox import ops

    rows = len(x_RI)
    padded = jnp.pad(x_RI, ((0, -rows % TILES[-1]), (0, 0)))
    tile = next(size for size in TILES if len(padded) % size == 0)
    # Of a tile of rows by 1,024 by 1,024 both factors, twice, and a float32 sum take 10 MB of 16 beside the units.
    return ops.gmm(padded, w_EIO, size_E, x_RI.dtype, (tile, 1024, 1024), None, None, False, interpret)[:rows]


def _xla_may_split() -> bool:
    """Whether the mesh has an axis along which XLA could split an array here."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return False
    return any(mesh.shape[name] > 1 for name in mesh.axis_names if name not in mesh.manual_axes)
