"""Measure how dense the code is, and fail where it is denser than a reader should have to bear.

    python .ci/density.py [FOLDER_OR_FILE ...] [--worst=10]

Density is the mean number of expression nodes (calls, binary operators, subscripts, attributes, comparisons, conditional
expressions, comprehensions, lambdas) on a line that is neither blank nor a comment. The other limits are what
makes a line or a file hard to read whatever its density: several unrelated values assigned at once, a lambda with a name,
a tree.map for a side effect, a file or class too long to keep in mind.
"""

import argparse
import ast
from collections.abc import Iterator
import dataclasses
import io
import pathlib
import sys
import tokenize

PACKAGES = ("models", "experiments", "sweeps", "analysis")
MOST_MEAN = 1.35  # nodes a line over all packages
MOST_IN_FILE = 1.6
# Where readability and the number differ, and readability wins. A cell of a notebook is a sentence, told by the text
# around it. A solver's line is one array formula with an axis in each subscript; cut further, the mathematics is hidden.
MOST_IN_ROOM = {
    "analysis/notebooks": 2.3,  # three lines a question, without imports between them
    "analysis/solve": 2.3,
    "analysis/trust": 2.2,
    "experiments/benchmarks": 1.9,  # holds a step as one writes it by hand, einsum after einsum
}
MOST_LINES = 400  # of a file
MOST_CLASS_LINES = 250
DENSE_NODES = (
    ast.Call,
    ast.BinOp,
    ast.Subscript,
    ast.Attribute,
    ast.Compare,
    ast.IfExp,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.Lambda,
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was counted in one file."""

    path: pathlib.Path
    lines: int  # all of them
    code_lines: int  # neither blank nor a comment
    comment_lines: int  # with a comment, alone or behind code
    nodes: int
    faults: tuple[str, ...]

    @property
    def density(self) -> float:
        """Expression nodes a line of code."""
        return self.nodes / max(self.code_lines, 1)


def comment_lines(source: str) -> set[int]:
    """Line numbers with a comment, whether alone or behind code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def is_parallel(node: ast.AST) -> bool:
    """Whether an assignment gives several names several values that are written out beside each other.

    A swap (`a, b = b, a`) is one thought and no fault.
    """
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    target = node.targets[0]
    if not isinstance(target, ast.Tuple):
        return False
    given = sorted(ast.unparse(name) for name in target.elts)
    taken = sorted(ast.unparse(value) for value in node.value.elts)
    return given != taken


def is_named_lambda(node: ast.AST) -> bool:
    """Whether a lambda is given a name, which is what `def` is for."""
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)


def is_map_for_effect(node: ast.AST) -> bool:
    """Whether a tree.map stands alone on a line: its result is thrown away."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    name = ast.unparse(node.value.func)
    return name.endswith(("tree.map", "tree_map"))


def faults_of(tree: ast.AST, lines: int) -> Iterator[str]:
    """What no density excuses, as `LINE: fault`."""
    if lines > MOST_LINES:
        yield f"1: {lines} lines in a file; expected at most {MOST_LINES}"
    for node in ast.walk(tree):
        if is_parallel(node):
            yield f"{node.lineno}: unrelated values are assigned in parallel; expected a line each"
        if is_named_lambda(node):
            yield f"{node.lineno}: a lambda has a name; expected def"
        if is_map_for_effect(node):
            yield f"{node.lineno}: tree.map for a side effect; expected a loop"
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > MOST_CLASS_LINES:
                yield f"{node.lineno}: class {node.name} has {length} lines; expected at most {MOST_CLASS_LINES}"


def measure(path: pathlib.Path) -> Measured:
    """Count one file."""
    source = path.read_text()
    tree = ast.parse(source)
    lines = source.splitlines()
    commented = comment_lines(source)
    code = 0
    for line in lines:
        text = line.strip()
        if text and not text.startswith("#"):
            code += 1
    nodes = sum(isinstance(node, DENSE_NODES) for node in ast.walk(tree))
    faults = tuple(faults_of(tree, len(lines)))
    return Measured(path, len(lines), code, len(commented), nodes, faults)


def python_files(places: list[str]) -> list[pathlib.Path]:
    """The Python files below folders, and the files that are named themselves."""
    found = []
    for place in map(pathlib.Path, places):
        found += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return found


def summary(name: str, measured: list[Measured]) -> str:
    """One line about a package."""
    lines = sum(one.lines for one in measured)
    code = sum(one.code_lines for one in measured)
    comments = sum(one.comment_lines for one in measured)
    nodes = sum(one.nodes for one in measured)
    density = nodes / max(code, 1)
    share = comments / max(lines, 1)
    return f"{name:<12} {len(measured):4} files {lines:6} lines {density:6.2f} nodes a line {share:6.1%} with a comment"


def main() -> int:
    """Print the packages, the worst files and every fault; exit with 1 where a limit is passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("places", nargs="*", default=list(PACKAGES))
    parser.add_argument("--worst", type=int, default=10, help="how many of the densest files to print")
    given = parser.parse_args()
    measured = [measure(path) for path in python_files(given.places)]
    for place in given.places:
        inside = [one for one in measured if one.path.is_relative_to(place)]
        print(summary(place, inside))
    print(summary("all", measured))
    worst = sorted(measured, key=lambda one: -one.density)[: given.worst]
    for one in worst:
        print(f"  {one.density:.2f} {one.path} ({one.lines} lines)")

    faults = [f"{one.path}:{fault}" for one in measured for fault in one.faults]
    for one in measured:
        most = MOST_IN_ROOM.get(one.path.parent.as_posix(), MOST_IN_FILE)
        if one.density > most:
            faults.append(f"{one.path}:1: {one.density:.2f} nodes a line; expected at most {most}")
    mean = sum(one.nodes for one in measured) / max(sum(one.code_lines for one in measured), 1)
    if mean > MOST_MEAN:
        faults.append(f"{' '.join(given.places)}: {mean:.2f} nodes a line; expected at most {MOST_MEAN}")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
