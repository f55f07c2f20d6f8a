"""Early stopping: who may stop whom, what it costs the winner of a group (nothing), and what it saves."""

import json
import math
import pathlib

import numpy as np
import pandas as pd
import pytest

import analysis as lab
from experiments.alive import stops
from experiments.run import freeze, schema
from experiments.store import record
from sweeps.executors import local
from sweeps.study import file
from sweeps.work import curves, launch, rivals, stopping
from sweeps.work.curve_log import CurveLog
from sweeps.work.curves import Curve
from sweeps.work.replay import Recorded, replay
from sweeps.work.workdir import Node, Workdir
from tests.support.recorded_curves import DECAYS, planted, recorded, rival

STEPS = 10 * np.arange(1, 201)


def power_law(floor: float, scale: float = 8.0, points: int = 200, seed: int = 0) -> np.ndarray:
    """A curve with a little noise, a point for every tenth of up to 2,000 steps."""
    noise = np.random.default_rng(seed).normal(0, 0.01, points)
    return floor + scale * STEPS[:points] ** -0.5 + noise


# --- the law


def test_the_law_of_curves_is_plateau():
    """The same power law, fitted to the same points, as the law of that name in analysis."""
    losses = 2.0 + 6.0 * STEPS**-0.4
    found = curves.power_law(Curve(STEPS, losses))
    kept = curves.WARMUP * STEPS[-1] < STEPS
    table = pd.DataFrame({"step": STEPS[kept], "loss": losses[kept]})
    law = lab.fit(table, "plateau", X="step", loss="loss", bootstrap=0).law
    assert found == pytest.approx((law.E, law.A, law.alpha), rel=1e-3)


# --- who may stop whom


def test_a_rival_that_is_over_stops_what_cannot_reach_it():
    whole = rival("good", power_law(2.0), 2000, over=True)
    found = rivals.dominated(rival("bad", power_law(3.0, points=60), 2000), [whole])
    assert found is not None
    assert found.by.key == "good"
    assert "of good" in found.why
    assert rivals.dominated(rival("near", power_law(2.0, points=60, seed=1), 2000), [whole]) is None


@pytest.mark.parametrize("over", [True, False])
def test_a_rival_that_is_not_alive_stops_nobody(over: bool):
    """It has diverged, or was stopped itself: what its curve promised before is no longer to be had."""
    bad = rival("bad", power_law(3.0, points=60), 2000)
    better = rival("better", power_law(2.0, points=200 if over else 60), 2000, over=over)
    assert rivals.dominated(bad, [better]) is not None
    gone = rival("better", power_law(2.0, points=200 if over else 60), 2000, over=over, alive=False)
    assert rivals.dominated(bad, [gone]) is None


def test_a_decay_is_worth_more_to_a_larger_rate():
    """From the middle on a rival fell by 0.25 + 0.07: with four times its rate a run may fall by 1.3, else by 0.25."""
    decay = 0.25 * np.clip((STEPS - 1400) / 400, 0, 1)
    whole = rival("small", power_law(2.0) - decay, 2000, rate=1e-3, decays=True, over=True)

    def is_dominated(floor: float, rate: float, other_options: str = "") -> bool:
        curve = power_law(floor, points=100, seed=1)
        run = rival("run", curve, 2000, rate=rate, decays=True, other_options=other_options)
        return rivals.dominated(run, [whole]) is not None

    assert is_dominated(2.3, 1e-3)
    assert not is_dominated(2.9, 4e-3)
    assert is_dominated(4.0, 4e-3)
    assert not is_dominated(2.3, 1e-3, "weight_decay=1"), "twice what the rival fell by"
    assert is_dominated(3.0, 1e-3, "weight_decay=1")


def test_before_the_decay_a_larger_rate_is_stopped_by_nobody_who_is_under_way():
    ahead = rival("small", power_law(2.0, points=100), 2000, rate=1e-3, decays=True)
    behind = rival("large", power_law(3.0, points=100), 2000, rate=1e-2, decays=True)
    assert rivals.dominated(behind, [ahead]) is None
    slow = rival("slow", power_law(3.0, points=100), 2000, rate=1e-4, decays=True)
    assert rivals.dominated(slow, [ahead]) is not None


def test_runs_are_compared_at_the_same_step():
    """A rival in the middle of its decay is compared by what it was when it was as far as the run."""
    decayed = power_law(2.0, points=190) - 1.0 * (STEPS[:190] > 1500)
    ahead = rival("ahead", decayed, 2000)
    assert rivals.dominated(rival("like it", power_law(2.0, points=100, seed=2), 2000), [ahead]) is None


