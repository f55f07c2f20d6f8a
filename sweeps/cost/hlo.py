"""Read the HLO text of a compiled program: its computations, how often each instruction runs, where it comes from.

The compiler's own counts look at a loop's body once, whatever its trip count, and so do those of jax. Here every
instruction counts as often as it runs: bodies by the trip count of their loop, which is either noted by the compiler
or the constant that the loop's counter is compared with. A loop whose length is known only at run time counts once:
in the programs of experiments/training/program.py that is one step. Of the branches of a conditional only one runs: what
is counted is the one that has most of it. Numbers are of one device.

Understood is the text of `compiled.as_text()` of jax 0.10 to 0.12 on CPU, GPU and TPU. What the instructions multiply is
counted in hlo_flops.py, what they move in hlo_traffic.py, what they keep in hlo_buffers.py.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import math
import re
from typing import NamedTuple

BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "f4e2m1fn": 4, "token": 0, "opaque": 0}
# Names for buffers that are there already, and what moves nothing.
FREE = (
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "constant",
    "while",
    "call",
    "conditional",
    "after-all",
    "partition-id",
    "replica-id",
    "add-dependency",
    "opt-barrier",
    "iota",
)
HOST_SPACE = 5  # the memory space of an array that lies with the host
# Tables at the head of the text: for each number in an instruction's metadata, a line of the source.
SOURCE_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
# Instructions whose called computations run as often as they do; a while loop's body runs more often.
CALLING = ("fusion", "call", "async-start", "conditional", "map")
CALLED = ("calls", "to_apply", "true_computation", "false_computation")

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_MEMORY_SPACE = re.compile(r"S\((\d+)\)")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_TABLE_ROW = re.compile(r"^(\d+) (.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_INTEGER = re.compile(r"\s*(\d+)")
_TRIP_COUNT = re.compile(r'known_trip_count"?:\s*\{"?n"?:"?(\d+)')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_PARTITIONS = re.compile(r"num_partitions=(\d+)")
_HEADER_CHARACTERS = 200_000  # of the text, in which the number of partitions stands
# A kernel's own metadata, the only attribute that is written over several lines.
_KERNEL_METADATA = re.compile(r"kernel_metadata=\{\n(.*)\n\}")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: its element type, its size, and the memory space in which it lies (0 is a chip's HBM)."""

    dtype: str
    dims: tuple[int, ...]
    memory_space: int = 0

    @property
    def bytes(self) -> int:
        """Count the bytes of all elements, without padding."""
        return math.prod(self.dims) * element_bits(self.dtype) // 8

    @property
    def in_hbm(self) -> bool:
        """Whether the array lies in HBM, and neither in a chip's fast memory nor with the host."""
        return self.memory_space == 0

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers of any size."""
        return self.dtype.startswith(("f", "bf"))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


def element_bits(dtype: str) -> int:
    """Return the bits of one element: bf16 16, f8e4m3fn 8, pred 8."""
    if dtype in BITS:
        return BITS[dtype]
    found = re.match(r"[a-z]+(\d+)", dtype)
    return int(found[1]) if found else 0


def shapes(text: str) -> tuple[Shape, ...]:
    """Read all arrays of a type, which may be a tuple."""
    found = []
    for dtype, sizes, layout in _ARRAY.findall(text):
        dims = tuple(int(size) for size in sizes.split(",") if size)
        space = _MEMORY_SPACE.search(layout or "")
        found.append(Shape(dtype, dims, int(space[1]) if space else 0))
    return tuple(found)


def hbm_bytes(arrays: Iterable[Shape]) -> int:
    """Add up the bytes of those arrays that lie in HBM."""
    return sum(shape.bytes for shape in arrays if shape.in_hbm)


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
        """Count the bytes of its result."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def dims(self) -> tuple[int, ...]:
        """The sizes of the first array of its result."""
        return self.shapes[0].dims

    @property
    def on_host(self) -> bool:
        """Whether the first array of its result lies with the host."""
        return bool(self.shapes) and self.shapes[0].memory_space == HOST_SPACE

    def search(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Find a pattern among its attributes."""
        return pattern.search(self.rest)

    def attribute(self, name: str) -> str | None:
        """Return the value of an attribute that is one word; None where it has none of this name."""
        found = re.search(rf"\b{name}=%?([\w.\->]+)", self.rest)
        return found[1] if found else None

    def called(self) -> list[str]:
        """Name the computations that this instruction calls."""
        values = [self.attribute(name) for name in CALLED]
        names = [value for value in values if value]
        branches = self.search(_BRANCHES)
        if branches:
            names += _NAME.findall(branches[1])
        return names

    def leading_integer(self) -> int | None:
        """Return the number of a parameter or the value of an integer constant."""
        found = _INTEGER.match(self.rest)
        return int(found[1]) if found else None


Computation = dict[str, Instruction]  # by name, in order


class Executed(NamedTuple):
    """An instruction as it runs: its computation, how often, and whether inside of a fusion."""

    instruction: Instruction
    computation: Computation
    times: float
    fused: bool

    @property
    def operands(self) -> list[Instruction]:
        """The operands that the text shows."""
        return operands_of(self.instruction, self.computation)


Measure = Callable[[Executed], float]  # of an instruction, in all its runs


def operands_of(instruction: Instruction, computation: Computation) -> list[Instruction]:
    """Return the operands of an instruction, those left out that its computation does not have."""
    return [computation[name] for name in instruction.operands if name in computation]


class Module:
    """An HLO module: computations by name, and the tables that say where in the source instructions come from."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        self.source_tables: dict[str, dict[int, str]] = {}
        partitions = _PARTITIONS.search(text[:_HEADER_CHARACTERS])
        self.partitions = int(partitions[1]) if partitions else 1
        self._read(_KERNEL_METADATA.sub(r"kernel_metadata={\1}", text).splitlines())

    def _read(self, lines: Iterable[str]) -> None:
        """Read the lines of a module into computations and tables of sources."""
        table: dict[int, str] | None = None
        computation: Computation | None = None
        for line in lines:
            if line in SOURCE_TABLES:
                table = self.source_tables.setdefault(line, {})
                continue
            row = _TABLE_ROW.match(line) if table is not None else None
            if table is not None and row:
                table[int(row[1])] = row[2]
                continue
            head = None if line.startswith(" ") else _HEAD.match(line)
            if head:
                table = None
                computation = self.computations.setdefault(head[2], {})
                if head[1]:
                    self.entry = head[2]
                continue
            instruction = read_instruction(line) if computation is not None else None
            if computation is not None and instruction:
                computation[instruction.name] = instruction

    def trips(self, loop: Instruction) -> int | None:
        """Return how often a while loop runs its body, where the text says so."""
        known = loop.search(_TRIP_COUNT)
        if known:
            return int(known[1])
        condition = self.computations.get(loop.attribute("condition") or "", {})
        test = _root(condition)
        if test is None:
            return None
        compared = [condition[name] for name in test.operands]
        if test.opcode == "fusion":
            # The comparison's operands are parameters of the fusion, in the order of what it is called with.
            test = _root(self.computations[test.attribute("calls") or ""])
            assert test is not None, "a fused computation has a result"
        return _counter_bound(test, compared)

    def executed(self, measure: Measure | None = None) -> Iterator[Executed]:
        """Yield every instruction that runs, callers before what they call.

        Of a conditional, that is the branch of which `measure` adds up to the most; all branches without one.
        """
        yield from self._walk(self.entry, 1.0, False, measure)

    def _walk(self, name: str, times: float, fused: bool, measure: Measure | None) -> Iterator[Executed]:
        """Yield what a computation executes, bodies of loops as often as they run."""
        computation = self.computations.get(name, {})
        for instruction in computation.values():
            yield Executed(instruction, computation, times, fused)
            if instruction.opcode == "while":
                trips = self.trips(instruction) or 1
                yield from self._walk(instruction.attribute("body") or "", times * trips, fused, measure)
            elif instruction.opcode in CALLING:
                inside = fused or instruction.opcode == "fusion"
                branches = [list(self._walk(called, times, inside, measure)) for called in instruction.called()]
                if instruction.opcode == "conditional" and measure is not None:
                    branches = [max(branches, key=lambda branch: sum(map(measure, branch)), default=[])]
                for branch in branches:
                    yield from branch

    def fused_computation(self, instruction: Instruction) -> Computation:
        """Return what a fusion computes; nothing for any other instruction."""
        if instruction.opcode != "fusion":
            return {}
        return self.computations.get(instruction.attribute("calls") or "", {})


def _root(computation: Computation) -> Instruction | None:
    """Return the instruction whose result is that of the computation."""
    return next((instruction for instruction in computation.values() if instruction.root), None)


def _counter_bound(test: Instruction, compared: Iterable[Instruction]) -> int | None:
    """Return the constant that a loop's counter has to stay below; None for any other test."""
    if test.opcode != "compare" or "direction=LT" not in test.rest:
        return None
    constants = [one for one in compared if one.opcode == "constant"]
    return constants[0].leading_integer() if len(constants) == 1 else None


def read_instruction(line: str) -> Instruction | None:
    """Read one line such as `ROOT %y = f32[2]{0} add(%a, %b), metadata={…}`; None for what is no instruction."""
    line = line.strip()
    root = line.startswith("ROOT ")
    left, equals, right = line.removeprefix("ROOT ").partition(" = ")
    if not equals or not right:
        return None
    name = left.lstrip("%")
    type_end = _closing(right, 0) + 1 if right.startswith("(") else right.find(" ")
    type_ = right[:type_end]
    call = right[type_end:].lstrip()
    opens = call.find("(")
    if opens <= 0:
        return None
    closes = _closing(call, opens)
    opcode = call[:opens]
    inside = call[opens + 1 : closes]
    attributes = call[closes + 1 :]
    if opcode in ("constant", "parameter"):
        return Instruction(name, opcode, type_, (), f"{inside} {attributes}", root)
    return Instruction(name, opcode, type_, tuple(_NAME.findall(inside)), attributes, root)


def _closing(text: str, start: int) -> int:
    """Find where the parenthesis that opens at `start` is closed."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
        if depth == 0:
            return place
    return len(text)
