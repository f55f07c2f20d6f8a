"""Curves and their forecasts, runs that are stopped early, loss spikes, the status table, the W&B mirror."""

import dataclasses
import json
import os
import subprocess
import sys
import time

from etils import epath
import numpy as np
import pytest

from experiments import prepare
from experiments.alive import looks, stops
from experiments.cli import InputError
from experiments.data import batches
from experiments.run import freeze, schema
from experiments.store import inherit, metrics, record, segments
from experiments.training import spikes
from experiments.training.trial import Trial
from sweeps.executors import local
from sweeps.study import file
from sweeps.watch import grid_table, overview, progress, status_table
from sweeps.work import curves, launch, stopping, workdir
from sweeps.work.curves import Curve
from tests.support.commands import run_command
from tests.support.launching import Launch
from tests.support.training import assert_same_run, rows, run

# --- forecasts


def planted(draw: np.random.Generator, last: int, noise: float):
    """A curve L = E + A t^-alpha with noise, up to step `last`; and its value at any step."""
    floor, scale, alpha = draw.uniform(1, 3), draw.uniform(2, 20), draw.uniform(0.2, 0.8)
    steps = np.arange(10, last + 1, 10)
    return steps, floor + scale * steps**-alpha + draw.normal(0, noise, len(steps)), lambda t: floor + scale * t**-alpha


def test_forecasts_of_planted_curves_hold_what_they_say():
    """At 20% of the run, 90% intervals hold the truth in about that share; without noise the truth is met."""
    draw, held, wide = np.random.default_rng(0), 0, []
    for _ in range(150):
        steps, losses, truth = planted(draw, 400, 0.03)
        found = curves.forecast(Curve(steps, losses), 2000)
        held += found.low <= truth(2000) <= found.high
        wide.append(found.high - found.low)
        assert found.low <= found.value <= found.high
    assert 0.85 <= held / 150 <= 0.99 and np.median(wide) < 0.4
    steps, losses, truth = planted(draw, 400, 0.0)
    assert curves.forecast(Curve(steps, losses), 2000).value == pytest.approx(truth(2000), abs=0.02)
    assert curves.forecast(Curve([1, 2], [3.0, 2.0]), 100) is None, "too little to say anything"
    assert curves.forecast(Curve(range(100), [float("nan")] * 100), 1000) is None


def test_what_a_decay_was_worth_is_learned_from_a_whole_curve():
    """A decay at the end, unknown to the power law, is found from a run that has been there."""
    steps = np.arange(10, 2001, 10)
    losses = 2 + 8 * steps**-0.5 - 0.3 * np.clip((steps - 1500) / 500, 0, 1)
    gain = curves.gain(Curve(steps, losses), 400, 2000)
    assert gain == pytest.approx(0.24, abs=0.03), "of its last tenth"


@pytest.mark.parametrize(
    ("curve", "diverges"),
    [
        (lambda t: 2 + 8 * t**-0.5, False),
        (lambda t: 2 + 8 * t**-0.5 + 3.0 * (np.abs(t - 900) < 30), False),  # a spike that it comes back from
        (lambda t: 2 + 8 * t**-0.5 + 6.0 * (t > 800), True),
        (lambda t: 2.5 + 0.0 * t, False),
        (lambda t: 2.5 + 0.002 * t, True),
        (lambda t: np.where(t < 150, 5 - t / 75, 40 * np.exp(np.random.default_rng(1).normal(0, 0.5, len(t)))), True),
    ],
)
def test_what_counts_as_diverging(curve, diverges: bool):
    """A rise that stays, also where it is noisier than high; not a spike, not noise."""
    steps = np.arange(1, 1001, 5)
    losses = curve(steps) + np.random.default_rng(0).normal(0, 0.03, len(steps))
    assert bool(curves.diverging(Curve(steps, losses))) == diverges


def test_a_plateau_is_not_diverging_however_often_it_is_looked_at():
    """Runs that have learned in their first tenth what they ever will, judged every few steps by noise alone."""
    for seed in range(40):
        losses = 2.3 + np.random.default_rng(seed).normal(0, 0.04, 300)
        assert not any(curves.diverging(Curve(range(end), losses[:end])) for end in range(40, 300, 20)), seed


