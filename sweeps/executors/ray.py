"""Workers on a Ray cluster: an actor per host, which runs a worker there as a subprocess and passes on what it says.

    --executor=ray:address=auto,gpus=1,retries=2      on a cluster that runs; without an address one is started here

An actor is placed where its resources are free (cpus, gpus, and TPU chips as Ray's resource "TPU"). `hosts` actors on as
many nodes form one worker: the population of a slice. When the launcher ends, Ray ends its actors, and with them the
workers, which save first. A node that is lost ends its worker as if it was killed; it goes on elsewhere from its last
checkpoint. The workdir has to be a folder that all nodes see, or gs://. requirements-ray.txt has what this needs.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import time
from typing import Any

from etils import epath

from experiments import files
from experiments.cli import EXIT_AGAIN, InputError
from sweeps.executors import protocol
from sweeps.executors.gang import Group
from sweeps.executors.protocol import Event

CALL_SECONDS = 30.0  # for an actor to answer
SILENT_SECONDS = 60.0  # without an answer, after which an actor counts as lost
COUNT_SECONDS = 5.0  # between two counts of the cluster's nodes


@dataclasses.dataclass(frozen=True)
class Options:
    """Of one host of one worker; `slots` is how many workers at a time (0: as many as the cluster has room for)."""

    address: str = ""  # of the cluster ("auto": of the one on this machine); "": RAY_ADDRESS, or a cluster of our own
    cpus: int = 1
    gpus: int = 0
    tpus: int = 0
    resource: str = ""  # name of a custom resource of which each host needs one, such as a slice's
    hosts: int = 1
    slots: int = 0
    port: int = 8476  # of the first host, on which several join
    ship: bool = False  # send this folder's code to the nodes, which do not have it


def executor(options: Options) -> "RayExecutor":
    """On the cluster of the options. Raises InputError when Ray is not installed or the cluster cannot be reached."""
    return RayExecutor(options)


class Host:
    """The actor: one process on one host. Its log goes to the launcher, since no folder may be shared."""

    def __init__(self) -> None:
        from sweeps.executors.local import LocalWorker

        self._make: Any = LocalWorker
        self._worker: Any = None
        self._read = 0
        self._log = epath.Path(tempfile.mkdtemp(prefix="lossgrid-")) / "log"

    def address(self) -> str:
        """Of this host, as others reach it."""
        import ray

        return ray.util.get_node_ip_address()

    def start(self, arguments: list[str]) -> None:
        """Start the worker; it waits for `go`. The interpreter is this actor's."""
        self._worker = self._make([sys.executable, *arguments], None, {}, self._log)

    def go(self, token: str) -> bool:
        """Let it begin."""
        self._worker.go(token)
        return True

    def look(self) -> tuple[int | None, list[Event], bytes]:
        """Exit code, events and log since the last look."""
        code = self._worker.poll()  # before the last events are read
        events = self._worker.events()
        with open(self._log, "rb") as file:
            file.seek(self._read)
            text = file.read()
        self._read += len(text)
        return code, events, text

    def stop(self, force: bool) -> None:
        """Ask it to save and end, or end it."""
        self._worker.stop(force)


class Member:
    """A Worker: one host's actor, as seen from here."""

    def __init__(self, ray: Any, actor: Any, log: epath.Path):
        self._ray, self._actor, self._log, self.pid = ray, actor, log, os.getpid()
        self._code: int | None = None
        self._events: list[Event] = []
        self._silent_since: float | None = None

    def _call(self, method: str, *arguments: Any) -> Any:
        """None when there was no answer. An actor that is dead, or silent for long, is noted as the worker's end."""
        ray, now = self._ray, time.monotonic()
        if self._code is not None:
            return None
        try:
            out = ray.get(getattr(self._actor, method).remote(*arguments), timeout=CALL_SECONDS)
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError) as error:
            self._silent_since = self._silent_since or now  # perhaps only the network: its worker may live
            if now - self._silent_since > SILENT_SECONDS:
                self._lost(error)
        except (ray.exceptions.RayError, ConnectionError) as error:
            self._lost(error)
        else:
            self._silent_since = None
            return out
        return None

    def _lost(self, error: Exception) -> None:
        self.close()
        self._code = -signal.SIGKILL  # to the runs it is the same
        self._write(f"error: ray: the host or its actor was lost ({type(error).__name__})\n".encode())

    def _write(self, text: bytes) -> None:
        if text:
            before = self._log.read_bytes() if self._log.exists() else b""
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._log.write_bytes(before + text)

    def go(self, token: str = "") -> None:
        """Let it begin."""
        if self._call("go", token) is None and self._code is None:
            self._lost(TimeoutError())  # whether it has heard is not known

    def _look(self) -> None:
        if found := self._call("look"):
            code, events, text = found
            self._events += events
            self._write(text)
            self._code = code

    def events(self) -> list[Event]:
        """Since the last call."""
        self._look()
        out, self._events = self._events, []
        return out

    def poll(self) -> int | None:
        """Its exit code once it is over."""
        self._look()
        return self._code

    def close(self) -> None:
        """End the actor."""
        with contextlib.suppress(Exception):  # it may be dead, and so may be the cluster
            self._ray.kill(self._actor)

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end, or end it."""
        self._call("stop", force)


class Placed:
    """A Worker that waits for its place, without keeping the launcher from its other workers, and then is a Group."""

    def __init__(self, executor: "RayExecutor", command: Sequence[str], log: epath.Path):
        self._executor, self._command, self._log, self.pid = executor, list(command), log, os.getpid()
        self.place = executor.reserve()
        self._ready = self.place.ready()
        self._group: Group | None = None
        self._code: int | None = None
        self._token: str | None = None  # once it may begin

    def _advance(self) -> Group | None:
        """The group, once there is a place for it."""
        ray = self._executor.ray
        if self._group is None and self._code is None and ray.wait([self._ready], timeout=0)[0]:
            try:
                self._group = Group(self._executor.actors(self.place, self._command, self._log))
            except (ray.exceptions.RayError, ConnectionError) as error:
                files.write_bytes(self._log, f"error: UNAVAILABLE: ray: {type(error).__name__}\n".encode())
                self._code = -signal.SIGKILL
            if self._group and self._token is not None:
                self._group.go(self._token)
        return self._group

    def go(self, token: str = "") -> None:
        """Let it begin, as soon as it is there."""
        self._token = token
        if self._group:
            self._group.go(token)

    def events(self) -> list[Event]:
        """What it has reported."""
        group = self._advance()
        return group.events() if group else []

    def poll(self) -> int | None:
        """Its exit code once it is over."""
        group = self._advance()
        return group.poll() if group else self._code

    def close(self) -> None:
        """Let go of its actors."""
        if self._group:
            self._group.close()

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end; one that waits is over at once."""
        if self._group:
            self._group.stop(force)
        else:
            self._code = EXIT_AGAIN


