"""TPU slices on a cloud of this machine: real processes behind a gcloud on PATH, a real bucket, and nothing left that is paid."""

import os
import pathlib
import random
import re
import shlex
import signal
import subprocess
import time

import pytest

from experiments import files
from experiments.cli import InputError
from sweeps.executors import tpu_vm
from sweeps.executors.support import gcloud, slice_talk
from sweeps.executors.support.options import options_text, parse_options
from tests.support.cloud import TPU, Cloud
from tests.support.executors import launch, losses, started, until

OPTIONS = parse_options(gcloud.Options, TPU.partition(":")[2] + ",owner=anna", "--executor=tpu-vm")
NAME = "0123456789ab"
OTHERS = {"lossgrid-owner": "bert"}


def slice_of(cloud: Cloud, options: gcloud.Options = OPTIONS) -> gcloud.Slice:
    return gcloud.Slice(options, f"{cloud.bucket}/study", NAME)


# --- commands


def test_owner_and_workdir_are_in_names_and_labels():
    """Two people, two workdirs, two populations: no two slices are alike, and none bears what is another's."""
    anna, bert = OPTIONS, parse_options(gcloud.Options, "zone=us-east5-b,type=v5litepod-4,owner=bert", "x")
    made = [gcloud.Slice(anna, "gs://a/one", NAME), gcloud.Slice(bert, "gs://a/one", NAME)]
    made += [gcloud.Slice(anna, "gs://a/two", NAME), gcloud.Slice(anna, "gs://a/one", "f" * 12)]
    assert len({one.name for one in made}) == 4
    for one in made:
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", one.name)
        found = gcloud.Found(one.name, "ACTIVE", {**one.labels, "lossgrid-attempt": "1"})
        assert [other.is_ours(found) for other in made] == [other is one for other in made]
    assert gcloud.Slice(anna, "gs://a/one/", NAME).name == made[0].name


def commands_of_a_life() -> list[list[str]]:
    slice_ = gcloud.Slice(OPTIONS, "gs://mine/study", NAME)
    options = "zone=us-east5-b,type=v6e-8,flex_start=true,max_hours=3,project=p-1,service_account=a@b.iam"
    flex = gcloud.Slice(parse_options(gcloud.Options, options, "x"), "gs://mine/study", NAME)
    return [
        slice_.create("a1"),
        flex.create("a1"),
        slice_.describe(),
        slice_.delete(),
        slice_.copy("/tmp/code.tar.gz"),
        slice_.bootstrap(),
        slice_.start("a1"),
        gcloud.list_slices(OPTIONS),
        gcloud.sync("/tmp", "gs://mine/study/data", "p-1"),
    ]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/usr/bin/gcloud"), reason="the Google Cloud CLI is not installed")
@pytest.mark.parametrize("command", commands_of_a_life(), ids=lambda command: "-".join(command[1:6])[-40:])
def test_the_real_gcloud_understands_every_command(command: list[str], tmp_path: pathlib.Path):
    """Without an account it ends where it would speak to the cloud, after all words were understood."""
    environment = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_PROJECT": "p-1"}
    environment |= {"CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    done = subprocess.run(["/usr/bin/gcloud", *command[1:]], env=environment, capture_output=True, text=True)
    wrong = r"unrecognized arguments|Invalid choice|Must be specified|argument [-\w]+:|expected one argument"
    assert not re.search(wrong, done.stderr), done.stderr
    assert "active account" in done.stderr or "credentials" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("type_", "hosts", "runtime"),
    [
        ("v5litepod-4", 1, "v2-alpha-tpuv5-lite"),
        ("v5litepod-8", 1, "v2-alpha-tpuv5-lite"),
        ("v5litepod-16", 4, "v2-alpha-tpuv5-lite"),
        ("v6e-8", 1, "v2-alpha-tpuv6e"),
        ("v5p-8", 1, "v2-alpha-tpuv5"),
        ("v5p-16", 2, "v2-alpha-tpuv5"),
        ("v4-16", 2, "tpu-ubuntu2204-base"),
    ],
)
def test_hosts_and_software_of_a_type(type_: str, hosts: int, runtime: str):
    options = parse_options(gcloud.Options, f"zone=us-east5-b,type={type_}", "x")
    assert gcloud.Slice(options, "gs://a/b", NAME).hosts == hosts
    assert options.runtime_version() == runtime


def test_a_workdir_that_slices_cannot_reach_is_one_line(tmp_path: pathlib.Path):
    with pytest.raises(InputError, match="expected gs://BUCKET/FOLDER"):
        tpu_vm.TpuVmExecutor(OPTIONS).check(tmp_path)


# --- the keeper, with workers that do next to nothing