def test_rivals_differ_in_the_optimizer_only(tiny):
    """Another size, length, seed or text makes runs that are never compared."""
    one = freeze.freeze(tiny())[0]
    assert stopping.group_of(one) == stopping.group_of(freeze.freeze(tiny(**{"opt.lr": 1e-5}))[0])
    for change in ({"model.width": 64}, {"tokens": 256 * 60}, {"seed": 1}, {"data.holdout": 0.1}):
        assert stopping.group_of(one) != stopping.group_of(freeze.freeze(tiny(**change))[0]), change


def test_a_dominated_run_is_asked_to_stop_and_others_are_not(tiny, tmp_path):
    """By the curves in the workdir alone: the best goes on, so do a close one, a parent and one that has just begun."""
    execution = schema.Execution()
    runs = {lr: freeze.freeze(tiny(tokens=256 * 1000, **{"opt.lr": lr}))[0] for lr in (1e-2, 1.1e-2, 1e-5, 2e-5, 3e-5)}
    nodes = {lr: workdir.Node(f"{i:016x}", f"lr={lr}", r, execution, ()) for i, (lr, r) in enumerate(runs.items())}
    held, steps = workdir.Workdir(tmp_path), np.arange(10, 301, 10)
    for lr, node in nodes.items():
        floor, last = (1.5 if lr > 1e-3 else 4.0), (300 if lr != 2e-5 else 100)
        noise = np.random.default_rng(0).normal(0, 0.01, len(steps))
        losses = floor + 4 * steps**-0.5 + noise
        lines = [
            json.dumps({"step": int(s), "loss": float(x)}) for s, x in zip(steps, losses, strict=True) if s <= last
        ]
        (tmp_path / "runs" / node.fingerprint).mkdir(parents=True)
        (tmp_path / "runs" / node.fingerprint / "metrics.jsonl").write_text("\n".join(lines) + "\n{half")
    judge = stopping.Stopping(held, list(nodes.values()), dominated=True, diverging=True)
    judge.needed = {nodes[3e-5].fingerprint}
    judge.look(list(nodes.values()))
    asked = {lr for lr, node in nodes.items() if (tmp_path / "runs" / node.fingerprint / "stop.json").exists()}
    assert asked == {1e-5}
    reason = json.loads((tmp_path / "runs" / nodes[1e-5].fingerprint / "stop.json").read_text())["reason"]
    assert "step 300" in reason and "lr=0.01" in reason


@pytest.mark.slow
def test_a_stopped_run_is_a_censored_row_and_can_be_finished(corpus, data_root, tmp_path, monkeypatch):
    """The bad learning rate ends early, saved and evaluated; finished later, it is the run that was never stopped."""
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.1)
    first_core = local.available_cores()[:1]
    monkeypatch.setattr(local, "available_cores", lambda: first_core)  # one worker, whose runs keep step
    (tmp_path / "study.py").write_text(
        '"""Which rate?"""\nfrom sweeps.study.grid import cases, over, product\n'
        "def get_study():\n"
        "    base = cases({'model.width': 16, 'model.depth': 1, 'model.heads': 1, 'batch_tokens': 256, 'seq_len': 32,\n"
        f"        'tokens': 256 * 2500, 'data.corpus': ({str(corpus)!r},), 'evaluation.tokens': 2048,\n"
        "        'data.unique_tokens': 200_000, 'execution.steps_per_dispatch': 25,\n"
        f"        'execution.tensorboard': False, 'execution.data_root': {str(data_root)!r}}})\n"
        "    return product(base, over('opt.lr', 1e-2, 1e-5))\n"
    )
    loaded, held = file.load(str(tmp_path / "study.py")), workdir.Workdir(tmp_path / "w")
    held.root.mkdir()
    outcome = launch.launch(loaded, held, local.LocalExecutor(), launch.Policy(stop_dominated=True), progress=False)
    assert outcome.counts == {"complete": 2}
    frame, _ = grid_table.build(held)
    by_rate = frame.set_index("lr")
    assert list(by_rate.loc[[1e-2, 1e-5], "censored"]) == [0, 1]
    assert 500 <= by_rate.loc[1e-5, "steps_done"] < 2500 == by_rate.loc[1e-2, "steps_done"]
    assert by_rate.loc[1e-5, "loss_nats"] > by_rate.loc[1e-2, "loss_nats"] and by_rate.loc[1e-5, "tokens"] == 256 * 2500
    assert "stopped at about step" in by_rate.loc[1e-5, "reason"]
    again = launch.launch(loaded, held, local.LocalExecutor(), progress=False)
    assert again.trained == 0, "a censored run is a result"
    done = launch.launch(loaded, held, local.LocalExecutor(), launch.Policy(retry_failed=True), progress=False)
    assert done.trained == 1
    whole = workdir.Workdir(tmp_path / "whole")
    whole.root.mkdir()
    launch.launch(loaded, whole, local.LocalExecutor(), progress=False)
    finished, expected = (grid_table.build(s)[0].set_index("lr") for s in (held, whole))
    # Packed alone, its sums are in another order than beside another run.
    assert list(finished["loss_nats"]) == pytest.approx(list(expected["loss_nats"]), rel=1e-6)
    assert "censored" not in finished


