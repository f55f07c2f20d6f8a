"""Checkpoints that nothing loses: faults of disks and formats, state restored where it is trained, what is kept."""

from collections.abc import Callable
import dataclasses
import json
import pathlib
import time
import zlib

from etils import epath
import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import train
from experiments.alive import hosts
from experiments.benchmarks import saves
from experiments.cli import AgainError, InputError, WorkError
from experiments.run import freeze
from experiments.store import checkpoint, record, seals, segments, stored_state
from experiments.store.train_state import TrainState
from experiments.training import filling, packing, population, program, trial
from tests.support.commands import run_command
from tests.support.training import rows, run, write_config

EVERY_TEN = {"execution.checkpoint_every_tokens": 256 * 10, "execution.log_every_steps": 1}
TOKENS = 256 * 40


@pytest.fixture
def interrupted(tiny, tmp_path):
    """The folder of a run of 40 steps that has its checkpoints of step 30 and 40, and no record yet."""
    folder = tmp_path / "run"
    run(tiny(tokens=TOKENS, **EVERY_TEN), folder)
    (folder / "record.json").unlink()
    return folder


def names(folder: pathlib.Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def arrays_of(checkpoint_folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that hold the data of a checkpoint's arrays."""
    return [path for path in checkpoint_folder.glob("state/ocdbt.process_*/d/*") if path.is_file()]


def flip(path: pathlib.Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- faults


def loop_of_links(path: pathlib.Path) -> Callable[[], None]:
    """Let the system refuse to open a file; return what lets it be read again."""
    kept = path.read_bytes()
    path.unlink()
    path.symlink_to(path)

    def mend() -> None:
        path.unlink()
        path.write_bytes(kept)

    return mend


@pytest.mark.parametrize("where", ["state/manifest.ocdbt", "seals/0.json", "meta/metadata"])
def test_a_disk_that_does_not_answer_costs_nothing(tiny, tmp_path, interrupted, where):
    """The run stops with 75, nothing is renamed or deleted, and the same command then goes on where it was."""
    config = write_config(tiny, tmp_path / "config.py", tokens=TOKENS, **EVERY_TEN)
    command = ("experiments.train", f"--config={config}", f"--workdir={interrupted}")
    mend = loop_of_links(interrupted / "checkpoints" / "40" / where)
    log = segments.read(interrupted)
    done = run_command(*command)
    assert done.returncode == 75, done.stderr
    assert "checkpoints/40 cannot be read now" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert names(interrupted) == {"30", "40"} and not (interrupted / "record.json").exists()
    mend()
    assert run_command(*command).returncode == 0
    assert segments.read(interrupted)[: len(log)] == log, "no step was taken again"


def test_a_checkpoint_of_another_format_stops_the_run(tiny, tmp_path, interrupted, capsys):
    """A later version keeps Adam's mu in bfloat16: the field and both versions are named, and nothing is touched."""
    path = interrupted / "checkpoints" / "40" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    drifted = next(name for name in meta["leaves"] if ".mu" in name)
    meta["leaves"][drifted]["dtype"] = "bfloat16"
    meta["written_by"]["optax"] = "9.9.9"
    path.write_text(json.dumps(meta))
    with pytest.raises(WorkError) as stopped:
        run(tiny(tokens=TOKENS, **EVERY_TEN), interrupted)
    text = str(stopped.value)
    assert drifted in text and "bfloat16" in text and "float32" in text
    assert "optax 9.9.9" in text and f"optax {checkpoint.versions()['optax']}" in text
    assert names(interrupted) == {"30", "40"}
    assert not (interrupted / "record.json").exists()


@pytest.mark.parametrize(
    ("written", "instead"),
    [('"shape"', '"shapf"'), ('"leaves": {', '"leaves": [], "x": {'), ('"notes": {', '"notes": null, "x": {')],
)
def test_what_is_kept_beside_the_arrays_is_looked_at_as_well(tiny, interrupted, written, instead):
    path = interrupted / "checkpoints" / "40" / "meta" / "metadata"
    text = path.read_text()
    assert written in text
    path.write_text(text.replace(written, instead, 1))
    with pytest.raises(WorkError, match=r"checkpoints/40/meta is not what was written"):
        run(tiny(tokens=TOKENS, **EVERY_TEN), interrupted)
    assert names(interrupted) == {"30", "40"}


def test_an_unreadable_checkpoint_stops_the_run_until_its_owner_decides(tiny, tmp_path, interrupted):
    """Cut short, it might be on its way back from a tape: what to do is said, and done when it is renamed."""
    newest = interrupted / "checkpoints" / "40"
    for path in arrays_of(newest):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WorkError, match=r"40 cannot be read .*rename it to 40.damaged"):
        run(tiny(tokens=TOKENS, **EVERY_TEN), interrupted)
    assert names(interrupted) == {"30", "40"}
    newest.rename(newest.parent / "40.damaged")
    starts = []
    run(tiny(tokens=TOKENS, **EVERY_TEN), interrupted, starts.append)
    assert starts[0] == {"event": "start", "runs": starts[0]["runs"], "steps": 40, "done": 30}
    assert names(interrupted) == {"30", "40", "40.damaged"}


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(tiny, tmp_path, interrupted, capsys):
    for step in ("30", "40"):
        for path in arrays_of(interrupted / "checkpoints" / step):
            flip(path)
    contents = {path.name: path.read_bytes() for path in arrays_of(interrupted / "checkpoints" / "30")}
    for _ in range(2):
        with pytest.raises(WorkError, match="damaged checkpoints only"):
            run(tiny(tokens=TOKENS, **EVERY_TEN), interrupted)
        assert names(interrupted) == {"30.damaged", "40.damaged"}
    assert contents == {path.name: path.read_bytes() for path in arrays_of(interrupted / "checkpoints" / "30.damaged")}
    assert capsys.readouterr().err.count(" is damaged") == 2


def test_a_reading_that_goes_wrong_once_is_not_damage(tiny, interrupted, monkeypatch, capsys):
    """The bytes on the disk are sound; what came over the network the first time was not."""
    read = checkpoint.read_leaves
    spoilt = []

    def read_badly_once(folder, shapes):
        leaves = read(folder, shapes)
        if not spoilt:
            name = next(iter(leaves))
            spoilt.append(name)
            leaves[name] = jax.device_put(np.asarray(leaves[name]) + 1, leaves[name].sharding)
        return leaves

    monkeypatch.setattr(checkpoint, "read_leaves", read_badly_once)
    run(tiny(tokens=TOKENS, **EVERY_TEN), interrupted)
    assert spoilt and names(interrupted) == {"30", "40"}
    assert "damaged" not in capsys.readouterr().err


def test_any_flipped_bit_of_the_arrays_is_found(interrupted):
    """Wherever it is, and whichever devices it is read to."""
    folder = epath.Path(interrupted) / "checkpoints" / "40"
    meta = checkpoint.read_meta(folder)
    shapes = {}
    for name, leaf in meta["leaves"].items():
        shapes[name] = jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"])
    draw = np.random.default_rng(0)
    sealed = checkpoint.read_seals(folder, meta)
    sound = checkpoint.read_leaves(folder, shapes)
    seals.verify(sound, sealed)
    found = 0
    for path in arrays_of(pathlib.Path(folder)):
        kept = path.read_bytes()
        for at in draw.integers(0, len(kept), 8):
            data = bytearray(kept)
            data[at] ^= 1 << draw.integers(8)
            path.write_bytes(data)
            try:
                leaves = checkpoint.read_leaves(folder, shapes)
                seals.verify(leaves, sealed)
            except (seals.Mismatch, WorkError):
                found += 1
            else:  # what nothing refers to may lie between the arrays
                assert all(np.array_equal(leaves[name], sound[name]) for name in sound)
        path.write_bytes(kept)
    assert found >= 8


def test_checkpoints_of_the_first_schema_are_read(tiny, tmp_path, interrupted):
    """They had one checksum of every whole array, and no seals beside them."""
    whole = tmp_path / "whole"
    run(tiny(tokens=TOKENS, **EVERY_TEN), whole)
    newest = interrupted / "checkpoints" / "40"
    meta = json.loads((newest / "meta" / "metadata").read_text())
    shapes = {}
    for name, leaf in meta["leaves"].items():
        shapes[name] = jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"])
    leaves = checkpoint.read_leaves(epath.Path(newest), shapes)
    for name, leaf in leaves.items():
        meta["leaves"][name]["crc32"] = zlib.crc32(np.asarray(leaf).tobytes())
    old = {key: meta[key] for key in ("fingerprint", "leaves", "notes")}
    for path in (newest / "seals").iterdir():
        path.unlink()
    (newest / "meta" / "metadata").write_text(json.dumps(old))
    log = segments.read(interrupted)
    run(tiny(tokens=TOKENS, **EVERY_TEN), interrupted)
    assert segments.read(interrupted)[: len(log)] == log, "no step was taken again"
    digests = stored_state.digests(interrupted / "checkpoints", 40)
    assert digests == stored_state.digests(whole / "checkpoints", 40)


def test_a_checkpoint_of_another_run_is_refused(tiny, interrupted):
    other = checkpoint.Checkpoints(epath.Path(interrupted) / "checkpoints", checkpoint.Keep(2), "f" * 16)
    with pytest.raises(InputError, match=r"checkpoint of run .*; expected one of this run, ffff"):
        other.restore([{}], lambda leaves: None, pytest.fail)
    other.close()
    assert names(interrupted) == {"30", "40"}


# --- where state is restored


def mesh_of(*sizes: int) -> Mesh:
    devices = np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return Mesh(devices, ("a", "b"))


@pytest.mark.parametrize("saved", [(1, 1), (4, 1), (2, 2)])
@pytest.mark.parametrize("restored", [(1, 1), (2, 1), (1, 4), (4, 2)])
def test_seals_hold_on_any_mesh(tmp_path, saved, restored):
    """A piece is compared also where no device holds just it; a wrong value is found on every mesh."""
    values = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    spec = P("a", "b")
    leaf = jax.device_put(values, NamedSharding(mesh_of(*saved), spec))
    sealed = seals.seal({"x": leaf})
    assert len(sealed["x"]) == int(np.prod(saved))
    sharding = NamedSharding(mesh_of(*restored), spec)
    seals.verify({"x": jax.device_put(values, sharding)}, sealed)
    seals.verify({"x": values}, sealed)
    values[5, 11] += 1e-6
    with pytest.raises(seals.Mismatch, match="checksum of x"):
        seals.verify({"x": jax.device_put(values, sharding)}, sealed)
    with pytest.raises(seals.Mismatch, match="cover 96 of its 128"):
        seals.verify({"x": values}, {"x": [seals.Piece(((0, 6), (0, 16)), seals.checksum(values[:6]))]})


def live_bytes() -> dict[int, int]:
    """Bytes of all buffers that are alive, by device."""
    seen = set()
    total: dict[int, int] = {}
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            buffer = (shard.device.id, shard.data.unsafe_buffer_pointer())
            if buffer not in seen:
                seen.add(buffer)
                total[shard.device.id] = total.get(shard.device.id, 0) + shard.data.nbytes
    return total


class Most:
    """The most bytes that a device has held beside what was there before."""

    def __init__(self):
        self.before = live_bytes()
        self.beside = 0

    def look(self) -> None:
        for device, size in live_bytes().items():
            self.beside = max(self.beside, size - self.before.get(device, 0))


@pytest.fixture
def watched(monkeypatch):
    """Look at the memory of all devices whenever leaves are read, and put, and when all is done."""
    holder = {}

    def watching(function):
        def watched(*args):
            result = function(*args)
            if "most" in holder:
                holder["most"].look()
            return result

        return watched

    def forbidden(self, runs):
        raise AssertionError("initialised only to be overwritten")

    def begin(is_fresh: bool = False) -> Most:
        monkeypatch.setattr(checkpoint, "read_leaves", watching(checkpoint.read_leaves))
        monkeypatch.setattr(filling.Filling, "put", watching(filling.Filling.put))
        monkeypatch.setattr(filling.Filling, "state", watching(filling.Filling.state))
        if not is_fresh:
            monkeypatch.setattr(program.Program, "init", forbidden)
        holder["most"] = Most()
        return holder["most"]

    return begin


class Resumed(Exception):
    pass


def stop_at_start(event):
    if event["event"] == "start":
        raise Resumed


SPLIT = {"execution.cpu_devices": 8, "execution.mesh.fsdp": 4, "execution.mesh.data": 2, "model.vocab": 264}


@pytest.mark.parametrize(
    "layout", ["one run split over four", "a population", "a population with a run for each device"]
)
def test_no_device_holds_more_than_its_share_while_state_is_restored(tiny, tmp_path, watched, layout):
    count = {"one run split over four": 1, "a population": 16, "a population with a run for each device": 8}[layout]
    options = EVERY_TEN | ({} if count > 1 else SPLIT) | {"model.width": 64, "model.depth": 1}
    configs = [tiny(tokens=256 * 10, seed=seed, **options) for seed in range(count)]
    frozen = [freeze.freeze(config) for config in configs]
    runs = [one for one, _ in frozen]
    folders = [epath.Path(tmp_path / str(seed)) for seed in range(count)]
    execution = frozen[0][1]
    train.train(runs, folders, execution, lambda event: None)
    for folder in folders:
        (folder / "record.json").unlink()
    made = program.program(runs[0], count, execution)
    share = made.device_bytes()
    tokens = made.slots  # their runtime values, a few bytes a slot, lie beside the states
    most = watched()
    with pytest.raises(Resumed):
        train.train(runs, folders, execution, stop_at_start)
    assert share <= most.beside <= 1.1 * share + 64 * tokens


def test_a_rewind_holds_no_second_state(tiny, tmp_path, monkeypatch, watched):
    """The state that is given up is gone before the older one is read."""
    nothing = Most()
    seen = []
    rewind = population.Population.rewind

    def watched_rewind(self, slot, trial, spike):
        most = watched()
        most.before = nothing.before
        rewind(self, slot, trial, spike)
        seen.append((most.beside, self.program.device_bytes()))

    said = []

    def find_spike(self, first, losses):
        """Call the 25th step a spike, once."""
        if said or first + len(losses) <= 24:
            return None
        said.append(24)
        return 24

    monkeypatch.setattr(population.Population, "rewind", watched_rewind)
    monkeypatch.setattr(trial.Trial, "find_spike", find_spike)
    spiky = {"spikes.factor": 10.0, "spikes.every_tokens": 256 * 10, "execution.steps_per_dispatch": 5}
    options = EVERY_TEN | SPLIT | spiky | {"model.width": 64, "model.depth": 1}
    found = run(tiny(tokens=TOKENS, **options), tmp_path / "run")
    assert found["columns"]["rewinds"] == 1
    ((beside, share),) = seen
    batches = 2**16  # of tokens that are read ahead, and metrics
    assert share <= beside <= 1.1 * share + batches


def test_growth_holds_no_second_state(tiny, tmp_path, watched):
    """What the parent leaves open is drawn on the devices, and gone from them before the grown state comes."""
    options = EVERY_TEN | SPLIT | {"model.width": 64, "model.depth": 1, "schedule.name": "constant"}
    parent = run(tiny(tokens=256 * 10, **options), tmp_path / "parent")
    family = {"parent": parent["fingerprint"], "execution.parent_workdir": str(tmp_path / "parent")}
    child, execution = freeze.freeze(tiny(tokens=256 * 20, **options | family | {"model.depth": 2}))
    share = program.program(child, 1, execution).device_bytes()
    most = watched(is_fresh=True)
    with pytest.raises(Resumed):
        train.train([child], [epath.Path(tmp_path / "child")], execution, stop_at_start)
    assert share <= most.beside <= 1.1 * share + 64


def test_a_population_goes_on_from_checkpoints_of_different_steps(tiny, tmp_path):
    """One of three has none, one an older one: each ends as it does alone."""
    options = EVERY_TEN | {"execution.packing": "map"}
    frozen = [freeze.freeze(tiny(tokens=TOKENS, seed=seed, **options)) for seed in range(3)]
    runs = [one for one, _ in frozen]
    execution = frozen[0][1]
    for name in ("whole", "again"):
        folders = [epath.Path(tmp_path / name / str(seed)) for seed in range(3)]
        train.train(runs, folders, execution, lambda event: None)
    for folder in folders:
        (folder / "record.json").unlink()
    (folders[0] / "checkpoints").rmtree()
    (folders[1] / "checkpoints" / "40").rmtree()
    train.train(runs, folders, execution, lambda event: None)
    for seed, folder in enumerate(folders):
        whole = tmp_path / "whole" / str(seed)
        assert record.read(folder / "record.json")["columns"]["loss_nats"] == pytest.approx(
            record.read(whole / "record.json")["columns"]["loss_nats"], abs=0
        )
        digests = stored_state.digests(whole / "checkpoints", 40)
        assert stored_state.digests(folder / "checkpoints", 40) == digests


# --- what is saved, and kept


def test_saving_waits_for_no_checksum(tmp_path, monkeypatch):
    """While the arrays are sealed the caller goes on; the checkpoint is there once they are."""
    state = TrainState({"a": jax.numpy.ones(3)}, None, jax.numpy.int32(0))
    steps_while_sealing = []
    seal = seals.seal

    def slow(leaves):
        for _ in range(200):
            if steps_while_sealing:
                break
            jax.block_until_ready(jax.numpy.zeros(1))
            time.sleep(0.02)
        return seal(leaves)

    monkeypatch.setattr(seals, "seal", slow)
    store = checkpoint.Checkpoints(epath.Path(tmp_path) / "c", checkpoint.Keep(2), "f")
    store.save(state, 1, {})
    assert not (tmp_path / "c" / "1").exists(), "it is committed after its seals"
    steps_while_sealing.append(1)
    store.close()
    assert (tmp_path / "c" / "1" / "seals" / "0.json").exists()


def test_a_save_that_an_error_overtakes_is_whole_when_the_error_arrives(tiny, tmp_path, monkeypatch):
    """As in a notebook, where the same call goes on afterwards in the same process."""
    seal = seals.seal

    def slowly(leaves):
        time.sleep(2)
        return seal(leaves)

    def fail_after_the_first_save(event):
        if event["event"] == "progress" and event["done"] > 10:
            raise RuntimeError("not ours")

    monkeypatch.setattr(seals, "seal", slowly)
    config = tiny(tokens=256 * 20, **EVERY_TEN | {"execution.steps_per_dispatch": 2})
    with pytest.raises(RuntimeError, match="not ours"):
        run(config, tmp_path / "run", fail_after_the_first_save)
    assert names(tmp_path / "run") == {"10"}
    run(config, tmp_path / "run")
    assert names(tmp_path / "run") == {"10", "20"}


def test_which_checkpoints_are_kept(tiny, tmp_path):
    options = EVERY_TEN | {"execution.keep_checkpoints": 1, "execution.keep_every_tokens": 256 * 20}
    run(tiny(tokens=256 * 50, **options), tmp_path / "run")
    assert names(tmp_path / "run") == {"20", "40", "50"}


def test_what_is_kept_to_go_back_to():
    class At:
        def __init__(self, step: int):
            self.step = step

    keep = checkpoint.Keep(newest=1, back_steps=10)
    kept = keep.should_preserve([At(step) for step in (0, 10, 17, 20, 23, 27)])
    assert kept == [False, False, False, True, False, True]


def test_the_log_holds_no_row_twice_after_all_this(tiny, interrupted):
    run(tiny(tokens=TOKENS, **EVERY_TEN), interrupted)
    steps = [row["step"] for row in rows(interrupted) if "loss" in row]
    assert steps == list(range(1, 41))


def test_another_step_name_in_the_folder_is_in_nobodys_way(tiny, interrupted):
    """What Orbax leaves of a save that was killed, and folders that people make."""
    folder = interrupted / "checkpoints"
    (folder / "50.orbax-checkpoint-tmp").mkdir()
    (folder / "notes").mkdir()
    options = ocp.CheckpointManagerOptions(create=True)
    assert ocp.CheckpointManager(folder, options=options).latest_step() == 40
    starts = []
    run(tiny(tokens=TOKENS, **EVERY_TEN), interrupted, starts.append)
    assert starts[0]["done"] == 40
    assert names(interrupted) == {"30", "40", "notes"}, "no half of a checkpoint takes up room for ever"


def test_agreement_of_one_process_is_its_own():
    assert hosts.together(lambda: 3) == 3
    with pytest.raises(AgainError, match="x"):
        hosts.together(lambda: (_ for _ in ()).throw(AgainError("x")))


def test_checkpoints_come_after_so_many_tokens_by_default(tiny):
    """About two minutes' work: the more devices the more tokens, the more runs the fewer; whole dispatches."""
    frozen, execution = freeze.freeze(tiny(**{"execution.checkpoint_every_tokens": None}))
    cpu = jax.devices()[0]
    alone = packing.checkpoint_tokens([frozen], execution, cpu, 1)
    dispatch = packing.steps_per_dispatch(frozen, execution, cpu, 1.0) * frozen.batch_tokens
    assert alone % dispatch == 0 and alone > 100 * dispatch
    assert packing.checkpoint_tokens([frozen], execution, cpu, 4) == pytest.approx(4 * alone, rel=0.01)
    assert packing.checkpoint_tokens([frozen] * 4, execution, cpu, 1) == pytest.approx(alone / 4, rel=0.01)
    asked = dataclasses.replace(execution, checkpoint_every_tokens=512)
    assert packing.checkpoint_tokens([frozen], asked, cpu, 4) == 512
    assert execution.checkpoint_every_seconds is None


def test_the_benchmark_of_saves_measures_both(tmp_path):
    rows = saves.bench_saves(str(tmp_path), rounds=2, size=2_000_000)
    assert [row["save"] for row in rows] == ["checksums first", "ours"]
    assert all(0 < row["blocked_seconds"] <= row["committed_seconds"] for row in rows)
    assert rows[0]["gigabytes"] == pytest.approx(0.002, rel=0.2)


def test_an_error_in_the_loop_leaves_no_save_behind(tiny, tmp_path, monkeypatch):
    """Who listens to the events raises while a save is under way: it is committed before the error is seen."""

    class Tired(Exception):
        pass

    seal = seals.seal

    def slow(leaves):
        time.sleep(0.5)
        return seal(leaves)

    def listen(event):
        if event["event"] == "progress" and event["done"] == 30:
            raise Tired

    monkeypatch.setattr(seals, "seal", slow)
    options = EVERY_TEN | {"execution.steps_per_dispatch": 10}
    with pytest.raises(Tired):
        run(tiny(tokens=TOKENS, **options), tmp_path / "run", listen)
    assert "20" in names(tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("*tmp*"))
