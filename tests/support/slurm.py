"""A real Slurm of the tests' own: two nodes on this machine, in a temporary folder, with ports and a key of its own.

`slurmctld`, `slurmd` and `munge` are Debian's packages, as .ci/run installs them; they have to be started as root. With
`slurmdbd` and `mariadb-server` a cluster can also have accounting, and with it limits on what a user may submit.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import math
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd", "srun")
ACCOUNTING_DAEMONS = ("slurmdbd", "mariadbd", "mariadb-install-db")
NODES = ("node1", "node2")
SECONDS = 30.0  # for anything of the cluster to happen

CONF = """
ClusterName=lossgrid
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
KillWait=2
MessageTimeout=5
SlurmctldTimeout=300
SlurmdTimeout=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs={cpus} State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=1
PartitionName=cancel Nodes=ALL PriorityTier=1 PreemptMode=CANCEL GraceTime=1
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""

DATABASE_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageLoc=slurm
StorageUser=root
"""

ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits,qos
"""


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def why_not(*more: str) -> str | None:
    """Why there can be no cluster here."""
    if os.geteuid() != 0:
        return "Slurm's daemons have to be started as root"
    missing = [name for name in (*DAEMONS, *more) if shutil.which(name) is None]
    return f"not on PATH: {', '.join(missing)} (.ci/run names the packages)" if missing else None