@pytest.mark.slow
@pytest.mark.parametrize(("place", "steps"), [("disk", 10_000), ("bucket", 40_000)])  # where curves are seen each 15 s
def test_a_launch_stops_what_is_dominated_and_what_diverges(corpus, data_root, tmp_path, request, place, steps):
    """The command as a user types it: a good rate is trained to its end, a small one is dominated, a huge one diverges."""
    folder = tmp_path / "w" if place == "disk" else request.getfixturevalue("store_folder")
    (tmp_path / "study.py").write_text(
        '"""Which rate?"""\nfrom sweeps.study.grid import cases, over, product\n'
        "def get_study():\n"
        "    base = cases({'model.width': 16, 'model.depth': 1, 'model.heads': 1, 'batch_tokens': 256, 'seq_len': 32,\n"
        f"        'tokens': 256 * {steps}, 'data.corpus': ({str(corpus)!r},), 'evaluation.tokens': 2048,\n"
        "        'data.unique_tokens': 200_000, 'execution.steps_per_dispatch': 10, 'opt.clip_norm': None,\n"
        "        'schedule.name': 'constant', 'schedule.warmup_tokens': 256 * 1_000,\n"
        f"        'execution.tensorboard': False, 'execution.data_root': {str(data_root)!r}}})\n"
        "    return product(base, over('opt.lr', 1e-2, 1e-5, 10.0))\n"
    )
    done = Launch(tmp_path / "study.py", folder, None)("--stop_dominated", "--stop_diverging", timeout=500)
    assert done.returncode == 0, done.stderr
    frame = grid_table.build(workdir.Workdir(folder))[0].set_index("lr")
    assert frame.loc[1e-2, "steps_done"] == steps > max(frame.loc[[1e-5, 10.0], "steps_done"])
    assert frame.loc[1e-2, "loss_nats"] < frame.loc[1e-5, "loss_nats"]
    assert list(frame.loc[[1e-2, 1e-5], "status"]) == ["complete", "complete"]
    assert list(frame.loc[[1e-2, 1e-5], "censored"]) == [0, 1]
    assert "above" in frame.loc[1e-5, "reason"] and "stopped at about step" in frame.loc[10.0, "reason"]
    if place == "disk":  # in a bucket its curve is first seen when it lies flat and high, and is dominated
        assert frame.loc[10.0, "status"] == "diverged" and frame.loc[10.0, "censored"] == 0


# --- spikes


def poison(monkeypatch, batch: int, size: int = 8):
    """Random tokens in the place of one batch."""
    plain = batches.Batches.records

    def records(self, start, stop):
        out = np.array(plain(self, start, stop))
        at = batch * size - start
        if 0 <= at < len(out):
            out[at : at + size] = np.random.default_rng(0).integers(0, 256, out[at : at + size].shape)
        return out

    monkeypatch.setattr(batches.Batches, "records", records)


SPIKY = {
    "execution.log_every_steps": 1,
    "execution.checkpoint_every_tokens": 256 * 40,
    "execution.steps_per_dispatch": 8,
}
REWOUND = {"spikes.factor": 10.0, "spikes.every_tokens": 256 * 40}


