"""The workdir of a study: what was asked for, content-addressed runs with their records, and their states.

    study.json                      points of the study that was launched here last
    runs/<fingerprint>/             claim.json; run.json, metrics/, checkpoints/, record.json (see experiments)
    populations/<id>.json, .log     what a worker was given, and what it said

A run's state is read from these files each time; nothing is kept in memory, so that any number of launchers, status
and collect commands may look at once.
"""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import dataclasses
import datetime
import errno
import json
import re
from typing import Any

from etils import epath

from experiments import files
from experiments.alive import stops
from experiments.alive.claims import Claims
from experiments.data.manifest import Manifest
from experiments.run import identity
from experiments.run.schema import Execution, Run
from experiments.store import commits, record
from models.errors import InputError
from sweeps.study.cells import Cell
from sweeps.study.corpora import Place
from sweeps.study.file import Study
from sweeps.work.curve_log import CurveLog
from sweeps.work.curves import Curve

SCHEMA = 1
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
POINT_KEYS = {"name", "fingerprint", "tags", "run"}
LAST_BYTES = 1 << 20  # of a log, that are searched for an error
# A network file system that has nothing to say now, or a system that is short of something: ask again later.
UNANSWERED = (
    errno.EAGAIN,
    errno.EIO,
    errno.EINTR,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
)
Manifests = Mapping[Place, tuple[Manifest, ...]]  # of a study's corpora


@dataclasses.dataclass(frozen=True)
class Node:
    """A run with its identity. `manifests` are the fingerprints of its corpora."""

    fingerprint: str
    name: str
    run: Run
    execution: Execution
    manifests: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class State:
    """Where a run stands: status (its record's, or else running, waiting or lost), the reason if there is one to give, its record if it has one."""

    status: str
    reason: str | None = None
    record: dict[str, Any] | None = None
    damaged: bool = False  # there is a record, but it cannot be read
    censored: bool = False  # its record is of a run that was stopped early

    def final(self, retry_failed: bool = False) -> bool:
        """Whether there is a record that need not be made again (`retry_failed`: failed and censored ones need)."""
        to_be_retried = self.status == "failed" or self.censored
        return self.record is not None and not (retry_failed and to_be_retried)


def identify(study: Study, manifests: Manifests) -> list[Node]:
    """Return the runs of a study, one per point (so a run may come twice)."""
    known: dict[int, Node] = {}
    return [_node(cell, manifests, known) for cell in study.cells]


def _node(cell: Cell, manifests: Manifests, known: dict[int, Node]) -> Node:
    """Return the run of a cell; its parent is known by the fingerprint that it has itself.

    `known`: nodes by the identity of their cell: many runs start from one, which is identified once.
    """
    if id(cell) not in known:
        known[id(cell)] = _identify(cell, manifests, known)
    return known[id(cell)]


def _identify(cell: Cell, manifests: Manifests, known: dict[int, Node]) -> Node:
    """Return the run of a cell that is not yet known."""
    run = cell.run
    if cell.parent is not None:
        parent = _node(cell.parent, manifests, known)
        run = dataclasses.replace(run, parent=parent.fingerprint)
    corpora = manifests[run.data, cell.execution.data_root]
    names = tuple(corpus.fingerprint for corpus in corpora)
    return Node(identity.fingerprint(run, names), cell.name, run, cell.execution, names)


def distinct(nodes: Iterable[Node]) -> list[Node]:
    """Return one node per fingerprint, the first of each, in the order in which they come last."""
    first: dict[str, Node] = {}
    for node in nodes:
        earliest = first.pop(node.fingerprint, node)
        first[node.fingerprint] = earliest  # anew, at the end
    return list(first.values())


def _check_study(value: dict[str, Any]) -> None:
    """Raise what any access to a damaged study.json would, before anybody relies on it."""
    if not isinstance(value["name"], str):
        raise TypeError("name")
    for point in value["points"]:
        missing = POINT_KEYS - point.keys()
        if missing:
            raise KeyError(*missing)
        if not FINGERPRINT.fullmatch(point["fingerprint"]):
            raise ValueError(point["fingerprint"])
        if not (isinstance(point["name"], str) and isinstance(point["run"], dict)):
            raise TypeError("name and run")
        if any(isinstance(tag, dict | list) for tag in point["tags"].values()):
            raise TypeError("tags")


