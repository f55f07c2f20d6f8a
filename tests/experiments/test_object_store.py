"""Runs under gs://, against a Google Cloud Storage that the tests start: objects, claims, logs, checkpoints, records."""

from collections import Counter
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
import types
from urllib.parse import unquote

from etils import epath
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, files
from experiments.alive import claims, lease, stops
from experiments.cli import AgainError, InputError, WorkError
from experiments.objects import bucket as buckets
from experiments.objects import google
from experiments.objects import path as paths
from experiments.objects.bucket import ABSENT, Conflict
from experiments.objects.path import ObjectPath
from experiments.store import commits, metrics, record, segments, stored_state
from experiments.store.checkpoint import Checkpoints, Keep
from experiments.store.train_state import TrainState
from tests.support.faults import FaultyProxy
from tests.support.object_store import Emulator
from tests.support.paths import REPOSITORY
from tests.support.training import rows, run

NAME = "0123456789abcdef"
MARKER = paths.MARKER


# --- objects


def test_a_path_in_a_bucket_is_a_path(store_folder: epath.Path, tmp_path):
    """What epath promises, whoever asks: nothing is cached, and a folder is there as long as something is in it."""
    folder = store_folder / "a"
    assert isinstance(folder, ObjectPath) and not folder.exists() and list(folder.iterdir()) == []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "b" / "c.json").write_text("1")
    (folder / "d.txt").write_bytes(b"2\n3\n")
    (folder / "d.txt.old").write_bytes(b"0")
    assert folder.is_dir() and not folder.is_file() and (folder / "d.txt").is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["b", "d.txt", "d.txt.old"]
    assert [path.name for path in folder.glob("d.*")] == ["d.txt", "d.txt.old"]
    assert [os.fspath(path) for path in store_folder.glob("*/b/*.json")] == [f"{folder}/b/c.json"]
    assert (folder / "d.txt").open().read() == "2\n3\n" and (folder / "d.txt").stat().length == 4
    assert [(top.name, below, sorted(names)) for top, below, names in folder.walk()] == [
        ("a", ["b"], ["d.txt", "d.txt.old"]),
        ("b", [], ["c.json"]),
    ]
    with (folder / "e").open("w") as file:
        file.write("whole")
        assert not (folder / "e").exists(), "an object is there once it is whole"
    assert (folder / "e").read_text() == "whole"
    (folder / "e").replace(folder / "f")
    assert not (folder / "e").exists() and (folder / "f").read_text() == "whole"
    folder.rename(store_folder / "moved")
    assert not folder.exists() and (store_folder / "moved" / "b" / "c.json").read_text() == "1"
    (store_folder / "moved" / "d.txt").copy(tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == b"2\n3\n"
    (store_folder / "moved").rmtree()
    assert not (store_folder / "moved").exists()
    with pytest.raises(FileNotFoundError):
        (folder / "e").read_bytes()
    with pytest.raises(FileNotFoundError):
        (folder / "e").unlink()
    with pytest.raises(OSError, match="read or written whole"):
        (folder / "e").open("a")


def test_an_object_is_written_only_in_the_version_that_was_seen(store_folder: epath.Path):
    path = ObjectPath(store_folder / "claim")
    first = path.write_version(b"1", ABSENT)
    with pytest.raises(Conflict):
        path.write_version(b"2", ABSENT)
    second = path.write_version(b"3", first)
    assert second != first and path.read_version() == (b"3", second)
    with pytest.raises(Conflict):
        path.write_version(b"4", first)
    assert path.write_version(b"3", first) == second, "an answer was lost: what is there is what was to be written"


def test_what_is_wrong_is_one_line(bucket: str, tmp_path):
    """A bucket that is not there; a folder that cannot be one; a store that is not known."""
    with pytest.raises(InputError, match=r"gs://no-such-bucket: there is no such bucket"):
        files.check_folder("gs://no-such-bucket/run")
    with pytest.raises(InputError, match="no such bucket"):
        files.write_json("gs://no-such-bucket/run/x.json", {})
    with pytest.raises(InputError, match=r"'\[' in it"):
        files.check_folder(f"{bucket}/[1]")
    files.check_folder(f"{bucket}/anything")


@pytest.fixture
def faulty(emulator: Emulator, monkeypatch: pytest.MonkeyPatch):
    """A proxy before the emulator that fails for every third request, with a client of its own."""
    with FaultyProxy(emulator.url, 1 / 3) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        monkeypatch.setattr(google, "FIRST_DELAY_SECONDS", 0.01)
        clear_clients()
        yield proxy
    monkeypatch.undo()
    clear_clients()


def clear_clients() -> None:
    """Have the next request open a new client."""
    google._client.cache_clear()
    paths._open.cache_clear()


def test_errors_that_pass_are_nobodys(store_folder: epath.Path, faulty: FaultyProxy):
    """503, 429, 500, connections that break before and after the work is done, answers cut short: all is as without."""
    version = ABSENT
    for number in range(20):
        data = str(number).encode()
        path = ObjectPath(store_folder / "counter")
        version = path.write_version(data, version)
        assert path.read_version() == (data, version)
        (store_folder / f"{number:03}").write_bytes(data)
    assert len(list(store_folder.iterdir())) == 21
    (store_folder / "000").unlink(missing_ok=True)
    assert not (store_folder / "000").exists()
    assert len(faulty.injected) == 6 and faulty.injected.total() > 20, faulty.injected


def test_a_store_that_does_not_answer_is_to_be_tried_again(store_folder, faulty: FaultyProxy, monkeypatch):
    """After the last try: one line, exit code 75, and for whoever asks the disk, an error of the disk."""
    faulty.share = 1.0
    monkeypatch.setattr(buckets, "RETRY_SECONDS", 0.2)
    clear_clients()
    with pytest.raises(buckets.Unavailable, match=r"gs://.*counter cannot be used now") as seen:
        (store_folder / "counter").read_bytes()
    assert isinstance(seen.value, OSError) and seen.value.exit_code == 75
    assert claims.Claims(store_folder)._directory_of("x")
    with pytest.raises(OSError, match="cannot be used now"):
        claims.Claims(store_folder).by_other(NAME)


# --- claims

RACER = """
import sys
from etils import epath
from experiments.alive.claims import Claims
mine = Claims(epath.Path(sys.argv[1]))
mine.read("warm")
for line in sys.stdin:
    name = line.strip()
    free = mine.by_other(name) is None
    print(int(free), int(free and mine.take_for_ourselves(name, "ab")), flush=True)
"""


def race(folder: epath.Path, times: int) -> Counter[tuple[bool, ...]]:
    """Have two processes go for one run at once, again and again; return how often which of them saw it free, got it."""
    command = [sys.executable, "-c", RACER, os.fspath(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, cwd=REPOSITORY, **pipes) for _ in range(2)]
    outcomes: Counter[tuple[bool, ...]] = Counter()
    for number in range(times):
        for racer in racers:
            racer.stdin.write(f"{number:016x}\n")
            racer.stdin.flush()
        answers = [racer.stdout.readline().split() for racer in racers]
        got = [answer[1] == "1" for answer in answers]
        assert got.count(True) == 1, f"run {number} was taken by {got.count(True)}"
        outcomes[tuple(answer[0] == "1" for answer in answers)] += 1
    for racer in racers:
        racer.communicate()
    return outcomes


def test_two_launchers_never_hold_one_run(store_folder: epath.Path):
    assert race(store_folder, 60)[True, True] > 0, "at least once both have seen it free"


@pytest.mark.slow
def test_two_launchers_never_hold_one_run_of_a_thousand(store_folder: epath.Path):
    assert race(store_folder, 1_000)[True, True] > 100


def test_a_claim_is_given_back_and_taken_over(store_folder: epath.Path):
    """Released: free. Dead: taken over, and the former holder learns of it. Seen free, then taken: nobody gets both."""
    mine, theirs = claims.Claims(store_folder), claims.Claims(store_folder)
    theirs.me = dataclasses.replace(theirs.me, host="elsewhere")
    token = theirs.take([NAME], os.getpid(), "p")
    assert mine.by_other(NAME) and theirs.beat([NAME]) == []
    theirs.release([NAME])
    assert mine.by_other(NAME) is None and mine.read(NAME) is None
    assert theirs.take_for_ourselves(NAME, token), "it is theirs to take again: they were the last to write it"
    assert not mine.take_for_ourselves(NAME, token), "what was free when we looked is not any more"
    mine.read(NAME)
    assert mine.take_for_ourselves(NAME, "ab") and theirs.beat([NAME]) == [NAME]
    theirs.release([NAME])
    assert mine.mine(NAME), "who has lost a claim gives nothing back"
    held = lease.Lease(store_folder, "ab")
    held.begin([store_folder / "runs" / NAME])
    with pytest.raises(lease.Lost):
        lease.Lease(store_folder, token).begin([store_folder / "runs" / NAME])
    held.end()
    mine.close()
    theirs.close()
    assert list((store_folder / "workers").iterdir()) == []


def test_requests_to_stop_cross_the_bucket(store_folder: epath.Path):
    assert stops.asked(store_folder) is None
    stops.ask(store_folder, stops.Stop("complete", "why"))
    assert stops.asked(store_folder) == stops.Stop("complete", "why")


# --- logs


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path) -> epath.Path:
    """A folder of a run, on a disk or in a bucket."""
    return epath.Path(tmp_path) / "run" if request.param == "disk" else request.getfixturevalue("store_folder")


