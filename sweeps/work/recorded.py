"""Read the recorded curves of a workdir's study as groups of rivals (sweeps/work/replay.py)."""

from collections.abc import Mapping
import math
from typing import Any

from experiments.run import stored
from models.errors import InputError
from sweeps.work.replay import Recorded
from sweeps.work.rivals import Rival
from sweeps.work.stopping import group_of, other_options
from sweeps.work.workdir import Workdir


def read_groups(workdir: Workdir) -> list[list[Recorded]]:
    """Return the groups of two runs or more that have come to their own end: complete, or diverged by themselves.

    Raises InputError for a workdir without a study, and where no such group is in it.
    """
    groups: dict[str, list[Recorded]] = {}
    points = {point["fingerprint"]: point for point in workdir.read_study()["points"]}
    for fingerprint, point in points.items():
        found = _read_run(workdir, fingerprint, point)
        if found is not None:
            name, recorded = found
            groups.setdefault(name, []).append(recorded)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        raise InputError(
            f"--workdir={workdir.root}: expected runs that differ in the optimizer's options only, trained to their end"
        )
    return several


def _read_run(workdir: Workdir, fingerprint: str, point: Mapping[str, Any]) -> tuple[str, Recorded] | None:
    """Return the name of a run's group, and the run; None where it was not trained to its own end."""
    state = workdir.state(fingerprint)
    if state.record is None or state.censored or state.status not in ("complete", "diverged"):
        return None
    try:
        run = stored.read_checked(point["run"])
    except (InputError, ArithmeticError):
        return None
    loss = state.record["columns"].get("loss_nats") if state.status == "complete" else None
    rival = Rival(
        key=fingerprint,
        name=point["name"],
        curve=workdir.curve(fingerprint),
        steps=run.steps,
        rate=run.opt.lr,
        other_options=other_options(run),
        decays=run.schedule.name != "constant",
    )
    return group_of(run), Recorded(rival, math.nan if loss is None else float(loss))
