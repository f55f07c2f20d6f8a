"""The loop: devices are kept busy, every second is in a share, and how a run is carried out changes no number of it."""

import math
import threading
import time

from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from experiments import train
from experiments.alive import hosts
from experiments.cli import InputError
from experiments.data.batches import Batches
from experiments.run import freeze
from experiments.store import record
from experiments.store.checkpoint import Checkpoints
from experiments.training import clock, compiling, packing, program
from experiments.training.dispatches import ReadAhead
from experiments.training.lookout import Lookout
from experiments.training.population import Population
from experiments.training.program import Program
from tests.support.training import arrays, rows, run

# --- host and devices at the same time


def watched(monkeypatch):
    """Note every dispatch that is given and every one that is waited for."""
    seen = []

    def note(name, plain):
        def noted(self, *arguments):
            seen.append(name)
            return plain(self, *arguments)

        return noted

    fetch = Population.fetch
    monkeypatch.setattr(Population, "enqueue", note("give", Population.enqueue))
    monkeypatch.setattr(Population, "fetch", note("wait", lambda self, metrics: fetch(metrics)))
    return seen


def test_the_next_dispatch_is_given_before_the_last_one_is_waited_for(tiny, tmp_path, monkeypatch):
    """But where something is due, all that is under way is waited for."""
    seen = watched(monkeypatch)
    run(tiny(tokens=256 * 40, **{"execution.steps_per_dispatch": 10}), tmp_path / "run")
    assert seen == ["give", "give", "wait", "give", "wait", "give", "wait", "wait"]
    seen.clear()
    options = {"execution.steps_per_dispatch": 10, "execution.eval_every_tokens": 256 * 20}
    run(tiny(tokens=256 * 40, **options), tmp_path / "evaluated")
    assert seen == ["give", "give", "wait", "wait"] * 2


def test_with_spikes_nothing_is_given_before_the_last_losses_are_seen(tiny, tmp_path, monkeypatch):
    seen = watched(monkeypatch)
    options = {"execution.steps_per_dispatch": 10, "spikes.factor": 50.0, "spikes.every_tokens": 256 * 20}
    run(tiny(tokens=256 * 40, **options), tmp_path / "run")
    assert seen == ["give", "wait"] * 4


def test_batches_are_read_beside_the_steps(tiny, tmp_path, monkeypatch):
    """All but the first dispatch's by another thread before they are asked for, and never more than one dispatch ahead."""
    asked = []
    read = []
    plain_get = ReadAhead.get
    plain_read = Population.read

    def get(self, request):
        asked.append(request)
        return plain_get(self, request)

    def noted(self, request):
        read.append((request, threading.current_thread().name))
        assert len(read) <= len(asked) + 2
        return plain_read(self, request)

    monkeypatch.setattr(ReadAhead, "get", get)
    monkeypatch.setattr(Population, "read", noted)
    options = {"execution.steps_per_dispatch": 7, "execution.eval_every_tokens": 256 * 20}
    run(tiny(tokens=256 * 50, **options), tmp_path / "run")
    assert [request for request, _ in read] == asked, "nothing is read twice or for nothing"
    assert all(name.startswith("reads ahead") for _, name in read)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reads ahead")]


def test_an_error_of_the_reading_thread_ends_the_run(tiny, tmp_path, monkeypatch):
    plain = Batches.records

    def records(self, start, stop):
        if start >= 8 * 20:
            raise OSError(5, "Input/output error")
        return plain(self, start, stop)

    monkeypatch.setattr(Batches, "records", records)
    with pytest.raises(OSError, match="Input/output error"):
        run(tiny(tokens=256 * 50, **{"execution.steps_per_dispatch": 5}), tmp_path / "run")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reads ahead")]
    steps = [row["step"] for row in rows(tmp_path / "run") if "loss" in row]
    assert max(steps) <= 20


def test_a_diverging_loss_is_found_at_its_step_however_much_is_under_way(tiny, tmp_path):
    """The same rows and the same record in dispatches of one step, of three, and of more than there are."""
    found = []
    for steps in (1, 3, 60):
        options = {"execution.steps_per_dispatch": steps, "execution.log_every_steps": 1, "opt.lr": 1e30}
        options |= {"opt.clip_norm": None, "schedule.warmup_tokens": 256 * 20, "schedule.warmup_start": 1e-33}
        made = run(tiny(tokens=256 * 60, **options), tmp_path / str(steps))
        found.append((made["status"], made["reason"], made["columns"]["steps_done"], rows(tmp_path / str(steps))))
    assert found[0][0] == "diverged" and 1 < found[0][2] < 60
    assert found[1] == found[0] and found[2] == found[0]


