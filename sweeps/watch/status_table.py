"""Where a study stands, for a terminal: a table with a line per run, and a line of sums below it."""

from rich.console import Group
from rich.table import Table

from sweeps.watch.overview import ORDER, Overview, RunStatus
from sweeps.watch.progress import Progress, Totals
from sweeps.work.display import clock

STYLES = {"complete": "green", "running": "cyan", "diverged": "yellow", "failed": "red", "lost": "red"}


def render(overview: Overview) -> Group:
    """Return the table and the line below it as one thing to show."""
    return Group(table(overview), summary(overview.totals))


def table(overview: Overview) -> Table:
    """Make a line per run, those that need attention last. `?` marks the forecast of a training loss at the run's end."""
    counts = ", ".join(f"{number} {status}" for status, number in overview.counts.items())
    out = Table(title=f"{overview.name}: {counts}")
    out.add_column("run")
    for column in ("fingerprint", "status"):
        out.add_column(column, no_wrap=True)
    for column in ("done", "tokens/s", "MFU", "loss (nats)"):
        out.add_column(column, justify="right", no_wrap=True)
    out.add_column("reason", overflow="fold")
    for run in sorted(overview.runs, key=lambda run: ORDER.index(run.status)):
        out.add_row(*_cells(run, overview))
    return out


def _cells(run: RunStatus, overview: Overview) -> list[str]:
    """Return the line of one run."""
    state = overview.states[run.fingerprint]
    loss = state.record["columns"].get("loss_nats") if state.record else None
    style = STYLES.get(run.status)
    status = f"[{style}]{run.status}[/]" if style else run.status
    if state.censored:
        status += " (censored)"
    reason = (run.reason or "").replace("[", r"\[")  # rich reads brackets as markup
    return [run.name, run.fingerprint, status, *_numbers(overview.progress.get(run.fingerprint), loss), reason]


def _numbers(one: Progress | None, loss: float | None) -> list[str]:
    """Return the cells of share done, tokens/s, MFU, and loss or its forecast."""
    if loss is not None:
        loss_cell = f"{loss:.4f}"
    elif one is not None and one.forecast:
        loss_cell = f"{one.forecast.low:.2f} .. {one.forecast.high:.2f}?"
    else:
        loss_cell = ""
    if one is None:
        return ["", "", "", loss_cell]
    done = f"{one.step / one.steps:.0%}"
    speed = "" if one.tokens_per_second is None else f"{one.tokens_per_second:,.0f}"
    mfu = "" if one.mfu is None else f"{one.mfu:.1%}"
    return [done, speed, mfu, loss_cell]


def summary(totals: Totals) -> str:
    """Write one line: share of the compute, speed, time left, price."""
    if totals.flops:
        words = [f"{totals.flops_done / totals.flops:.0%} of the compute"]
    else:
        words = ["nothing to do"]
    if totals.tokens_per_second:
        words.append(f"{totals.tokens_per_second:,.0f} tokens/s")
    if totals.seconds_left is not None:
        words.append(f"about {clock(totals.seconds_left)} left")
    words.append(f"{totals.chip_hours_spent:.3g} chip-hours spent")
    if totals.chip_hours_left is not None:
        words.append(f"about {totals.chip_hours_left:.3g} to come")
    if totals.price_usd_spent is not None:
        words.append(f"${totals.price_usd_spent:.2f} spent")
        if totals.price_usd_left is not None:
            words.append(f"about ${totals.price_usd_left:.2f} to come")
    return ", ".join(words)
