"""Where a study stands, for a terminal: a table with a line per run, and a line of sums below it."""

from rich.console import Group
from rich.table import Table

from sweeps.watch.overview import ORDER, Overview, RunStatus
from sweeps.watch.progress import Progress, Totals
from sweeps.work.display import clock
from sweeps.work.workdir import State

STYLES = {"complete": "green", "running": "cyan", "diverged": "yellow", "failed": "red", "lost": "red"}
NUMBER_COLUMNS = ("done", "tokens/s", "MFU", "loss (nats)")


def render(overview: Overview) -> Group:
    """Return the table and the line below it as one thing to show."""
    return Group(table(overview), summary(overview.totals))


def table(overview: Overview) -> Table:
    """Make a line per run, those that need attention last. `?` marks the forecast of a training loss at the run's end."""
    counts = [f"{number} {status}" for status, number in overview.counts.items()]
    out = Table(title=f"{overview.name}: {', '.join(counts)}")
    out.add_column("run")
    out.add_column("fingerprint", no_wrap=True)
    out.add_column("status", no_wrap=True)
    for column in NUMBER_COLUMNS:
        out.add_column(column, justify="right", no_wrap=True)
    out.add_column("reason", overflow="fold")

    def attention(run: RunStatus) -> int:
        return ORDER.index(run.status)

    for run in sorted(overview.runs, key=attention):
        state = overview.states[run.fingerprint]
        progress = overview.progress.get(run.fingerprint)
        reason = (run.reason or "").replace("[", r"\[")  # rich reads brackets as markup
        cells = [
            run.name,
            run.fingerprint,
            _status_cell(state),
            *_progress_cells(progress),
            _loss_cell(state, progress),
        ]
        out.add_row(*cells, reason)
    return out


def _status_cell(state: State) -> str:
    """Write a status in its colour; whether the run was stopped early."""
    style = STYLES.get(state.status)
    text = f"[{style}]{state.status}[/]" if style else state.status
    if state.censored:
        text += " (censored)"
    return text


def _progress_cells(progress: Progress | None) -> tuple[str, str, str]:
    """Write the share done, tokens/s and MFU; nothing for what is not known."""
    if progress is None:
        return "", "", ""
    done = f"{progress.step / progress.steps:.0%}" if progress.steps else ""
    speed = progress.tokens_per_second
    mfu = progress.mfu
    return done, "" if speed is None else f"{speed:,.0f}", "" if mfu is None else f"{mfu:.1%}"


def _loss_cell(state: State, progress: Progress | None) -> str:
    """Write the loss of a record, or the forecast of one."""
    if state.record:
        loss = state.record["columns"].get("loss_nats")
        if loss is not None:
            return f"{loss:.4f}"
    forecast = progress.forecast if progress else None
    if forecast is None:
        return ""
    return f"{forecast.low:.2f} .. {forecast.high:.2f}?"


def summary(totals: Totals) -> str:
    """Write one line: share of the compute, speed, time left, price."""
    words = []
    if totals.flops:
        words.append(f"{totals.flops_done / totals.flops:.0%} of the compute")
    else:
        words.append("nothing to do")
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
