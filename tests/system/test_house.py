"""The plan of the house: which package and which room may import which, and what lies at the door of a package.

What you type lies at the door of a package; what it needs lies in the rooms behind it. Layers are never broken.
"""

import ast
import pathlib

import pytest

import models
from tests.support.imports import circles, import_graph, modules
from tests.support.paths import REPOSITORY

# What a package may import besides itself.
MAY_IMPORT = {
    "models": set(),
    "experiments": {"models"},
    "sweeps": {"models", "experiments"},
    "analysis": {"experiments"},
}
# Of experiments, the laboratory uses what every command uses, and nothing that trains.
LABORATORY_MAY_IMPORT = {"experiments.cli", "experiments.files", "experiments.key_values"}

# Rooms of a package from the ground up. A room imports its own floor and those below.
FLOORS = {
    "analysis": (
        {"grid", "solve", "laws", "writing"},
        {"trust", "fitting"},
        {"procedures"},
        {"questions"},
        {"figures", "reporting"},
        {"command_line", "published"},
        {"from_python"},
        {"notebooks"},
    ),
}

# Libraries that lie at the door because all rooms of the package use them.
AT_THE_DOOR = {
    "models": {"accounting", "contract", "errors", "functional", "option"},
    "experiments": {"cli", "files", "key_values"},
    "sweeps": set(),
    "analysis": set(),
}

GRAPH = import_graph()


def room(module: str) -> str | None:
    """The folder that a module lies in, directly below its package; None at the door."""
    path = modules()[module].relative_to(REPOSITORY)
    return path.parts[1] if len(path.parts) > 2 else None


def test_packages_import_only_packages_below():
    wrong = []
    for module, imported in GRAPH.items():
        package = module.partition(".")[0]
        if package == "tests":
            continue
        for other in imported:
            below = other.partition(".")[0]
            if below != package and below not in MAY_IMPORT[package]:
                wrong.append(f"{module} imports {other}")
    assert not wrong, wrong


def test_the_laboratory_needs_nothing_that_trains():
    wrong = []
    for module, imported in GRAPH.items():
        if not module.startswith("analysis"):
            continue
        outside = {other for other in imported if other.startswith("experiments")}
        wrong += [f"{module} imports {other}" for other in outside - LABORATORY_MAY_IMPORT]
    assert not wrong, wrong


def test_no_file_is_needed_by_what_it_needs():
    assert circles(GRAPH) == []


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_their_own_floor_and_those_below(package: str):
    floor = {}
    for height, rooms in enumerate(FLOORS[package]):
        floor |= dict.fromkeys(rooms, height)
    wrong = []
    for module, imported in GRAPH.items():
        if module.partition(".")[0] != package or room(module) is None:
            continue
        here = floor[room(module)]
        for other in imported:
            if other.partition(".")[0] != package or other == package:
                continue
            there = room(other)
            if there is None or floor[there] > here:
                wrong.append(f"{module} imports {other}")
    assert not wrong, wrong


def test_every_file_among_the_families_is_one():
    for name in models.family_names():
        family = models.load(name)
        for part in ("Config", "Model", "account"):
            assert hasattr(family, part), f"models/families/{name}.py has no {part}"


@pytest.mark.parametrize("package", AT_THE_DOOR)
def test_at_the_door_lie_commands(package: str):
    """A command ends with `if __name__ == "__main__"`."""
    strangers = []
    for path in sorted((REPOSITORY / package).glob("*.py")):
        if path.stem == "__init__" or path.stem in AT_THE_DOOR[package]:
            continue
        if not is_command(path):
            strangers.append(path.name)
    assert not strangers


def is_command(path: pathlib.Path) -> bool:
    """Whether a file does something when it is run."""
    last = ast.parse(path.read_text()).body[-1]
    return isinstance(last, ast.If) and "__name__" in ast.unparse(last.test)


def test_test_files_do_not_import_each_other():
    """What they share is in tests/support; fixtures that all may ask for are in tests/conftest.py."""
    wrong = []
    for module, imported in GRAPH.items():
        if not module.startswith("tests."):
            continue
        for other in imported:
            name = other.rpartition(".")[2]
            if name.startswith("test_") or name == "conftest":
                wrong.append(f"{module} imports {other}")
    assert not wrong, wrong