def log(folder: epath.Path, first: int, last: int) -> metrics.Metrics:
    """Go on with a log from a step on, as a run does that was restored there."""
    out = metrics.Metrics(folder, tensorboard=False)
    out.cut(first)
    for step in range(first + 1, last + 1):
        out.append({"step": step, "tokens": 8 * step, "loss": 1.0 / step})
    return out


def logged(folder: epath.Path) -> list[int]:
    return [row["step"] for row in segments.read(folder)]


def test_rows_are_seen_while_a_run_is_open_and_none_is_lost_or_doubled(place: epath.Path):
    """Published: visible. Killed without a word and restored further back: each step once, in order."""
    first = log(place, 0, 5)
    assert logged(place)[:1] == [1], "the first row is there at once"
    first.publish()  # as before every checkpoint
    assert logged(place) == [1, 2, 3, 4, 5]
    second = log(place, 3, 7)
    second.append_evaluation({"step": 7, "tokens": 56, "eval_loss": 2.0})
    second.close()
    assert logged(place) == [1, 2, 3, 4, 5, 6, 7, 7]
    third = log(place, 7, 7)
    third.append_evaluation({"step": 7, "tokens": 56, "eval_loss": 2.0})
    third.rewind(2)
    third.append({"step": 3, "tokens": 24, "loss": 0.4})
    third.close()
    assert [(row["step"], row["loss"]) for row in segments.read(place)] == [(1, 1.0), (2, 0.5), (3, 0.4)]