def test_a_spike_is_rewound_and_its_batches_left_out(tiny, tmp_path, monkeypatch):
    """One batch of noise: seen, skipped, recorded; the same after a stop in the middle; without the option it stays."""
    poison(monkeypatch, 95)
    on = SPIKY | REWOUND
    plain = run(tiny(tokens=256 * 140, **SPIKY), tmp_path / "plain")
    losses = [row["loss"] for row in rows(tmp_path / "plain") if "loss" in row]
    assert losses[95] > losses[94] + 1 and "rewinds" not in plain["columns"]
    found = run(tiny(tokens=256 * 140, **on), tmp_path / "on")
    assert found["columns"]["rewinds"] == 1 and found["columns"]["left_out"] == "80:16"
    kept = [row for row in rows(tmp_path / "on") if "loss" in row]
    assert [row["step"] for row in kept] == list(range(1, 141)), "each step once"
    assert max(row["loss"] for row in kept[60:]) < losses[94] + 0.5
    assert [row["loss"] for row in kept[:80]] == losses[:80], "the same up to where it went back to"

    class Enough(Exception):
        pass

    for steps in (104, 132):  # goes on from before the spike, and from a checkpoint that knows what was left out

        def stop(event, steps=steps):
            if event["event"] == "progress" and event["done"] >= steps:
                time.sleep(1.0)  # what is being saved is saved
                raise Enough

        with pytest.raises(Enough):
            run(tiny(tokens=256 * 140, **on), tmp_path / "resumed", stop)
    again = run(tiny(tokens=256 * 140, **on), tmp_path / "resumed")
    assert again["columns"]["left_out"] == "80:16"
    assert_same_run(tmp_path / "on", tmp_path / "resumed")


def test_a_child_reads_behind_what_its_parent_has_read(tiny, tmp_path, monkeypatch):
    """The parent left 16 batches out and so has read 16 further than its steps; nothing of that is read again."""
    poison(monkeypatch, 95)
    on = SPIKY | REWOUND | {"schedule.name": "constant"}
    parent = run(tiny(tokens=256 * 140, **on), tmp_path / "parent")
    assert parent["columns"]["left_out"] == "80:16"
    family = {"parent": parent["fingerprint"], "execution.parent_workdir": str(tmp_path / "parent")}
    child, execution = freeze.freeze(tiny(tokens=256 * 20, **on, **family))
    manifests = prepare.prepare(child.data, execution.data_root, progress=False)
    found = inherit.find(child, epath.Path(tmp_path / "child"), execution)
    trial = Trial(child, "x", epath.Path(tmp_path / "child"), manifests, execution, found)
    whole = batches.Batches(manifests, child.data, child.seq_len, child.batch, child.seed)
    np.testing.assert_array_equal(trial.sequences(0, 20), whole.records(156 * 8, 176 * 8))
    ((_, read),) = trial.lineage.reads
    assert read.sequences == 176 * 8, "and its own child behind that"


@pytest.mark.parametrize(
    "how",
    [
        {"execution.checkpoint_every_tokens": 256 * 7, "execution.keep_checkpoints": 1},
        {"execution.checkpoint_every_tokens": None, "execution.checkpoint_every_seconds": 1e-3},
        {"execution.checkpoint_every_tokens": None, "execution.checkpoint_every_seconds": None},
    ],
)
def test_where_a_spike_leads_back_depends_on_no_checkpoint(tiny, tmp_path, monkeypatch, how):
    """Saved seldom, often, by the clock, with one kept: the batches left out, the losses and the parameters are the same."""
    poison(monkeypatch, 35)
    on = SPIKY | {"spikes.factor": 10.0, "spikes.every_tokens": 256 * 10}
    found = run(tiny(tokens=256 * 50, **on), tmp_path / "one")
    assert found["columns"]["left_out"] == "30:6"
    other = run(tiny(tokens=256 * 50, **on | how), tmp_path / "other")
    assert other["fingerprint"] == found["fingerprint"] and other["columns"]["left_out"] == "30:6"
    assert_same_run(tmp_path / "one", tmp_path / "other")


