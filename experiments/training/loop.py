"""The training loop of a population: steps, metrics, evaluations, checkpoints, records. experiments/train.py starts it.

Steps, losses and parameters do not depend on where a run was interrupted.
"""

from collections.abc import Callable, Sequence
import math
import sys
import time
from typing import Any

import numpy as np

from experiments import files
from experiments.alive import hosts, lease
from experiments.alive.lease import Lease
from experiments.alive.stops import Stop
from experiments.alive.watchdog import Watchdog
from experiments.run.schema import Execution, Run
from experiments.store import lineage as lineages
from experiments.store import record as records
from experiments.training.trial import Trial

Report = Callable[[dict[str, Any]], None]


class Stopped(Exception):
    """The process was asked to stop; everything is saved."""


class Population:
    """Trains trials of one signature to their ends. `report` gets one event at a time (see sweeps/executors).

    `held`: what the first process holds of their runs, if they were claimed; without it nobody is asked before a save.
    """

    def __init__(self, trials: Sequence[Trial], execution: Execution, report: Report, held: Lease | None = None):
        import jax

        from experiments.training import program as population

        self._jax, self.execution, self.report, self._held = jax, execution, report, held
        first = trials[0].run
        program = population.program(first, len(trials), execution)
        slots = population.assign([t.run.steps for t in trials], program.groups)
        width = max(map(len, slots))
        if width * program.groups > program.slots:
            program = population.program(first, width * program.groups, execution)
        self.program, self.stop = program, False
        self.slots: list[Trial | None] = [None] * program.slots
        for device, members in enumerate(slots):
            for i, member in enumerate(members):
                self.slots[device * (program.slots // program.groups) + i] = trials[member]
        self.trials = list(trials)
        runs = [t.run if t else first for t in self.slots]
        added = [t.parent.added(t.run) if t and t.parent else None for t in self.slots]
        self.values = hosts.put(program.stack_values(runs, added), program.slot_sharding)
        self.watchdog = Watchdog(execution.stall_factor, execution.stall_seconds)
        self.state = self._start(runs)
        for trial in trials if hosts.first() else ():  # for whoever asks what speed to expect of it (sweeps.status)
            files.write_json(trial.directory / "machine.json", {"schema": 1, **records.environment()})
        self._last_save = time.monotonic()
        self._save([t for t in trials if t.spikes and t.saved < 0])  # the first steps need somewhere to go back to

    def _start(self, runs: Sequence[Run]) -> Any:
        """Initial states; in their place those of checkpoints, or else of parents, where trials have them."""
        jax = self._jax
        state = self.program.init(runs)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state)
        restored = {}
        for slot, trial in enumerate(self.slots):
            found = trial and trial.checkpoints.restore(like, lambda text: print(text, file=sys.stderr))
            if trial and found:
                restored[slot] = found[0]
                trial.recall(int(found[0].step), found[1])
            if trial:
                trial.metrics.cut(trial.step)
        born = {i: t for i, t in enumerate(self.slots) if t and t.parent and i not in restored}
        if restored or born:
            host = jax.tree.map(lambda x: np.array(hosts.whole(x)), state)
            for slot, trial in born.items():
                restored[slot] = trial.inherited(jax.tree.map(lambda x, slot=slot: x[slot].copy(), host))
            for slot, one in restored.items():
                jax.tree.map(lambda whole, part, slot=slot: whole.__setitem__(slot, part), host, one)
            state = hosts.put(host, self.program.state_sharding)
        return state

    def _tokens(self, counts: np.ndarray) -> np.ndarray:
        trials = [t for t in self.slots if t]
        dtype = np.result_type(*(t.batches.dtype for t in trials))
        tokens = np.zeros(self.program.token_shape(), dtype)
        for slot, trial in enumerate(self.slots):
            if trial and counts[slot]:
                rows = trial.records(trial.step, trial.step + int(counts[slot]))
                tokens[slot, : counts[slot]] = rows.reshape(-1, trial.run.batch, trial.run.seq_len + 1)
        return tokens

    def run(self) -> None:
        """Train, evaluate, save and record until no trial has a step left. Raises Stopped when asked to stop."""
        total = sum(t.run.steps for t in self.trials)
        done = sum(t.step for t in self.trials)
        fingerprints = [t.fingerprint for t in self.trials]
        self.report({"event": "start", "runs": fingerprints, "steps": total, "done": done})
        self._settle()
        while any(t.left for t in self.trials):
            self._dispatch()
            self._settle()
            if hosts.anywhere([self.stop])[0]:
                self._save([t for t in self.trials if t.status == "running"])
                for trial in self.trials:
                    trial.checkpoints.close()
                raise Stopped

    def _dispatch(self) -> None:
        """One call of the program: some steps of each slot, then their metrics."""
        counts = self.program.counts([t.until_event() if t else 0 for t in self.slots])
        with self.watchdog.watch("step", f"a dispatch of {int(counts.sum())} steps, or its data,"):
            tokens = self._tokens(counts)
            start = time.monotonic()
            self.state, metrics = self.program.train(self.state, self.values, tokens, counts)
            metrics = {name: hosts.whole(values) for name, values in metrics.items()}
        seconds = time.monotonic() - start
        self._check_held()
        steps, latest = int(counts.sum()), math.nan
        for slot, trial in enumerate(self.slots):
            if trial and (count := int(counts[slot])):
                first, trial.step = trial.step, trial.step + count
                trial.seconds += seconds * count / steps
                mine = {name: values[slot, :count] for name, values in metrics.items()}
                if (spike := trial.spike(first, mine["loss"])) is not None:
                    self._go_back(slot, trial, spike)
                    continue
                trial.log(first, mine, count * trial.run.batch_tokens / seconds)
                latest = float(mine["loss"][-1])
        speed = steps * self.trials[0].run.batch_tokens / seconds
        done = sum(t.run.steps if t.status != "running" else t.step for t in self.trials)
        self.report({"event": "progress", "done": done, "loss": latest, "tokens_per_second": round(speed)})

    def _check_held(self, written: Sequence[Trial] = ()) -> None:
        """Raises Lost, on all processes, when somebody else has runs that are to be written; or, now and then, any."""
        lost, held = False, self._held
        if held is not None and (written or held.due()):
            lost = not held.holds([t.directory for t in written or self.trials if not t.recorded])
        if hosts.anywhere([lost])[0]:
            raise lease.Lost("another launcher has taken over these runs; nothing more is written here")

    def _go_back(self, slot: int, trial: Trial, spike: int) -> None:
        """After a loss spike: the state of the newest checkpoint, and the batches from there to the spike left out."""
        assert trial.spikes
        trial.checkpoints.wait()
        like = self._jax.tree.map(lambda x: self._jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.state)
        found = trial.checkpoints.restore(like, lambda text: print(text, file=sys.stderr), until=spike)
        if found is None:
            raise RuntimeError(f"{trial.directory}: no sound checkpoint to go back to from step {spike + 1}")
        skips, seconds = trial.spikes.skips, trial.seconds
        trial.recall(int(found[0].step), found[1])
        trial.spikes.skips, trial.seconds = skips, seconds  # the checkpoint may be older than what was left out before
        trial.spikes.skip(trial.step, spike)
        trial.metrics.rewind(trial.step)
        host = self._jax.tree.map(lambda x: np.array(hosts.whole(x)), self.state)
        self._jax.tree.map(lambda whole, part: whole.__setitem__(slot, part), host, found[0])
        self.state = hosts.put(host, self.program.state_sharding)
        print(f"{trial.fingerprint}: loss spike at step {spike + 1}; back to step {trial.step}", file=sys.stderr)

    def _settle(self) -> None:
        """Evaluate, save and record what is due."""
        execution = self.execution
        active = [t for t in self.trials if t.status == "running"]
        asked = self._asked(active)
        evaluated = self._evaluate([t for t in active if t.due(execution.eval_every_tokens) or t.fingerprint in asked])
        late = execution.checkpoint_every_seconds
        (late,) = hosts.anywhere([late is not None and time.monotonic() - self._last_save > late])
        due = [t for t in active if late or t.due(execution.checkpoint_every_tokens) or t.fingerprint in asked]
        self._save([t for t in due if t.status == "running"])
        for trial in self.trials:
            if trial.status == "diverged":
                self._finish(trial, f"loss is not finite at step {trial.step}", {})
            elif trial.status == "running" and trial.step == trial.run.steps:
                self._close(trial)
                trial.status = "complete"
                self._finish(trial, None, evaluated[trial.fingerprint].columns)
            elif trial.status == "running" and (stop := asked.get(trial.fingerprint)):
                self._close(trial)
                trial.status = stop.status
                results = evaluated[trial.fingerprint].columns
                self._finish(trial, stop.reason, results | {"censored": 1})

    @staticmethod
    def _asked(active: Sequence[Trial]) -> dict[str, Stop]:
        """Runs that were asked to end early, by fingerprint."""
        asked = {t.fingerprint: stop for t in active if t.step < t.run.steps and (stop := t.asked_to_stop())}
        told = hosts.told({name: [stop.status, stop.reason] for name, stop in asked.items()})
        return {name: Stop(*values) for name, values in told.items()}

    def _close(self, trial: Trial) -> None:
        with self.watchdog.watch("save", f"saving {trial.directory}"):
            trial.checkpoints.wait()

    def _evaluate(self, due: Sequence[Trial]) -> dict[str, Any]:
        """Held-out results by fingerprint; written to the metrics too."""
        if not due:
            return {}
        start = time.monotonic()
        held_out = [t.held_out if t in due else None for t in self.slots]
        shape = self.program.token_shape(max(h.batches for h in held_out if h))
        tokens = np.zeros(shape, np.result_type(*(h.tokens.dtype for h in held_out if h)))
        for slot, sequences in enumerate(held_out):
            if sequences:
                tokens[slot, : sequences.batches] = sequences.tokens
        counts = np.array([h.batches if h else 0 for h in held_out], np.int32)
        with self.watchdog.watch("evaluate", "an evaluation"):
            nats = self.program.evaluate(self.program.effective(self.state, self.values), tokens, counts)
        seconds, out = time.monotonic() - start, {}
        for slot, trial in enumerate(self.slots):
            if trial and (sequences := held_out[slot]):
                result = sequences.result(nats[slot, : sequences.batches])
                trial.seconds += seconds / len(due)
                if not math.isfinite(result.loss_nats):
                    trial.status = "diverged"
                    continue
                row = {"step": trial.step, "tokens": trial.step * trial.run.batch_tokens}
                row |= {"eval_loss": result.loss_nats, "eval_loss_sem": result.loss_nats_sem}
                trial.metrics.append(row | {"eval_bits_per_byte": result.bits_per_byte})
                out[trial.fingerprint] = result
        return out

    def _save(self, due: Sequence[Trial]) -> None:
        if due:
            self._check_held(due)
        for slot, trial in enumerate(self.slots):
            if trial in due and trial.saved != trial.step:
                trial.checkpoints.save(self.program.take(self.state, slot), trial.step, trial.notes)
                trial.saved = trial.step
        if due:
            self._last_save = time.monotonic()

    def _finish(self, trial: Trial, reason: str | None, results: dict[str, Any]) -> None:
        trial.metrics.close()
        trial.checkpoints.close()
        status, program = trial.status, self.program
        mesh = "x".join(f"{name}={size}" for name, size in program.mesh.shape.items() if size > 1) or "1"
        results |= {"steps_done": trial.step, "wall_seconds": round(trial.seconds, 3)}
        results |= lineages.columns(trial.lineage) | (trial.spikes.columns() if trial.spikes else {})
        results |= {"packing": program.packing, "packing_trials": len(self.trials), "packing_mesh": mesh}
        manifests = tuple(m.fingerprint for m in trial.manifests)
        record = records.make(trial.run, trial.fingerprint, manifests, status, reason, results)
        self._check_held([trial])
        if hosts.first():
            records.write(trial.directory, record)
        trial.status = status + " and recorded"
        event = {"event": "record", "fingerprint": trial.fingerprint, "status": status}
        self.report(event | {"loss_nats": results.get("loss_nats")})