def test_a_reader_reads_only_what_is_new(place: epath.Path, monkeypatch: pytest.MonkeyPatch):
    """Of a segment that has not changed nothing; after a cut what is there then."""
    out = log(place, 0, 4)
    out.publish()
    reader = segments.Reader(place)
    assert len(reader.read()) == 4
    opened = []
    plain = segments._read_on
    monkeypatch.setattr(segments, "_read_on", lambda path, part: (opened.append(path.name), plain(path, part)))
    assert len(reader.read()) == 4 and opened == []
    out.append({"step": 5, "tokens": 40, "loss": 0.2})
    out.publish()
    assert len(reader.read()) == 5 and opened == ["000001.jsonl"]
    log(place, 2, 3).close()
    assert [row["step"] for row in reader.read()] == [1, 2, 3]


def test_a_log_of_before_there_were_segments_goes_on(place: epath.Path):
    lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3, 4)]
    (place / "old").mkdir(parents=True, exist_ok=True)
    (place / "metrics.jsonl").write_text("".join(lines) + '{"step": 5, "lo')
    assert logged(place) == [1, 2, 3, 4]
    log(place, 3, 4).close()
    assert logged(place) == [1, 2, 3, 4]
    assert [segment.number for segment in segments.find(place)] == [0, 1] and not (place / "metrics.jsonl").exists()


@pytest.mark.parametrize("written", [0, 4])
def test_who_was_taken_for_dead_writes_no_rows(place: epath.Path, written: int):
    """Two processes with one log: the one whose run was taken over cannot add to it, nor to a segment of the other's."""
    dead = log(place, 0, written)
    dead.publish()
    alive = log(place, written, 6)
    with contextlib.suppress(AgainError):  # on a disk its rows go where nobody reads
        dead.append({"step": written + 1, "tokens": 40, "loss": 9.0})
        dead.publish()
    alive.close()
    assert [(row["step"], row["loss"]) for row in segments.read(place)] == [(step, 1.0 / step) for step in range(1, 7)]


def test_a_full_segment_is_followed_by_the_next(store_folder: epath.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segments, "FULL_BYTES", 100)
    monkeypatch.setattr(segments, "PUBLISH_SECONDS", 0.0)
    log(store_folder, 0, 12).close()
    assert len(segments.find(store_folder)) > 3 and logged(store_folder) == list(range(1, 13))


