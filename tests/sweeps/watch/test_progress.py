"""What is done, left, spent and to come, in numbers that follow by hand."""

import json
import pathlib
from typing import Any

import pytest

from experiments.run import identity
from experiments.store import record
from sweeps.study.grid import cases
from sweeps.watch import progress
from sweeps.watch.progress import Progress, Totals
from sweeps.work.workdir import Workdir
from tests.support.plans import SMALL
from tests.support.studies import nodes_of

HOUR = 3600.0


def one(flops_done: float, flops_left: float, **more: Any) -> Progress:
    """A run on v5e chips that has taken an hour of one of them."""
    values: dict[str, Any] = {
        "step": 1,
        "steps": 1,
        "flops": flops_done + flops_left,
        "running": False,
        "tokens_per_second": 10.0,
        "flops_per_second": None,
        "mfu": None,
        "chip_seconds": HOUR,
        "devices": 1,
        "device": "TPU v5 lite",
        "chip": "v5e",
        "forecast": None,
    }
    return Progress(flops_done=flops_done, flops_left=flops_left, **(values | more))


def totals(tmp_path: pathlib.Path, *runs: Progress, target: str = "v5e-16") -> Totals:
    """Of runs beside a plan of 8 chip-hours for 24 dollars."""
    plan = {"hash": "x", "target": target, "totals": {"price_usd": 24.0, "chip_hours": 8.0}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    return progress.totals(Workdir(tmp_path), runs)


def test_hours_to_come_are_those_of_what_is_left(tmp_path: pathlib.Path):
    """Two hours for 80 FLOPs: 40 that are left take one. At 3 dollars that is 6 spent, 3 to come."""
    found = totals(tmp_path, one(60.0, 0.0), one(20.0, 40.0))
    assert (found.flops, found.flops_done, found.flops_left) == (120, 80, 40)
    assert (found.chip_hours_spent, found.chip_hours_left) == (2.0, 1.0)
    assert (found.price_usd_spent, found.price_usd_left) == (6.0, 3.0)


def test_a_price_is_of_its_own_chips(tmp_path: pathlib.Path):
    """An hour of a v5e and ten of CPU cores: three dollars. What is left is priced at the pace of the v5e."""
    cores = one(10.0, 30.0, chip_seconds=10 * HOUR, device="cpu", chip=None)
    found = totals(tmp_path, one(60.0, 0.0), cores)
    assert found.chip_hours_spent == 11
    assert (found.price_usd_spent, found.price_usd_left) == (3.0, 1.5)
    without = totals(tmp_path, cores)
    assert (without.price_usd_spent, without.price_usd_left) == (None, None)
    other = totals(tmp_path, one(60.0, 0.0), target="v6e-16")
    assert (other.price_usd_spent, other.price_usd_left) == (None, None)


def test_what_is_to_come_before_the_first_run_is_the_plans(tmp_path: pathlib.Path):
    nothing = one(0.0, 50.0, chip_seconds=0.0, device=None, chip=None)
    found = totals(tmp_path, nothing, nothing)
    assert (found.chip_hours_spent, found.chip_hours_left) == (0.0, 8.0)
    assert (found.price_usd_spent, found.price_usd_left) == (0.0, 24.0)


def test_speeds_are_summed_over_what_is_running(tmp_path: pathlib.Path):
    running = one(20.0, 40.0, running=True, flops_per_second=4.0)
    found = totals(tmp_path, one(60.0, 0.0), running)
    assert found.tokens_per_second == 10
    assert found.seconds_left == 10


@pytest.mark.parametrize(
    ("status", "columns", "done", "left"),
    [
        ("complete", {"steps_done": 10, "wall_seconds": 5.0}, 1.0, 0.0),
        ("complete", {"steps_done": 4, "wall_seconds": 5.0, "censored": 1}, 0.4, 0.0),
        ("diverged", {"steps_done": 2, "wall_seconds": 5.0}, 0.2, 0.0),
        ("failed", {}, 0.3, 0.0),
        ("waiting", None, 0.3, 0.7),
    ],
)
def test_only_what_was_trained_is_done(
    status: str, columns: dict[str, Any] | None, done: float, left: float, tmp_path: pathlib.Path
):
    """A failed run has trained what its log says, three of ten steps; nothing of it is left to a launch."""
    (node,) = nodes_of(cases(SMALL))
    held = Workdir(tmp_path)
    folder = pathlib.Path(held.run_dir(node.fingerprint))
    folder.mkdir(parents=True)
    (folder / "machine.json").write_text(json.dumps({"device": "TPU7x", "devices": 4}))
    log = {"step": 3, "tokens": 3072, "loss": 2.0, "seconds": 2.0, "tokens_per_second": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(log) + "\n")
    if columns is not None:
        record.write(folder, record.make(node.run, node.fingerprint, (), status, None, columns))
    point = {"run": identity.to_dict(node.run)}
    found = progress.of_run(held, node.fingerprint, point, held.state(node.fingerprint))
    assert found is not None
    assert found.flops_done == pytest.approx(done * found.flops)
    assert found.flops_left == pytest.approx(left * found.flops)
    seconds = 5.0 if columns else 2.0
    assert found.chip_seconds == 2 * seconds, "jax sees two devices of each of the two chips"
    steps = found.step
    assert found.tokens_per_second == pytest.approx(steps * 1024 / seconds)