# --- where the time goes


class Hand:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def test_every_second_is_in_one_share_and_belongs_to_somebody(monkeypatch):
    hand = Hand()
    monkeypatch.setattr(clock, "time", hand)
    timer = clock.Clock()
    one = clock.nothing()
    other = clock.nothing()
    with timer.share("data"):
        hand.now += 4.0
    hand.now += 2.0
    with timer.share("step"):
        hand.now += 8.0
    timer.share_out([(one, 3.0), (other, 1.0)])
    assert one == {"data": 3.0, "step": 6.0, "evaluate": 0.0, "save": 0.0, "rest": 1.5}
    assert other == {"data": 1.0, "step": 2.0, "evaluate": 0.0, "save": 0.0, "rest": 0.5}
    with pytest.raises(KeyError), timer.share("save"):
        hand.now += 5.0
        raise KeyError
    timer.share_out([])
    timer.share_out_equally([other])
    assert other["save"] == 5.0 and sum(one.values()) + sum(other.values()) == hand.now - 100.0


SLOW = {
    "data": (Batches, "records"),
    "step": (Population, "enqueue"),
    "evaluate": (Program, "evaluate"),
    "save": (Checkpoints, "save"),
}
DELAY = 0.4


@pytest.mark.parametrize("share", SLOW)
def test_a_delay_is_in_the_share_of_what_was_late(tiny, tmp_path, monkeypatch, share):
    """A slow corpus, step, evaluation or disk: its share has the delay, and the record's and the log's time is all of it."""
    owner, name = SLOW[share]
    plain = getattr(owner, name)
    delays = []

    def late(*arguments, **named):
        delays.append(DELAY)
        time.sleep(DELAY)
        return plain(*arguments, **named)

    monkeypatch.setattr(owner, name, late)
    options = {"execution.steps_per_dispatch": 10, "execution.log_every_steps": 1}
    options |= {"execution.eval_every_tokens": 256 * 20, "execution.checkpoint_every_tokens": 256 * 20}
    start = time.monotonic()
    columns = run(tiny(tokens=256 * 40, **options), tmp_path / "run")["columns"]
    passed = time.monotonic() - start
    assert len(delays) >= 2
    # What is read ahead is late beside the steps; the first batches are not.
    waited = DELAY if share == "data" else sum(delays)
    assert columns[f"seconds_{share}"] >= waited
    shares = [columns[f"seconds_{one}"] for one in clock.ALL]
    assert sum(shares) == pytest.approx(columns["wall_seconds"], abs=0.01)
    assert waited <= columns["wall_seconds"] <= passed
    monkeypatch.undo()
    in_time = run(tiny(tokens=256 * 40, **options), tmp_path / "in_time")["columns"]
    assert all(record.is_of_the_day(name) for name, value in in_time.items() if value != columns[name])
    last = [row for row in read_rows(tmp_path / "run") if "loss" in row][-1]
    assert last["seconds"] == pytest.approx(sum(last[f"seconds_{one}"] for one in clock.ALL), abs=0.01)


def read_rows(directory):
    """Metrics with what depends on the clock."""
    from experiments.store import segments

    return segments.read(directory)


def test_tokens_per_second_count_what_happens_between_steps(tiny, tmp_path, monkeypatch):
    """From one dispatch's metrics to the next one's, evaluations and saves included."""
    plain = Checkpoints.save

    def late(*arguments):
        time.sleep(1.0)
        return plain(*arguments)

    monkeypatch.setattr(Checkpoints, "save", late)
    options = {"execution.steps_per_dispatch": 10, "execution.log_every_steps": 10}
    run(tiny(tokens=256 * 40, **options, **{"execution.checkpoint_every_tokens": 256 * 10}), tmp_path / "run")
    logged = [row for row in read_rows(tmp_path / "run") if "loss" in row and row["step"] > 10]
    assert all(2_560 / row["tokens_per_second"] >= 1.0 for row in logged)


