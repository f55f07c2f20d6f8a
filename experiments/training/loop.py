"""The training loop of a population: what is done when. experiments/train.py starts it.

Steps are dispatched; while the devices take them, the next ones are on their way (dispatches.py). Where evaluations,
checkpoints and records are due, all that is under way is waited for. Steps, losses and parameters do not depend on where
a run was interrupted.

With several processes all of them go through here in step: what one alone can see (a signal, the clock, a file, an error)
is made known to all before it decides anything (experiments/alive/hosts.py).
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import math
import time
from typing import Any

import numpy as np

from experiments import files
from experiments.alive import hosts
from experiments.alive.lease import Lease
from experiments.alive.stops import Stop
from experiments.alive.watchdog import Watchdog
from experiments.run.schema import Execution
from experiments.store import record
from experiments.training import lengths
from experiments.training import results as run_results
from experiments.training.answers import answer
from experiments.training.clock import Clock
from experiments.training.dispatches import Dispatches
from experiments.training.evaluate import Result
from experiments.training.lookout import Lookout, Seen
from experiments.training.population import Metrics, Population
from experiments.training.trial import Trial

Report = Callable[[dict[str, Any]], None]
MACHINE_SCHEMA = 1  # of machine.json


class Stopped(BaseException):
    """The process was asked to stop; everything is saved.

    No `Exception`: it may be raised anywhere, by the handler of a signal, where it is no error of what was being done.
    """


class Loop:
    """Trains trials of one signature to their ends. `report` gets one event at a time (see sweeps/executors).

    `held`: what the first process holds of their runs, if they were claimed; without it nobody is asked before a save.
    Set `stop` to end it at the next opportunity.
    """

    def __init__(self, trials: Sequence[Trial], execution: Execution, report: Report, held: Lease | None = None):
        self.stop = False
        self.clock = Clock()
        self.execution = execution
        self.report = report
        self.lookout = Lookout(trials, held)
        self.trials = list(trials)
        self.watchdog = Watchdog(execution.stall_factor, execution.stall_seconds)
        self.population = self._watched_population()
        self.dispatches = Dispatches(self.population, self.clock)
        # What a spike leads back to has to be known before the steps behind it are taken.
        self._ahead = 0 if any(trial.spikes for trial in trials) else 1
        if hosts.first():
            with self.lookout.alone():
                _write_machine(self.trials)
        self._saved_at = time.monotonic()
        self._taken_at = time.monotonic()  # when the last metrics were there
        # After a spike in the first steps there has to be somewhere to go back to.
        self._save([trial for trial in trials if trial.spikes and trial.saved_step is None])

    def _watched_population(self) -> Population:
        """Make the population with its first states, which may have to be read."""
        try:
            with self.watchdog.watch("restore", "making or reading the first states"):
                return Population(self.trials, self.execution)
        except BaseException:
            self.watchdog.close()  # nobody will run this loop
            raise

    def run(self) -> None:
        """Train, evaluate, save and record until no trial has a step left. Raises Stopped when asked to stop."""
        trials = self.trials
        with contextlib.closing(self.watchdog), contextlib.closing(self.dispatches):
            self.report(_start_event(trials))
            seen = self._look()
            self._do_what_is_due(seen)
            while any(trial.steps_left for trial in trials):
                self._take_steps()
                seen = self._look()
                is_due = any(trial.is_at_event() for trial in trials)
                if is_due or seen.interrupts:
                    self._wait_for_steps()
                    self._do_what_is_due(seen)
                if seen.stop:
                    self._save_and_stop()

    def _look(self) -> Seen:
        """Look for what may interrupt the steps."""
        limit = self.execution.checkpoint_every_seconds
        passed = time.monotonic() - self._saved_at
        late = limit is not None and passed > limit
        return self.lookout.look(self.stop, late)

    def _save_and_stop(self) -> None:
        """Save what is under way and raise Stopped: the same command goes on from there."""
        self._save([trial for trial in self.trials if trial.running])
        for trial in self.trials:
            with self._timed("save", f"closing {trial.directory}"):
                trial.checkpoints.close()
        raise Stopped("everything is saved; the same command goes on")

    # --- steps

    def _take_steps(self) -> None:
        """Give the devices their next steps, and look at the metrics of those before."""
        with self.watchdog.watch("step", "a dispatch, or its data,"):
            given = self.dispatches.give()
            taken = self.dispatches.take(leave=self._ahead if given else 0)
        if taken is not None:
            self._look_at_metrics(*taken)

    def _wait_for_steps(self) -> None:
        """Look at the metrics of all steps that are under way."""
        while True:
            with self.watchdog.watch("step", "a dispatch"):
                taken = self.dispatches.take()
            if taken is None:
                break
            self._look_at_metrics(*taken)
        self.lookout.agree()  # before anything is done together that one of them could not

    def _look_at_metrics(self, steps: np.ndarray, metrics: Metrics) -> None:
        """Tell each trial what its steps have come to."""
        now = time.monotonic()
        seconds = now - self._taken_at
        self._taken_at = now
        taking = []
        parts = []
        for slot, trial in self.population.seated():
            count = int(steps[slot])
            # Of one that has diverged more steps may have been under way.
            if count and trial.running:
                taking.append((slot, trial))
                parts.append((trial.shares, float(count)))
        self.clock.share_out(parts)
        batch_tokens = self.trials[0].run.batch_tokens  # the same for all of one signature
        latest_loss = math.nan
        for slot, trial in taking:
            count = int(steps[slot])
            own = {name: values[slot, :count] for name, values in metrics.items()}
            losses = own["loss"]
            first = trial.step
            trial.step += count
            spike = trial.find_spike(first, losses)
            if spike is not None:
                with self.watchdog.watch("restore", f"going back in {trial.directory}"):
                    self.population.rewind(slot, trial, spike)
                continue
            with self.lookout.alone():
                trial.log(first, own, count * batch_tokens / seconds)
            latest_loss = float(losses[-1])
        tokens = int(steps.sum()) * batch_tokens
        self.report(_progress_event(self.trials, latest_loss, tokens / seconds))

    # --- between two dispatches

    def _do_what_is_due(self, seen: Seen) -> None:
        """Evaluate, save and record what is due. No steps may be under way."""
        active = [trial for trial in self.trials if trial.running]
        stops = self.lookout.stops() if seen.asked else {}
        at_event = [trial for trial in active if trial.is_at_event()]
        to_evaluate = []
        for trial in active:
            is_due = trial in at_event and trial.is_due(self.execution.eval_every_tokens)
            if is_due or trial.fingerprint in stops:
                to_evaluate.append(trial)
        results = self._evaluate(to_evaluate)
        to_save = []
        for trial in active:
            name = trial.fingerprint
            asked = seen.late or name in stops
            is_due = trial in at_event and trial.is_save_due()
            # An evaluation may have found it diverged.
            if (is_due or asked) and trial.running:
                to_save.append(trial)
        self._save(to_save)
        for trial in self.trials:
            name = trial.fingerprint
            trial.looked_at = trial.step
            self._end_if_done(trial, stops.get(name), results.get(name))

    def _evaluate(self, due: Sequence[Trial]) -> dict[str, Result]:
        """Return held-out results by fingerprint, and write them to the metrics."""
        if not due:
            return {}
        with self._timed("evaluate", "an evaluation"):
            found = _evaluated(self.population, due)
        self._put_time_down_to(due)
        results = {}
        for trial, result in found:
            if not math.isfinite(result.loss_nats):
                trial.status = "diverged"
                continue
            with self.lookout.alone():
                trial.log_evaluation(result.row)
            results[trial.fingerprint] = result
        return results

    def _save(self, due: Sequence[Trial]) -> None:
        """Start to save checkpoints."""
        if not due:
            return
        self.lookout.check_held(due)
        self._put_time_down_to(due)
        population = self.population
        for slot, trial in population.seated():
            step = trial.step
            if trial not in due or trial.saved_step == step:
                continue
            with self.lookout.alone():
                trial.metrics.publish()  # nobody writes these rows again once the checkpoint is there
            with self._timed("save", f"saving {trial.directory}"):
                state = population.state_of(slot)
                trial.checkpoints.save(state, step, trial.notes)
            trial.saved_step = step
        self._put_time_down_to(due)
        self._saved_at = time.monotonic()

    @contextlib.contextmanager
    def _timed(self, phase: str, what: str) -> Iterator[None]:
        """Do what shall not hang, and count its time as a share."""
        with self.watchdog.watch(phase, what), self.clock.share(phase):
            yield

    def _put_time_down_to(self, trials: Sequence[Trial]) -> None:
        """Put the time since the last call down to some trials, to all alike."""
        shares = [trial.shares for trial in trials]
        self.clock.share_out_equally(shares)

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
        with self._timed("save", f"saving {trial.directory}"):
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
        with self.lookout.alone():
            trial.metrics.close()
        with self._timed("save", f"closing {trial.directory}"):
            trial.checkpoints.close()
        self._put_time_down_to([trial])
        loss = results.get("loss_nats")
        columns = results | run_results.columns(trial, loss) | self.population.columns()
        manifests = tuple(manifest.fingerprint for manifest in trial.manifests)
        name = trial.fingerprint
        status = trial.status
        made = record.make(trial.run, name, manifests, status, reason, columns)
        self.lookout.check_held([trial])
        if hosts.first():
            with self.lookout.alone():
                record.write(trial.directory, made)
        self.lookout.agree()  # nobody calls a run recorded whose record could not be written
        trial.recorded = True
        self.report({"event": "record", "fingerprint": name, "status": status, "loss_nats": loss})


def _evaluated(population: Population, due: Sequence[Trial]) -> list[tuple[Trial, Result]]:
    """Evaluate the parameters of the trials that are due, what answers tasks, and the means of parameters that they keep."""
    tokens, batches = population.held_out_tokens(due)
    nats_KSB = population.evaluate(tokens, batches)
    answers = answer(population, due)
    other_lengths = lengths.losses(population, due)
    of_means = population.evaluate_means(tokens, batches)
    found = []
    for slot, trial in population.seated():
        if trial in due:
            name = trial.fingerprint
            own = nats_KSB[slot, : batches[slot]]
            result = trial.held_out.result(own, answers.get(name), other_lengths[name], of_means[slot])
            found.append((trial, result))
    return found


def _write_machine(trials: Sequence[Trial]) -> None:
    """Say beside each run what it trains on, for whoever asks what speed to expect of it (sweeps.status)."""
    machine = {"schema": MACHINE_SCHEMA, **record.environment()}
    for trial in trials:
        files.write_json(trial.directory / "machine.json", machine)


def _start_event(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return what tells whoever started this process which runs it trains."""
    names = []
    steps = 0
    done = 0
    for trial in trials:
        names.append(trial.fingerprint)
        steps += trial.run.steps
        done += trial.step
    return {"event": "start", "runs": names, "steps": steps, "done": done}


def _progress_event(trials: Sequence[Trial], loss: float, tokens_per_second: float) -> dict[str, Any]:
    """Return what tells how many steps are done, and how fast."""
    done = 0
    for trial in trials:
        # One that has ended, early or not, has nothing left to do.
        done += trial.step if trial.running else trial.run.steps
    speed = round(tokens_per_second)
    return {"event": "progress", "done": done, "loss": loss, "tokens_per_second": speed}
