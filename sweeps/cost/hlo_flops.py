"""Count the FLOPs of a compiled program: matmuls, as `dot` or `convolution`, and calls of the kernels of models/.

A multiply and an add are two FLOPs. Matmuls are `dot`, on a TPU `convolution`. What is hidden in a custom call (a Pallas
kernel) has no FLOPs here, but for two kernels: the attention of models/blocks/attention_tpu.py, whose scope says how many
pairs of positions the kernel multiplies, and matrices of groups of rows. sweeps/cost/hlo.py reads the text.
"""

import dataclasses
import functools
import math
import re

from sweeps.cost.hlo import Computation, Executed, Instruction, Module, operands_of

_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_BATCH_GROUPS = re.compile(r"batch_group_count=(\d+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_ATTENTION_PHASE = re.compile(r"\bsplash_m[hq]a_(fwd|dkv|dq)_")
_ATTENTION_PAIRS = re.compile(r"\battention_pairs_(\d+)_(\d+)_(fused|apart)\b")
_GROUPED = re.compile(r"\bt?gmm\b")


def flops(module: Module) -> float:
    """Add up the FLOPs of all matmuls of a program, those inside of our kernels too."""
    return sum(map(_flops_in_all, module.executed(_flops_in_all)))


def _flops_in_all(executed: Executed) -> float:
    """Return the FLOPs of all runs of one instruction."""
    instruction, computation, times, _ = executed
    once = matmul_flops(instruction, computation) + kernel_flops(instruction, computation)
    return times * once


def uncounted_kernels(module: Module) -> dict[str, float]:
    """Return how often kernels run whose FLOPs nobody counts, by the target of their call."""
    runs: dict[str, float] = {}
    for instruction, computation, times, _ in module.executed():
        if instruction.opcode != "custom-call" or kernel_flops(instruction, computation):
            continue
        target = instruction.search(_TARGET)
        if target and _is_kernel(target[1]):
            runs[target[1]] = runs.get(target[1], 0) + times
    return runs


def _is_kernel(target: str) -> bool:
    """Whether a custom call is a Pallas or Triton kernel, and not a service of the compiler."""
    return "tpu_custom_call" in target or "mosaic" in target.lower() or "triton" in target


# --- matmuls


def matmul_flops(instruction: Instruction, computation: Computation) -> float:
    """Return 2 x products of a dot or of a convolution; 0 for anything else."""
    if instruction.opcode not in ("dot", "convolution") or len(instruction.operands) < 2:
        return 0.0
    left, right = (computation[name].dims for name in instruction.operands[:2])
    result = instruction.dims
    if instruction.opcode == "dot":
        return _dot_flops(instruction, left, result)
    return _convolution_flops(instruction, left, right, result)


def _dot_flops(instruction: Instruction, left: tuple[int, ...], result: tuple[int, ...]) -> float:
    """Return 2 FLOPs for each entry of the result and of the contracted axes."""
    contracted = instruction.search(_CONTRACTED)
    axes = contracted[1].split(",") if contracted else []
    sizes = [left[int(axis)] for axis in axes if axis]
    return 2.0 * math.prod(result) * math.prod(sizes)


def _convolution_flops(
    instruction: Instruction, left: tuple[int, ...], right: tuple[int, ...], result: tuple[int, ...]
) -> float:
    """Return the FLOPs of a matmul that a TPU runs as a convolution; 0 where it cannot be read."""
    labels = instruction.search(_LABELS)
    if labels is None:
        return 0.0
    # A letter or digit for each axis: b batch, f feature, i and o of the kernel, digits the spatial axes.
    left_axes, right_axes, result_axes = labels.groups()
    left_size = dict(zip(left_axes, left, strict=True))
    right_size = dict(zip(right_axes, right, strict=True))
    result_size = dict(zip(result_axes, result, strict=True))
    spatial = sorted(label for label in right_size if label.isdigit())
    windows = _windows(instruction, len(spatial))
    products = 1.0
    for label, window in zip(spatial, windows, strict=True):
        products *= _valid_pairs(left_size[label], right_size[label], result_size[label], window)
    products *= result_size["b"] * result_size["f"] * right_size["i"]
    groups = instruction.search(_BATCH_GROUPS)
    return 2.0 * products / (int(groups[1]) if groups else 1)


@dataclasses.dataclass(frozen=True)
class _Window:
    """How a kernel moves over one spatial axis."""

    stride: int
    pad: int  # before the first input
    input_dilation: int
    kernel_dilation: int


def _windows(instruction: Instruction, axes: int) -> list[_Window]:
    """Read the window of each spatial axis, such as `window={size=2x8 stride=1x7 pad=0_0x1_2 lhs_dilate=2x8}`."""
    found = instruction.search(_WINDOW)
    fields = dict(field.split("=") for field in found[1].split()) if found else {}

    def by_axis(name: str, default: int) -> list[int]:
        if name not in fields:
            return [default] * axes
        values = fields[name].split("x")
        return [int(value.split("_")[0]) for value in values]  # of "before_after" what stands before

    strides = by_axis("stride", 1)
    pads = by_axis("pad", 0)
    input_dilations = by_axis("lhs_dilate", 1)
    kernel_dilations = by_axis("rhs_dilate", 1)
    return [_Window(*values) for values in zip(strides, pads, input_dilations, kernel_dilations, strict=True)]


@functools.lru_cache(maxsize=4096)
def _valid_pairs(size: int, kernel: int, out: int, window: _Window) -> int:
    """Count pairs of output and kernel positions that meet an input, not padding nor a hole between inputs.

    A batched matmul on a TPU is a convolution whose batch is such an axis, with one pair per batch entry.
    """
    if kernel == 1 and window.input_dilation == 1 and window.pad == 0:
        return out
    last = (size - 1) * window.input_dilation
    total = 0
    for k in range(kernel):
        offset = k * window.kernel_dilation - window.pad
        for o in range(out):
            position = o * window.stride + offset
            if 0 <= position <= last and position % window.input_dilation == 0:
                total += 1
    return total


# --- kernels


def kernel_flops(instruction: Instruction, computation: Computation) -> float:
    """Return the FLOPs of a call of one of the TPU kernels that models/ uses; 0 for anything else."""
    if instruction.opcode != "custom-call":
        return 0.0
    return attention_flops(instruction, computation) + grouped_flops(instruction, computation)


def attention_flops(instruction: Instruction, computation: Computation) -> float:
    """Return what a call of the TPU's attention kernel multiplies, blocks that are masked in part as a whole; else 0.

    Products of queries, keys, values and their gradients, all of one size: 2 forward; backward 5 in one kernel, or 4 for
    keys and values and 3 for queries.
    """
    phase = instruction.search(_ATTENTION_PHASE)
    pairs = instruction.search(_ATTENTION_PAIRS)
    if phase is None or pairs is None:
        return 0.0
    pairs_forward, pairs_backward, way = pairs.groups()
    products = {"fwd": 2, "dq": 3, "dkv": 5 if way == "fused" else 4}[phase[1]]
    visited = int(pairs_forward if phase[1] == "fwd" else pairs_backward)
    # Queries [..., H, L, K] are the first floats of more than two axes; masks and block numbers come before them.
    queries = next(dims for dims in _float_operands(instruction, computation) if len(dims) > 2)
    return 2.0 * products * visited * math.prod(queries) / queries[-2]


def grouped_flops(instruction: Instruction, computation: Computation) -> float:
    """Return what a call of the TPU's kernels for matrices of groups of rows (MegaBlocks) multiplies; else 0.

    Each row meets one matrix: rows [m, k] and matrices [E, k, n] give rows [m, n]; two kinds of rows [m, k] and [m, n]
    give [E, k, n].
    """
    if not instruction.search(_GROUPED):
        return 0.0
    matrices = [dims for dims in _float_operands(instruction, computation) if len(dims) == 2]
    if not matrices:
        return 0.0
    return 2.0 * math.prod(matrices[0]) * instruction.dims[-1]


def _float_operands(instruction: Instruction, computation: Computation) -> list[tuple[int, ...]]:
    """Return the sizes of those operands that are floating-point numbers."""
    arrays = [operand.shapes[0] for operand in operands_of(instruction, computation)]
    return [shape.dims for shape in arrays if shape.is_float]
