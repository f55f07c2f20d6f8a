"""Trained MatMul-free weights at two bits each: packing, the exported file, and inference that reads it.

Only the ternary matrices are packed, a layer at a time; embedding, norms and floors stay float32.
"""

from collections.abc import Sequence
import dataclasses
import functools
import json
import math
import pathlib
from typing import Any
import zipfile

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, UInt8
import numpy as np

from models.blocks.layers import param
from models.contract import Head, Role
from models.errors import InputError
from models.families import matmul_free
from models.families.matmul_free import Config, ternary, whole_matmul
from models.mesh import rules

SCHEMA = 1
_SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)  # of the four values of a byte


def pack_ternary(whole: Any) -> UInt8[Array, "bytes"]:
    """Values -1, 0, 1 of any shape as bytes of four, the first in the lowest two bits; the last byte is filled up.

    Raises ValueError for another value (unless traced).
    """
    if not isinstance(whole, jax.core.Tracer) and not np.isin(whole, (-1, 0, 1)).all():
        raise ValueError("pack_ternary: expected -1, 0 and 1 only")
    codes = (jnp.ravel(jnp.asarray(whole)) + 1).astype(jnp.uint8)
    codes = jnp.pad(codes, (0, -codes.size % 4)).reshape(-1, 4)
    return (codes << _SHIFTS).sum(axis=1, dtype=jnp.uint8)


def unpack_ternary(packed: UInt8[Array, "bytes"], shape: Sequence[int]) -> Integer[Array, "..."]:
    """The int8 array of `shape` that `pack_ternary` packed. Raises ValueError when the bytes are not as many as it needs."""
    size = math.prod(shape)
    if packed.size != -(-size // 4):
        raise ValueError(
            f"unpack_ternary: {packed.size} bytes cannot hold shape {tuple(shape)}; expected {-(-size // 4)}"
        )
    codes = (packed[:, None] >> _SHIFTS) & 3
    return codes.reshape(-1)[:size].reshape(shape).astype(jnp.int8) - 1


class PackedLinear(nnx.Module):
    """BitLinear for inference: holds packed weights and unpacks them where it is applied. The same arithmetic."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, role: Role, axes: dict[str, int], *_: Any):
        del role
        self.eps, self.bits, self.shape = cfg.bit_eps, cfg.act_bits, tuple(axes.values())
        self.packed = nnx.Param(jnp.zeros(-(-math.prod(self.shape) // 4), jnp.uint8))
        self.mean = nnx.Param(jnp.zeros(()))
        self.norm = param(rngs, Role.NORM_SCALE, {"norm": self.shape[0]}, fill=1.0)

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "..."]:
        whole = unpack_ternary(self.packed[...], self.shape).astype(x.dtype)
        return whole_matmul(x, self.norm[...], whole, self.mean[...], self.eps, self.bits)

    def as_head(self) -> Head:
        """Return the product; it needs no gradient, and so its parameters are not given to it."""
        return Head(lambda _, x: self(x), {}, {})


def pack(params: dict[str, Array], cfg: Config) -> dict[str, Array]:
    """Parameters of one trial by path, with every `…/kernel` as `…/packed` (bytes) and `…/mean` (its scale)."""

    def one(kernel: Array) -> tuple[Array, Array]:
        whole, mean = ternary(kernel)
        return pack_ternary(whole), mean

    out = {}
    for path, names in _axes(cfg).items():
        if not path.endswith("/kernel"):
            out[path] = params[path]
            continue
        # Not vmap: a mean summed in another order may move a weight, or what it multiplies, by one step.
        convert = functools.partial(jax.lax.map, one) if names[0] == "layers" else one
        stem = path.removesuffix("kernel")
        out[f"{stem}packed"], out[f"{stem}mean"] = jax.jit(convert)(params[path])
    return out


def export(params: dict[str, Array], cfg: Config, path: str | pathlib.Path) -> None:
    """Write `pack(params, cfg)` and the resolved config to an .npz file."""
    arrays = {name: np.asarray(array) for name, array in pack(params, cfg).items()}
    header = {"schema": SCHEMA, "family": "matmul_free", "model": dataclasses.asdict(cfg)}
    with open(path, "wb") as file:
        np.savez(file, header=json.dumps(header), **arrays)


def load_packed(path: str | pathlib.Path) -> tuple[dict[str, Array], Config]:
    """What `export` wrote. Raises InputError when the file is something else, or its arrays do not fit its config."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop("header")))
        cfg = Config(**header["model"])
        if (header["schema"], header["family"]) != (SCHEMA, "matmul_free"):
            raise ValueError(f"schema {header['schema']}, family {header['family']!r}")
        expected = {name: (leaf.shape, leaf.dtype) for name, leaf in _abstract(cfg)[1].items()}
        if expected != {name: (array.shape, array.dtype) for name, array in arrays.items()}:
            raise ValueError("arrays do not fit the config")
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected an .npz written by models.convert.ternary.export ({error})") from error
    return {name: jnp.asarray(array) for name, array in arrays.items()}, cfg


def apply_packed(packed: dict[str, Array], cfg: Config, tokens_BL: Integer[Array, "B L"]) -> Float[Array, "B L V"]:
    """Logits from packed parameters. Meant to be jitted: layers are scanned, so that one at a time is unpacked."""
    graphdef, leaves = _abstract(cfg)
    state = nnx.from_flat_state([(tuple(name.split("/")), nnx.Param(packed[name])) for name in leaves])
    return nnx.merge(graphdef, state)(tokens_BL).logits_BLV


def _abstract(cfg: Config) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """The packed model without its arrays, and their shapes by path."""
    cfg = dataclasses.replace(cfg, unroll=False, remat="none")
    graphdef, state = nnx.split(nnx.eval_shape(lambda: matmul_free.Model(cfg, nnx.Rngs(params=0), PackedLinear)))
    return graphdef, {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def _axes(cfg: Config) -> dict[str, tuple[str, ...]]:
    """Logical axes of the float parameters by path."""
    state = nnx.state(nnx.eval_shape(lambda: matmul_free.Model(cfg, nnx.Rngs(params=0))))
    return {"/".join(map(str, path)): axes for path, axes in rules.logical_axes(state).items()}
