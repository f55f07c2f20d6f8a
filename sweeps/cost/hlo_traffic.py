"""Count the bytes that a compiled program moves: in HBM, to and from the host, and to other devices.

Kernels that hide in a custom call move their operands and their result. sweeps/cost/hlo.py reads the text; numbers are of
one device.
"""

import dataclasses
import re

import numpy as np

from sweeps.cost.hlo import FREE, Computation, Executed, Instruction, Module, hbm_bytes, operands_of
from sweeps.cost.hlo_groups import replica_groups
from sweeps.cost.torus import Places

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
SLICES = ("dynamic-slice", "slice", "gather")  # read no more than what they give
UPDATES = ("dynamic-update-slice", "scatter")  # write no more than what they are given

_MEGASCALE_KIND = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_MEGASCALE_SLICES = re.compile(r'_xla_megascale_target="\{([\d,:]+)\}')
_IN_PAIRS = ("collective-permute", "collective-broadcast")


def is_free(instruction: Instruction) -> bool:
    """Whether an instruction moves nothing: it names what is there, or ends what another has begun."""
    return instruction.opcode in FREE or instruction.opcode.endswith("-done")


# --- HBM


def bytes_in_hbm(module: Module) -> float:
    """Add up what all instructions read and write. Inside a fusion nothing is; a slice counts as much as it takes."""

    def moved(executed: Executed) -> float:
        instruction, computation, times, fused = executed
        if fused or is_free(instruction):
            return 0.0
        return times * _moved(module, instruction, computation)

    return sum(map(moved, module.executed(moved)))


def _moved(module: Module, instruction: Instruction, computation: Computation) -> float:
    """Return the bytes of HBM that an instruction reads and writes."""
    operands = operands_of(instruction, computation)
    written = hbm_bytes(instruction.shapes)
    if instruction.opcode in SLICES:
        return 2 * written
    if instruction.opcode in UPDATES:
        return 2 * _hbm_bytes_of(operands[1:])
    if _kind(instruction) in COLLECTIVES or instruction.opcode.endswith("-start"):
        return 2 * _hbm_bytes_of(operands)
    if instruction.opcode == "fusion":
        return _moved_by_fusion(module.fused_computation(instruction), operands, written)
    return written + _hbm_bytes_of(operands)


def _hbm_bytes_of(instructions: list[Instruction]) -> int:
    return sum(hbm_bytes(instruction.shapes) for instruction in instructions)


def _moved_by_fusion(inside: Computation, operands: list[Instruction], written: int) -> float:
    """Count operands and result, but for operands of which the fusion reads a slice or replaces one in place."""
    users = _users(inside)
    parameters = {one.leading_integer(): one.name for one in inside.values() if one.opcode == "parameter"}
    read = 0.0
    in_place = 0  # bytes of the result that the fusion leaves as they were
    for number, operand in enumerate(operands):
        if not operand.shapes or not all(shape.in_hbm for shape in operand.shapes):
            continue
        name = parameters.get(number, "")
        by = users.get(name, [])
        # Sliced or replaced is the first operand of its user; any other use, and none that is seen, reads all.
        opcodes = {user.opcode if user.operands[0] == name else "other" for user in by} or {"other"}
        if opcodes <= set(SLICES):
            read += sum(user.bytes for user in by)
        elif opcodes == {"dynamic-update-slice"}:
            read += sum(2 * inside[user.operands[1]].bytes for user in by if user.operands[1] in inside)
            in_place += operand.bytes
        else:
            read += operand.bytes
    return read + max(0, written - in_place)


def _users(computation: Computation) -> dict[str, list[Instruction]]:
    """Return the instructions that use each result, once for each time that they do."""
    users: dict[str, list[Instruction]] = {}
    for instruction in computation.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    return users


# --- the host


def host_bytes(module: Module) -> float:
    """Count what moves between HBM and the host, in the direction that has more: the link works both ways at once.

    Whole arrays by copies, layers of a stack by slices of it and updates in it.
    """
    to_host = 0.0
    from_host = 0.0
    for instruction, computation, times, _ in module.executed():
        source = computation.get(instruction.operands[0]) if instruction.operands else None
        if source is None:
            continue
        if instruction.opcode in ("copy", "copy-start"):
            moved = times * instruction.shapes[0].bytes
            if instruction.on_host and not source.on_host:
                to_host += moved
            elif source.on_host and not instruction.on_host:
                from_host += moved
        elif instruction.opcode == "dynamic-update-slice-start" and instruction.on_host:
            to_host += times * instruction.shapes[1].bytes
        elif instruction.opcode == "dynamic-slice-done" and source.on_host:
            from_host += times * instruction.bytes
    return max(to_host, from_host)


