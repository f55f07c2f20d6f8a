"""What is done, running, missing, and why: the states of a study's runs, with their progress."""

import collections
from collections.abc import Mapping
import dataclasses
from typing import Any

from sweeps.watch import progress
from sweeps.watch.progress import Progress, Totals
from sweeps.work import retries
from sweeps.work.workdir import State, Workdir

SCHEMA = 1
ORDER = ("complete", "running", "waiting", "diverged", "failed", "lost")  # of statuses: what needs attention last
UNDER_WAY = ("running", "waiting", "lost")  # statuses that a launch would change


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """One run of the study, and why it is as it is."""

    fingerprint: str
    name: str
    status: str
    reason: str | None


@dataclasses.dataclass(frozen=True)
class Overview:
    """A study at one moment. `states` and `progress` are by fingerprint; a run that cannot be read has no progress."""

    name: str
    runs: list[RunStatus]
    states: dict[str, State]
    progress: dict[str, Progress]
    totals: Totals

    @property
    def counts(self) -> dict[str, int]:
        """Runs by status, in the order of ORDER."""
        number = collections.Counter(run.status for run in self.runs)
        return {status: number[status] for status in ORDER if number[status]}

    @property
    def under_way(self) -> bool:
        """Whether some run has not come to its end."""
        return any(run.status in UNDER_WAY for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return what `sweeps.status --json` writes."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "counts": self.counts,
            "progress": {fingerprint: dataclasses.asdict(one) for fingerprint, one in self.progress.items()},
            "totals": dataclasses.asdict(self.totals),
        }


def look(workdir: Workdir) -> Overview:
    """Return where a study stands now. Raises InputError without a study."""
    study = workdir.read_study()
    points: dict[str, Mapping[str, Any]] = {}
    for point in study["points"]:
        points.setdefault(point["fingerprint"], point)
    states = {fingerprint: workdir.state(fingerprint) for fingerprint in points}
    runs = []
    found = {}
    for fingerprint, point in points.items():
        state = states[fingerprint]
        why = reason(workdir, fingerprint, point, states)
        runs.append(RunStatus(fingerprint, point["name"], state.status, why))
        one = progress.of_run(workdir, fingerprint, point, state)
        if one is not None:
            found[fingerprint] = one
    totals = progress.totals(workdir, list(found.values()))
    return Overview(study["name"], runs, states, found, totals)


def reason(workdir: Workdir, fingerprint: str, point: Mapping[str, Any], states: Mapping[str, State]) -> str | None:
    """Return why a run is as it is: its state's reason, its parent's state while it waits, and how often it was tried."""
    state = states[fingerprint]
    if state.record is not None:
        return state.reason
    why = state.reason or ""
    parent = point["run"].get("parent")
    if parent in states and states[parent].status != "complete":
        why = f"waits for its parent {parent}, which is {states[parent].status}"
    attempts = workdir.attempts(fingerprint)
    if attempts:
        spent = collections.Counter(str(attempt.get("class")) for attempt in attempts)
        last = attempts[-1].get("reason")
        why += f"; ended without a record {len(attempts)} times ({retries.describe(spent)}; last: {last})"
    return why or None