def until(condition: Callable[[], object], seconds: float = SECONDS) -> object:
    """Wait for something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


class Slurm:
    """The cluster, and its commands."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.conf = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.conf)}
        self._hastened: dict[str, float] = {}  # when, by number of the job, on the monotonic clock

    def start(self, accounting: bool = False) -> None:
        """Start all daemons, and wait until the nodes are idle."""
        folder = self.folder
        folder.chmod(0o755)
        (folder / "state").mkdir()
        for node in NODES:
            (folder / f"spool.{node}").mkdir()
        ports = {name: free_port() for name in ("port", "port1", "port2")}
        text = CONF.format(folder=folder, host=socket.gethostname(), cpus=os.cpu_count(), **ports)
        self._start_munge()
        if accounting:
            port = free_port()
            text += ACCOUNTING.format(folder=folder, port=port)
            self.conf.write_text(text)
            self._start_database(port)
        self.conf.write_text(text)
        self.start_controller()
        for node in NODES:
            self._start(f"slurmd.{node}", "slurmd", "-D", "-f", self.conf, "-N", node)
        until(lambda: self.idle)

    def _start(self, name: str, *command: str | pathlib.Path, **environment: str) -> None:
        """Start a daemon that ends with these tests, however they end."""
        with open(self.folder / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | self.environment | environment,
                start_new_session=True,
            )

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f"--{what}-file={self.folder}/munge.{what}" for what in ("key", "pid", "log", "seed")]
        self._start("munged", "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        until((self.folder / "munge.socket").exists)

    def _start_database(self, port: int) -> None:
        data = self.folder / "mariadb"
        options = ["--user=root", f"--datadir={data}"]
        made = subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=socket", *options],
            capture_output=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        server = ["mariadbd", "--no-defaults", *options, "--skip-networking", f"--socket={self.folder}/mariadb.socket"]
        self._start("mariadbd", *server, f"--pid-file={self.folder}/mariadb.pid")
        until((self.folder / "mariadb.socket").exists)
        conf = self.folder / "slurmdbd.conf"
        conf.write_text(DATABASE_CONF.format(folder=self.folder, port=port))
        conf.chmod(0o600)
        socket_of = {"MYSQL_UNIX_PORT": f"{self.folder}/mariadb.socket"}
        self._start("slurmdbd", "slurmdbd", "-D", SLURM_CONF=str(conf.with_name("slurm.conf")), **socket_of)
        until(lambda: self("sacctmgr", "--noheader", "show", "cluster") is not None)
        self("sacctmgr", "--immediate", "add", "cluster", "lossgrid")
        self("sacctmgr", "--immediate", "add", "account", "lab")
        self("sacctmgr", "--immediate", "add", "user", "root", "account=lab")

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D", "-f", self.conf)

    def stop_controller(self) -> None:
        self.daemons["slurmctld"].terminate()
        self.daemons.pop("slurmctld").wait()

    def __call__(self, *command: str) -> str | None:
        """What a command says; None when it fails."""
        environment = os.environ | self.environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
        return done.stdout if done.returncode == 0 else None

    @property
    def idle(self) -> bool:
        return set((self("sinfo", "--noheader", "--format=%T") or "").split()) == {"idle"}

    def states(self) -> dict[str, str]:
        """State by number of the jobs that Slurm still knows."""
        lines = (self("squeue", "--noheader", "--states=all", "--format=%i %T") or "").splitlines()
        return dict(line.split() for line in lines)

    def running(self) -> list[str]:
        return [number for number, state in self.states().items() if state == "RUNNING"]

    def hasten(self) -> None:
        """Have jobs that were queued again start soon: Slurm lets them wait for minutes, until old credentials are void.

        One that starts in the second in which its old credential was revoked, Slurm calls failed without a start
        ("Killing non-startable batch: Job credential revoked").
        """
        lines = (self("squeue", "--noheader", "--states=PENDING", "--format=%i %r") or "").splitlines()
        for line in lines:
            number, reason = line.split(maxsplit=1)
            is_new = time.monotonic() - self._hastened.get(number, -math.inf) > 5
            if reason == "BeginTime" and is_new:
                self._hastened[number] = time.monotonic()
                self("scontrol", "update", f"JobId={number}", "StartTime=now+2seconds")

    @contextlib.contextmanager
    def hastening(self) -> Iterator[None]:
        """Do so every second."""
        over = threading.Event()

        def run() -> None:
            while not over.wait(1):
                if "slurmctld" in self.daemons:
                    self.hasten()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def clear(self) -> None:
        """End all jobs."""
        self("scancel", f"--user={os.getuid()}")
        self("scancel", f"--user={os.getuid()}", "--signal=KILL", "--full")
        until(lambda: not self("squeue", "--noheader"), 3 * SECONDS)  # a host tells a controller that was away later

    def stop(self) -> None:
        """End all jobs and daemons, the last started first."""
        if "slurmctld" in self.daemons:
            self.clear()
        for process in reversed(self.daemons.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


SBATCH = """#!/bin/bash
# An sbatch that fails now and then, before Slurm has the job or after.
when=({when})
texts=({texts})
if [ $((RANDOM % 100)) -lt {percent} ]; then
  kind=${{when[RANDOM % ${{#when[@]}}]}}
  [ $kind = after ] && {real} "$@" > /dev/null
  echo $kind >> {folder}/failed
  echo "sbatch: error: Batch job submission failed: ${{texts[RANDOM % ${{#texts[@]}}]}}" >&2
  exit 1
fi
exec {real} "$@"
"""


def failing_sbatch(folder: pathlib.Path, percent: int, when: Sequence[str], texts: Sequence[str]) -> str:
    """Return a PATH with an sbatch that fails so often, and keeps in `failed` when: before or after Slurm has the job."""
    folder.mkdir()
    script = folder / "sbatch"
    values = {"when": " ".join(when), "texts": shlex.join(texts), "real": shutil.which("sbatch")}
    script.write_text(SBATCH.format(folder=folder, percent=percent, **values))
    script.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def _made(accounting: bool) -> Iterator[Slurm]:
    reason = why_not(*ACCOUNTING_DAEMONS) if accounting else why_not()
    if reason:
        pytest.skip(reason)
    # A short path: that of a socket has a hundred characters at most.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm-"))
    made = Slurm(folder)
    try:
        made.start(accounting)
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Slurm]:
    """Two nodes, no accounting, for all tests."""
    yield from _made(accounting=False)


@pytest.fixture(scope="session")
def accounting_cluster() -> Iterator[Slurm]:
    """The same with accounting."""
    yield from _made(accounting=True)


@pytest.fixture
def slurm(slurm_cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The cluster, for one test; no job is left afterwards."""
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_cluster
    if "slurmctld" not in slurm_cluster.daemons:
        slurm_cluster.start_controller()
    slurm_cluster.clear()


@pytest.fixture
def slurm_with_limits(accounting_cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The cluster with accounting, for one test."""
    for name, value in accounting_cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield accounting_cluster
    accounting_cluster.clear()
