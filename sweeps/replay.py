"""Say what --stop_dominated would have done in a study whose runs were trained to their end.

    python -m sweeps.replay --workdir=runs/rates [--slots=4] [--json=PATH]

The recorded loss curves of each group (runs that differ in the optimizer's options only) are replayed, and judged as a
launch judges them. Regret is how far the best run that would have been trained to its end lies above the best of all. The
JSON is `{"schema", "groups": [{"winner", "winner_stopped", "regret_nats", "stopped", "steps", "steps_trained"}],
"totals": {"groups", "winners_stopped", "largest_regret_nats", "compute_saved"}}`.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import cli, files
from sweeps.work import recorded
from sweeps.work.replay import Replay, replay
from sweeps.work.workdir import Workdir

SCHEMA = 1


def totals(groups: Sequence[Replay]) -> dict[str, Any]:
    """Sum up groups. Compute is steps of a group's runs, which are all of one size."""
    steps = sum(group.steps for group in groups)
    trained = sum(group.steps_trained for group in groups)
    return {
        "groups": len(groups),
        "winners_stopped": sum(group.winner_stopped for group in groups),
        "largest_regret_nats": max((group.regret for group in groups), default=0.0),
        "compute_saved": 1 - trained / steps if steps else 0.0,
    }


def as_json(group: Replay) -> dict[str, Any]:
    """Return one group as the JSON has it."""
    value = dataclasses.asdict(group)
    regret = value.pop("regret")
    finite = regret if math.isfinite(regret) else None
    return value | {"winner_stopped": group.winner_stopped, "regret_nats": finite}


def main(_: list[str]) -> int:
    """Replay the study of a workdir. A winner that would have been stopped is a failure: exit code 1."""
    given = flags.FLAGS
    groups = recorded.read_groups(Workdir(given.workdir))
    found = [replay(group, given.slots or len(group)) for group in groups]
    names = {one.rival.key: one.rival.name for group in groups for one in group}
    table = Table(title=f"{given.workdir}: {len(found)} groups")
    for head in ("best run", "stopped", "regret (nats)", "steps saved"):
        table.add_column(head, justify="left" if head == "best run" else "right")
    for group in found:
        name = names.get(group.winner or "", "none converged")
        if group.winner_stopped:
            name += " (stopped!)"
        saved = 1 - group.steps_trained / group.steps
        table.add_row(name, str(len(group.stopped)), f"{group.regret:.4f}", f"{saved:.0%}")
    console = Console(highlight=False)
    console.print(table)
    sums = totals(found)
    console.print(
        f"{sums['winners_stopped']} of {sums['groups']} winners stopped, largest regret "
        f"{sums['largest_regret_nats']:.4f} nats, {sums['compute_saved']:.0%} of the compute saved"
    )
    if given.json:
        value = {"schema": SCHEMA, "groups": list(map(as_json, found)), "totals": sums}
        files.write_json(given.json, cli.signed(value))
    return cli.EXIT_FAILURE if sums["winners_stopped"] else 0


if __name__ == "__main__":
    cli.define_path("workdir", None, "folder of a study whose runs were trained to their end")
    cli.define_integer("slots", 0, "runs of a group that train at a time; 0: all", 0)
    cli.define_output("json", "write the numbers to this file as well")
    cli.run(main, required=("workdir",))