def test_a_population_shares_all_of_its_time(tiny, tmp_path):
    """The sum over its runs is the wall time of the loop, to its last record."""
    configs = [tiny(seed=seed, tokens=256 * tokens) for seed, tokens in ((1, 30), (2, 20), (3, 10))]
    frozen = [freeze.freeze(config) for config in configs]
    folders = [epath.Path(tmp_path / str(seed)) for seed in range(3)]
    start = time.monotonic()
    train.train([one for one, _ in frozen], folders, frozen[0][1], lambda event: None)
    passed = time.monotonic() - start
    columns = [record.read(folder / "record.json")["columns"] for folder in folders]
    assert 0 < sum(one["wall_seconds"] for one in columns) <= passed
    for one in columns:
        assert one["wall_seconds"] > 0
        assert sum(one[f"seconds_{name}"] for name in clock.ALL) == pytest.approx(one["wall_seconds"], abs=0.01)


# --- how much at a time


class Device:
    def __init__(self, platform, device_kind):
        self.platform = platform
        self.device_kind = device_kind


def test_a_dispatch_is_about_a_quarter_of_a_second_of_the_devices_there_are(tiny):
    """By the chip, and by how many of them share a step; a trial more on each of them makes it as much shorter."""
    one, execution = freeze.freeze(tiny(**{"model.width": 1024, "model.depth": 8, "model.heads": 8}))
    flops_per_step = record.ledger(one)["flops_per_token"] * one.batch_tokens
    h200 = Device("gpu", "NVIDIA H200")
    for device, peak in ((h200, 989e12), (Device("tpu", "TPU v5 lite"), 197e12)):
        for share in (1.0, 4.0, 0.5):
            steps = packing.steps_per_dispatch(one, execution, device, share)
            exact = 0.25 * 0.4 * peak / (flops_per_step * share)
            assert steps == int(min(max(exact, 1), 64))
    program = Program(*freeze_of(tiny, "auto"))
    assert program.token_shape()[1] == program.steps_per_dispatch


def freeze_of(tiny, packing_name):
    one, execution = freeze.freeze(tiny(**{"execution.packing": packing_name}))
    return one, 2, execution


# --- several processes


def test_an_error_of_one_process_is_raised_when_all_know_of_it(monkeypatch):
    """The others would wait for it for ever in what they do together."""
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "anywhere", lambda flags: list(flags))
    lookout = Lookout([], None)
    with lookout.alone():
        raise OSError(28, "No space left on device")
    with lookout.alone():
        raise OSError(5, "the second error says less than the first")
    with pytest.raises(OSError, match="No space left"):
        lookout.agree()
    other = Lookout([], None)
    monkeypatch.setattr(hosts, "anywhere", lambda flags: [*flags[:-1], True])
    with pytest.raises(hosts.Failed, match="another process has failed"):
        other.agree([False])


def test_a_record_that_one_process_cannot_write_is_an_error_of_all(tiny, tmp_path, monkeypatch):
    """Also the last one, behind which nobody looks any more; and nobody is told that there is one."""

    def full(directory, made):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "write", full)
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "anywhere", lambda flags: list(flags))
    monkeypatch.setattr(hosts, "told", lambda value: value)
    monkeypatch.setattr(hosts, "together", lambda work, *kinds: work())
    events = []
    with pytest.raises(OSError, match="No space left"):
        run(tiny(), tmp_path / "run", events.append)
    assert "record" not in [event["event"] for event in events]


# --- how a run is carried out changes nothing

CARRIED_OUT = st.fixed_dictionaries(
    {},
    optional={
        "execution.steps_per_dispatch": st.integers(1, 40),
        "execution.eval_every_tokens": st.integers(1, 12_000),
        "execution.checkpoint_every_tokens": st.integers(500, 12_000),
        "execution.checkpoint_every_seconds": st.sampled_from([None, 0.01, 0.2]),
        "execution.keep_checkpoints": st.integers(1, 4),
        "execution.log_every_steps": st.integers(1, 50),
        "execution.packing": st.sampled_from(["map", "vmap"]),
        "execution.offload": st.just("none"),
        "execution.tensorboard": st.booleans(),
        "execution.stall_factor": st.sampled_from([None, 100.0]),
    },
)
SPIKED = 22  # the batch of noise


def poisoned(monkeypatch):
    """Random tokens in the place of one batch."""
    plain = Batches.records

    def records(self, start, stop):
        out = np.array(plain(self, start, stop))
        at = SPIKED * 8 - start
        if 0 <= at < len(out):
            out[at : at + 8] = np.random.default_rng(0).integers(0, 256, out[at : at + 8].shape)
        return out

    monkeypatch.setattr(Batches, "records", records)


def losses(directory):
    return {row["step"]: row["loss"] for row in rows(directory) if "loss" in row}


