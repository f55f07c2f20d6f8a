"""A loss grid as columns that a law can be fitted to. Ours or anyone's, Parquet or CSV, local or gs://.

Reads the file, finds the column behind each role (N, D, C, loss, ...), computes roles that are formulas, and drops
rows that cannot be used, each with a reason. Fits nothing.
"""

from collections.abc import Iterable, Sequence
import csv
import dataclasses
import fnmatch
import functools
import hashlib
import io
import re
from typing import TYPE_CHECKING, Any

from etils import epath
import numpy as np

from analysis.grid import expression
from analysis.grid.roles import ROLES
from experiments.cli import InputError, nearest

if TYPE_CHECKING:  # imported where it is used: --help stays instant
    import pandas as pd

FORMULAS = {"D": "C/(6*N)", "C": "6*N*D"}  # for a needed role that no column gives (Kaplan et al. 2020)
SHARES_OFF = 0.05  # shares that add up to 1 within this are rounded ones
STATUSES = {"complete", "diverged", "failed", "running", "waiting", "lost"}


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A row (0 is the first below the header) that is not used, and why."""

    row: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table as it was read, with the hash of its bytes."""

    path: str
    frame: "pd.DataFrame"
    sha256: str
    repeated: frozenset[str] = frozenset()  # header names that occur more than once

    def column(self, name: str, what: str) -> "pd.Series":
        """The column of that name; InputError with the nearest name when there is none, or more than one."""
        if name in self.repeated:
            raise InputError(f"{what}: column {name!r} occurs more than once in {self.path}; expected unique names")
        if name not in self.frame.columns:
            hint = nearest(name, map(str, self.frame.columns), "column")
            raise InputError(f"{what}: {name!r} is not a column of {self.path}; {hint}")
        return self.frame[name]

    def numbers(self, name: str, what: str) -> np.ndarray:
        """The column as float64; what is not a number becomes NaN (and the row is dropped by `select`)."""
        import pandas as pd

        return pd.to_numeric(self.column(name, what), errors="coerce").to_numpy(np.float64, na_value=np.nan)


@dataclasses.dataclass(frozen=True)
class Columns:
    """The rows that are used: role -> float64 values [rows], and what was left out.

    Labels may be text. A role with many parts has values [rows, parts] and its names in `parts`.
    """

    values: dict[str, np.ndarray]
    row: np.ndarray  # positions in the file of the rows used
    sources: dict[str, str]  # role -> the column or the formula that gave it
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...] = ()
    parts: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, role: str) -> np.ndarray:
        return self.values[role]

    def __contains__(self, role: str) -> bool:
        return role in self.values

    def take(self, keep: np.ndarray, reason: str = "") -> "Columns":
        """The rows where `keep` holds; the others join the dropped ones when a reason is given."""
        keep = np.asarray(keep)
        gone = tuple(Dropped(int(row), reason) for row in self.row[~keep]) if reason else ()
        values = {role: value[keep] for role, value in self.values.items()}
        return dataclasses.replace(self, values=values, row=self.row[keep], dropped=self.dropped + gone)


def load(path: epath.PathLike) -> Grid:
    """Read a Parquet or CSV file. Raises InputError when it is missing, empty, or not such a file."""
    file = epath.Path(path)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"GRID: {path} does not exist; expected a Parquet or CSV file") from None
    except IsADirectoryError:
        raise InputError(f"GRID: {path} is a folder; expected a Parquet or CSV file") from None
    except OSError as error:
        raise InputError(f"GRID: {path} cannot be read ({error.strerror or error})") from None
    binary = data[:4] == b"PAR1" or file.suffix.lower() in (".parquet", ".pq")
    frame, header = _read_parquet(path, data) if binary else _read_csv(path, data)
    if frame.empty:
        raise InputError(f"GRID: {path} has no rows; expected a header and at least one row")
    repeated = frozenset(name for name in header if header.count(name) > 1)
    return Grid(str(path), frame.reset_index(drop=True), hashlib.sha256(data).hexdigest(), repeated)


def _read_parquet(path: epath.PathLike, data: bytes) -> "tuple[pd.DataFrame, list[str]]":
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(data))
        header = list(table.column_names)
        return table.rename_columns([f"{name}.{at}" if name in header[:at] else name
                                     for at, name in enumerate(header)]).to_pandas(), header  # fmt: skip
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"GRID: {path} is not a readable Parquet file ({str(error).splitlines()[0]})") from None


def _read_csv(path: epath.PathLike, data: bytes) -> "tuple[pd.DataFrame, list[str]]":
    import pandas as pd

    try:
        text = data.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds zero bytes")
        header = next(csv.reader(io.StringIO(text)), [])
        return pd.read_csv(io.StringIO(text), skipinitialspace=True), [name.strip() for name in header]
    except (ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"GRID: {path} is not a readable CSV file ({str(error).splitlines()[0]})") from None


