"""Find the largest arrays of a compiled program, and the functions of the model that make them.

sweeps/cost/hlo.py reads the text.
"""

import dataclasses
import re

from sweeps.cost.hlo import Instruction, Module
from sweeps.cost.hlo_traffic import is_free

# Functions through which everything passes: they say nothing about the place in a model.
PLUMBING = ("apply_stack", "fold_stack", "on_shards")

_FRAME = re.compile(r"stack_frame_id=(\d+)")
_OPERATION = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An array in HBM. `path`: the functions of the model in which it comes about, outermost first."""

    bytes: int
    shape: str
    path: str


def largest_buffers(module: Module, count: int) -> list[Buffer]:
    """Return the largest arrays that the program writes to HBM, arguments left out."""
    found: dict[tuple[str, str], Buffer] = {}
    for instruction, _, _, fused in module.executed():
        if fused or is_free(instruction):
            continue
        place = _deepest_path(module, instruction)
        for shape in instruction.shapes:
            if shape.in_hbm and shape.bytes:
                found.setdefault((str(shape), place), Buffer(shape.bytes, str(shape), place))
    # Space that is made for results of a loop is of no place, but what fills it is.
    placed = {buffer.shape for buffer in found.values() if "/" in buffer.path}
    kept = [buffer for buffer in found.values() if "/" in buffer.path or buffer.shape not in placed]
    return sorted(kept, key=lambda buffer: -buffer.bytes)[:count]


def _deepest_path(module: Module, instruction: Instruction) -> str:
    """Return the longest path among those of an instruction and of what it fuses."""
    inside = module.fused_computation(instruction).values()
    paths = [source_path(module, one) for one in (instruction, *inside)]
    return max(paths, key=lambda path: path.count("/"))


def source_path(module: Module, instruction: Instruction) -> str:
    """Name the functions of models/ on the way to an instruction: "Decoder/Model.layers/Block/Attention/attention".

    The name of the operation where it comes from elsewhere, such as the optimizer.
    """
    names = _model_functions(module, instruction)
    if names:
        return "/".join(_without_repeats(_last_tracing(names)))
    operation = instruction.search(_OPERATION)
    if operation:
        return operation[1].removeprefix("jit(_train_slots)/").replace("while/body/", "")
    return instruction.name


def _model_functions(module: Module, instruction: Instruction) -> list[str]:
    """Return the functions of models/ on an instruction's stack, outermost first."""
    tables = module.source_tables
    frames = tables.get("StackFrames", {})
    locations = tables.get("FileLocations", {})
    functions = tables.get("FunctionNames", {})
    files = tables.get("FileNames", {})
    found = instruction.search(_FRAME)
    frame = int(found[1]) if found else 0
    names = []
    while frame and (row := frames.get(frame)):
        location = locations[_field(row, "file_location_id")]
        name = functions[_field(location, "function_name_id")].strip('"')
        file = files[_field(location, "file_name_id")].strip('"')
        if "models/" in file and "<" not in name and name not in PLUMBING:
            names.append(name.removesuffix(".__call__"))
        # Parents are numbered from 1 more than frames are: the outermost frame names itself.
        frame = _field(row, "parent_frame_id") - 1
    return names[::-1]


def _last_tracing(names: list[str]) -> list[str]:
    """Keep what begins where the outermost function comes last.

    A transposed or rematerialised operation has the frames of its first tracing once more.
    """
    start = max(number for number, name in enumerate(names) if name == names[0])
    return names[start:]


def _without_repeats(names: list[str]) -> list[str]:
    """Drop names that follow themselves."""
    return [name for number, name in enumerate(names) if number == 0 or names[number - 1] != name]


def _field(row: str, name: str) -> int:
    """Read one number of a row of the source tables."""
    found = re.search(rf"{name}=(\d+)", row)
    assert found is not None, f"{name} is missing in {row}"
    return int(found[1])