def _now() -> str:
    """Return the time as files show it, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _one_point_a_line(head: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> str:
    """Return JSON with the `head`, and the points as "points". Written so it is ten times faster than indented."""
    lines = ",\n".join(json.dumps(point, allow_nan=False) for point in points)
    before = json.dumps(head, indent=1).removesuffix("\n}")
    return f'{before},\n "points": [\n{lines}\n]}}\n'


class Workdir:
    """Reads and writes a workdir, on a disk or under gs://."""

    def __init__(self, root: epath.PathLike):
        self.root = epath.Path(root)
        self.claims = Claims(self.root)

    def run_dir(self, fingerprint: str) -> epath.Path:
        """Return the folder of a run. Raises InputError for what is no fingerprint: it becomes a path."""
        if not FINGERPRINT.fullmatch(fingerprint):
            raise InputError(f"fingerprint={fingerprint!r}: expected 16 hexadecimal digits")
        return self.root / "runs" / fingerprint

    def population_path(self, name: str) -> epath.Path:
        """Return the file that the worker of a population is given."""
        return self.root / "populations" / f"{name}.json"

    def log_path(self, name: str) -> epath.Path:
        """Return the file of what the worker of a population says."""
        return self.root / "populations" / f"{name}.log"

    def log_length(self, name: str) -> int:
        """Return how much a log holds now, in bytes; 0 where there is none."""
        try:
            return self.log_path(name).stat().length
        except FileNotFoundError:
            return 0

    def log_end(self, name: str, start: int) -> bytes:
        """Return what a log holds from the byte `start` on, or the last of it where that is much."""
        length = self.log_length(name)
        if length <= start:
            return b""
        with self.log_path(name).open("rb") as file:
            file.seek(max(start, length - LAST_BYTES))
            return file.read()

    # --- the study

    def write_study(self, study: Study, nodes: Sequence[Node]) -> None:
        """Write study.json. `nodes` belong to the study's cells, in order."""
        points = []
        for cell, node in zip(study.cells, nodes, strict=True):
            points.append(
                {
                    "name": cell.name,
                    "fingerprint": node.fingerprint,
                    "tags": cell.tags,
                    "run": identity.to_dict(node.run),
                    "manifests": list(node.manifests),
                }
            )
        head = {
            "schema": SCHEMA,
            "name": study.name,
            "study": study.spec,
            "doc": study.doc,
            "launched": _now(),
        }
        files.write_bytes(self.root / "study.json", _one_point_a_line(head, points).encode())

    def read_study(self) -> dict[str, Any]:
        """Return what study.json holds. Raises InputError when it is missing, damaged or of the future."""
        path = self.root / "study.json"
        if not path.exists():
            raise InputError(f"--workdir={self.root} holds no study.json; expected the --workdir of a `sweeps.launch`")
        try:
            value = files.read_json(path)
            version = value["schema"]
            if version == SCHEMA:
                _check_study(value)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is damaged ({type(error).__name__}); launch the study again to rewrite it"
            ) from error
        if version != SCHEMA:  # the first one
            raise InputError(f"{path} has schema {version}; this program knows up to {SCHEMA}: update it")
        return value

    # --- runs

    def recorded(self, fingerprint: str) -> State | None:
        """Return where a run stands by its record; None where it has none that can be used.

        Raises OSError where the disk does not answer: whether there is one is not known then.
        """
        path = self.run_dir(fingerprint) / "record.json"
        try:
            return _recorded(path, fingerprint)
        except InputError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in UNANSWERED:
                raise cause from None
            return None

    def state(self, fingerprint: str) -> State:
        """Return where a run stands, from what lies in the workdir now."""
        path = self.run_dir(fingerprint) / "record.json"
        damage = None
        try:
            return _recorded(path, fingerprint)
        except InputError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                damage = str(error)
        claim = self.claims.read(fingerprint)
        if claim and self.claims.alive(claim):
            return State("running", f"in population {claim.population} of {claim}")
        if damage:
            return State("lost", damage, damaged=True)
        if claim:
            return State("lost", f"its launcher, {claim}, ended without a record; launch again to go on")
        step = self.newest_step(fingerprint)
        if step is not None:
            return State("waiting", f"stopped; launch again to go on from step {step}")
        return State("waiting", "not started")

    def newest_step(self, fingerprint: str) -> int | None:
        """Return the step of the newest checkpoint of a run, without looking inside."""
        steps = commits.steps(self.run_dir(fingerprint) / "checkpoints")
        return max(steps, default=None)

    def finished(self, fingerprint: str, retry_failed: bool = False) -> bool:
        """Whether a run has a record that need not be made again (`retry_failed`: failed and censored ones need)."""
        state = self.recorded(fingerprint)
        return state is not None and state.final(retry_failed)

    def curve(self, fingerprint: str) -> Curve:
        """Return the training loss of a run so far, from its metrics log; empty when it has none."""
        return CurveLog(self.run_dir(fingerprint)).read()

    def set_aside(self, fingerprint: str) -> None:
        """Move a record that is damaged or to be made again out of the way, where it can be looked at."""
        folder = self.run_dir(fingerprint)
        path = folder / "record.json"
        if path.exists():
            path.replace(folder / "record.replaced.json")
        (folder / stops.FILE).unlink(missing_ok=True)

    def note_attempt(self, fingerprint: str, kind: str, reason: str) -> None:
        """Remember that a worker ended without this run's record, for `attempts`. A full disk does not matter here."""
        line = json.dumps({"at": _now(), "class": kind, "reason": reason})
        with contextlib.suppress(OSError), files.append(self.run_dir(fingerprint) / "attempts.jsonl") as file:
            file.write(line.encode() + b"\n")

    def attempts(self, fingerprint: str) -> list[dict[str, Any]]:
        """Return what `note_attempt` has written: {"at", "class", "reason"} each. Lines that cannot be read are left out."""
        return files.read_lines(self.run_dir(fingerprint) / "attempts.jsonl")

    def write_failed(self, node: Node, reason: str) -> None:
        """Write a record for a run that could not be trained, so that the grid says why it has no loss."""
        import jax

        jax.config.update("jax_platforms", "cpu")  # the record names the backend; a launcher leaves accelerators alone
        made = record.make(node.run, node.fingerprint, node.manifests, "failed", reason)
        record.write(self.run_dir(node.fingerprint), made)


def _recorded(path: epath.Path, fingerprint: str) -> State:
    """Return the state that a record says. Raises InputError when it cannot be read or is another run's."""
    found = record.read(path)
    if found["fingerprint"] != fingerprint:
        raise InputError(f"{path} is the record of another run, {found['fingerprint']}")
    censored = bool(found["columns"].get("censored"))
    return State(found["status"], found["reason"], found, censored=censored)