def assert_same_numbers(config, reference, directory, exact):
    """The losses of all steps that are logged, the final parameters, and what was left out."""
    made = run(config, directory)
    expected = record.read(reference / "record.json")
    assert made["fingerprint"] == expected["fingerprint"]
    for column in ("left_out", "rewinds", "steps_done"):
        assert made["columns"][column] == expected["columns"][column]
    theirs = losses(reference)
    mine = losses(directory)
    assert mine
    tolerance = 0.0 if exact else 1e-5
    for step, loss in mine.items():
        assert math.isclose(loss, theirs[step], rel_tol=tolerance), step
    if exact:
        step, state = arrays(directory)
        other_step, other = arrays(reference)
        assert step == other_step and state.keys() == other.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(np.asarray(array), np.asarray(other[name]), err_msg=name)
    assert made["columns"]["loss_nats"] == pytest.approx(expected["columns"]["loss_nats"], rel=tolerance or 1e-15)


RUN = {"tokens": 256 * 45, "spikes.factor": 10.0, "spikes.every_tokens": 256 * 8, "execution.log_every_steps": 1}


@pytest.fixture
def reference(tiny, tmp_path, monkeypatch):
    """A run with a spike, carried out in the plainest way: one step at a time, nothing in between."""
    poisoned(monkeypatch)
    # Tests compile plain code. Whether dispatches of any length agree to the bit is asked of the code that users have.
    monkeypatch.setitem(compiling.CPU_COMPILER, "xla_cpu_use_fusion_emitters", True)
    program._program.cache_clear()
    made = run(tiny(**RUN | {"execution.steps_per_dispatch": 1}), tmp_path / "reference")
    assert made["columns"]["left_out"] == "16:7"
    return tmp_path / "reference"


def check_examples(tiny, tmp_path, reference, examples):
    number = iter(range(1_000_000))

    @settings(max_examples=examples, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
    @given(how=CARRIED_OUT)
    def check(how):
        assert_same_numbers(tiny(**RUN | how), reference, tmp_path / f"run{next(number)}", exact=True)

    check()


def test_how_a_run_is_carried_out_changes_no_bit(tiny, tmp_path, reference):
    check_examples(tiny, tmp_path, reference, examples=6)


@pytest.mark.slow
def test_how_a_run_is_carried_out_changes_no_bit_of_many(tiny, tmp_path, reference):
    check_examples(tiny, tmp_path, reference, examples=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        {"execution.mesh.data": 2},
        {"execution.mesh.fsdp": 4, "execution.mesh.data": 2},
        {"execution.mesh.data": 1, "execution.microbatches": 4},
        {"execution.mesh.fsdp": 2, "execution.microbatches": 2, "execution.steps_per_dispatch": 9},
    ],
)
def test_another_mesh_changes_no_number_beyond_rounding(tiny, tmp_path, reference, mesh):
    """Sums in another order: losses to 1e-5, and the same batches left out."""
    assert_same_numbers(tiny(**RUN | mesh), reference, tmp_path / "run", exact=False)


def test_a_run_that_is_interrupted_anywhere_is_the_run_that_is_not(tiny, tmp_path, reference):
    """Stopped before, at and behind the spike, at states that the clock had saved."""

    class Enough(Exception):
        pass

    options = RUN | {"execution.checkpoint_every_tokens": 256 * 3, "execution.steps_per_dispatch": 3}
    for steps in (9, 21, 33):

        def stop(event, steps=steps):
            if event["event"] == "progress" and event["done"] >= steps:
                time.sleep(1.0)  # what is being saved is saved
                raise Enough

        with pytest.raises(Enough):
            run(tiny(**options), tmp_path / "run", stop)
    assert_same_numbers(tiny(**options), reference, tmp_path / "run", exact=True)
    assert [row["step"] for row in rows(tmp_path / "run") if "loss" in row] == list(range(1, 46)), "each step once"


def test_training_leaves_no_thread_of_its_own_behind(tiny, tmp_path):
    """A notebook trains many times in one process."""
    before = {thread.ident for thread in threading.enumerate()}
    run(tiny(tokens=256 * 4), tmp_path / "a")
    with pytest.raises(InputError):
        run(tiny(tokens=256 * 4, **{"execution.mesh.data": 7}), tmp_path / "b")
    left = [thread.name for thread in threading.enumerate() if thread.ident not in before]
    assert not any(name == "watchdog" or name.startswith("reads ahead") for name in left), left
