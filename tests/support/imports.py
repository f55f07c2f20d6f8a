"""Read the imports of the packages without running them."""

import ast
from collections.abc import Iterator, Mapping
import pathlib

from tests.support.paths import REPOSITORY

PACKAGES = ("models", "experiments", "sweeps", "analysis", "tests")


def module_name(path: pathlib.Path) -> str:
    """Return the dotted name of a file; a package's is that of its folder."""
    names = list(path.relative_to(REPOSITORY).with_suffix("").parts)
    if names[-1] == "__init__":
        names.pop()
    return ".".join(names)


def modules() -> dict[str, pathlib.Path]:
    """Return every module of the packages and of the tests, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            found[module_name(path)] = path
    return found


def imported_names(path: pathlib.Path) -> Iterator[str]:
    """Yield the dotted name of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph() -> dict[str, set[str]]:
    """Return for each module those of ours that it imports. `from package import name` counts for the module it names."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        graph[name] = set()
        for imported in imported_names(path):
            module = imported if imported in known else imported.rpartition(".")[0]
            if module in known and module != name:
                graph[name].add(module)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that can all be reached from each other (Tarjan 1972), the largest first."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] != index[node]:
            return
        at = stack.index(node)
        group = stack[at:]
        del stack[at:]
        if len(group) > 1:
            found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return sorted(found, key=len, reverse=True)
