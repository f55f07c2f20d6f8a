"""Keep trained MatMul-free weights at two bits each: pack them, write and read the exported file, run the model on them.

Only the ternary matrices are packed, a layer at a time; embedding, norms and floors stay float32. The arithmetic is the
family's own (models/families/matmul_free.py), so that logits are the same.
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
from jax.core import Tracer
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, UInt8
import numpy as np

from models import functional
from models.blocks.layers import param
from models.contract import Head, Role
from models.errors import InputError
from models.families import matmul_free
from models.families.matmul_free import Config, ternary, whole_matmul

SCHEMA = 1
TERNARY_GROUPS = ("head", "mixer", "mlp")  # of the family's `account`: the ternary matrices, and nothing else

Params = dict[str, Array]  # of one trial, by path
Bytes = UInt8[Array, "bytes"]
Path = str | pathlib.Path

_PER_BYTE = 4
_SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)  # of the four values of a byte


def ternary_params(cfg: Config) -> int:
    """Count the ternary parameters of a resolved config."""
    params = matmul_free.account(cfg, 1).params
    return sum(params[group] for group in TERNARY_GROUPS)


def _bytes_for(size: int) -> int:
    """Return how many bytes so many values take: four each, the last filled up."""
    return -(-size // _PER_BYTE)


def pack_ternary(whole: Any) -> Bytes:
    """Pack values -1, 0, 1 of any shape into bytes of four, the first in the lowest two bits; the last is filled up.

    Raises ValueError for another value (unless traced).
    """
    if not isinstance(whole, Tracer) and not np.isin(whole, (-1, 0, 1)).all():
        raise ValueError("pack_ternary: expected -1, 0 and 1 only")
    values = jnp.ravel(jnp.asarray(whole))
    codes = (values + 1).astype(jnp.uint8)
    filled_up = jnp.pad(codes, (0, -codes.size % _PER_BYTE))
    by_byte = filled_up.reshape(-1, _PER_BYTE)
    shifted = by_byte << _SHIFTS
    return shifted.sum(axis=1, dtype=jnp.uint8)


def unpack_ternary(packed: Bytes, shape: Sequence[int]) -> Integer[Array, "..."]:
    """Return the int8 array of `shape` that `pack_ternary` packed.

    Raises ValueError when the bytes are not as many as it needs.
    """
    size = math.prod(shape)
    expected = _bytes_for(size)
    if packed.size != expected:
        raise ValueError(f"unpack_ternary: {packed.size} bytes cannot hold shape {tuple(shape)}; expected {expected}")
    codes = (packed[:, None] >> _SHIFTS) & 3
    flat = codes.reshape(-1)[:size]
    of_shape = flat.reshape(shape)
    return of_shape.astype(jnp.int8) - 1


class PackedLinear(nnx.Module):
    """BitLinear for inference: holds packed weights and unpacks them where it is applied. The same arithmetic."""

    def __init__(self, rngs: nnx.Rngs, cfg: Config, role: Role, axes: dict[str, int], *_: Any):
        del role
        self.eps = cfg.bit_eps
        self.bits = cfg.act_bits
        self.shape = tuple(axes.values())
        size = math.prod(self.shape)
        self.packed = nnx.Param(jnp.zeros(_bytes_for(size), jnp.uint8))
        self.mean = nnx.Param(jnp.zeros(()))
        self.norm = param(rngs, Role.NORM_SCALE, {"norm": self.shape[0]}, fill=1.0)

    def __call__(self, x: Float[Array, "*batch I"], dtype: Any = None) -> Float[Array, "..."]:
        """Multiply; the result is in `dtype`, or in that of `x`."""
        values = unpack_ternary(self.packed[...], self.shape)
        whole = values.astype(x.dtype)
        norm = self.norm[...]
        mean = self.mean[...]
        return whole_matmul(x, norm, whole, mean, self.eps, self.bits, dtype)

    def as_head(self) -> Head:
        """Return the product in float32; it needs no gradient, and so its parameters are not given to it."""
        return Head(lambda _, x: self(x, jnp.float32), {}, {})


def pack(params: Params, cfg: Config) -> Params:
    """Pack parameters of one trial by path: every `…/kernel` becomes `…/packed` (bytes) and `…/mean` (its scale)."""

    def one(kernel: Array) -> tuple[Array, Array]:
        whole, mean = ternary(kernel)
        return pack_ternary(whole), mean

    packed = {}
    for path, names in functional.param_axes("matmul_free", cfg).items():
        if not path.endswith("/kernel"):
            packed[path] = params[path]
            continue
        # Not vmap: a mean summed in another order may move a weight, or what it multiplies, by one step.
        convert = functools.partial(jax.lax.map, one) if names[0] == "layers" else one
        stem = path.removesuffix("kernel")
        bytes_, mean = jax.jit(convert)(params[path])
        packed[f"{stem}packed"] = bytes_
        packed[f"{stem}mean"] = mean
    return packed


def export(params: Params, cfg: Config, path: Path) -> None:
    """Write `pack(params, cfg)` and the resolved config to an .npz file."""
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in pack(params, cfg).items()}
    header = {"schema": SCHEMA, "family": "matmul_free", "model": dataclasses.asdict(cfg)}
    with open(path, "wb") as file:
        np.savez(file, header=json.dumps(header), **arrays)


def load_packed(path: Path) -> tuple[Params, Config]:
    """Read what `export` wrote. Raises InputError when the file is something else, or its arrays do not fit its config."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
        text = str(arrays.pop("header"))
        header = json.loads(text)
        cfg = Config(**header["model"])
        schema = header["schema"]
        family = header["family"]
        if (schema, family) != (SCHEMA, "matmul_free"):
            raise ValueError(f"schema {schema}, family {family!r}")
        _check_arrays(arrays, cfg)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected an .npz written by models.convert.ternary.export ({error})") from error
    packed = {name: jnp.asarray(array) for name, array in arrays.items()}
    return packed, cfg


def _check_arrays(arrays: dict[str, np.ndarray], cfg: Config) -> None:
    """Raise ValueError where names, shapes or types are not those of the packed model."""
    _, leaves = _abstract(cfg)
    if arrays.keys() != leaves.keys():
        raise ValueError("arrays do not fit the config")
    for name, leaf in leaves.items():
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError("arrays do not fit the config")


def apply_packed(packed: Params, cfg: Config, tokens_BL: Integer[Array, "B L"]) -> Float[Array, "B L V"]:
    """Return logits from packed parameters. Meant to be jitted: layers are scanned, so that one at a time is unpacked."""
    graphdef, names = _abstract(cfg)
    model = functional.merge(graphdef, {name: packed[name] for name in names})
    return model(tokens_BL).logits_BLV


def _abstract(cfg: Config) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """Build the packed model without its arrays; return its graph and their shapes by path."""
    cfg = dataclasses.replace(cfg, unroll=False, remat="none")
    model = nnx.eval_shape(lambda: matmul_free.Model(cfg, nnx.Rngs(params=0), PackedLinear))
    graphdef, state = nnx.split(model)
    leaves = {path: leaf.get_value() for path, leaf in functional.by_path(state).items()}
    return graphdef, leaves