def parse_roles(text: str | None) -> dict[str, str]:
    """`N=params_total,C=6*N*D` as a dict. Commas inside brackets do not separate."""
    parts, depth = [""], 0
    for letter in text or "":
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    roles: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in parts)):
        role, equals, formula = (piece.strip() for piece in part.partition("="))
        if not equals or not formula:
            raise InputError(f"--columns: {part!r} is not ROLE=COLUMN; expected for example N=params_total,loss=loss")
        if role not in ROLES:
            raise InputError(f"--columns: {role!r} is not a role; {nearest(role, ROLES, 'role')}")
        if role in roles:
            raise InputError(f"--columns: role {role!r} is given twice; expected one column for each role")
        roles[role] = formula
    return roles


class _Resolver:
    """Finds the values of roles, formulas included."""

    def __init__(self, grid: Grid, given: dict[str, str]):
        self.grid, self.given = grid, given
        self.sources: dict[str, str] = {}
        self.busy: list[str] = []
        self.parts: dict[str, tuple[str, ...]] = {}

    def role(self, role: str) -> np.ndarray | None:
        """Float values (or raw ones for group and run) of a role, None when no column fits."""
        if ROLES[role].many:
            return self.many(role)
        formula = self.given.get(role)
        if formula is None:
            formula = next((name for name in ROLES[role].columns if name in self.grid.frame.columns), None)
        if formula is None:
            return None
        self.sources[role] = formula
        if ROLES[role].label:
            return self.grid.column(formula, f"--columns {role}").to_numpy()
        if formula in self.grid.frame.columns:
            return self.grid.numbers(formula, f"--columns {role}")
        if role in self.busy:
            raise InputError(f"--columns: {' -> '.join([*self.busy, role])} goes in a circle")
        self.busy.append(role)
        value = expression.compute(formula, functools.partial(self.name, role), f"--columns {role}")
        self.busy.pop()
        return np.broadcast_to(value, len(self.grid.frame)).copy()

    def many(self, role: str) -> np.ndarray | None:
        """The columns that the pattern of a role matches: [rows, parts]; None when no pattern matches any."""
        given = self.given.get(role)
        for pattern in (given,) if given else ROLES[role].columns:
            names = [name for name in map(str, self.grid.frame.columns) if fnmatch.fnmatchcase(name, pattern)]
            if len(names) > 1:
                self.sources[role], self.parts[role] = pattern, part_names(names, pattern)
                return np.stack([self.grid.numbers(name, f"--columns {role}") for name in names], axis=1)
            if given:
                raise InputError(
                    f"--columns: {role}={given} matches {len(names)} columns of {self.grid.path}; "
                    "expected a pattern of several, for example mix_*"
                )
        return None

    def derive(self, role: str) -> np.ndarray | None:
        """A role from the other two of C = 6 N D; None when one of them is missing too."""
        others = expression.names(expression.parse(FORMULAS[role], role))
        parts = {name: self.role(name) for name in others}
        if any(part is None for part in parts.values()):
            return None
        self.sources[role] = FORMULAS[role]
        return expression.compute(FORMULAS[role], lambda name: np.asarray(parts[name]), f"--columns {role}")

    def name(self, role: str, name: str) -> np.ndarray:
        """A name in the formula of `role`: another role, else a column."""
        if name != role and (name in self.given or (name in ROLES and name not in self.grid.frame.columns)):
            values = self.role(name)
            if values is not None and values.dtype.kind == "f":
                return values
        return self.grid.numbers(name, f"--columns {role}")


def select(
    grid: Grid,
    needed: Sequence[str],
    *,
    optional: Sequence[str] = (),
    columns: str | None = None,
    where: str | None = None,
    signed: Sequence[str] = (),
) -> Columns:
    """The usable rows of a grid as columns for a law.

    `needed` roles must be found, `optional` ones may be. `columns` and `where` are the command line's texts. Rows are
    dropped, with a reason, when the record is not complete, when they belong to another group than the IsoFLOP runs of
    our own grids, when `where` does not hold, and when a value is not finite and positive (`signed` roles: finite).
    Raises InputError when a column is missing or nothing is left.
    """
    given = parse_roles(columns)
    resolver = _Resolver(grid, given)
    values: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for role in dict.fromkeys([*needed, *optional, *given]):
        found = resolver.role(role)
        if found is None and role in needed and role in FORMULAS:
            found = resolver.derive(role)
            notes.extend([f"{role} = {FORMULAS[role]}: no column gives it"] if found is not None else [])
        if found is not None:
            values[role] = found
        elif role in needed:
            raise InputError(
                f"--columns: no column for {role} ({ROLES[role].meaning}); looked for {', '.join(ROLES[role].columns)} among "
                f"{', '.join(map(str, grid.frame.columns[:40]))}; name it with --columns={role}=COLUMN"
            )
    reasons: list[str | None] = [None] * len(grid.frame)
    _drop_by_record(grid, where, reasons, notes)
    if "censored" in grid.frame.columns and "censored" not in values:
        stopped = grid.numbers("censored", "censored") > 0
        _mark(reasons, stopped, "the run was stopped early (censored), and this law has no use for a bound")
    if where:
        held = expression.select(where, functools.partial(_named, grid, values))
        _mark(reasons, ~np.broadcast_to(held, len(reasons)), f"--where {where} does not hold")
    for role, value in values.items():
        _drop_unusable(grid, resolver.sources[role], role, value, reasons, role in signed)
        if ROLES[role].shares:
            values[role], note = _whole(resolver.sources[role], role, value, reasons)
            notes.extend(filter(None, [note]))
    keep = np.array([reason is None for reason in reasons])
    if not keep.any():
        common = max(set(reasons), key=reasons.count)
        raise InputError(f"GRID: none of the {len(keep)} rows of {grid.path} can be used (most often: {common})")
    dropped = tuple(Dropped(row, reason) for row, reason in enumerate(reasons) if reason is not None)
    used = {role: value[keep] for role, value in values.items()}
    return Columns(used, np.flatnonzero(keep), dict(resolver.sources), dropped, tuple(notes), dict(resolver.parts))


