"""Count the bytes that a compiled program moves: in HBM, to and from the host, and to other devices.

Kernels that hide in a custom call move their operands and their result. sweeps/cost/hlo.py reads the text; numbers are of
one device.
"""

import math
import re

from sweeps.cost.hlo import FREE, Computation, Executed, Instruction, Module, hbm_bytes, operands_of

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

_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
_MESH_PART = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")
_IOTA_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(.*?)\}\}")


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


def collective_bytes(module: Module) -> dict[str, int]:
    """Count the bytes that a device sends, by kind, where every collective is done in a ring; without kinds of none.

    all-gather: (n-1) times its part; reduce-scatter and all-to-all: (n-1)/n of what goes in; all-reduce twice that. A
    TPU scatters a sum in a fusion "all-reduce-scatter" of an all-reduce and a slice. Other collectives inside fusions
    are copies of one that the fusion overlaps with, on the same channel, and count once.
    """
    own: dict[tuple[str, ...], float] = {}
    copies: dict[tuple[str, ...], float] = {}
    # An instruction does not know its computation's name: scatters are found by the computation itself.
    scatters = {id(inside) for name, inside in module.computations.items() if name.startswith("all-reduce-scatter")}
    for executed in module.executed():
        kind = _kind(executed.instruction)
        if kind not in COLLECTIVES:
            continue
        is_scatter = id(executed.computation) in scatters
        if is_scatter:
            kind = "reduce-scatter"
        sent = _sent(executed, kind, module.partitions)
        channel = executed.instruction.attribute("channel_id") or executed.instruction.name
        key = (kind, channel, *map(str, executed.instruction.shapes))
        if executed.fused and not is_scatter:
            copies[key] = max(copies.get(key, 0.0), sent)
        else:
            own[key] = own.get(key, 0.0) + sent
    by_kind: dict[str, int] = {}
    for (kind, *_), sent in (copies | own).items():
        if sent:
            by_kind[kind] = by_kind.get(kind, 0) + round(sent)
    return dict(sorted(by_kind.items()))


def _kind(instruction: Instruction) -> str:
    """Return the opcode of an instruction that may have been split into a start and an end."""
    return instruction.opcode.removesuffix("-start")


def _sent(executed: Executed, kind: str, partitions: int) -> float:
    """Return the bytes that a device sends in all runs of one collective."""
    entering = sum(operand.bytes for operand in executed.operands)
    return executed.times * entering * _ring(kind, group_size(executed.instruction.rest, partitions))


def _ring(kind: str, n: int) -> float:
    """Return what a device of a ring of `n` sends, in units of what goes in."""
    if n <= 1:
        return 0.0
    share = (n - 1) / n
    if kind == "all-gather":
        return n - 1
    if kind == "all-reduce":
        return 2 * share
    if kind in ("collective-permute", "collective-broadcast"):
        return 1.0
    return share


def group_size(attributes: str, partitions: int) -> int:
    """Return how many devices take part in a collective together; all `partitions` where its attributes do not say."""
    if found := _MESH_GROUPS.search(attributes):
        sizes = {name: int(size) for name, size in _MESH_AXIS.findall(found[1])}
        return math.prod(int(part) if part else sizes[name] for name, part in _MESH_PART.findall(found[2]))
    if found := _IOTA_GROUPS.search(attributes):
        return int(found[2])
    if found := _LISTED_GROUPS.search(attributes):
        return len(found[1].split(","))
    if _PAIRS.search(attributes):
        return 2
    return partitions
