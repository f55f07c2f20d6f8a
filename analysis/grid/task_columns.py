"""Find the columns of a task in a grid of ours: task_NAME_loss, task_NAME_pass_rate and so on, each with its _sem."""

from collections.abc import Sequence
import re

from analysis.grid.resolve import parse_roles
from analysis.grid.roles import usual_names
from analysis.grid.table import Grid
from experiments.cli import InputError, nearest

# What ends the column's name for a role.
ENDINGS = {
    "task_loss": "loss",
    "accuracy": "accuracy",
    "pass_rate": "pass_rate",
    "pass_rate_error": "pass_rate_sem",
}
_LOSS = re.compile(r"task_(\w+)_loss")


def names(grid: Grid) -> list[str]:
    """Return the tasks that a grid has columns of."""
    found = [_LOSS.fullmatch(name) for name in grid.names]
    return [match[1] for match in found if match]


def with_task(grid: Grid, columns: str | None, task: str | None, roles: Sequence[str]) -> str | None:
    """Return --columns with the task's own columns for those roles that it leaves open.

    Without a `task` the only one of the grid is taken, for roles of which the grid has no column under a usual name.
    Raises InputError for a task that the grid does not have.
    """
    known = names(grid)
    if task is not None and task not in known:
        raise InputError(f"--task={task}: the grid has no column task_{task}_loss; {nearest(task, known, 'task')}")
    given = parse_roles(columns)
    chosen = task if task is not None else known[0] if len(known) == 1 else None
    if chosen is None:
        return columns
    pairs = [columns] if columns else []
    for role in roles:
        if role in given or role not in ENDINGS:
            continue
        column = f"task_{chosen}_{ENDINGS[role]}"
        has_usual = any(name in grid for name in usual_names(role))
        if column in grid and (task is not None or not has_usual):
            pairs.append(f"{role}={column}")
    return ",".join(pairs) or None
