"""Workers on a Ray cluster: an actor per host, which runs a worker there as a subprocess and passes on what it says.

    --executor=ray:address=auto,gpus=1,slots=2        on a cluster that runs; without an address one is started here

An actor is placed where its resources are free (cpus, gpus, and TPU chips as Ray's resource "TPU"). `hosts` actors on as
many nodes form one worker: the population of a slice. When the launcher ends, Ray ends its actors, and with them the
workers, which save first. A node that is lost ends its worker as if it was killed; it goes on elsewhere from its last
checkpoint. The workdir has to be a folder that all nodes see, or gs://. requirements-ray.txt has what this needs.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import os
import queue
import threading
import time
from typing import Any

from etils import epath

from experiments.cli import EXIT_AGAIN, explain
from models.errors import InputError
from sweeps.executors.support.gang import Gang
from sweeps.executors.support.options import at_least
from sweeps.executors.support.protocol import (
    ROOT,
    End,
    Event,
    Executor,
    Failure,
    Hardware,
    NotStarted,
    python_path,
    train_command,
)
from sweeps.executors.support.ray_host import Host, Member

COUNT_SECONDS = 5.0  # between two counts of the cluster's nodes
LOOK_SECONDS = 0.2  # between two looks at an actor, each a call over the network
GIVE_UP_SECONDS = 30.0  # for a worker that is to end at once
START_SECONDS = 300.0  # for an actor to start: with `ship`, its node fetches the code first


@dataclasses.dataclass(frozen=True)
class Options:
    """Of one host of one worker; `slots` is how many workers at a time (0: as many as the cluster has room for)."""

    address: str = ""  # of the cluster ("auto": of the one on this machine); "": RAY_ADDRESS, or a cluster of our own
    cpus: int = at_least(0, 1)
    gpus: int = at_least(0, 0)
    tpus: int = at_least(0, 0)
    resource: str = ""  # name of a custom resource of which each host needs one, such as a slice's
    hosts: int = at_least(1, 1)
    slots: int = at_least(0, 0)
    port: int = at_least(0, 0)  # of the first host, on which several join; 0: one that is free there
    place_minutes: int = at_least(1, 30)  # so long a worker waits for its place
    silent_seconds: int = at_least(1, 60)  # a host that has not answered for so long counts as lost
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
    """A Worker that waits for its place and then is a Gang of actors.

    All talk with the cluster is the business of a thread of its own, so that a cluster that does not answer keeps the
    launcher from nothing. `poll`, `events` and the others only look at what the thread has found, or leave it a note.
    """

    def __init__(self, owner: "RayExecutor", arguments: Sequence[str], log: epath.Path):
        self.pid = os.getpid()
        self._owner = owner
        self._arguments = list(arguments)
        self._log = log
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._end: End = None
        # Notes to the thread.
        self._token: str | None = None  # once it may begin
        self._stop_asked = False
        self._forced_at: float | None = None  # on the monotonic clock
        self._thread = threading.Thread(target=self._run, name="ray worker", daemon=True)
        self._thread.start()

    # --- the launcher's side

    def go(self, token: str = "") -> None:
        """Let it begin, as soon as it is there."""
        self._token = token

    def events(self) -> list[Event]:
        """Return what it has reported."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._events.get_nowait())
        return found

    def poll(self) -> End:
        """Return its end once it is over. One that was to end at once is over before long, whatever the cluster says."""
        forced_at = self._forced_at
        if self._end is None and forced_at and time.monotonic() - forced_at > GIVE_UP_SECONDS:
            return Failure("node", "ray: the cluster does not answer")
        return self._end

    def stop(self, force: bool = False) -> None:
        """Ask it to save and end; one that waits is over at once."""
        self._stop_asked = True
        if force and self._forced_at is None:
            self._forced_at = time.monotonic()

    def close(self) -> None:
        """Nothing is left to do: its thread has let go of actors and place."""

    # --- the thread's side

    def _run(self) -> None:
        """Live from the reservation of a place to its release."""
        end: End = None
        place = None
        try:
            place = self._owner.reserve()
            end = self._wait_for_place(place)
            if end is None:
                end = self._work(place)
        except (
            Exception,
            SystemExit,
        ) as error:  # whatever the cluster could not do; Ray exits where it is not there any more
            end = NotStarted("node", f"ray: {explain(error)}")
        finally:
            with contextlib.suppress(Exception):
                if place is not None:
                    self._owner.give_back(place)
            self._end = end

    def _wait_for_place(self, place: Any) -> End:
        """Return None once the place is there; the end of a worker that was stopped before, or has waited too long."""
        ready = place.ready()
        began = time.monotonic()
        while not self._owner.is_there(ready):
            if self._stop_asked:
                return EXIT_AGAIN
            if time.monotonic() - began > self._owner.place_seconds:
                return NotStarted("node", self._owner.no_place())
        return None

    def _work(self, place: Any) -> End:
        """Start the gang, pass on what it says and what it is asked, and return its end."""
        gang = Gang(self._owner.start_members(place, self._arguments, self._log))
        try:
            return self._follow(gang)
        except (Exception, SystemExit) as error:
            return Failure("node", f"ray: {explain(error)}")
        finally:
            gang.close()

    def _follow(self, gang: Gang) -> End:
        """Return the end of a gang."""
        begun = False
        stopped = False
        while True:
            end = gang.poll()
            for event in gang.events():
                self._events.put(event)
            if end is not None:
                return end
            if not begun and self._token is not None:
                begun = True
                gang.go(self._token)
            if not begun and self._stop_asked:
                return EXIT_AGAIN
            if self._forced_at:
                gang.stop(force=True)
            elif self._stop_asked and not stopped:
                stopped = True
                gang.stop()
            time.sleep(LOOK_SECONDS)


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
        self.place_seconds = 60.0 * options.place_minutes
        self._connect()
        self._room = self._count_room()  # workers, by the last count
        if not self.slots:
            raise InputError(f"--executor=ray: {self.no_place()}")
        threading.Thread(target=self._keep_counting, name="ray nodes", daemon=True).start()

    def no_place(self) -> str:
        """Say what there is no room for."""
        given = self._options
        return f"no room for {given.needs()} on {given.hosts} hosts; the cluster has {self._resources()}"

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
        """Workers at a time: nodes may leave and join. What was counted last, where the cluster does not answer."""
        return self._options.slots or self._room

    def _keep_counting(self) -> None:
        """Count the cluster's nodes again and again: a thread, since the answer may take long."""
        while self.ray.is_initialized():  # or a question would begin a connection of its own
            with contextlib.suppress(Exception):
                self._room = self._count_room()
            time.sleep(COUNT_SECONDS)

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

    def is_there(self, ready: Any) -> bool:
        """Whether a place that was asked for is there; waits a little where it is not."""
        found, _ = self.ray.wait([ready], timeout=LOOK_SECONDS)
        return bool(found)

    def give_back(self, place: Any) -> None:
        """Give a place back to the cluster, where we are still connected to it."""
        if self.ray.is_initialized():
            self.ray.util.remove_placement_group(place)

    def start_members(self, place: Any, arguments: Sequence[str], log: epath.Path) -> list[Member]:
        """Start a worker's actors in their place, each with its process, which waits. Raises what Ray raises."""
        hosts = self._options.hosts
        actors = [self._start_actor(place, index) for index in range(hosts)]
        try:
            self._start_processes(actors, arguments)
        except Exception:
            for actor in actors:
                self.ray.kill(actor)
            raise
        members = []
        for index, actor in enumerate(actors):
            own_log = log if index == 0 else log.with_suffix(f".{index}.log")
            members.append(Member(self.ray, actor, own_log, float(self._options.silent_seconds)))
        return members

    def _start_processes(self, actors: Sequence[Any], arguments: Sequence[str]) -> None:
        """Have each actor start its process, all at once. Raises what Ray raises, also where one does not answer."""
        hosts = self._options.hosts
        first = ""
        if hosts > 1:
            asked = actors[0].meeting_point.remote(self._options.port)
            first = self.ray.get(asked, timeout=START_SECONDS)
        starts = []
        for index, actor in enumerate(actors):
            join = [f"--hosts={first},{index},{hosts}"] if hosts > 1 else []
            starts.append(actor.start.remote([*arguments, *join]))
        self.ray.get(starts, timeout=START_SECONDS)

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

    def wait(self, workers: Sequence[PlacedWorker], seconds: float) -> None:
        """Return after so long, or LOOK_SECONDS: so often the threads of the workers hear from them."""
        time.sleep(min(seconds, LOOK_SECONDS))


def _hosts_on(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return how many hosts of a worker fit on a node."""
    if not needs:
        return 1
    return min(int(node.get(name, 0) // number) for name, number in needs.items())
