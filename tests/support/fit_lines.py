"""The lines of a study's docstring that say by which law its grid is fitted, and the grids that are recorded."""

import dataclasses
import functools
import pathlib
import re
import shlex

from sweeps.study import file
from tests.support.paths import REPOSITORY

RECORDED = REPOSITORY / "tests" / "sweeps" / "studies" / "recorded"
STUDIES = sorted(path for path in (REPOSITORY / "sweeps" / "studies").glob("*.py") if path.stem != "__init__")
LINES = re.compile(r"^Fit(?: of :?([\w,]+))?: (--.+)\nTold: (.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Line:
    """How a law is fitted to the grid of a study, and what is told."""

    study: str
    variant: str
    flags: tuple[str, ...]
    told: str

    @property
    def grid(self) -> pathlib.Path:
        name = f"{self.study}_{self.variant}" if self.variant else self.study
        return RECORDED / f"{name.replace(',', '_')}.csv"

    def __str__(self) -> str:
        law = next(flag for flag in self.flags if flag.startswith(("--law=", "--formula=")))
        return f"{self.grid.stem}-{law.partition('=')[2]}"


@functools.cache
def lines() -> list[Line]:
    found = []
    for path in STUDIES:
        for variant, flags, told in LINES.findall(file.load(str(path)).doc):
            found.append(Line(path.stem, variant, tuple(shlex.split(flags)), told))
    return found
