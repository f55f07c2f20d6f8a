"""Workers on a Ray cluster: an actor per host, which runs a worker there as a subprocess and passes on what it says.

    --executor=ray:address=auto,gpus=1,slots=2        on a cluster that runs; without an address one is started here

An actor is placed where its resources are free (cpus, gpus, and TPU chips as Ray's resource "TPU"). `hosts` actors on as
many nodes form one worker: the population of a slice. When the launcher ends, Ray ends its actors, and with them the
workers, which save first. A node that is lost ends its worker as if it was killed; it goes on elsewhere from its last
checkpoint. The workdir has to be a folder that all nodes see, or gs://. requirements-ray.txt has what this needs.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import signal
import time
from typing import Any

from etils import epath

from experiments import files
from experiments.cli import EXIT_AGAIN
from models.errors import InputError
from sweeps.executors.support.gang import Gang
from sweeps.executors.support.protocol import ROOT, End, Event, Executor, Hardware, python_path, train_command
from sweeps.executors.support.ray_host import Host, Member

COUNT_SECONDS = 5.0  # between two counts of the cluster's nodes
LOOK_SECONDS = 0.2  # between two looks at an actor, each a call over the network


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

    def needs(self) -> dict[str, float]:
        """Return the resources of one host, by Ray's names."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "TPU": self.tpus}
        if self.resource:
            wanted[self.resource] = 1
        return {name: float(number) for name, number in wanted.items() if number}


def executor(options: Options) -> "RayExecutor":
    """Make the executor. Raises InputError when Ray is not installed or the cluster cannot be reached."""
    return RayExecutor(options)