@pytest.mark.parametrize("change", [{"schedule.name": "wsd", "schedule.decay_tokens": 2560}, {"schedule.final": 0.0}])
def test_only_runs_of_one_schedule_are_compared(tiny, change):
    one = freeze.freeze(tiny())[0]
    assert stopping.group_of(one) == stopping.group_of(freeze.freeze(tiny(**{"opt.lr": 1e-5}))[0])
    assert stopping.group_of(one) != stopping.group_of(freeze.freeze(tiny(**change))[0])


# --- what it costs and saves


@pytest.mark.parametrize("slots", [1, 2, 99])
def test_no_winner_of_the_recorded_studies_is_stopped(slots: int):
    """And compute is saved: in any order, a few at a time or all together."""
    steps = 0
    trained = 0
    for name, group in recorded().items():
        for order in (1, -1):
            found = replay(group[::order], slots)
            assert not found.winner_stopped, name
            assert found.regret == 0.0, name
            steps += found.steps
            trained += found.steps_trained
    assert trained < 0.9 * steps


@pytest.mark.parametrize("schedule", DECAYS)
def test_no_winner_of_planted_groups_is_stopped(schedule: str):
    """Curves that cross when the rate decays, noise, rates that diverge at once or late."""
    draw = np.random.default_rng(1)
    steps = 0
    trained = 0
    for number in range(24):
        group = planted(draw, schedule)
        found = replay(group, slots=(1, 2, 6)[number % 3])
        if found.winner is not None:
            assert not found.winner_stopped, number
        steps += found.steps
        trained += found.steps_trained
    assert trained < steps


def test_what_was_stopped_for_a_run_that_diverges_is_trained_on():
    """The best run dominates both others, and diverges at three quarters: the better of the two is trained to its end."""
    best = Recorded(rival("best", power_law(1.0, points=150), 2000), math.nan)
    good = Recorded(rival("good", power_law(2.0, seed=1), 2000), 2.2)
    poor = Recorded(rival("poor", power_law(3.0, seed=2), 2000), 3.2)
    found = replay([best, good, poor], slots=3)
    assert found.winner == "good"
    assert found.stopped == ("poor",)
    assert found.steps_trained < found.steps


# --- in a workdir


def nodes_of(tiny, *rates: float, steps: int = 2000) -> dict[float, Node]:
    """Runs of a group by their learning rates."""
    found = {}
    for number, rate in enumerate(rates):
        run = freeze.freeze(tiny(tokens=256 * steps, **{"opt.lr": rate, "schedule.name": "constant"}))[0]
        found[rate] = Node(f"{number:016x}", f"lr={rate}", run, schema.Execution(), ())
    return found


def write_curve(held: Workdir, node: Node, losses: np.ndarray) -> None:
    folder = pathlib.Path(held.run_dir(node.fingerprint))
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": int(step), "loss": float(loss)} for step, loss in zip(STEPS, losses, strict=False)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_record(held: Workdir, node: Node, status: str, reason: str | None = None, **columns: object) -> None:
    made = record.make(node.run, node.fingerprint, (), status, reason, dict(columns))
    record.write(held.run_dir(node.fingerprint), made)


def asked(held: Workdir, nodes: dict[float, Node]) -> set[float]:
    return {rate for rate, node in nodes.items() if stops.asked(held.run_dir(node.fingerprint))}


@pytest.mark.parametrize("end", ["diverged", "failed", "stopped"])
def test_a_rival_that_has_come_to_a_bad_end_decides_nothing(tiny, tmp_path, end: str):
    """It would dominate the other, were it alive: its record says that it is not."""
    nodes = nodes_of(tiny, 1e-2, 1e-3)
    held = Workdir(tmp_path)
    write_curve(held, nodes[1e-2], power_law(2.0, points=60))
    write_curve(held, nodes[1e-3], power_law(3.0, points=60))
    running = [nodes[1e-3]]
    if end == "stopped":
        write_record(held, nodes[1e-2], "complete", "stopped at about step 600: …", censored=1)
    else:
        write_record(held, nodes[1e-2], end)
    stopping.Stopping(held, list(nodes.values()), True, False).look(running)
    assert asked(held, nodes) == set()
    (held.run_dir(nodes[1e-2].fingerprint) / "record.json").unlink()
    stopping.Stopping(held, list(nodes.values()), True, False).look(running)
    assert asked(held, nodes) == {1e-3}