def test_the_option_changes_nothing_where_there_is_no_spike(tiny, tmp_path):
    """Every loss, bit for bit."""
    run(tiny(tokens=256 * 60, **SPIKY), tmp_path / "off")
    found = run(tiny(tokens=256 * 60, **SPIKY | {"spikes.factor": 50.0}), tmp_path / "on")
    assert rows(tmp_path / "off") == rows(tmp_path / "on") and found["columns"]["rewinds"] == 0


def test_a_spike_that_must_stay_is_seen_alike_however_many_steps_come_at_a_time(tiny, tmp_path):
    """There is no text to put in its place. What the next losses are compared with does not depend on the dispatches."""
    one, execution = freeze.freeze(tiny(**REWOUND))
    manifests = prepare.prepare(one.data, execution.data_root, progress=False)
    there = batches.tokens_available(manifests, one.data, one.seq_len)
    whole = dataclasses.replace(one, tokens=there // one.batch_tokens * one.batch_tokens)
    losses = np.linspace(3, 2, 40)
    losses[20] = 9.0
    windows = []
    for size in (1, 7, 40):
        trial = Trial(whole, "x", epath.Path(tmp_path / str(size)), manifests, execution)
        for first in range(0, 40, size):
            assert trial.find_spike(first, losses[first : first + size]) is None
        assert trial.spikes is not None
        windows.append(list(trial.spikes.window))
    assert len(windows[0]) == 39
    assert windows[1] == windows[0] and windows[2] == windows[0]


def test_batches_after_several_spikes():
    """Numbers of batches: what was left out is jumped over, also where two spikes go back to one checkpoint."""
    seen = spikes.Spikes(5.0, 2, 10)
    assert seen.find(np.linspace(3, 2, 40)) is None and seen.find([2.0, 2.0, 9.0, 2.0]) == 2
    seen.skip(30, 42)
    assert [seen.batch_of(step) for step in (29, 30, 31)] == [29, 43, 44]
    seen.skip(30, 35)
    assert seen.batch_of(30) == 30 + 13 + 6 and seen.left_out == 19
    assert seen.find([9.0]) is None, "twice is enough"
    other = spikes.Spikes(5.0, 2, 10)
    other.recall(json.loads(json.dumps(seen.notes())))
    assert other == seen


def test_what_was_left_out_stays_left_out_behind_an_older_state():
    """Back to a state of before the last one: its batches are remembered as batches, not as steps, which shift."""
    seen = spikes.Spikes(5.0, 3, 10)
    seen.skip(10, 21)
    assert [seen.batch_of(step) for step in (9, 10)] == [9, 22]
    seen.skip(5, 15)
    assert seen.ranges == [(5, 28)] and seen.left_out == 23
    assert [seen.batch_of(step) for step in (4, 5, 6)] == [4, 28, 29]
    assert seen.columns() == {"rewinds": 2, "batches_left_out": 23, "left_out": "5:23"}


def test_notes_of_before_are_read():
    """Checkpoints that remember steps and counts, in the order in which they were left out."""
    seen = spikes.Spikes(5.0, 3, 10)
    seen.recall({"skips": [[30, 13], [30, 6], [60, 2]], "window": [2.0]})
    assert seen.rewinds == 3 and seen.left_out == 21 and seen.ranges == [(30, 49), (79, 81)]
    assert [seen.batch_of(step) for step in (29, 30, 59, 60)] == [29, 49, 78, 81]


# --- status


def test_status_of_running_waiting_and_tried_runs(undisturbed: Launch, tiny_study, tmp_path):
    """Speed, share and forecast of a run that is claimed by a live process; why another waits; what was spent."""
    subprocess.run(["cp", "-r", str(undisturbed.workdir), str(tmp_path / "w")], check=True)
    held = workdir.Workdir(tmp_path / "w")
    points = held.read_study()["points"]
    running, waiting = points[0]["fingerprint"], points[-1]["fingerprint"]
    for name in (running, waiting):
        (held.run_dir(name) / "record.json").unlink()
    log = held.run_dir(running) / "metrics" / "000001.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[: len(lines) // 2]) + '\n{"step": 1')
    held.claims.take([running], os.getpid(), "p")
    held.note_attempt(waiting, "node", "killed by SIGKILL")
    held.note_attempt(waiting, "preempted", "exit code 75")
    (tmp_path / "w" / "plan.json").write_text(
        json.dumps({"hash": "x", "target": "v5e-16", "totals": {"price_usd": 6.0, "chip_hours": 2.0}})
    )
    seen = overview.look(held)
    value = seen.to_json()
    line = status_table.summary(seen.totals)
    found = {run["fingerprint"]: run for run in value["runs"]}
    assert value["counts"] == {"complete": 1, "running": 1, "waiting": 1}
    assert "ended without a record 2 times (1 node, 1 preempted; last: exit code 75)" in found[waiting]["reason"]
    mine = value["progress"][running]
    assert 0.3 < mine["step"] / mine["steps"] < 0.7 and mine["tokens_per_second"] > 0 and mine["mfu"] is None
    assert mine["forecast"]["low"] <= mine["forecast"]["value"] <= mine["forecast"]["high"]
    sums = value["totals"]
    assert 0.5 < sums["flops_done"] / sums["flops"] < 1 and sums["seconds_left"] > 0
    assert sums["price_usd_spent"] is None and sums["price_usd_left"] is None, "CPU cores have no price of chips"
    assert sums["chip_hours_left"] > 0 and "to come" in line and "$" not in line
    (complete,) = [name for name, one in found.items() if one["status"] == "complete"]
    assert value["progress"][complete]["tokens_per_second"] > 0, "its mean"
    json.dumps(value, allow_nan=False)


def test_peaks_are_known_or_none():
    """By jax's names of devices; nothing is made up for a CPU."""
    known = {"TPU v5 lite": 197e12, "TPU v5p": 459e12, "TPU v6 lite": 918e12, "NVIDIA H100 80GB HBM3": 989e12}
    assert {kind: progress.peak_flops(kind) for kind in known} == known
    assert progress.peak_flops("cpu") is None and progress.peak_flops(None) is None


@pytest.mark.slow
def test_watch_follows_a_launch_to_its_end(tiny_study, tmp_path):
    """A real launch, a real --watch beside it: it ends by itself, with everything complete."""
    started = Launch(tiny_study, tmp_path / "w", "400")
    process = started.start()
    started.until(lambda: (tmp_path / "w" / "study.json").exists())
    command = ("sweeps.status", f"--workdir={tmp_path}/w", "--watch", "--seconds=0.2", f"--json={tmp_path}/s.json")
    done = run_command(*command, timeout=200)
    assert process.wait(60) == 0 and done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "s.json").read_text())["counts"] == {"complete": 3}
    process.communicate()