def _named(grid: Grid, values: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in grid.frame.columns and name in values and values[name].ndim == 1:
        return values[name]
    column = grid.column(name, "--where")
    return column.to_numpy(object) if column.dtype.kind not in "bif" else column.to_numpy()


def part_names(columns: Sequence[str], pattern: str) -> tuple[str, ...]:
    """Names of the parts of a role: what the star of the pattern stands for, in letters that a coefficient may have."""
    before, star, after = pattern.partition("*")
    plain = star and not re.search(r"[*?\[]", before + after)
    short = [name[len(before) : len(name) - len(after)] if plain else name for name in columns]
    found = tuple(re.sub(r"\W+", "_", name).strip("_") for name in short)
    if not all(found) or len(set(found)) < len(found):
        found = tuple(re.sub(r"\W", "_", name) for name in columns)
    if len(set(found)) < len(found):
        raise InputError(
            f"--columns: {pattern} matches columns whose names differ in punctuation only; expected other names"
        )
    return found


def _whole(source: str, role: str, value: np.ndarray, reasons: list[str | None]) -> tuple[np.ndarray, str]:
    """Shares [rows, parts] that add up to 1, and a note where they were scaled; rows that are far off are dropped."""
    low = (value < 0).any(axis=1)
    _mark(reasons, low, f"{role} ({source}) has a negative part")
    total = value.sum(axis=1)
    with np.errstate(invalid="ignore"):
        far = ~(np.abs(total - 1) <= SHARES_OFF)
    _mark(reasons, far, [f"{role} ({source}) adds up to {item:.4g}, not 1" for item in total[far]])
    used = np.array([reason is None for reason in reasons])
    off = np.abs(total - 1)[used]
    if not len(off) or off.max() <= 1e-6:
        return value, ""
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = value / total[:, None]
    return (
        scaled,
        f"{role} ({source}) adds up to {total[used].min():.4g} .. {total[used].max():.4g}; scaled to 1 in each row",
    )


def _mark(reasons: list[str | None], rows: np.ndarray, reason: str | Iterable[str]) -> None:
    for at, row in enumerate(np.flatnonzero(rows)):
        if reasons[row] is None:
            reasons[row] = reason if isinstance(reason, str) else list(reason)[at]


def _drop_by_record(grid: Grid, where: str | None, reasons: list[str | None], notes: list[str]) -> None:
    """Leave out what our own records mark: runs that are not complete, brackets of the learning rate."""
    named = expression.names(expression.parse(where, "--where")) if where else set()
    if "status" in grid.frame.columns and "status" not in named:
        status = grid.frame["status"].astype(str).to_numpy()
        if set(status) <= STATUSES:  # else the word means something else in this table
            why = grid.frame["reason"].fillna("").astype(str) if "reason" in grid.frame.columns else [""] * len(status)
            texts = [f"status is {word}{f' ({text})' if text else ''}" for word, text in zip(status, why, strict=True)]
            rows = status != "complete"
            _mark(reasons, rows, [text for text, row in zip(texts, rows, strict=True) if row])
    if "group" in grid.frame.columns and "group" not in named:
        group = grid.frame["group"].astype(str).to_numpy()
        if "isoflop" in group and (group != "isoflop").any():
            notes.append("rows with group == 'isoflop' are fitted; name `group` in --where to choose others")
            _mark(reasons, group != "isoflop", [f"group is {word}, not isoflop" for word in group[group != "isoflop"]])


def _drop_unusable(
    grid: Grid, source: str, role: str, value: np.ndarray, reasons: list[str | None], signed: bool
) -> None:
    import pandas as pd

    label = role if role == source else f"{role} ({source})"
    if ROLES[role].label:
        _mark(reasons, np.asarray(pd.isna(value)), f"{label} is empty")
        return
    if ROLES[role].many:
        _mark(reasons, ~np.isfinite(value).all(axis=1), f"{label} has a part that is not a finite number")
        return
    raw: Any = grid.frame[source].to_numpy() if source in grid.frame.columns else value
    bad = ~np.isfinite(value)
    _mark(reasons, bad, [f"{label} is not a finite number ({item})" for item in raw[bad]])
    if ROLES[role].positive and not signed:
        with np.errstate(invalid="ignore"):
            low = value <= 0
        _mark(reasons, low, [f"{label} is not positive ({item:g})" for item in value[low]])
