"""Find the values of roles (N, D, C, loss, ...) in a grid: columns under their usual names, named ones, and formulas."""

from collections.abc import Sequence
import dataclasses
import fnmatch
import re

import numpy as np

from analysis.grid import expression
from analysis.grid.roles import ROLES, usual_names
from analysis.grid.table import Grid
from experiments.cli import InputError, nearest
from experiments.key_values import read_pairs, refusal

FORMULAS = {"D": "C/(6*N)", "C": "6*N*D"}  # for a needed role that no column gives (Kaplan et al. 2020)


def parse_roles(text: str | None) -> dict[str, str]:
    """Parse `N=params_total,C=6*N*D` to a dict. Raises InputError for what is no role or is given twice."""
    roles: dict[str, str] = {}
    pairs = read_pairs(text, "--columns", "ROLE=COLUMN", "N=params_total,loss=loss")
    for role, formula in pairs.items():
        if role not in ROLES:
            word = f"{role}={formula}"
            hint = nearest(role, ROLES, "role")
            raise refusal("--columns", word, "names no role", f"one of them; {hint}")
        if expression.is_quoted(formula):
            formula = formula[1:-1]
        roles[role] = formula
    return roles


@dataclasses.dataclass
class RoleFinder:
    """Find the values of roles in a grid, formulas included, and keep where they came from.

    given: role -> the column or formula that the user named for it. sources and part_names fill up as roles are found.
    """

    grid: Grid
    given: dict[str, str]
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    part_names: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    _under_way: list[str] = dataclasses.field(default_factory=list)  # roles whose formulas are being computed

    def find(self, role: str) -> np.ndarray | None:
        """Return the float values of a role [rows] (raw ones of a label, [rows, parts] of many); None without a column."""
        if ROLES[role].many:
            return self._find_many(role)
        source = self._source_of(role)
        if source is None:
            return None
        self.sources[role] = self.grid.find(source) or source
        flag = f"--columns {role}"
        if ROLES[role].label:
            return self.grid.column(source, flag).to_numpy()
        if source in self.grid:
            return self.grid.numbers(source, flag)
        return self._compute(role, source)

    def derive(self, role: str) -> np.ndarray | None:
        """Compute a role from the other two of C = 6 N D; None when one of them is missing too."""
        formula = FORMULAS[role]
        others = {}
        for name in expression.names(expression.parse(formula, role)):
            values = self.find(name)
            if values is None:
                return None
            others[name] = values
        self.sources[role] = formula
        return expression.compute(formula, others.__getitem__, f"--columns {role}")

    def _source_of(self, role: str) -> str | None:
        """The column or formula that the user named, else the first usual name that is a column."""
        if role in self.given:
            return self.given[role]
        return next((name for name in usual_names(role) if name in self.grid), None)

    def _compute(self, role: str, formula: str) -> np.ndarray:
        """Compute a role that is a formula of columns and other roles; InputError where these need it themselves."""
        if role in self._under_way:
            raise InputError(f"--columns: {' -> '.join([*self._under_way, role])} goes in a circle")

        def look_up(name: str) -> np.ndarray:
            return self._named(role, name)

        self._under_way.append(role)
        value = expression.compute(formula, look_up, f"--columns {role}")
        self._under_way.pop()
        return np.broadcast_to(value, len(self.grid)).copy()

    def _named(self, role: str, name: str) -> np.ndarray:
        """Return what a name in the formula of `role` stands for: another role, else a column."""
        is_role = name in self.given or (name in ROLES and name not in self.grid)
        if is_role and name != role:
            values = self.find(name)
            if values is not None and values.dtype.kind == "f":
                return values
        return self.grid.numbers(name, f"--columns {role}")

    def _find_many(self, role: str) -> np.ndarray | None:
        """Return the columns that the pattern of a role matches: [rows, parts]; None when no usual pattern matches any."""
        given = self.given.get(role)
        patterns = ROLES[role].columns if given is None else (given,)
        for pattern in patterns:
            names = [name for name in self.grid.names if fnmatch.fnmatchcase(name, pattern)]
            if len(names) > 1:
                self.sources[role] = pattern
                self.part_names[role] = part_names(names, pattern)
                parts = [self.grid.numbers(name, f"--columns {role}") for name in names]
                return np.stack(parts, axis=1)
            if given:
                raise InputError(
                    f"--columns: {role}={given} matches {len(names)} columns of {self.grid.path}; "
                    "expected a pattern of several, for example mix_*"
                )
        return None


def part_names(columns: Sequence[str], pattern: str) -> tuple[str, ...]:
    """Name the parts of a role: what the star of the pattern stands for, in letters that a coefficient may have."""
    before, star, after = pattern.partition("*")
    has_one_star = bool(star) and not re.search(r"[*?\[]", before + after)
    short = list(columns)
    if has_one_star:
        short = [name.removeprefix(before).removesuffix(after) for name in columns]
    names = [re.sub(r"\W+", "_", name).strip("_") for name in short]
    if not all(names) or not _are_unique(names):
        names = [re.sub(r"\W", "_", name) for name in columns]
    if not _are_unique(names):
        raise InputError(
            f"--columns: {pattern} matches columns whose names differ in punctuation only; expected other names"
        )
    return tuple(names)


def _are_unique(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)
