"""Know which options make a program smaller, and what each of them costs."""

from collections.abc import Iterator
import dataclasses
from typing import Any

from sweeps.study.cells import Cell

Options = dict[str, Any]  # values by `section.name`

# Changes with what they cost, the cheapest first.
CHANGES: tuple[tuple[Options, str], ...] = (
    (
        {"execution.microbatches": 4},
        "gathers split weights for each part; of mixtures, a forward pass more; same numbers",
    ),
    ({"model.remat": "dots"}, "computes everything but matmuls twice; same numbers"),
    ({"model.remat": "attention"}, "a second forward pass but for attention; same numbers"),
    ({"model.remat": "full"}, "a second forward pass; same numbers"),
    ({"model.remat": "offload"}, "and the inputs of layers go to the host and back; same numbers"),
    ({"model.remat": "offload", "execution.microbatches": 4}, "both; same numbers"),
    (
        {"model.remat": "offload", "execution.microbatches": 4, "execution.offload": "optimizer"},
        "and the optimizer's state of matrices comes from the host and goes back; same numbers",
    ),
    ({"model.dtype": "bfloat16"}, "activations in bfloat16; other numbers"),
    ({"model.dtype": "bfloat16", "model.remat": "full"}, "both; other numbers"),
)
# Of an option, from the value that needs the most memory to the one that needs the least. Of numbers, more need less.
BY_MEMORY = {
    "model.remat": ("none", "dots", "attention", "full", "offload"),
    "model.dtype": ("float32", "bfloat16"),
    "execution.offload": ("none", "optimizer"),
}


def smaller_options(cell: Cell) -> Iterator[tuple[Options, str]]:
    """Yield changes that would make a cell's program smaller, each with its cost, the cheapest first and each once."""
    proposed: list[Options] = []
    for options, cost in CHANGES:
        smaller = {path: value for path, value in options.items() if is_smaller(cell, path, value)}
        if smaller and smaller not in proposed:
            proposed.append(smaller)
            yield smaller, cost


def is_smaller(cell: Cell, path: str, value: Any) -> bool:
    """Whether an option takes less memory at `value` than a cell has it now. A family may not have the option."""
    section, name = path.split(".")
    holder = cell.execution if section == "execution" else cell.run.model
    if not hasattr(holder, name):
        return False
    now = getattr(holder, name)
    if path not in BY_MEMORY:
        return now < value
    order = BY_MEMORY[path]
    return now in order and order.index(now) < order.index(value)


def changed(cell: Cell, options: Options) -> Cell:
    """Return a cell with these options in place of its own."""
    model = _of_section("model", options)
    execution = _of_section("execution", options)
    run = dataclasses.replace(cell.run, model=dataclasses.replace(cell.run.model, **model))
    return dataclasses.replace(cell, run=run, execution=dataclasses.replace(cell.execution, **execution))


def _of_section(section: str, options: Options) -> Options:
    """Return the options of one section by their names within it."""
    prefix = f"{section}."
    return {path.removeprefix(prefix): value for path, value in options.items() if path.startswith(prefix)}
