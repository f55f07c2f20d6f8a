"""What the launcher shows while it works: bars on a terminal, a line now and then elsewhere. It decides nothing."""

from collections.abc import Sequence
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sweeps.executors.support.protocol import Event
from sweeps.work.populations import Population
from sweeps.work.workdir import Node

LINE_SECONDS = 10.0  # between two lines where there is no terminal


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def describe(population: Population) -> str:
    """A population in a few words: its size, how many runs."""
    run, count = population.nodes[0].run, len(population.nodes)
    shape = "x".join(str(getattr(run.model, name)) for name in ("width", "depth") if hasattr(run.model, name))
    return f"{run.family} {shape}, {count} run{'s' if count > 1 else ''}"


class Display:
    """Progress of a launch, counted in training FLOPs so that the time left is right for runs of different sizes."""

    def __init__(self, name: str, populations: Sequence[Population], recorded: int, total: int):
        self.name, self.total, self.recorded = name, total, recorded
        self._work = sum(p.steps * p.flops_per_step for p in populations) or 1.0
        self._finished, self._current = 0.0, {}
        self._resumed = 0.0  # work that was done before this launch, so that it does not flatter the speed
        self._start = self._last = time.monotonic()
        self.console = Console(stderr=True, highlight=False)
        self._live = self.console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.percentage:>3.0f}%"))
        self._bars = Progress(*columns, TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=self.console)
        self._all = self._bars.add_task(name, total=self._work, note="")
        self._rows: dict[Any, Any] = {}

    def __enter__(self) -> "Display":
        if self._live:
            self._bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live:
            self._bars.stop()

    def say(self, text: str) -> None:
        """One line, above the bars."""
        self.console.print(text, soft_wrap=True, markup=False)

    def begin(self, key: Any, population: Population) -> None:
        """A worker was started for a population."""
        self._current[key] = 0.0
        note = f"{describe(population)}: starting"
        self._rows[key] = (self._bars.add_task("  worker", total=population.steps, note=note), population)

    def event(self, key: Any, event: Event) -> None:
        """What a worker reports. Steps that were done before are known from its first event."""
        task, population = self._rows[key]
        kind = event["event"]
        if kind in ("start", "progress"):
            done = float(event.get("done") or 0)
            if kind == "start":
                self._resumed += done * population.flops_per_step
            self._current[key] = done * population.flops_per_step
            loss, speed = event.get("loss"), event.get("tokens_per_second")
            note = describe(population)
            note += f", loss {loss:.3f}" if isinstance(loss, int | float) else ", compiling" if kind == "start" else ""
            note += f", {speed:,.0f} tokens/s" if isinstance(speed, int | float) else ""
            self._bars.update(task, completed=done, total=event.get("steps", population.steps), note=note)
        elif kind == "record":
            self.recorded += 1
        elif kind == "say":
            self.say(str(event.get("text")))
        self._refresh()

    def end(self, key: Any, missing: Sequence[Node]) -> None:
        """A worker is over. Runs without a record do not count: another worker will begin from their checkpoints."""
        task, population = self._rows.pop(key)
        self._current.pop(key)
        steps = population.steps - sum(node.run.steps for node in missing)
        self._finished += steps * population.flops_per_step
        self._bars.remove_task(task)
        self._refresh()

    def tick(self) -> None:
        """To be called now and then."""
        self._refresh()

    def _refresh(self) -> None:
        done = min(self._work, self._finished + sum(self._current.values()))
        seconds = time.monotonic() - self._start
        here = done - self._resumed
        left = (
            f", about {clock(seconds * (self._work - done) / here)} left"
            if here > 0.02 * self._work and done < self._work
            else ""
        )
        note = f"{self.recorded} of {self.total} runs recorded{left}"
        self._bars.update(self._all, completed=done, note=note)
        if not self._live and time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            self.say(f"{self.name}: {done / self._work:.0%} of the compute, {note}")
            sys.stderr.flush()