# --- checkpoints

SHAPES = {".params['w']": (4,)}


def state(value: float) -> TrainState:
    return TrainState({"w": jnp.full(4, value, jnp.float32)}, None, None)


def saved(folder: epath.Path, *steps: int, keep: int = 1) -> Checkpoints:
    """Save states whose values are their steps."""
    store = Checkpoints(folder, Keep(keep), NAME)
    for step in steps:
        store.save(state(step), step, {})
    store.wait()
    return store


def restored(folder: epath.Path) -> tuple[int, float] | None:
    """Restore what a run would go on from: its step, and a value of its state."""
    import jax

    found: list[float] = []
    store = Checkpoints(folder, Keep(1), NAME)
    parts = [{name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in SHAPES.items()}]
    result = store.restore(parts, lambda leaves: found.append(float(leaves[".params['w']"][0])), print)
    store.close()
    return (result[0], found[-1]) if result else None


def test_checkpoints_in_a_bucket(store_folder: epath.Path, capsys: pytest.CaptureFixture[str]):
    """Kept as many as are asked for. One that is hidden, copied from a disk, half deleted, left by a killed save."""
    folder = store_folder / "checkpoints"
    saved(folder, 10, 20, 30, keep=2).close()
    assert commits.steps(folder) == [20, 30] and restored(folder) == (30, 30.0)
    assert list((store_folder / "saving").iterdir()) == []

    (folder / "30" / MARKER).unlink()  # as in a copy from a disk, which has no such files
    assert commits.steps(folder) == [20]
    assert restored(folder) == (30, 30.0) and "30 is whole and has no commit_success.txt" in capsys.readouterr().err

    (folder / "20" / MARKER).unlink()  # as a deletion leaves it that was killed
    (folder / "20" / "state").rmtree()
    assert restored(folder) == (30, 30.0) and not (folder / "20").exists()

    commits.begin(folder, 40)  # as a save leaves it that was killed
    (folder / "40" / "state" / "part").write_text("half")
    assert restored(folder) == (30, 30.0) and not (folder / "40").exists()

    (folder / "30" / MARKER).unlink()  # neither whole nor ours
    (folder / "30" / paths.METADATA).unlink()
    with pytest.raises(WorkError, match=r"checkpoints/30 is no whole checkpoint.*nothing was changed"):
        restored(folder)
    assert (folder / "30" / "state").exists()


def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(store_folder: epath.Path, capsys: pytest.CaptureFixture[str]):
    """Renamed, which is to copy and delete; the one before it is used; a run with damaged ones alone does not begin anew."""
    folder = store_folder / "checkpoints"
    saved(folder, 10, 20, keep=2).close()
    for step in (20, 10):
        seals_file = folder / str(step) / "seals" / "0.json"
        sealed = json.loads(seals_file.read_text())
        sealed[".params['w']"][0][1] += 1
        seals_file.write_text(json.dumps(sealed))
        if step == 20:
            assert restored(folder) == (10, 10.0) and "20 is damaged" in capsys.readouterr().out
            assert (folder / "20.damaged" / MARKER).exists() and not (folder / "20").exists()
    with pytest.raises(WorkError, match="has damaged checkpoints only"):
        restored(folder)


# --- a run


class Interrupted(Exception):
    pass


def test_a_run_in_a_bucket_is_that_of_a_disk(tiny, store_folder: epath.Path, tmp_path):
    """Interrupted between two checkpoints and resumed: rows, losses and record to the last bit, each step logged once."""
    often = {"execution.steps_per_dispatch": 7, "execution.checkpoint_every_tokens": 256 * 12}
    config = tiny(**often)
    run(config, tmp_path / "disk")

    def stop_once(event):
        if event["event"] == "progress" and event["done"] > 30:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(config, store_folder, stop_once)
    assert commits.steps(store_folder / "checkpoints")[-1] >= 24 and 0 < len(logged(store_folder)) < 50
    run(config, store_folder)
    assert rows(store_folder) == rows(tmp_path / "disk")
    ours, theirs = (record.read(epath.Path(place) / "record.json") for place in (store_folder, tmp_path / "disk"))
    assert ours["columns"]["loss_nats"] == theirs["columns"]["loss_nats"] and ours["status"] == "complete"
    newest = commits.steps(store_folder / "checkpoints")[-1]
    found = [
        stored_state.digests(epath.Path(place) / "checkpoints", newest) for place in (store_folder, tmp_path / "disk")
    ]
    assert found[0] == found[1]
    assert claims.Claims(store_folder, lambda _: store_folder).read(ours["fingerprint"]) is None
    assert {path.name for path in store_folder.iterdir()} == {
        "claim.json",
        "run.json",
        "machine.json",
        "metrics",
        "checkpoints",
        "record.json",
    }