class PlacedWorker:
    """A Worker that waits for its place, without keeping the launcher from its other workers, and then is a Gang."""

    def __init__(self, owner: "RayExecutor", arguments: Sequence[str], log: epath.Path):
        self.pid = os.getpid()
        self.place = owner.reserve()
        self._owner = owner
        self._arguments = list(arguments)
        self._log = log
        self._ready = self.place.ready()
        self._gang: Gang | None = None
        self._status: int | None = None
        self._token: str | None = None  # once it may begin

    def _placed(self) -> Gang | None:
        """Return the gang, once there is a place for it."""
        waiting = self._gang is None and self._status is None
        if waiting and self._place_is_ready():
            self._begin()
        return self._gang

    def _place_is_ready(self) -> bool:
        ready, _ = self._owner.ray.wait([self._ready], timeout=0)
        return bool(ready)

    def _begin(self) -> None:
        """Start the actors in their place. A failure there ends the worker, as a node that is lost would."""
        ray = self._owner.ray
        try:
            members = self._owner.start_members(self.place, self._arguments, self._log)
        except (ray.exceptions.RayError, ConnectionError) as error:
            files.write_bytes(self._log, f"error: UNAVAILABLE: ray: {type(error).__name__}\n".encode())
            self._status = -signal.SIGKILL
            return
        self._gang = Gang(members)
        if self._token is not None:
            self._gang.go(self._token)

    def go(self, token: str = "") -> None:
        """Let it begin, as soon as it is there."""
        self._token = token
        if self._gang:
            self._gang.go(token)

    def events(self) -> list[Event]:
        """Return what it has reported."""
        gang = self._placed()
        return gang.events() if gang else []

    def poll(self) -> End:
        """Return its exit status once it is over."""
        gang = self._placed()
        return gang.poll() if gang else self._status

    def close(self) -> None:
        """Let go of its actors."""
        if self._gang:
            self._gang.close()

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end; one that waits is over at once."""
        if self._gang:
            self._gang.stop(force)
        else:
            self._status = EXIT_AGAIN


class RayExecutor(Executor[PlacedWorker]):
    """Room for as many workers as the cluster has resources.

    Each worker has what the options say, however many there are: a split over more devices sums in another order.
    Ray ends the actors of a launcher that is over; their workers save and end, so that there is nothing to clear.
    """

    def __init__(self, options: Options):
        try:
            import ray  # pyright: ignore[reportMissingImports]  # an optional package
        except ImportError:
            raise InputError("--executor=ray: Ray is not installed; pip install -r requirements-ray.txt") from None
        self.ray: Any = ray  # it has no types that we could rely on
        self._options = options
        self._counted_at = float("-inf")  # on the monotonic clock
        self._room = 0  # workers, by the last count
        self._connect()
        if not self.slots:
            raise InputError(
                f"--executor=ray: no room for {options.needs()} on {options.hosts} hosts; "
                f"the cluster has {self._resources()}"
            )

    def _connect(self) -> None:
        """Join the cluster. Raises InputError where none can be reached."""
        # By default Ray kills the processes of an actor that it ends; ours are told by the kernel, and save first.
        variables = {"PYTHONPATH": python_path(), "RAY_kill_child_processes_on_worker_exit": "false"}
        environment: dict[str, Any] = {"env_vars": variables}
        if self._options.ship:
            environment["working_dir"] = ROOT
        address = self._options.address
        try:
            self.ray.init(address=address or None, log_to_driver=False, logging_level="error", runtime_env=environment)
        except (ConnectionError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())[:200]
            raise InputError(f"--executor=ray:address={address}: no cluster can be reached ({text})") from None

    def hardware(self) -> Hardware | None:
        """Return what one worker trains on; a custom resource does not say what it stands for."""
        options = self._options
        if options.tpus:
            return Hardware("tpu", options.tpus * options.hosts)
        if options.gpus:
            return Hardware("gpu", options.gpus * options.hosts)
        return None if options.resource else Hardware("cpu", 1)

    @property
    def slots(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # nobody but the executor sets it
        """Workers at a time: nodes may leave and join."""
        if self._options.slots:
            return self._options.slots
        if time.monotonic() - self._counted_at > COUNT_SECONDS:
            self._counted_at = time.monotonic()
            self._room = self._count_room()
        return self._room

    def _resources(self) -> dict[str, float]:
        """Return what the cluster has, without Ray's own entries."""
        found = self.ray.cluster_resources()
        return {name: number for name, number in found.items() if not name.startswith(("node:", "object"))}

    def _count_room(self) -> int:
        """Return the number of workers that the living nodes hold together, counted host by host."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        hosts_on_each = [_hosts_on(node, self._options.needs()) for node in nodes]
        if self._options.hosts == 1:
            return sum(hosts_on_each)
        usable = sum(1 for number in hosts_on_each if number)  # each host of a worker is on a node of its own
        return usable // self._options.hosts

    def options(self) -> dict[str, Any]:
        """Return the simulated devices on a CPU: one per core that was asked for."""
        given = self._options
        return {} if given.gpus or given.tpus else {"cpu_devices": given.cpus}

    def reserve(self) -> Any:
        """Ask for the place of one worker, each of its hosts on a node of its own; it may have to wait for it."""
        hosts = self._options.hosts
        spread = "STRICT_SPREAD" if hosts > 1 else "PACK"
        return self.ray.util.placement_group([self._options.needs()] * hosts, strategy=spread)

    def start_members(self, place: Any, arguments: Sequence[str], log: epath.Path) -> list[Member]:
        """Start a worker's actors in their place, each with its process, which waits."""
        hosts = self._options.hosts
        actors = [self._start_actor(place, index) for index in range(hosts)]
        first = self.ray.get(actors[0].address.remote()) if hosts > 1 else ""
        members = []
        for index, actor in enumerate(actors):
            join = [f"--hosts={first}:{self._options.port},{index},{hosts}"] if hosts > 1 else []
            self.ray.get(actor.start.remote([*arguments, *join]))
            own_log = log if index == 0 else log.with_suffix(f".{index}.log")
            members.append(Member(self.ray, actor, own_log))
        return members

    def _start_actor(self, place: Any, index: int) -> Any:
        """Start the actor of one host, in its part of the place."""
        from ray.util.scheduling_strategies import (  # pyright: ignore[reportMissingImports]
            PlacementGroupSchedulingStrategy,
        )

        needs = self._options.needs()
        cpus = needs.pop("CPU", 0)
        gpus = needs.pop("GPU", 0)
        where = PlacementGroupSchedulingStrategy(place, placement_group_bundle_index=index)
        actor = self.ray.remote(Host)
        return actor.options(num_cpus=cpus, num_gpus=gpus, resources=needs, scheduling_strategy=where).remote()

    def start(self, population: epath.Path, workdir: epath.Path, log: epath.Path) -> PlacedWorker:
        """Start a worker as soon as there is room for it."""
        _, *arguments = train_command(population, workdir)  # without the interpreter: the host has its own
        return PlacedWorker(self, arguments, log)

    def release(self, worker: PlacedWorker) -> None:
        """Give its place back to the cluster."""
        self.ray.util.remove_placement_group(worker.place)

    def wait(self, workers: Sequence[PlacedWorker], seconds: float) -> None:
        """Return after so long, or LOOK_SECONDS: a look at an actor is a call over the network."""
        time.sleep(min(seconds, LOOK_SECONDS))


def _hosts_on(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return how many hosts of a worker fit on a node."""
    if not needs:
        return 1
    return min(int(node.get(name, 0) // number) for name, number in needs.items())
