"""What is done, running, missing, and why.

    python -m sweeps.status --workdir=runs/quickstart [--json=status.json] [--watch]

Reads the workdir only, so it may be asked at any time and from any machine that sees it. The JSON is
`{"schema", "name", "runs": [{"fingerprint", "name", "status", "reason"}], "counts": {status: n}}`, one entry a run, and
`"progress": {fingerprint: {…}}`, `"totals": {…}` with the fields of sweeps/watch/progress.py.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import time
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import cli, files
from sweeps.watch import progress
from sweeps.watch.progress import Progress
from sweeps.work import failures
from sweeps.work.display import clock
from sweeps.work.workdir import State, Workdir

SCHEMA = 1
ORDER = ("complete", "running", "waiting", "diverged", "failed", "lost")
STYLES = {"complete": "green", "running": "cyan", "diverged": "yellow", "failed": "red", "lost": "red"}


def collect(store: Workdir) -> tuple[dict[str, Any], dict[str, State]]:
    """The states of a study's runs: as the JSON has them, and by fingerprint. Raises InputError without a study."""
    study = store.read_study()
    points: dict[str, Mapping[str, Any]] = {}
    for point in study["points"]:
        points.setdefault(point["fingerprint"], point)
    states = {fingerprint: store.state(fingerprint) for fingerprint in points}
    runs = [
        {
            "fingerprint": fingerprint,
            "name": point["name"],
            "status": states[fingerprint].status,
            "reason": reason(store, fingerprint, point, states),
        }
        for fingerprint, point in points.items()
    ]
    found = [run["status"] for run in runs]
    counts = {status: found.count(status) for status in ORDER if status in found}
    return {"schema": SCHEMA, "name": study["name"], "runs": runs, "counts": counts}, states


def reason(store: Workdir, fingerprint: str, point: Mapping[str, Any], states: Mapping[str, State]) -> str | None:
    """Why a run is as it is: its state's reason, its parent's state while it waits, and how often it was tried."""
    state = states[fingerprint]
    if state.record is not None:
        return state.reason
    out, parent = state.reason or "", point["run"].get("parent")
    if parent in states and states[parent].status != "complete":
        out = f"waits for its parent {parent}, which is {states[parent].status}"
    if tried := store.attempts(fingerprint):
        spent: dict[str, int] = {}
        for attempt in tried:
            kind = str(attempt.get("class"))
            spent[kind] = spent.get(kind, 0) + 1
        out += (
            f"; ended without a record {len(tried)} times ({failures.describe(spent)}; last: {tried[-1].get('reason')})"
        )
    return out or None


def measure(store: Workdir, states: Mapping[str, State]) -> dict[str, Progress]:
    """How far the runs are, by fingerprint. Raises InputError without a study."""
    points = {point["fingerprint"]: point for point in reversed(store.read_study()["points"])}
    found = {
        name: progress.of_run(store, name, point, states[name]) for name, point in points.items() if name in states
    }
    return {name: one for name, one in found.items() if one is not None}


def _numbers(one: Progress | None, loss: float | None) -> tuple[str, str, str, str]:
    """Cells: share done, tokens/s, MFU, loss or its forecast."""
    shown = "" if loss is None else f"{loss:.4f}"
    if one is None:
        return "", "", "", shown
    if loss is None and one.forecast:
        shown = f"{one.forecast.low:.2f} .. {one.forecast.high:.2f}?"
    speed = "" if one.tokens_per_second is None else f"{one.tokens_per_second:,.0f}"
    return f"{one.step / one.steps:.0%}", speed, "" if one.mfu is None else f"{one.mfu:.1%}", shown


def table(value: Mapping[str, Any], states: Mapping[str, State], found: Mapping[str, Progress] = {}) -> Table:
    """A line per run, those that need attention last. `?` marks the forecast of a training loss at the run's end."""
    out = Table(title=f"{value['name']}: " + ", ".join(f"{n} {status}" for status, n in value["counts"].items()))
    for column in ("run", "fingerprint", "status"):
        out.add_column(column, no_wrap=column != "run")
    for column in ("done", "tokens/s", "MFU", "loss (nats)"):
        out.add_column(column, justify="right", no_wrap=True)
    out.add_column("reason", overflow="fold")
    for run in sorted(value["runs"], key=lambda run: ORDER.index(run["status"])):
        state = states[run["fingerprint"]]
        loss = state.record["columns"].get("loss_nats") if state.record else None
        style = STYLES.get(run["status"], "")
        status = f"[{style}]{run['status']}[/]" if style else run["status"]
        status += " (censored)" * state.censored
        cells = _numbers(found.get(run["fingerprint"]), loss)
        out.add_row(run["name"], run["fingerprint"], status, *cells, (run["reason"] or "").replace("[", r"\["))
    return out


def summary(totals: Mapping[str, Any]) -> str:
    """One line: share of the compute, speed, time left, price."""
    parts = [f"{totals['flops_done'] / totals['flops']:.0%} of the compute" if totals["flops"] else "nothing to do"]
    if totals["tokens_per_second"]:
        parts.append(f"{totals['tokens_per_second']:,.0f} tokens/s")
    if totals["seconds_left"] is not None:
        parts.append(f"about {clock(totals['seconds_left'])} left")
    parts.append(f"{totals['chip_hours_spent']:.3g} chip-hours spent")
    if totals["chip_hours_left"] is not None:
        parts.append(f"about {totals['chip_hours_left']:.3g} to come")
    if totals["price_usd_spent"] is not None:
        left = totals["price_usd_left"]
        parts.append(
            f"${totals['price_usd_spent']:.2f} spent" + ("" if left is None else f", about ${left:.2f} to come")
        )
    return ", ".join(parts)


def look(store: Workdir) -> tuple[dict[str, Any], Table, str]:
    """The JSON, the table and the line below it, as of now. Raises InputError without a study."""
    value, states = collect(store)
    found = measure(store, states)
    totals = progress.totals(store, list(found.values()))
    value |= {"progress": {name: dataclasses.asdict(one) for name, one in found.items()}, "totals": totals}
    return value, table(value, states, found), summary(totals)


def watch(store: Workdir, console: Console, seconds: float) -> dict[str, Any]:
    """Show the table again and again until nothing is under way; returns the last JSON. Ctrl-C ends it too."""
    from rich.console import Group
    from rich.live import Live

    value, shown, line = look(store)
    with contextlib.suppress(KeyboardInterrupt), Live(Group(shown, line), console=console, auto_refresh=False) as live:
        while {"running", "waiting", "lost"} & value["counts"].keys():
            time.sleep(seconds)
            value, shown, line = look(store)
            live.update(Group(shown, line), refresh=True)
    return value


def main(_: list[str]) -> int:
    """The command line."""
    store, console = Workdir(flags.FLAGS.workdir), Console(highlight=False)
    if not console.is_terminal:
        console.width = 190  # a log has no width; do not fold what could be searched for
    if flags.FLAGS.watch:
        value = watch(store, console, flags.FLAGS.seconds)
    else:
        value, shown, line = look(store)
        console.print(shown)
        console.print(line, soft_wrap=True)
    if flags.FLAGS.json:
        files.write_json(flags.FLAGS.json, value)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the study")
    flags.DEFINE_string("json", None, "write the states to this file as well")
    flags.DEFINE_bool("watch", False, "show the table again and again until nothing is under way")
    flags.DEFINE_float("seconds", 5.0, "between two looks with --watch", lower_bound=0.1)
    cli.run(main, required=("workdir",))
