"""What a compiled program does, read from its HLO text: FLOPs, bytes and collectives, with loops multiplied out.

The compiler's own counts look at a loop's body once, whatever its trip count, and so do those of jax. Here every
instruction counts as often as it runs: bodies by the trip count of their loop, which is either noted by the compiler
or the constant that the loop's counter is compared with. A loop whose length is known only at run time counts once:
in the programs of experiments/training/program.py that is one step. Numbers are of one device.

Understood is the text of `compiled.as_text()` of jax 0.10 to 0.12 on CPU, GPU and TPU. Matmuls are `dot` there, on a
TPU `convolution`. What is hidden in a custom call (a Pallas kernel) is counted by its operands and result; without FLOPs,
but for the attention of models/blocks/attention.py, whose scope says how many pairs of positions the kernel multiplies.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re

from sweeps.cost.hlo_flops import kernel_flops, matmul_flops

BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "f4e2m1fn": 4, "token": 0, "opaque": 0}
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Names for buffers that are there already, and what moves nothing.
FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while", "call", "conditional", "after-all")
FREE += ("partition-id", "replica-id", "add-dependency", "opt-barrier", "iota")

HOST = "S(5)"  # the memory space of an array that lies with the host, in its layout

# Functions through which everything passes: they say nothing about the place in a model.
_PLUMBING = ("apply_stack", "fold_stack", "on_shards")

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_NAME = re.compile(r"%([\w.\-]+)")
# A kernel's own metadata, the only attribute that is written over several lines.
_KERNEL_METADATA = re.compile(r"kernel_metadata=\{\n(.*)\n\}")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: its element type, its size, and whether it lies in the chip's fast memory and not in HBM."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> int:
        """Of all elements, without padding."""
        return math.prod(self.dims) * element_bits(self.dtype) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


def element_bits(dtype: str) -> int:
    """Bits of one element: bf16 16, f8e4m3fn 8, pred 8."""
    if dtype in BITS:
        return BITS[dtype]
    found = re.match(r"[a-z]+(\d+)", dtype)
    return int(found[1]) if found else 0


def shapes(text: str) -> tuple[Shape, ...]:
    """All arrays of a type, which may be a tuple."""
    return tuple(
        Shape(dtype, tuple(int(d) for d in dims.split(",") if d), "S(" in (layout or ""))
        for dtype, dims, layout in _ARRAY.findall(text)
    )


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    rest: str  # its attributes, as text; of a constant or parameter, what stands in the parentheses comes first
    root: bool

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The arrays of its result."""
        return shapes(self.type)

    @property
    def bytes(self) -> int:
        """Of its result."""
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, name: str) -> str | None:
        """The value of an attribute that is one word."""
        found = re.search(rf"\b{name}=%?([\w.\->]+)", self.rest)
        return found[1] if found else None


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` is closed."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return len(text)


def _instruction(line: str) -> Instruction | None:
    line = line.strip()
    root = line.startswith("ROOT ")
    left, equals, right = line.removeprefix("ROOT ").partition(" = ")
    if not equals or not right:
        return None
    end = _closing(right, 0) + 1 if right.startswith("(") else right.find(" ")
    kind, tail = right[:end], right[end:].lstrip()
    opens = tail.find("(")
    if opens <= 0:
        return None
    closes = _closing(tail, opens)
    inside = tail[opens + 1 : closes]
    opcode, operands = tail[:opens], tuple(_NAME.findall(inside))
    if opcode in ("constant", "parameter"):
        return Instruction(left.lstrip("%"), opcode, kind, (), f"{inside} {tail[closes + 1 :]}", root)
    return Instruction(left.lstrip("%"), opcode, kind, operands, tail[closes + 1 :], root)


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An array in HBM. `path`: the functions of the model in which it comes about, outermost first."""

    bytes: int
    shape: str
    path: str


def _first_is_away(one: Instruction) -> bool:
    """Whether the first array of a result lies with the host."""
    found = _ARRAY.search(one.type)
    return found is not None and HOST in (found[3] or "")


class Module:
    """An HLO module: computations by name, and where in the source each instruction comes from."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, self._tables, current = "", {}, None
        table = None
        self.partitions = int(found[1]) if (found := re.search(r"num_partitions=(\d+)", text[:200_000])) else 1
        for line in _KERNEL_METADATA.sub(r"kernel_metadata={\1}", text).splitlines():
            if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                table = self._tables.setdefault(line, {})
            elif table is not None and (row := re.match(r"^(\d+) (.*)$", line)):
                table[int(row[1])] = row[2]
            elif not line.startswith(" ") and (head := _HEAD.match(line)):
                table, current = None, self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else self.entry
            elif current is not None and (one := _instruction(line)):
                current[one.name] = one

    # --- how often things run

    def trips(self, loop: Instruction) -> int | None:
        """How often a while loop runs its body, where the text says so."""
        if found := re.search(r'known_trip_count"?:\s*\{"?n"?:"?(\d+)', loop.rest):
            return int(found[1])
        cond = self.computations.get(loop.attribute("condition") or "", {})
        test = next((i for i in cond.values() if i.root), None)
        if test is not None and test.opcode == "fusion":
            inner = next(i for i in self.computations[test.attribute("calls") or ""].values() if i.root)
            # The comparison's operands are parameters of the fusion, in the order of what it is called with.
            return self._bound(inner, [cond[name] for name in test.operands])
        return self._bound(test, [cond[name] for name in test.operands]) if test is not None else None

    @staticmethod
    def _bound(test: Instruction, operands: list[Instruction]) -> int | None:
        if test.opcode != "compare" or "direction=LT" not in test.rest:
            return None
        numbers = [re.match(r"\s*(\d+)", i.rest) for i in operands if i.opcode == "constant"]
        return int(numbers[0][1]) if len(numbers) == 1 and numbers[0] else None

    def executed(self) -> Iterator[tuple[Instruction, dict[str, Instruction], float, bool]]:
        """Every instruction with its computation, how often it runs, and whether it is inside a fusion."""
        yield from self._walk(self.entry, 1.0, False)

    def _walk(self, name: str, times: float, fused: bool) -> Iterator:
        computation = self.computations.get(name, {})
        for one in computation.values():
            yield one, computation, times, fused
            if one.opcode == "while":
                yield from self._walk(one.attribute("body") or "", times * (self.trips(one) or 1), fused)
            elif one.opcode in ("fusion", "call", "async-start", "conditional", "map"):
                inner = one.opcode == "fusion"
                for called in self._called(one):
                    yield from self._walk(called, times, fused or inner)

    @staticmethod
    def _called(one: Instruction) -> list[str]:
        single = [one.attribute(name) for name in ("calls", "to_apply", "true_computation", "false_computation")]
        several = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
        return [name for name in single if name] + (_NAME.findall(several[1]) if several else [])

    # --- what they cost

    def flops(self) -> float:
        """Of all matmuls, those inside of our kernels too, multiply and add counted apart."""
        return sum(times * (matmul_flops(one, at) + kernel_flops(one, at)) for one, at, times, _ in self.executed())

    def opaque(self) -> dict[str, float]:
        """Calls of kernels whose FLOPs nobody counts, by target, and how often they run."""
        out: dict[str, float] = {}
        for one, at, times, _ in self.executed():
            if kernel_flops(one, at):
                continue
            target = re.search(r'custom_call_target="([^"]+)"', one.rest) if one.opcode == "custom-call" else None
            if target and ("tpu_custom_call" in target[1] or "mosaic" in target[1].lower() or "triton" in target[1]):
                out[target[1]] = out.get(target[1], 0) + times
        return out

    def hbm_bytes(self) -> float:
        """Read and written by all instructions. Inside a fusion nothing is; a slice counts as much as it takes."""
        total = 0.0
        for one, computation, times, fused in self.executed():
            if fused or one.opcode in FREE or one.opcode.endswith("-done"):
                continue
            total += times * self._moved(one, computation)
        return total

    def _moved(self, one: Instruction, at: dict[str, Instruction]) -> float:
        operands = [at[name] for name in one.operands if name in at]
        written = sum(s.bytes for s in one.shapes if not s.fast)
        if one.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * written
        if one.opcode in ("dynamic-update-slice", "scatter"):
            return 2 * sum(s.bytes for o in operands[1:] for s in o.shapes if not s.fast)
        if one.opcode.removesuffix("-start") in COLLECTIVES or one.opcode.endswith("-start"):
            return 2 * sum(s.bytes for o in operands for s in o.shapes if not s.fast)
        if one.opcode == "fusion":
            return self._moved_by_fusion(one, operands)
        return written + sum(s.bytes for o in operands for s in o.shapes if not s.fast)

    def _moved_by_fusion(self, one: Instruction, operands: list[Instruction]) -> float:
        """As its operands and result, but for parameters of which it reads a slice or replaces one in place."""
        inside = self.computations.get(one.attribute("calls") or "", {})
        users: dict[str, list[Instruction]] = {}
        for instruction in inside.values():
            for name in instruction.operands:
                users.setdefault(name, []).append(instruction)
        parameters = {int(re.match(r"\s*(\d+)", i.rest)[1]): i for i in inside.values() if i.opcode == "parameter"}
        total, in_place = 0.0, 0
        for number, operand in enumerate(operands):
            if not operand.shapes or any(shape.fast for shape in operand.shapes):
                continue
            name = parameters[number].name if number in parameters else ""
            of = [(u.opcode, u) for u in users.get(name, []) if u.operands[0] == name]
            whole = len(of) < len(users.get(name, ["unused"]))
            if not whole and all(opcode in ("dynamic-slice", "slice", "gather") for opcode, _ in of):
                total += sum(u.bytes for _, u in of)
            elif not whole and all(opcode == "dynamic-update-slice" for opcode, _ in of):
                total += sum(2 * inside[u.operands[1]].bytes for _, u in of if u.operands[1] in inside)
                in_place += operand.bytes
            else:
                total += operand.bytes
        return total + max(0, sum(s.bytes for s in one.shapes if not s.fast) - in_place)

    def host_bytes(self) -> float:
        """Moved between HBM and the host's memory, in the direction that has more to move: the link works both ways at once.

        Whole arrays by copies, layers of a stack by slices of it and updates in it.
        """
        to = back = 0.0
        for one, computation, times, _ in self.executed():
            source = computation.get(one.operands[0]) if one.operands else None
            if source is None:
                continue
            if one.opcode in ("copy", "copy-start"):
                away, there = _first_is_away(one), _first_is_away(source)
                to += times * one.shapes[0].bytes * (away and not there)
                back += times * one.shapes[0].bytes * (there and not away)
            elif one.opcode == "dynamic-update-slice-start" and _first_is_away(one):
                to += times * one.shapes[1].bytes
            elif one.opcode == "dynamic-slice-done" and _first_is_away(source):
                back += times * one.bytes
        return max(to, back)

    def collective_bytes(self) -> dict[str, int]:
        """Bytes that a device sends, by kind, where every collective is done in a ring; kinds that do not occur are left out.

        all-gather: (n-1) times its part; reduce-scatter and all-to-all: (n-1)/n of what goes in; all-reduce twice that. A
        TPU scatters a sum in a fusion "all-reduce-scatter" of an all-reduce and a slice. Other collectives inside fusions
        are copies of one that the fusion overlaps with, on the same channel, and count once.
        """
        own: dict[tuple[str, ...], float] = {}
        copies: dict[tuple[str, ...], float] = {}
        scatters = {id(c) for name, c in self.computations.items() if name.startswith("all-reduce-scatter")}
        for one, computation, times, fused in self.executed():
            kind = one.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            scatter = id(computation) in scatters
            kind = "reduce-scatter" if scatter else kind
            entering = sum(computation[name].bytes for name in one.operands if name in computation)
            sent = times * entering * _ring(kind, group_size(one.rest, self.partitions))
            key = (kind, one.attribute("channel_id") or one.name, *map(str, one.shapes))
            if fused and not scatter:
                copies[key] = max(copies.get(key, 0.0), sent)
            else:
                own[key] = own.get(key, 0.0) + sent
        out: dict[str, int] = {}
        for key, sent in (copies | own).items():
            if sent:
                out[key[0]] = out.get(key[0], 0) + round(sent)
        return dict(sorted(out.items()))

    # --- where memory goes

    def buffers(self, count: int) -> list[Buffer]:
        """The largest arrays that the program writes to HBM, arguments left out."""
        found: dict[tuple[str, str], Buffer] = {}
        for one, _, _, fused in self.executed():
            if fused or one.opcode in FREE or one.opcode.endswith("-done"):
                continue
            inside = self.computations.get(one.attribute("calls") or "", {}) if one.opcode == "fusion" else {}
            place = max(map(self.path, (one, *inside.values())), key=lambda path: path.count("/"))
            for shape in one.shapes:
                if not shape.fast and shape.bytes:
                    found.setdefault((str(shape), place), Buffer(shape.bytes, str(shape), place))
        # Space that is made for results of a loop is of no place, but what fills it is.
        placed = {b.shape for b in found.values() if "/" in b.path}
        kept = [b for b in found.values() if "/" in b.path or b.shape not in placed]
        return sorted(kept, key=lambda b: -b.bytes)[:count]

    def path(self, one: Instruction) -> str:
        """Functions of models/ on the way to an instruction: "Decoder/Model.layers/Block/Attention/attention".

        The name of the operation where it comes from elsewhere, such as the optimizer.
        """
        frame = re.search(r"stack_frame_id=(\d+)", one.rest)
        names, at = [], int(frame[1]) if frame else 0
        while at and (row := self._tables.get("StackFrames", {}).get(at)):
            location = self._tables["FileLocations"][_number(row, "file_location_id")]
            name = self._tables["FunctionNames"][_number(location, "function_name_id")].strip('"')
            file = self._tables["FileNames"][_number(location, "file_name_id")].strip('"')
            if "models/" in file and "<" not in name and name not in _PLUMBING:
                names.append(name.removesuffix(".__call__"))
            at = _number(row, "parent_frame_id") - 1
        kept = names[::-1]
        if kept:  # a transposed or rematerialised operation has the frames of its first tracing once more
            kept = kept[len(kept) - 1 - kept[::-1].index(kept[0]) :]
            return "/".join(name for i, name in enumerate(kept) if i == 0 or kept[i - 1] != name)
        named = re.search(r'op_name="([^"]*)"', one.rest)
        return named[1].removeprefix("jit(_train_slots)/").replace("while/body/", "") if named else one.name


def _number(row: str, name: str) -> int:
    """Of a row of the source tables."""
    return int(re.search(rf"{name}=(\d+)", row)[1])


def _ring(kind: str, n: int) -> float:
    if n <= 1:
        return 0.0
    share = (n - 1) / n
    return {"all-gather": n - 1, "all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(
        kind, share
    )


def group_size(rest: str, partitions: int) -> int:
    """Devices that take part in a collective together."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(found[1].split(","))
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return 2
    return partitions