class Life:
    """The process that sees to one slice, as the executor starts it."""

    def __init__(self, cloud: Cloud, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        self.cloud = cloud
        self.slice = slice_of(cloud)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "corpus").write_text("text")
        value = {"fingerprints": ["0" * 16], "runs": [], "execution": {"data_root": str(tmp_path / "data")}}
        self.population = f"{self.slice.workdir}/populations/{NAME}.json"
        files.write_json(self.population, value)
        self.log = tmp_path / "keeper.log"

    def start(self, name: str = NAME) -> tpu_vm.Keeper:
        """`name`: of another population of the same runs."""
        population = self.population.replace(NAME, name)
        if name != NAME:
            files.write_json(population, files.read_json(self.population))
        command = [*tpu_vm.KEEPER, options_text(OPTIONS), population, self.slice.workdir]
        keeper = tpu_vm.Keeper(command, self.log)
        keeper.go("abc")
        return keeper

    def end(self, keeper: tpu_vm.Keeper):
        """How it ended; what it said is heard, and there is nothing left that is paid."""
        self.events = []

        def over():
            end = keeper.poll()
            self.events.extend(keeper.events())
            return end is not None and (end,)

        (end,) = until(over)
        keeper.close()
        assert self.cloud.left == []
        return end

    def training(self) -> bool:
        """Whether its worker has begun."""
        return bool(list(self.cloud.folder.glob("hosts/*/*/0/lossgrid/began")))


@pytest.fixture
def life(cloud: Cloud, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    return Life(cloud, tmp_path, monkeypatch)


SAVES_WHEN_ASKED = """
trap 'echo saved >> began; exit 75' TERM
echo $$ >> began
echo '{"event": "start", "done": 0, "steps": 9}'
while true; do sleep 0.1; done
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worker", "status"),
    [("exit 0", 0), ("echo error: no >&2; exit 1", 1), ("exit 2", 2), ("exit 75", 75), ("kill -9 $$", 137)],
)
def test_a_slice_is_made_used_and_deleted(worker: str, status: int, life: Life, cloud: Cloud):
    """However its worker ends, its events and its status come back, and the last thing is to delete."""
    cloud.worker(f'echo \'{{"event": "start", "done": 3}}\'; {worker}')
    end = life.end(life.start())
    assert end == status
    assert cloud.verbs == ["create", "rsync", "scp", "ssh", "ssh", "delete"]
    assert {"event": "start", "done": 3} in life.events
    text = life.log.read_text()
    for call in cloud.calls:
        if "cat" not in call:
            assert shlex.join(["gcloud", *call]) in text, "each command is printed"
    if status == 1:
        assert "error: no" in text
    create = cloud.calls[1]
    assert {"--spot", "--accelerator-type=v5litepod-4", "--zone=us-east5-b", "--quiet"} <= set(create)
    assert files.read_json(f"{life.slice.folder}/population.json")["execution"]["data_root"].startswith("gs://")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failures", "end"),
    [
        (["create 3 1 RESOURCE_EXHAUSTED: Quota limit has been exceeded"], 0),
        (["create 1 1 UNAVAILABLE", "describe 4 1 UNAVAILABLE"], 0),
        (["scp 2 255 connection refused", "ssh 1 255 reset"], 0),
        (["delete 2 1 UNAVAILABLE"], 0),
        (["ssh 1 255 PREEMPTED"], "node"),
        (["create 1 1 INVALID_ARGUMENT: no such type"], "user"),
        (["create 1 1 PERMISSION_DENIED: tpu.nodes.create"], "user"),
        (["scp 9 255 connection refused"], "node"),
    ],
    ids=["quota", "hiccups", "unreachable for a while", "delete", "preempted", "wrong", "forbidden", "unreachable"],
)
def test_what_gcloud_may_answer(failures: list[str], end: int | str, life: Life, cloud: Cloud):
    """Quota and hiccups are waited for; what can never be is said; nothing is left that is paid."""
    cloud.worker("exit 0")
    cloud.fail(*failures)
    found = life.end(life.start())
    assert found == end if isinstance(end, int) else getattr(found, "kind", found) == end, life.log.read_text()


@pytest.mark.slow
def test_what_is_another_s_is_left_alone(life: Life, cloud: Cloud):
    """A slice of that name without our labels: whatever its state, no word is said to delete it."""
    cloud.worker("exit 0")
    cloud.add(life.slice.name, OTHERS)
    keeper = life.start()
    end = until(lambda: keeper.poll())
    assert getattr(end, "kind", end) == "user" and "labels that are not ours" in end.reason
    assert cloud.paid == [life.slice.name] and cloud.verbs == []


@pytest.mark.slow
@pytest.mark.parametrize("state", ["ACTIVE", "WAITING_FOR_RESOURCES", "FAILED", "SUSPENDED"])
def test_what_an_attempt_before_has_left_is_deleted_first(state: str, life: Life, cloud: Cloud):
    """It bears our labels and another attempt's."""
    cloud.worker("exit 0")
    cloud.add(life.slice.name, {**life.slice.labels, "lossgrid-attempt": "before"}, state)
    assert life.end(life.start()) == 0
    assert cloud.verbs[:2] == ["delete", "create"]


@pytest.mark.slow
def test_one_request_to_stop_saves_and_a_second_deletes_at_once(life: Life, cloud: Cloud):
    """The first reaches the worker through the bucket."""
    cloud.worker(SAVES_WHEN_ASKED)
    keeper = life.start()
    until(life.training)
    keeper.stop()
    assert life.end(keeper) == 75
    cloud.worker("trap '' TERM; echo $$ >> began; while true; do sleep 0.1; done")
    keeper = life.start()
    until(life.training)
    keeper.stop(force=True)
    assert life.end(keeper) == 75


def test_requests_to_stop_that_never_end_do_not_end_it_by_a_signal(life: Life, cloud: Cloud):
    """They come until its last moment, in which it no longer needs them."""
    cloud.worker(SAVES_WHEN_ASKED)
    keeper = life.start()
    until(life.training)
    while keeper.process.poll() is None:
        keeper.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert life.end(keeper) == 75


@pytest.mark.slow
def test_a_slice_whose_keeper_is_killed_deletes_itself(life: Life, cloud: Cloud):
    """Its worker saves before that. Nobody else does anything."""
    cloud.worker(SAVES_WHEN_ASKED)
    keeper = life.start()
    until(life.training)
    keeper.process.kill()
    until(lambda: cloud.paid == [])
    keeper.close()
    assert cloud.verbs.count("delete") >= 1


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["create", "scp", "ssh"])
def test_a_keeper_may_be_killed_at_any_moment(moment: str, life: Life, cloud: Cloud):
    """The executor has the slice deleted of one that was killed, and touches no other."""
    cloud.worker(SAVES_WHEN_ASKED)
    cloud.add("lossgrid-bert-0-x", OTHERS)
    keeper = life.start()
    until(lambda: moment in cloud.verbs)
    keeper.process.kill()
    until(lambda: keeper.poll() is not None)
    executor = tpu_vm.TpuVmExecutor(OPTIONS)
    executor._workdir = life.slice.workdir
    executor.release(keeper)
    keeper.close()
    until(lambda: cloud.left == ["lossgrid-bert-0-x"])


