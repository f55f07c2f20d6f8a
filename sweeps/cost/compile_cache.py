"""Remember what was compiled for a TPU, so that nothing is compiled twice.

Results are kept as JSON under the signature, the target, the mesh, the sources of the program and the versions of
jax and libtpu, because jax's own cache does not cover such compilations.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
from typing import Any

from etils import epath

from experiments import files
from experiments.run import identity
from experiments.run.schema import Execution, Run
from sweeps.cost.compiler import Compiled, compile_for, topology
from sweeps.cost.layouts import Layout
from sweeps.cost.machines import SLICES, Target

SCHEMA = 2
CACHE = "~/.cache/lossgrid/plans"
# A chip with more memory, whose program shows the buffers of one that does not fit: the compiler then only says how much
# is missing.
ROOMY = "v5p"
# What a program has of its execution, but the mesh.
PROGRAM_OPTIONS = ("packing", "steps_per_dispatch", "microbatches", "offload")
LIBRARIES = ("jax", "jaxlib", "libtpu")
# Files that make the program, and that read it.
SOURCES = (
    "models/**/*.py",
    "experiments/training/**/*.py",
    "sweeps/cost/hlo*.py",
    "sweeps/cost/torus.py",
)
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class CachedCompiler:
    """Compile for one target and remember. `compiled` counts what was really compiled, `remembered` what was known."""

    def __init__(self, target: Target, cache: str | None = CACHE):
        self.target = target
        self.compiled = 0
        self.remembered = 0
        self.cache = cache
        self._folder = epath.Path(os.path.expanduser(cache)) if cache else None
        self._known: dict[str, Compiled] = {}

    def __call__(self, run: Run, layout: Layout, execution: Execution, rest: bool = True) -> Compiled:
        """Return what the program of a signature comes to. `rest`: evaluation and checkpoint as well."""
        key = self._key(run, layout, execution, rest)
        known = self._known.get(key) or self._read(key)
        if known:
            self.remembered += 1
        else:
            known = self._compile(run, layout, execution, rest)
            self._write(key, run, layout, known)
        self._known[key] = known
        return known

    def _key(self, run: Run, layout: Layout, execution: Execution, rest: bool) -> str:
        """Digest all on which the result depends."""
        parts = {
            "schema": SCHEMA,
            "signature": identity.signature(run),
            "target": [self.target.chip, self.target.topology, self.target.slices],
            "layout": dataclasses.asdict(layout),
            "execution": [getattr(execution, name) for name in PROGRAM_OPTIONS],
            "rest": rest,
            "versions": [importlib.metadata.version(name) for name in LIBRARIES],
            "sources": sources_digest(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def _read(self, key: str) -> Compiled | None:
        """Return what was kept of a compilation; None where nothing readable was."""
        path = self._folder / f"{key}.json" if self._folder else None
        if path is None or not path.exists():
            return None
        try:
            return Compiled(**json.loads(path.read_text())["compiled"])
        except (ValueError, KeyError, TypeError):  # half a file of an older version: made anew
            return None

    def _compile(self, run: Run, layout: Layout, execution: Execution, rest: bool) -> Compiled:
        """Compile for the target's chips, and count it."""
        assert self.target.chip and self.target.topology, "only TPU slices are compiled for"
        devices = topology(self.target.chip, self.target.topology, self.target.slices)
        result = compile_for(devices, run, layout, execution, rest)
        self.compiled += 1
        return result

    def _write(self, key: str, run: Run, layout: Layout, result: Compiled) -> None:
        """Keep a compilation with what it was of."""
        if self._folder is None:
            return
        value = {
            "schema": SCHEMA,
            "target": self.target.name,
            "signature": identity.signature(run),
            "layout": str(layout),
            "compiled": dataclasses.asdict(result),
        }
        files.write_json(self._folder / f"{key}.json", value)

    def roomy_buffers(self, run: Run, layout: Layout, execution: Execution) -> list[dict[str, Any]]:
        """Return the largest buffers of a program that does not fit, as a chip with more memory has them.

        None where that chip has no slice of the size, or is the one for which the program was compiled.
        """
        shape = roomy_topology(self.target.devices)
        if shape is None or self.target.chip == ROOMY:
            return []
        other = CachedCompiler(dataclasses.replace(self.target, chip=ROOMY, topology=shape, slices=1), self.cache)
        found = other(run, layout, execution, rest=False).buffers
        self.compiled += other.compiled
        self.remembered += other.remembered
        return found


def roomy_topology(devices: int) -> str | None:
    """Return a topology of ROOMY with so many chips; None where there is none."""
    return "1x1x1" if devices == 1 else SLICES[ROOMY].get(devices)


@functools.cache
def sources_digest() -> str:
    """Digest the code that makes a program, and that reads it."""
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
