"""The training loop of a population: what is done when. experiments/train.py starts it.

Steps are dispatched; between two dispatches evaluations, checkpoints and records are made where they are due. Steps,
losses and parameters do not depend on where a run was interrupted.

With several processes all of them go through here in step: what one alone can see (a signal, the clock, a file) is made
known to all before it decides anything (experiments/alive/hosts.py).
"""

from collections.abc import Callable, Sequence
import math
import time
from typing import Any

from experiments import files
from experiments.alive import hosts, lease
from experiments.alive.lease import Lease
from experiments.alive.stops import Stop
from experiments.alive.watchdog import Watchdog
from experiments.data import lossless
from experiments.run.schema import Execution
from experiments.store import lineage, record
from experiments.training.evaluate import Result
from experiments.training.population import Population
from experiments.training.trial import Trial

Report = Callable[[dict[str, Any]], None]
MACHINE_SCHEMA = 1  # of machine.json


class Stopped(Exception):
    """The process was asked to stop; everything is saved."""


class Loop:
    """Trains trials of one signature to their ends. `report` gets one event at a time (see sweeps/executors).

    `held`: what the first process holds of their runs, if they were claimed; without it nobody is asked before a save.
    Set `stop` to end it at the next opportunity.
    """

    def __init__(self, trials: Sequence[Trial], execution: Execution, report: Report, held: Lease | None = None):
        self.stop = False
        self.execution = execution
        self.report = report
        self._held = held
        self.trials = list(trials)
        self.watchdog = Watchdog(execution.stall_factor, execution.stall_seconds)
        self.population = Population(trials, execution)
        if hosts.first():
            self._write_machine()
        self._saved_at = time.monotonic()
        # After a spike in the first steps there has to be somewhere to go back to.
        self._save([trial for trial in trials if trial.spikes and trial.saved_step is None])

    def _write_machine(self) -> None:
        """Say beside each run what it trains on, for whoever asks what speed to expect of it (sweeps.status)."""
        machine = {"schema": MACHINE_SCHEMA, **record.environment()}
        for trial in self.trials:
            files.write_json(trial.directory / "machine.json", machine)

    def run(self) -> None:
        """Train, evaluate, save and record until no trial has a step left. Raises Stopped when asked to stop."""
        self._report_start()
        self._do_what_is_due()
        while any(trial.steps_left for trial in self.trials):
            self._dispatch()
            self._do_what_is_due()
            (stop,) = hosts.anywhere([self.stop])
            if stop:
                self._save_and_stop()

    def _save_and_stop(self) -> None:
        """Save what is under way and raise Stopped: the same command goes on from there."""
        self._save([trial for trial in self.trials if trial.running])
        for trial in self.trials:
            trial.checkpoints.close()
        raise Stopped

    def _report_start(self) -> None:
        """Tell whoever started this process which runs it trains."""
        self.report(
            {
                "event": "start",
                "runs": [trial.fingerprint for trial in self.trials],
                "steps": sum(trial.run.steps for trial in self.trials),
                "done": sum(trial.step for trial in self.trials),
            }
        )

    # --- steps

    def _dispatch(self) -> None:
        """Take some steps of each slot in one call of the program, then look at their metrics."""
        population = self.population
        steps = population.next_steps()
        total = int(steps.sum())
        with self.watchdog.watch("step", f"a dispatch of {total} steps, or its data,"):
            tokens = population.tokens(steps)
            start = time.monotonic()
            metrics = population.train(tokens, steps)
        seconds = time.monotonic() - start
        self._check_held()
        latest_loss = math.nan
        for slot, trial in population.seated():
            count = int(steps[slot])
            if count == 0:
                continue
            own = {name: values[slot, :count] for name, values in metrics.items()}
            losses = own["loss"]
            first = trial.step
            trial.step += count
            trial.seconds += seconds * count / total
            spike = trial.find_spike(first, losses)
            if spike is not None:
                population.rewind(slot, trial, spike)
                continue
            trial.log(first, own, count * trial.run.batch_tokens / seconds)
            latest_loss = float(losses[-1])
        batch_tokens = self.trials[0].run.batch_tokens  # the same for all of one signature
        self._report_progress(latest_loss, total * batch_tokens / seconds)

    def _report_progress(self, loss: float, tokens_per_second: float) -> None:
        """Tell how many steps are done, and how fast."""
        # A trial that has ended, early or not, has nothing left to do.
        done = sum(trial.step if trial.running else trial.run.steps for trial in self.trials)
        speed = round(tokens_per_second)
        self.report({"event": "progress", "done": done, "loss": loss, "tokens_per_second": speed})

    def _check_held(self, to_write: Sequence[Trial] = ()) -> None:
        """Check that the runs are still ours: those that are to be written, or now and then all that are not recorded.

        Raises Lost, on all processes, when somebody else has taken one.
        """
        held = self._held
        lost = False
        if held is not None and (to_write or held.due()):
            trials = to_write or [trial for trial in self.trials if not trial.recorded]
            lost = not held.holds([trial.directory for trial in trials])
        (lost_anywhere,) = hosts.anywhere([lost])
        if lost_anywhere:
            raise lease.Lost("another launcher has taken over these runs; nothing more is written here")

    # --- between two dispatches

    def _do_what_is_due(self) -> None:
        """Evaluate, save and record what is due."""
        execution = self.execution
        active = [trial for trial in self.trials if trial.running]
        stops = self._requested_stops(active)
        to_evaluate = []
        for trial in active:
            if trial.fingerprint in stops or trial.is_due(execution.eval_every_tokens):
                to_evaluate.append(trial)
        results = self._evaluate(to_evaluate)
        by_clock = self._is_late()
        to_save = []
        for trial in active:
            asked = by_clock or trial.fingerprint in stops
            is_due = asked or trial.is_due(execution.checkpoint_every_tokens)
            # An evaluation may have found it diverged.
            if is_due and trial.running:
                to_save.append(trial)
        self._save(to_save)
        for trial in self.trials:
            name = trial.fingerprint
            self._end_if_done(trial, stops.get(name), results.get(name))

    @staticmethod
    def _requested_stops(active: Sequence[Trial]) -> dict[str, Stop]:
        """Return which runs were asked to end early, by fingerprint."""
        seen = {}
        for trial in active:
            # Only what the first process sees counts.
            stop = trial.asked_to_stop() if hosts.first() and trial.steps_left else None
            if stop:
                seen[trial.fingerprint] = [stop.status, stop.reason]
        told = hosts.told(seen)
        return {fingerprint: Stop(*fields) for fingerprint, fields in told.items()}

    def _is_late(self) -> bool:
        """Say whether, on any process, too much time has passed since the last checkpoint."""
        limit = self.execution.checkpoint_every_seconds
        passed = time.monotonic() - self._saved_at
        (late,) = hosts.anywhere([limit is not None and passed > limit])
        return late

    def _evaluate(self, due: Sequence[Trial]) -> dict[str, Result]:
        """Return held-out results by fingerprint, and write them to the metrics."""
        if not due:
            return {}
        start = time.monotonic()
        tokens, batches = self.population.held_out_tokens(due)
        with self.watchdog.watch("evaluate", "an evaluation"):
            nats_KSB = self.population.evaluate(tokens, batches)
        seconds = time.monotonic() - start
        results = {}
        for slot, trial in self.population.seated():
            if trial not in due:
                continue
            result = trial.held_out.result(nats_KSB[slot, : batches[slot]])
            trial.seconds += seconds / len(due)
            if not math.isfinite(result.loss_nats):
                trial.status = "diverged"
                continue
            trial.metrics.append_evaluation(
                {
                    "step": trial.step,
                    "tokens": trial.step * trial.run.batch_tokens,
                    "eval_loss": result.loss_nats,
                    "eval_loss_sem": result.loss_nats_sem,
                    "eval_bits_per_byte": result.bits_per_byte,
                }
            )
            results[trial.fingerprint] = result
        return results

    def _save(self, due: Sequence[Trial]) -> None:
        """Start to save checkpoints."""
        if not due:
            return
        self._check_held(due)
        for slot, trial in self.population.seated():
            if trial in due and trial.saved_step != trial.step:
                state = self.population.state_of(slot)
                trial.checkpoints.save(state, trial.step, trial.notes)
                trial.saved_step = trial.step
        self._saved_at = time.monotonic()

    # --- the end of a trial

    def _end_if_done(self, trial: Trial, stop: Stop | None, result: Result | None) -> None:
        """Record a trial that has diverged, has taken its last step, or was asked to stop."""
        if trial.recorded:
            return
        if trial.status == "diverged":
            self._record(trial, f"loss is not finite at step {trial.step}", {})
            return
        if not trial.running or (trial.steps_left and stop is None):
            return
        with self.watchdog.watch("save", f"saving {trial.directory}"):
            trial.checkpoints.wait()
        assert result is not None, "an evaluation is due at the end, and where a stop is requested"
        if not trial.steps_left:
            trial.status = "complete"
            self._record(trial, None, result.columns)
        elif stop is not None:
            trial.status = stop.status
            self._record(trial, stop.reason, result.columns | {"censored": 1})

    def _record(self, trial: Trial, reason: str | None, results: dict[str, Any]) -> None:
        """Close a trial's files and write its record."""
        trial.metrics.close()
        trial.checkpoints.close()
        wall_seconds = round(trial.seconds, 3)
        columns = results | {"steps_done": trial.step, "wall_seconds": wall_seconds}
        columns["lossless"] = lossless.smallest_share(trial.manifests)
        columns |= lineage.columns(trial.lineage)
        if trial.spikes:
            columns |= trial.spikes.columns()
        columns |= self.population.columns()
        manifests = tuple(manifest.fingerprint for manifest in trial.manifests)
        made = record.make(trial.run, trial.fingerprint, manifests, trial.status, reason, columns)
        self._check_held([trial])
        if hosts.first():
            record.write(trial.directory, made)
        trial.recorded = True
        self.report(
            {
                "event": "record",
                "fingerprint": trial.fingerprint,
                "status": trial.status,
                "loss_nats": results.get("loss_nats"),
            }
        )
