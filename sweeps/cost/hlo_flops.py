"""FLOPs of one instruction of HLO: matmuls, as `dot` or `convolution`, and calls of TPU kernels.

`one` is an Instruction of sweeps/cost/hlo.py, `at` the instructions of its computation by name.
"""

import functools
import math
import re
from typing import Any


def matmul_flops(one: Any, at: dict[str, Any]) -> float:
    """2 x products of a dot or of a convolution; 0 for anything else."""
    if one.opcode not in ("dot", "convolution") or len(one.operands) < 2:
        return 0.0
    left, right = (at[name].shapes[0].dims for name in one.operands[:2])
    result = one.shapes[0].dims
    if one.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
        sizes = [left[int(d)] for d in contracted[1].split(",") if d] if contracted else []
        return 2.0 * math.prod(result) * math.prod(sizes)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    if labels is None:
        return 0.0
    spatial = sorted(c for c in labels[2] if c.isdigit())
    window = _window(one.rest, len(spatial))
    products = 1.0
    for number, c in enumerate(spatial):
        sizes = (left[labels[1].index(c)], right[labels[2].index(c)], result[labels[3].index(c)])
        products *= _valid(*sizes, *window[number])
    products *= result[labels[3].index("b")] * result[labels[3].index("f")] * right[labels[2].index("i")]
    batches = re.search(r"batch_group_count=(\d+)", one.rest)
    return 2.0 * products / (int(batches[1]) if batches else 1)


def kernel_flops(one: Any, at: dict[str, Any]) -> float:
    """Of a call of one of the TPU kernels that models/ uses; 0 for anything else."""
    return attention_flops(one, at) + grouped_flops(one, at)


def attention_flops(one: Any, at: dict[str, Any]) -> float:
    """Of a call of the TPU's attention kernel: what it multiplies, blocks that are masked in part as a whole; else 0.

    Products of queries, keys, values and their gradients, all of one size: 2 forward; backward 5 in one kernel, or 4 for
    keys and values and 3 for queries.
    """
    phase = re.search(r"\bsplash_m[hq]a_(fwd|dkv|dq)_", one.rest) if one.opcode == "custom-call" else None
    pairs = re.search(r"\battention_pairs_(\d+)_(\d+)_(fused|apart)\b", one.rest) if phase else None
    if pairs is None:
        return 0.0
    operands = (at[name].shapes[0] for name in one.operands if name in at)
    q = next(s for s in operands if len(s.dims) > 2 and s.dtype.startswith(("f", "bf")))  # [..., H, L, K]
    products = {"fwd": 2, "dq": 3, "dkv": 5 if pairs[3] == "fused" else 4}[phase[1]]
    visited = int(pairs[1] if phase[1] == "fwd" else pairs[2])
    return 2.0 * products * visited * math.prod(q.dims) / q.dims[-2]


def grouped_flops(one: Any, at: dict[str, Any]) -> float:
    """Of a call of the TPU's kernels for matrices of groups of rows (MegaBlocks): each row with one matrix; else 0.

    Rows [m, k] and matrices [E, k, n] give rows [m, n]; two kinds of rows [m, k] and [m, n] give [E, k, n].
    """
    if one.opcode != "custom-call" or not re.search(r"\bt?gmm\b", one.rest):
        return 0.0
    operands = (at[name].shapes[0] for name in one.operands if name in at)
    rows = next((s for s in operands if len(s.dims) == 2 and s.dtype.startswith(("f", "bf"))), None)
    return 2.0 * math.prod(rows.dims) * one.shapes[0].dims[-1] if rows else 0.0


def _window(rest: str, count: int) -> list[tuple[int, int, int, int]]:
    """(stride, padding before, dilation of the input, of the kernel) of each spatial dimension."""
    found = re.search(r"window=\{([^}]*)\}", rest)
    fields = dict(part.split("=") for part in found[1].split()) if found else {}

    def numbers(name: str, default: int) -> list[int]:
        return [int(x.split("_")[0]) for x in fields[name].split("x")] if name in fields else [default] * count

    return list(
        zip(numbers("stride", 1), numbers("pad", 0), numbers("lhs_dilate", 1), numbers("rhs_dilate", 1), strict=True)
    )


@functools.lru_cache(maxsize=4096)
def _valid(size: int, kernel: int, out: int, stride: int, pad: int, dilate: int, kernel_dilate: int) -> int:
    """Pairs of output and kernel positions that meet an input, not padding nor a hole between inputs.

    A batched matmul on a TPU is a convolution whose batch is such a dimension, with one pair per batch entry.
    """
    if kernel == 1 and dilate == 1 and pad == 0:
        return out
    total = 0
    for k in range(kernel):
        for o in range(out):
            position = o * stride + k * kernel_dilate - pad
            total += 0 <= position <= (size - 1) * dilate and position % dilate == 0
    return total
