"""Runs with all their ancestors, as the folders of a workdir hold them: what was evaluated, at which learning rates."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from experiments import files
from experiments.run import stored
from experiments.run.schema import Run
from experiments.store import lineage as lineages
from experiments.store import record, segments
from models.errors import InputError
from sweeps.work.workdir import FINGERPRINT, Workdir

PER_TOKEN = "flops_per_token"  # the one count of FLOPs that does not grow with the steps


@dataclasses.dataclass(frozen=True)
class Leg:
    """One run of a line: `rates` [steps], the learning rate of every step, and the rows of its `log`.

    tokens_before: tokens of its ancestors and of the growth that it learned; None where those are not known.
    """

    fingerprint: str
    run: Run
    tokens_before: int | None
    log: Sequence[Mapping[str, Any]]

    @functools.cached_property
    def rates(self) -> np.ndarray:
        """Return the learning rate of every step, from the first."""
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_platforms", "cpu")  # whoever reads a grid leaves accelerators alone
        from experiments.training.schedule import schedule

        # As a step has it: of the tokens before it, in float32.
        tokens = jnp.arange(self.run.steps, dtype=jnp.float32) * self.run.batch_tokens
        factor_of = functools.partial(schedule, self.run)
        factor = jax.vmap(factor_of)(tokens)
        return self.run.opt.lr * np.asarray(factor, np.float64)

    def columns(self) -> dict[str, Any]:
        """Return the columns that a grid has of the run's options and counts."""
        return record.columns(self.run) | record.ledger(self.run)


@dataclasses.dataclass(frozen=True)
class Before:
    """What the runs of a line had done before one of them; tokens and FLOPs are None where that is not known."""

    steps: int
    tokens: int | None
    flops: Mapping[str, float] | None
    is_whole: bool

    def counts(self, run: Run, own_step: int) -> dict[str, Any]:
        """Return the columns that count what has been done when a run has taken so many steps of its own."""
        own_tokens = own_step * run.batch_tokens
        tokens = None if self.tokens is None else self.tokens + own_tokens
        counts: dict[str, Any] = {
            "step": self.steps + own_step if self.is_whole else None,
            "tokens": tokens,
            "own_step": own_step,
            "own_tokens": own_tokens,
            "lineage_tokens": tokens,
        }
        for name, own in flops_of(run, own_step).items():
            counts[name] = None if self.flops is None else self.flops.get(name, 0) + own
        counts["flops_lineage"] = counts["flops_total"]
        return counts


@dataclasses.dataclass(frozen=True)
class Line:
    """A run (the last of `legs`) behind its ancestors; `is_whole`: all of them are known, from the first step on."""

    legs: tuple[Leg, ...]
    is_whole: bool

    def before(self) -> list[Before]:
        """Return what had been done before each leg."""
        found = []
        steps = 0
        flops: dict[str, float] = {}
        for leg in self.legs:
            known = flops if self.is_whole else None
            found.append(Before(steps, leg.tokens_before, known, self.is_whole))
            steps += leg.run.steps
            of_leg = flops_of(leg.run, leg.run.steps)
            flops = {name: flops.get(name, 0) + own for name, own in of_leg.items()}
        return found


def flops_of(run: Run, steps: int) -> dict[str, float]:
    """Return the FLOPs of so many steps of a run under every convention."""
    counted = dataclasses.replace(run, tokens=steps * run.batch_tokens)
    ledger = record.ledger(counted)
    return {name: value for name, value in ledger.items() if name.startswith("flops_") and name != PER_TOKEN}


class Lines:
    """Reads the lines of a workdir's runs, each folder once. `damaged` has a line for each that could not be read."""

    def __init__(self, workdir: Workdir):
        self.damaged: list[str] = []
        self._workdir = workdir
        self._legs: dict[str, Leg | None] = {}

    def of(self, fingerprint: str) -> Line:
        """Return the line of a run; without legs where the run has not begun."""
        legs = []
        name: str | None = fingerprint
        while name is not None:
            leg = self._leg(name)
            if leg is None:
                return Line(tuple(reversed(legs)), is_whole=False)
            legs.append(leg)
            name = leg.run.parent
        return Line(tuple(reversed(legs)), is_whole=True)

    def _leg(self, name: str) -> Leg | None:
        """Return a run of the workdir; None where it is not there, or cannot be read."""
        if not FINGERPRINT.fullmatch(name):
            return None
        if name not in self._legs:
            self._legs[name] = self._read(name)
        return self._legs[name]

    def _read(self, name: str) -> Leg | None:
        folder = self._workdir.run_dir(name)
        path = folder / "run.json"
        try:
            value = files.read_json(path)
            run = stored.read_checked(value["run"], stored.version(value))
            before = _tokens_before(value, run)
        except FileNotFoundError:
            return None
        except (InputError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            self.damaged.append(f"{path} cannot be read ({type(error).__name__}): no row of its evaluations")
            return None
        return Leg(name, run, before, segments.read(folder))


def _tokens_before(value: Mapping[str, Any], run: Run) -> int | None:
    """Return the tokens of a line before a run's own first step; None where an ancestor's are not known."""
    if "lineage" not in value:  # written before runs could have parents
        return 0
    line = lineages.from_json(value["lineage"])
    if line.tokens is None:
        return None
    return line.tokens - run.steps * run.batch_tokens
