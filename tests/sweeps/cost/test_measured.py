"""What is planned from measured steps, in numbers that follow by hand. The steps themselves are taken in test_launch.py."""

import dataclasses

import pytest

from experiments.benchmarks.chips import load_chips
from experiments.cli import InputError
from sweeps.cost import machines, measured
from sweeps.cost.measured import Timing
from sweeps.cost.signature_plan import by_signature
from sweeps.executors import local
from sweeps.study.cells import Cell
from sweeps.study.grid import cases, over, product
from sweeps.work import populations
from tests.support.plans import SMALL, study_of

STEPS = (10, 20, 30, 40, 50)


@pytest.fixture
def group() -> list[Cell]:
    """Five runs of one signature, of 10 to 50 steps."""
    sizes = {key: value for key, value in SMALL.items() if key != "tokens"}
    grid = product(cases(sizes), over("tokens", *(1024 * steps for steps in STEPS)))
    (found,) = by_signature(study_of(grid).cells)
    return found


def test_a_signature_on_cores(group, monkeypatch):
    """Three cores share five runs: two of them at a time in a program, and three programs' memory in the machine."""
    trials_timed = []

    def time_steps(run, trials, execution, devices) -> Timing:
        trials_timed.append((trials, execution.cpu_devices, len(devices)))
        return Timing(True, step_seconds=0.5, peak_bytes=1000, compile_seconds=8.0)

    monkeypatch.setattr(measured, "time_steps", time_steps)
    monkeypatch.setattr(local, "memory_bytes", lambda: 3000)
    found = measured._plan_on_core(group, cores=3)
    assert trials_timed == [(2, 1, 1)]
    assert (found.trials_per_program, found.programs) == (2, 3)
    assert found.seconds == pytest.approx(0.5 * sum(STEPS) + 8.0 + populations.START_SECONDS)
    assert found.fits
    monkeypatch.setattr(local, "memory_bytes", lambda: 2999)
    assert not measured._plan_on_core(group, cores=3).fits


def test_a_signature_on_gpus(group, monkeypatch):
    """Programs one after the other, each as long as its longest run, compiled and started by itself."""
    monkeypatch.setattr(measured, "time_steps", lambda *_: Timing(True, 0.5, 1000, 8.0))
    target = machines.target("h100-2")
    found = measured._plan_on_gpus(group, target, load_chips()["h100"], devices=[None, None])
    trials = found.trials_per_program
    longest = sorted(STEPS, reverse=True)[::trials]
    assert found.programs == len(longest)
    assert found.seconds == pytest.approx(0.5 * sum(longest) + len(longest) * (8.0 + populations.START_SECONDS))
    flops = found.flops_per_step * trials
    assert found.mfu_bound == pytest.approx(flops / 0.5 / (2 * load_chips()["h100"].peak_flops))
    monkeypatch.setattr(measured, "time_steps", lambda *_: Timing(False, 0.0, None, 8.0))
    too_large = measured._plan_on_gpus(group, target, load_chips()["h100"], devices=[None, None])
    assert not too_large.fits and too_large.mfu_bound is None


@dataclasses.dataclass
class Device:
    """As jax names it."""

    device_kind: str


def test_a_gpu_target_has_the_devices_of_its_kind(monkeypatch):
    """Not more than it says, none of another kind, and no fewer."""
    import jax

    here = [Device("NVIDIA H100 80GB HBM3"), Device("NVIDIA A100-SXM4-80GB"), Device("NVIDIA H100 80GB HBM3")]
    monkeypatch.setattr(jax, "devices", lambda kind: here)
    assert measured.gpus(machines.target("h100-2")) == [here[0], here[2]]
    assert measured.gpus(machines.target("h100-1")) == [here[0]]
    with pytest.raises(InputError, match="needs a machine with 3 of them; here jax sees 2"):
        measured.gpus(machines.target("h100-3"))


def test_a_step_is_timed_by_all_that_were_taken(group, monkeypatch):
    """After the first ones, which are warm-up, dispatches are taken until half a second has passed."""
    import jax

    taken = []

    class Program:
        slots = 1
        steps_per_dispatch = 4
        memory_bytes = 7
        compile_seconds = 1.0

        def __init__(self, *_): ...

        def compile(self, _):
            return self

        def init(self, _): ...

    class Stepper:
        def __init__(self, *_): ...

        def take(self, steps: int) -> float:
            taken.append(steps)
            return 0.1 * steps  # seconds

    from experiments.training import program

    monkeypatch.setattr(program, "Program", Program)
    monkeypatch.setattr(measured, "_Stepper", Stepper)
    found = measured.time_steps(group[0].run, 1, group[0].execution, jax.devices()[:1])
    assert taken == [2, 4, 4]
    assert found == Timing(True, pytest.approx(0.1), 7, 1.0)