# --- what it costs


class Requests:
    """The requests that reach the emulator while something is done, by what they ask of which file."""

    def __init__(self, emulator: Emulator, folder: epath.Path):
        self._emulator = emulator
        _, self._prefix = paths.split(folder)

    def of(self, act) -> Counter[str]:
        """Count the requests of a call, without those that the client makes for itself about the bucket."""
        before = self._settled()
        act()
        found: Counter[str] = Counter()
        for method, path, _ in self._settled()[len(before) :]:
            if self._prefix in (text := unquote(path)) or "/upload/" in path:
                listed = "prefix=" in text
                found["list" if listed else {"GET": "read", "POST": "write", "DELETE": "delete"}[method]] += 1
        return found

    def _settled(self) -> list[tuple[str, str, int]]:
        """All requests, once the log of them has stood still."""
        seen = self._emulator.requests()
        while True:
            time.sleep(0.05)
            now = self._emulator.requests()
            if len(now) == len(seen):
                return now
            seen = now


def test_requests_are_counted(emulator: Emulator, store_folder: epath.Path):
    """As the table in sweeps/README.md has them."""
    names = [f"{number:016x}" for number in range(3)]
    runs = [store_folder / "runs" / name for name in names]
    count = Requests(emulator, store_folder).of
    mine = claims.Claims(store_folder)
    token = ""

    def take():
        nonlocal token
        assert not any(mine.by_other(name) for name in names)
        token = mine.take(names, os.getpid(), "p")

    assert count(take) == Counter(read=3, write=4), "three claims, and the launcher's counter"
    mine._beat_at = -1e9
    assert count(lambda: mine.beat(names)) == Counter(write=1, read=3), "a heartbeat of a launcher with three runs"
    assert count(lambda: mine.beat(names)) == Counter(read=3), "one counter a heartbeat, however many jobs"
    held = lease.Lease(store_folder, token)
    assert count(held._beat) == Counter(write=1), "a heartbeat of a worker"
    assert count(lambda: held.holds(runs)) == Counter(read=3), "its look at three claims"
    assert count(lambda: stops.asked(runs[0])) == Counter(read=1), "its look for a request to stop"
    out = log(runs[0], 0, 1)
    rest = [{"step": step, "loss": 1.0} for step in range(2, 100)]
    assert count(lambda: [out.append(row) for row in rest]) == Counter(), "rows of the same seconds"
    assert count(out.publish) == Counter(write=1), "all of them"
    reader = segments.Reader(runs[0])
    assert count(reader.read) == Counter(list=1, read=1), "a look at the curve of a run"
    assert count(reader.read) == Counter(list=1), "that has not changed"
    assert count(lambda: files.write_json(runs[0] / "record.json", {})) == Counter(write=1), "a record"
    saves = count(lambda: saved(runs[0] / "checkpoints", 1).close())
    assert saves.total() <= 110, saves
    assert count(lambda: commits.steps(runs[0] / "checkpoints")) == Counter(list=1)
    assert count(lambda: mine.release(names)) == Counter(read=3, write=3, delete=3)


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_an_output_in_a_bucket_is_not_replaced_unless_it_is_our_own(ending, store_folder, monkeypatch):
    """--out=gs://…: a stranger's file is refused, our own is replaced, and none that is read is written."""
    given = types.SimpleNamespace(FLAGS=types.SimpleNamespace(overwrite=False))
    monkeypatch.setattr(cli, "flags", given)
    path = os.fspath(store_folder / f"out.{ending}")
    cli.check_output(path, "--out", [b"fingerprint,"])
    epath.Path(path).write_text("mine")
    with pytest.raises(InputError, match="exists and was not written by"):
        cli.check_output(path, "--out", [b"fingerprint,"])
    epath.Path(path).write_text("fingerprint,name\n" if ending == "csv" else json.dumps(cli.signed({"a": 1})))
    cli.check_output(path, "--out", [b"fingerprint,"])
    with pytest.raises(InputError, match="is a file that the command reads"):
        cli.check_not_read(path, "--out", [path])
