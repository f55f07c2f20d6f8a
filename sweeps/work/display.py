"""What the launcher shows while it works: bars on a terminal, a line now and then elsewhere. It decides nothing."""

from collections.abc import Hashable, Sequence
import dataclasses
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sweeps.executors.support.protocol import Event
from sweeps.work.populations import Population
from sweeps.work.workdir import Node

LINE_SECONDS = 10.0  # between two lines where there is no terminal
LEAST_SHARE = 0.02  # of the work, done in this launch, before a time left is estimated


def clock(seconds: float) -> str:
    """Write a time as m:ss, or h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def describe(population: Population) -> str:
    """Describe a population in a few words: its size, how many runs."""
    run = population.nodes[0].run
    sizes = []
    for name in ("width", "depth"):
        if hasattr(run.model, name):
            sizes.append(str(getattr(run.model, name)))
    number = len(population.nodes)
    plural = "s" if number > 1 else ""
    return f"{run.family} {'x'.join(sizes)}, {number} run{plural}"


@dataclasses.dataclass
class _Row:
    """The bar of one worker."""

    bar: TaskID
    population: Population
    flops_done: float = 0.0
    records: int = 0  # that it has written so far


class Display:
    """Progress of a launch, counted in training FLOPs so that the time left is right for runs of different sizes.

    Workers are told apart by a key of the caller's choice.
    """

    def __init__(self, name: str, populations: Sequence[Population], recorded: int, total: int):
        """Follow the study `name` of `total` runs, of which `recorded` have their record already."""
        self.name = name
        self.total = total
        self.done = 0  # runs that have come to their end in this launch, set by the caller
        self._recorded = recorded
        self._flops = 0.0  # of all populations
        for population in populations:
            self._flops += population.steps * population.flops_per_step
        self._flops = self._flops or 1.0
        self._flops_finished = 0.0  # by workers that are over
        self._flops_resumed = 0.0  # done before this launch, so that it does not flatter the speed
        self._rows: dict[Hashable, _Row] = {}
        self._started_at = time.monotonic()
        self._line_at = self._started_at  # when the last line was shown
        self.console = Console(stderr=True, highlight=False)
        self._live = self.console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
        )
        self._whole = self._bars.add_task(name, total=self._flops, note="")

    def __enter__(self) -> "Display":
        if self._live:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Show one line, above the bars."""
        self.console.print(text, soft_wrap=True, markup=False)

    def begin(self, key: Hashable, population: Population) -> None:
        """Show that a worker was started for a population."""
        bar = self._bars.add_task("  worker", total=population.steps, note=f"{describe(population)}: starting")
        self._rows[key] = _Row(bar, population)

    def event(self, key: Hashable, event: Event) -> None:
        """Show what a worker reports. Steps that were done before are known from its first event."""
        kind = event["event"]
        if kind in ("start", "progress"):
            self._advance(self._rows[key], event)
        elif kind == "record":
            self._rows[key].records += 1
        elif kind == "say":
            self.say(str(event.get("text")))
        self.refresh()

    def _advance(self, row: _Row, event: Event) -> None:
        """Move the bar of a worker to where it says that it is."""
        population = row.population
        steps_done = float(event.get("done") or 0)
        row.flops_done = steps_done * population.flops_per_step
        if event["event"] == "start":
            self._flops_resumed += row.flops_done
        steps = event.get("steps", population.steps)
        self._bars.update(row.bar, completed=steps_done, total=steps, note=_note(population, event))

    def end(self, key: Hashable, missing: Sequence[Node]) -> None:
        """Remove a worker that is over. Runs without a record do not count: another worker will begin from their checkpoints."""
        row = self._rows.pop(key)
        population = row.population
        missing_steps = sum(node.run.steps for node in missing)
        recorded_steps = population.steps - missing_steps
        self._flops_finished += recorded_steps * population.flops_per_step
        self._bars.remove_task(row.bar)
        self.refresh()

    def refresh(self) -> None:
        """Show where all stands now. To be called now and then."""
        done = self._flops_finished + sum(row.flops_done for row in self._rows.values())
        done = min(self._flops, done)
        recorded = self._recorded + self.done + sum(row.records for row in self._rows.values())
        note = f"{recorded} of {self.total} runs recorded{self._time_left(done)}"
        self._bars.update(self._whole, completed=done, note=note)
        if not self._live and time.monotonic() - self._line_at >= LINE_SECONDS:
            self._line_at = time.monotonic()
            self.say(f"{self.name}: {done / self._flops:.0%} of the compute, {note}")
            sys.stderr.flush()

    def _time_left(self, done: float) -> str:
        """Say how long the rest will take at the speed so far, as the end of a line; nothing when it is too early."""
        done_here = done - self._flops_resumed
        if done >= self._flops or done_here <= LEAST_SHARE * self._flops:
            return ""
        seconds = time.monotonic() - self._started_at
        left = seconds * (self._flops - done) / done_here
        return f", about {clock(left)} left"


def _note(population: Population, event: Event) -> str:
    """Say what a worker is at: its population, its loss, its speed."""
    words = [describe(population)]
    loss = event.get("loss")
    speed = event.get("tokens_per_second")
    if isinstance(loss, int | float):
        words.append(f"loss {loss:.3f}")
    elif event["event"] == "start":
        words.append("compiling")
    if isinstance(speed, int | float):
        words.append(f"{speed:,.0f} tokens/s")
    return ", ".join(words)