def test_who_is_stopped_in_a_look_decides_no_more_in_it(tiny, tmp_path):
    """Three runs: each but the best is stopped, and for the best one that was not."""
    nodes = nodes_of(tiny, 1e-2, 1e-3, 1e-4)
    held = Workdir(tmp_path)
    for floor, node in zip((2.0, 3.0, 4.0), nodes.values(), strict=True):
        write_curve(held, node, power_law(floor, points=60))
    stopping.Stopping(held, list(nodes.values()), True, False).look(list(nodes.values()))
    assert asked(held, nodes) == {1e-3, 1e-4}
    for rate in (1e-3, 1e-4):
        found = stops.asked(held.run_dir(nodes[rate].fingerprint))
        assert found is not None
        assert found.reason.endswith("of lr=0.01")


def test_runs_are_trained_on_when_their_rival_has_diverged(tiny, tmp_path):
    """Both were stopped; of those, the ones that no run which was trained to its end dominates."""
    nodes = nodes_of(tiny, 1e-1, 1e-2, 1e-3)
    held = Workdir(tmp_path)
    best, good, poor = nodes.values()
    write_curve(held, best, power_law(1.0, points=60))
    write_record(held, best, "diverged")
    for node, floor in ((good, 2.0), (poor, 3.0)):
        write_curve(held, node, power_law(floor, points=60))
        write_record(held, node, "complete", f"{stopping.STOPPED} 600: …", censored=1)
    runs = list(nodes.values())
    assert stopping.unjustified(held, runs) == [good, poor], "nobody was trained to the end"
    write_curve(held, good, power_law(2.0))
    write_record(held, good, "complete")
    assert stopping.unjustified(held, runs) == []
    write_record(held, good, "complete", "enough for me", censored=1)
    assert stopping.unjustified(held, runs) == [poor], "what somebody has asked for stays"


def test_a_curve_is_read_on_from_where_it_was_read(tiny, tmp_path):
    """New rows, half a row, and rows that were taken back after a spike."""
    (node,) = nodes_of(tiny, 1e-2).values()
    held = Workdir(tmp_path)
    log = CurveLog(held.run_dir(node.fingerprint))
    assert log.read().last == 0
    write_curve(held, node, power_law(2.0, points=5))
    assert log.read().last == 50
    path = pathlib.Path(held.run_dir(node.fingerprint)) / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 60, "loss": null}\n{"step": 70, "lo')
        file.flush()
        assert list(np.isfinite(log.read().losses)) == [True] * 5 + [False]
        file.write('ss": 2.5}\n')
    assert log.read().last == 70
    write_curve(held, node, power_law(2.0, points=3))
    assert list(log.read().steps) == [10, 20, 30]


@pytest.mark.slow
def test_a_launch_trains_on_what_was_stopped_for_a_run_that_diverged(corpus, data_root, tmp_path):
    """The command ends with somebody of the group trained to the end, whatever the records were that it found."""
    (tmp_path / "study.py").write_text(
        '"""Which rate?"""\nfrom sweeps.study.grid import cases, over, product\n'
        "def get_study():\n"
        "    base = cases({'model.width': 16, 'model.depth': 1, 'model.heads': 1, 'batch_tokens': 256, 'seq_len': 32,\n"
        f"        'tokens': 256 * 200, 'data.corpus': ({str(corpus)!r},), 'evaluation.tokens': 2048,\n"
        "        'data.unique_tokens': 200_000,\n"
        f"        'execution.tensorboard': False, 'execution.data_root': {str(data_root)!r}}})\n"
        "    return product(base, over('opt.lr', 1e-2, 1e-3))\n"
    )
    loaded = file.load(str(tmp_path / "study.py"))
    held = Workdir(tmp_path / "w")
    held.root.mkdir()
    launch.launch(loaded, held, local.LocalExecutor(), progress=False)
    first, second = (point["fingerprint"] for point in held.read_study()["points"])
    for fingerprint, status in ((first, "diverged"), (second, "complete")):
        path = held.run_dir(fingerprint) / "record.json"
        found = json.loads(path.read_text())
        found |= {"status": status, "reason": f"{stopping.STOPPED} 100: …"}
        found["columns"]["censored"] = 1
        path.write_text(json.dumps(found))
    plain = launch.launch(loaded, held, local.LocalExecutor(), progress=False)
    assert plain.trained == 0, "nobody has asked for early stopping"
    again = launch.launch(loaded, held, local.LocalExecutor(), launch.Policy(stop_dominated=True), progress=False)
    assert again.trained == 1
    assert not held.state(second).censored
    assert held.state(second).status == "complete"