# --- other devices


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of collective over the same groups of devices: bytes that go into it on each device, in all its runs."""

    kind: str
    groups: np.ndarray  # [groups, members]
    entering: float

    @property
    def members(self) -> int:
        """Count the devices that take part together."""
        return self.groups.shape[1]


def collectives(module: Module) -> list[Collective]:
    """List the collectives of a program.

    A TPU scatters a sum in a fusion "all-reduce-scatter" of an all-reduce and a slice. Other collectives inside fusions
    are copies of one that the fusion overlaps with, on the same channel, and count once.
    """
    own: dict[tuple[str, ...], Collective] = {}
    copies: dict[tuple[str, ...], Collective] = {}
    # An instruction does not know its computation's name: scatters are found by the computation itself.
    scatters = {id(inside) for name, inside in module.computations.items() if name.startswith("all-reduce-scatter")}
    for executed in module.executed(_entering):
        instruction = executed.instruction
        kind = _kind(instruction)
        if kind not in COLLECTIVES:
            continue
        is_scatter = id(executed.computation) in scatters
        if is_scatter:
            kind = "reduce-scatter"
        groups = replica_groups(instruction.rest, module.partitions)
        one = Collective(kind, groups, _entering(executed))
        channel = instruction.attribute("channel_id") or instruction.name
        key = (kind, channel, *map(str, instruction.shapes), groups.tobytes().hex())
        if executed.fused and not is_scatter:
            if key not in copies or copies[key].entering < one.entering:
                copies[key] = one
        else:
            before = own[key].entering if key in own else 0.0
            own[key] = dataclasses.replace(one, entering=before + one.entering)
    return list((copies | own).values())


def collective_bytes(module: Module) -> dict[str, int]:
    """Count the bytes that a device sends, by kind, where every collective is done in a ring; without kinds of none.

    all-gather: (n-1) times its part; reduce-scatter and all-to-all: (n-1)/n of what goes in; all-reduce twice that.
    """
    by_kind: dict[str, int] = {}
    for one in collectives(module):
        sent = one.entering * _ring(one.kind, one.members)
        if sent:
            by_kind[one.kind] = by_kind.get(one.kind, 0) + round(sent)
    return dict(sorted(by_kind.items()))


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes that a device sends in a step: over the axes of its slice (`xy`: over x, y, or both), and to other slices."""

    by_axes: dict[str, float]
    to_slices: float


def traffic(module: Module, places: Places) -> Traffic:
    """Say over which links the collectives of a program go.

    Within a slice as in `collective_bytes`. Between slices each slice sends, with all its chips, what the others do not have
    yet: by collectives whose groups cross slices, and by the transfers through hosts into which libtpu turns them. What takes up only a part of an axis that closes to a ring cannot go round, and counts twice.
    """
    by_axes: dict[str, float] = {}
    to_slices = sum(map(_sent_by_host, module.executed(_sent_by_host)))
    for one in collectives(module):
        span = places.span(one.groups)
        sent = one.entering * _within_slice(one.kind, one.members, span.slices)
        to_slices += one.entering * _between_slices(one.kind, one.members, span.slices)
        if sent and span.axes:
            by_axes[span.axes] = by_axes.get(span.axes, 0.0) + sent * span.slowdown
    return Traffic(dict(sorted(by_axes.items())), to_slices)


def _sent_by_host(executed: Executed) -> float:
    """Return the bytes that a transfer of the Megascale runtime sends to other slices, in all its runs; 0 for anything else.

    What enters is the device's part of what its slice has summed up or gathered already; its attributes say what is done
    with it, and between which slices: `{1,2}x{0:3}`, slices 1 and 2, devices 0 to 3 of each.
    """
    instruction = executed.instruction
    kind = instruction.search(_MEGASCALE_KIND)
    if instruction.opcode != "send" or kind is None:
        return 0.0
    target = instruction.search(_MEGASCALE_SLICES)
    slices = _count(target[1]) if target else 2
    name = kind[1].lower().replace("_", "-")
    once = executed.operands[0].bytes * _ring(name, slices)
    return executed.times * once


def _count(ranges: str) -> int:
    """Count the numbers of `1,2` or `0:3` or both."""
    total = 0
    for part in ranges.split(","):
        first, colon, last = part.partition(":")
        total += int(last) - int(first) + 1 if colon else 1
    return total


def _kind(instruction: Instruction) -> str:
    """Return the opcode of an instruction that may have been split into a start and an end."""
    return instruction.opcode.removesuffix("-start")


def _entering(executed: Executed) -> float:
    """Return the bytes that go into a collective on each device, in all its runs; 0 for anything else."""
    if _kind(executed.instruction) not in COLLECTIVES:
        return 0.0
    return executed.times * sum(operand.bytes for operand in executed.operands)


def _ring(kind: str, n: int) -> float:
    """Return what a device of a ring of `n` sends, in units of what goes in."""
    if n <= 1:
        return 0.0
    share = (n - 1) / n
    if kind == "all-gather":
        return n - 1
    if kind == "all-reduce":
        return 2 * share
    if kind in _IN_PAIRS:
        return 1.0
    return share  # reduce-scatter, all-to-all


def _within_slice(kind: str, n: int, slices: int) -> float:
    """Return what a device sends within its slice, of a collective of `n` devices in so many slices."""
    here = n // slices
    if kind in _IN_PAIRS:
        return _ring(kind, n) if slices == 1 else 0.0
    if kind == "all-gather":  # of what has come from other slices, too
        return slices * _ring(kind, here)
    if kind == "all-to-all" or kind == "ragged-all-to-all":
        return (here - 1) / n
    return _ring(kind, here)


def _between_slices(kind: str, n: int, slices: int) -> float:
    """Return what a device sends to other slices, of a collective of `n` devices in so many slices."""
    if slices == 1:
        return 0.0
    here = n // slices
    if kind in _IN_PAIRS:
        return 1.0
    if kind == "all-gather":
        return slices - 1
    if kind == "all-to-all" or kind == "ragged-all-to-all":
        return (n - here) / n
    return _ring(kind, slices) / here  # of what its slice has summed up, each device has a part