class RayExecutor:
    """Room for as many workers as the cluster has resources."""

    def __init__(self, options: Options):
        try:
            import ray
        except ImportError:
            raise InputError("--executor=ray: Ray is not installed; pip install -r requirements-ray.txt") from None
        self.ray, self._options = ray, options
        # By default Ray kills the processes of an actor that it ends; ours are told by the kernel, and save first.
        variables = {"PYTHONPATH": protocol.python_path(), "RAY_kill_child_processes_on_worker_exit": "false"}
        environment: dict[str, Any] = {"env_vars": variables}
        if options.ship:
            environment["working_dir"] = protocol.python_path().split(os.pathsep)[0]
        try:
            ray.init(
                address=options.address or None, log_to_driver=False, logging_level="error", runtime_env=environment
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())[:200]
            raise InputError(f"--executor=ray:address={options.address}: no cluster can be reached ({text})") from None
        self._counted = (float("-inf"), 0)
        if not self.slots:
            there = {name: n for name, n in ray.cluster_resources().items() if not name.startswith(("node:", "object"))}
            raise InputError(
                f"--executor=ray: no room for {self._needs} on {options.hosts} hosts; the cluster has {there}"
            )

    @property
    def slots(self) -> int:
        """Workers at a time: nodes may leave and join."""
        if self._options.slots:
            return self._options.slots
        if time.monotonic() - self._counted[0] > COUNT_SECONDS:
            self._counted = (time.monotonic(), self._room())
        return self._counted[1]

    @property
    def _needs(self) -> dict[str, float]:
        given = self._options
        needs = {"CPU": given.cpus, "GPU": given.gpus, "TPU": given.tpus, given.resource: 1 if given.resource else 0}
        return {name: float(number) for name, number in needs.items() if number}

    def _room(self) -> int:
        """Workers that the living nodes hold together, counted host by host."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        each = [min((int(node.get(name, 0) // n) for name, n in self._needs.items()), default=1) for node in nodes]
        hosts = self._options.hosts
        return sum(each) if hosts == 1 else sum(1 for room in each if room) // hosts

    def share(self, populations: int) -> None:
        """Each worker has what the options say, however many there are: a split over more devices sums in another order."""

    def clear(self, workdir: epath.Path) -> None:
        """Ray ends the actors of a launcher that is over; their workers save and end."""

    def options(self) -> dict[str, Any]:
        """Simulated devices on a CPU: one per core that was asked for."""
        return {} if self._options.gpus or self._options.tpus else {"cpu_devices": self._options.cpus}

    def reserve(self) -> Any:
        """A place for one worker, each of its hosts on a node of its own; it may have to wait for it."""
        hosts = self._options.hosts
        spread = "STRICT_SPREAD" if hosts > 1 else "PACK"
        return self.ray.util.placement_group([self._needs] * hosts, strategy=spread)

    def actors(self, place: Any, command: Sequence[str], log: epath.Path) -> list[Member]:
        """A worker's actors in their place, each with its process, which waits."""
        ray, needs, hosts = self.ray, self._needs, self._options.hosts
        from ray.util.scheduling_strategies import (  # pyright: ignore[reportMissingImports]
            PlacementGroupSchedulingStrategy,
        )

        actors = [
            ray.remote(Host)
            .options(
                num_cpus=needs.get("CPU", 0),
                num_gpus=needs.get("GPU", 0),
                resources={name: n for name, n in needs.items() if name not in ("CPU", "GPU")},
                scheduling_strategy=PlacementGroupSchedulingStrategy(place, placement_group_bundle_index=index),
            )
            .remote()
            for index in range(hosts)
        ]
        first = ray.get(actors[0].address.remote()) if hosts > 1 else ""
        members = []
        for index, actor in enumerate(actors):
            join = [f"--hosts={first}:{self._options.port},{index},{hosts}"] if hosts > 1 else []
            ray.get(actor.start.remote([*command, *join]))
            members.append(Member(ray, actor, log if index == 0 else log.with_suffix(f".{index}.log")))
        return members

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> Placed:
        """A worker, as soon as there is room for it."""
        return Placed(self, protocol.train_command(population, workdir)[1:], log)

    def release(self, worker: Placed) -> None:
        """Its place is free again."""
        self.ray.util.remove_placement_group(worker.place)

    def wait(self, workers: list[Placed], seconds: float) -> None:
        """A look at an actor is a call over the network: not more often than this."""
        time.sleep(min(seconds, 0.2))
