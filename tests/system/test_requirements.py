"""What the packages import is in requirements.txt: whoever installed that file alone can run all of it.

What another file brings (requirements-lab.txt, requirements-ray.txt) is imported where its absence is expected.
"""

import ast
from collections.abc import Iterator
from importlib import metadata
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

from tests.support.paths import REPOSITORY

OURS = {"models", "experiments", "sweeps", "analysis", "tests"}
ABSENT = {"ModuleNotFoundError", "ImportError"}


def normal(name: str) -> str:
    """The name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> set[str]:
    """The distributions in requirements.txt, and those that they declare to need."""
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    named = {normal(re.split(r"[\[=]", line)[0]) for line in lines if "==" in line}
    needed = set()
    for name in named:
        for line in metadata.requires(name) or []:
            if "extra ==" not in line:
                needed.add(normal(re.split(r"[^\w.-]", line)[0]))
    return named | needed


def expected_imports(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that a file imports, but not where it says what happens without them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif isinstance(node, ast.Try) and ABSENT & {name for handler in node.handlers for name in caught(handler)}:
            continue
        else:
            yield from expected_imports(node)


def caught(handler: ast.ExceptHandler) -> Iterator[str]:
    """Yield the names of the exceptions that a handler catches."""
    for node in ast.walk(handler.type) if handler.type else ():
        if isinstance(node, ast.Name):
            yield node.id


@pytest.mark.parametrize("package", ["analysis"])
def test_what_a_package_imports_is_in_requirements(package):
    known = pinned()
    by_module = metadata.packages_distributions()
    missing = {}
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for module in expected_imports(ast.parse(path.read_text())):
            top = module.partition(".")[0]
            if top in OURS or top in sys.stdlib_module_names:
                continue
            if not {normal(name) for name in by_module.get(top, [])} & known:
                missing[module] = path.relative_to(REPOSITORY)
    assert not missing


def test_a_grid_is_fitted_where_only_requirements_are_installed(tmp_path: pathlib.Path):
    """The packages of the other files are hidden from the process."""
    lab = (REPOSITORY / "requirements-lab.txt").read_text().splitlines()
    hidden = [line.split("==")[0] for line in lab if "==" in line]
    assert "threadpoolctl" in hidden and any(importlib.util.find_spec(name) for name in hidden)
    program = f"""
import sys
for name in {hidden!r}:
    sys.modules[name] = None
import numpy as np, pandas as pd, analysis
N = np.geomspace(1e7, 1e9, 4).repeat(4)
D = np.tile(np.geomspace(1e9, 1e11, 4), 4)
frame = pd.DataFrame({{"params": N, "tokens": D, "loss": 1.7 + 400 / N**0.34 + 410 / D**0.28}})
print(analysis.fit(frame, "chinchilla", bootstrap=0).law.alpha)
try:
    analysis.fit(frame.assign(mix_web=0.5, mix_code=0.5), "mixing_lightgbm", bootstrap=0)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fitted, refused = done.stdout.splitlines()
    assert float(fitted) == pytest.approx(0.34, rel=1e-3)
    assert "pip install -r requirements-lab.txt" in refused