# --- mirrors


def test_a_mirror_that_is_not_installed_is_one_line(tiny, tmp_path, monkeypatch):
    """Only when it is asked for; the name of a project is checked."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"execution.wandb=p: wandb is not installed.*requirements-wandb.txt"):
        run(tiny(tokens=256 * 5, **{"execution.wandb": "p"}), tmp_path / "run")
    with pytest.raises(InputError, match="execution.wandb='../p'"):
        freeze.freeze(tiny(**{"execution.wandb": "../p"}))


def test_mirrors_see_every_row_and_may_fail(tmp_path, capsys):
    """TensorBoard's files are there; a mirror's rows are those of the log."""
    seen = []

    class Mirror:
        def add(self, row):
            seen.append(row)

        def close(self):
            seen.append("closed")

    log = metrics.Metrics(tmp_path, tensorboard=True, mirrors=[Mirror()])
    log.cut(0)
    for step in (1, 2, 3):
        log.append({"step": step, "tokens": 8 * step, "loss": 1.0 / step})
    log.rewind(1)
    log.append({"step": 2, "tokens": 16, "loss": 0.4})
    log.close()
    kept = segments.read(tmp_path)
    assert [(row["step"], row["loss"]) for row in kept] == [(1, 1.0), (2, 0.4)]
    assert [row if row == "closed" else row["step"] for row in seen] == [1, 2, 3, 2, "closed"]
    assert list((tmp_path / "tb").iterdir())


def log_of(tmp_path, *lines: str) -> metrics.Metrics:
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    return metrics.Metrics(epath.Path(tmp_path), tensorboard=False)


def test_a_line_that_cannot_be_read_takes_no_others_with_it(tmp_path, capsys):
    """It is left out and said so; a last line without an end is what a killed process leaves, and no news."""
    lines = ('{"step": 1, "loss": 3.0}\n', '{"st\n', "[]\n", '{"step": 4, "loss": 2.0}\n', '{"step": 5, "lo')
    log_of(tmp_path, *lines).cut(4)
    assert (tmp_path / "metrics" / "000000.jsonl").read_text() == lines[0] + lines[3]
    said = capsys.readouterr().err.splitlines()
    assert [line.partition("metrics.jsonl: ")[2] for line in said] == [
        "line 2 cannot be read and is left out",
        "line 3 cannot be read and is left out",
    ]


class Enough(Exception):
    pass


def test_a_run_that_is_resumed_where_it_was_evaluated_has_one_row_of_it(tiny, tmp_path):
    """Stopped behind the evaluation and the checkpoint of one step; the same command again evaluates there, and says it once."""
    options = {"execution.eval_every_tokens": 256 * 10, "execution.checkpoint_every_tokens": 256 * 10}

    def stop(event):
        if event["event"] == "progress" and event["done"] > 10:
            raise Enough

    with pytest.raises(Enough):
        run(tiny(tokens=256 * 30, **options), tmp_path / "run", stop)
    run(tiny(tokens=256 * 30, **options), tmp_path / "run")
    run(tiny(tokens=256 * 30, **options), tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "run") if "eval_loss" in row] == [10, 20, 30]
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_a_request_that_cannot_be_read_is_said_once(tiny, tmp_path, capsys):
    """The run goes on; a sound request later ends it."""
    path = tmp_path / "run" / "stop.json"
    path.parent.mkdir()
    path.write_text("{")

    def ask(event):
        if event["event"] == "progress" and event["done"] >= 30:
            stops.ask(epath.Path(path.parent), stops.Stop("complete", "seen enough"))

    found = run(tiny(tokens=256 * 60, **{"execution.steps_per_dispatch": 5}), path.parent, ask)
    assert found["reason"] == "seen enough" and 30 <= found["columns"]["steps_done"] < 60
    said = [line for line in capsys.readouterr().err.splitlines() if "asked to stop" in line]
    assert len(said) == 1 and f"{path} cannot be understood (JSONDecodeError)" in said[0]


@pytest.mark.parametrize("text", ["{", "[]", '{"status": "complete"}', '{"status": "failed", "reason": "no"}'])
def test_an_unreadable_request_is_named(tmp_path, text):
    (tmp_path / "stop.json").write_text(text)
    with pytest.raises(InputError, match=r"stop\.json"):
        stops.asked(epath.Path(tmp_path))


def test_requests_are_looked_for_on_object_stores_too(monkeypatch):
    """Now and then, as each look is a request: not at every dispatch."""
    asked = []
    monkeypatch.setattr(stops, "asked", lambda directory: asked.append(os.fspath(directory)))
    requests = stops.Requests(epath.Path("gs://bucket/run"))
    assert requests.look() is None and requests.look() is None
    assert asked == ["gs://bucket/run"]


def test_looks_are_spaced_out():
    seldom = looks.Looks(1e6)
    assert [seldom.due(), seldom.due()] == [True, False]
    always = looks.Looks(0.0)
    assert always.due() and always.due()


@pytest.mark.slow
def test_weights_and_biases_offline(tiny, tmp_path, monkeypatch):
    """The real package without a network: a run's folder is written, and its own numbers are those of a run without."""
    pytest.importorskip("wandb", reason="pip install -r requirements-wandb.txt")
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = {"execution.log_every_steps": 1, "execution.checkpoint_every_tokens": None}
    run(tiny(tokens=256 * 12, **options), tmp_path / "plain")
    run(tiny(tokens=256 * 12, **options, **{"execution.wandb": "tests"}), tmp_path / "mirrored")
    assert rows(tmp_path / "plain") == rows(tmp_path / "mirrored")
    (written,) = (tmp_path / "mirrored" / "wandb").glob("offline-run-*/*.wandb")
    assert (
        written.stat().st_size > 500
        and record.read(tmp_path / "mirrored" / "record.json")["fingerprint"] in written.name
    )
