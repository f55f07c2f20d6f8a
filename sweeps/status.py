"""What is done, running, missing, and why.

    python -m sweeps.status --workdir=runs/quickstart [--json=status.json]

Reads the workdir only, so it may be asked at any time and from any machine that sees it. The JSON is
`{"schema", "name", "runs": [{"fingerprint", "name", "status", "reason"}], "counts": {status: n}}`, one entry a run.
"""

from collections.abc import Mapping
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import cli, files
from sweeps.store import State, Store

SCHEMA = 1
ORDER = ("complete", "running", "waiting", "diverged", "failed", "lost")
STYLES = {"complete": "green", "running": "cyan", "diverged": "yellow", "failed": "red", "lost": "red"}


def collect(store: Store) -> tuple[dict[str, Any], dict[str, State]]:
    """The states of a study's runs: as the JSON has them, and by fingerprint. Raises InputError without a study."""
    study = store.read_study()
    names: dict[str, str] = {}
    for point in study["points"]:
        names.setdefault(point["fingerprint"], point["name"])
    states = {fingerprint: store.state(fingerprint) for fingerprint in names}
    runs = [
        {
            "fingerprint": fingerprint,
            "name": name,
            "status": states[fingerprint].status,
            "reason": states[fingerprint].reason,
        }
        for fingerprint, name in names.items()
    ]
    found = [run["status"] for run in runs]
    counts = {status: found.count(status) for status in ORDER if status in found}
    return {"schema": SCHEMA, "name": study["name"], "runs": runs, "counts": counts}, states


def table(value: Mapping[str, Any], states: Mapping[str, State]) -> Table:
    """A line per run, those that need attention last."""
    out = Table(title=f"{value['name']}: " + ", ".join(f"{n} {status}" for status, n in value["counts"].items()))
    for column in ("run", "fingerprint", "status"):
        out.add_column(column, no_wrap=column != "run")
    out.add_column("loss (nats)", justify="right")
    out.add_column("reason", overflow="fold")
    for run in sorted(value["runs"], key=lambda run: ORDER.index(run["status"])):
        record = states[run["fingerprint"]].record
        loss = record["columns"].get("loss_nats") if record else None
        style = STYLES.get(run["status"], "")
        status = f"[{style}]{run['status']}[/]" if style else run["status"]
        shown = "" if loss is None else f"{loss:.4f}"
        out.add_row(run["name"], run["fingerprint"], status, shown, (run["reason"] or "").replace("[", r"\["))
    return out


def main(_: list[str]) -> int:
    """The command line."""
    value, states = collect(Store(flags.FLAGS.workdir))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # a log has no width; do not fold what could be searched for
    console.print(table(value, states))
    if flags.FLAGS.json:
        files.write_json(flags.FLAGS.json, value)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the study")
    flags.DEFINE_string("json", None, "write the states to this file as well")
    cli.run(main, required=("workdir",))