@pytest.mark.slow
def test_a_second_start_on_a_host_starts_nothing(life: Life, cloud: Cloud):
    """gcloud repeats what it has sent over a connection that broke."""
    cloud.worker(SAVES_WHEN_ASKED)
    keeper = life.start()
    until(life.training)
    orders = slice_talk.read_orders(life.slice.folder)
    again = life.slice.start(orders.attempt)
    done = subprocess.run(again, capture_output=True, text=True)
    assert done.returncode == 0 and "runs already" in done.stdout, done.stderr
    (began,) = cloud.folder.glob("hosts/*/*/0/lossgrid/began")
    assert len(began.read_text().splitlines()) == 1
    keeper.stop()
    assert life.end(keeper) == 75


@pytest.mark.slow
def test_a_preempted_slice_is_said_to_be(life: Life, cloud: Cloud):
    """Its worker can no more say so."""
    cloud.worker(SAVES_WHEN_ASKED)
    keeper = life.start()
    until(life.training)
    cloud.fail("describe 1 1 PREEMPTED")
    end = life.end(keeper)
    assert end.kind == "preempted" and "was taken away" in end.reason


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_slice_is_left_under_random_faults(seed: int, life: Life, cloud: Cloud):
    """A quarter of all calls fails in one way or another; three in four of those who see to slices are stopped or killed."""
    draw = random.Random(seed)
    cloud.worker(SAVES_WHEN_ASKED if seed % 2 else "sleep 1")
    cloud.add("lossgrid-bert-0-x", OTHERS, "WAITING_FOR_RESOURCES")
    cloud.fail_at_random(seed, rate=0.25)
    keepers = [life.start(f"{NAME[:-1]}{number}") for number in range(4)]
    for number, keeper in enumerate(keepers):
        time.sleep(draw.uniform(0, 3))
        if number < 3 or seed % 2:
            keeper.process.send_signal(draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
    until(lambda: cloud.paid == ["lossgrid-bert-0-x"] and all(keeper.poll() is not None for keeper in keepers))
    for keeper in keepers:
        keeper.close()
    print(f"seed {seed}: {dict(cloud.injected)}, {len(cloud.calls)} calls")


# --- the dead man's switch alone


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stands still", "never comes", "is over"])
def test_a_host_deletes_its_slice(end: str, cloud: Cloud, monkeypatch: pytest.MonkeyPatch):
    """While the counter moves it does nothing; then it asks until it is gone, however often it is not heard."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    slice_ = slice_of(cloud)
    seconds = {"stands still": (3, 600), "never comes": (3, 600), "is over": (600, 6)}[end]
    monkeypatch.setenv("LOSSGRID_FAKE_SPEED", "1")
    command = slice_.create("a1")
    for number, (key, value) in enumerate(zip(("still", "most"), seconds, strict=True)):
        before = (900, 86400)[number]
        command = [
            word.replace(f"lossgrid-{key}-seconds={before}", f"lossgrid-{key}-seconds={value}") for word in command
        ]
    cloud.fail("delete 2 1 UNAVAILABLE")
    subprocess.run(command, check=True, capture_output=True)
    if end != "never comes":
        for beat in range(16):
            files.write_json(f"{slice_.folder}/keeper.json", {"beat": beat})
            time.sleep(0.3)
            assert "delete" not in cloud.verbs or end == "is over"
    until(lambda: cloud.paid == [])
    assert cloud.verbs.count("delete") == 3


# --- whole launches


@pytest.mark.slow
def test_slices_train_a_study_in_the_bucket(
    executor_study: pathlib.Path, at_home: dict[str, float], cloud: Cloud, tmp_path: pathlib.Path
):
    """The workdir is an address all the time; the runs are those that are trained at home."""
    done = launch(executor_study, f"{cloud.bucket}/study", f"{TPU},slots=2", **cloud.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(f"{cloud.bucket}/study") == pytest.approx(at_home, rel=1e-5)
    assert cloud.paid == [] and cloud.verbs.count("create") == 3


@pytest.fixture
def one_run(executor_study: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The study's first run alone."""
    path = tmp_path / "one.py"
    text = executor_study.read_text().replace("return chain(", "return runs[:1]\n    return chain(")
    path.write_text(text.replace('"seq_len": 32,', '"seq_len": 32, "data.unique_tokens": 200_000,'))
    return path


@pytest.mark.slow
def test_the_hosts_of_a_slice_train_one_run(one_run: pathlib.Path, cloud: Cloud, tmp_path: pathlib.Path):
    """Two, each with a process of its own; the first holds the claims and speaks."""
    executor = TPU.replace("v5litepod-4", "v5p-16")
    done = launch(one_run, f"{cloud.bucket}/study", executor, **cloud.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    home = launch(one_run, tmp_path / "home", "local")
    assert home.returncode == 0, home.stderr
    assert losses(f"{cloud.bucket}/study") == pytest.approx(losses(tmp_path / "home"), rel=1e-5)
    assert cloud.left == []


@pytest.mark.slow
def test_launcher_and_keepers_may_be_killed(
    executor_study: pathlib.Path,
    at_home: dict[str, float],
    cloud: Cloud,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The next launch deletes what they have left, and goes on."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    workdir = f"{cloud.bucket}/study"
    first = started(executor_study, workdir, f"{TPU},slots=2")
    until(lambda: cloud.verbs.count("ssh") >= 4)
    keepers = children(first.pid)
    first.kill()
    for pid in keepers:
        os.kill(pid, signal.SIGKILL)
    first.wait()
    assert cloud.paid
    done = launch(executor_study, workdir, f"{TPU},slots=2", **cloud.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(workdir) == pytest.approx(at_home, rel=1e-5)
    assert cloud.paid == []


@pytest.mark.slow
def test_a_slice_is_given_back_before_its_run_is_taken_over(
    one_run: pathlib.Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
):
    """What sees to a slice cannot answer as its launcher is killed. The next launcher leaves its run alone until it can."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOSSGRID_FAKE_SPEED", "1")  # the slice does not delete itself meanwhile
    workdir = f"{cloud.bucket}/study"
    long = pathlib.Path(f"{one_run}:3000")
    first = started(long, workdir, TPU)
    until(lambda: cloud.verbs.count("ssh") >= 2)
    (keeper,) = children(first.pid)
    os.kill(keeper, signal.SIGSTOP)
    first.kill()
    first.wait()
    second = started(long, workdir, TPU)
    until(lambda: "is being trained by" in second.said()[1])
    assert cloud.verbs.count("create") == 1 and len(cloud.paid) == 1
    os.kill(keeper, signal.SIGCONT)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, out + err
    assert cloud.verbs.count("delete") >= cloud.verbs.count("create") and cloud.paid == []
    assert len(losses(workdir)) == 1


def children(pid: int) -> list[int]:
    """Process ids of what a process has started."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]
