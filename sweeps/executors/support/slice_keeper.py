"""The process that sees to one Cloud TPU slice: makes it, has it train a population, deletes it.

    python -m sweeps.executors.support.slice_keeper OPTIONS POPULATION WORKDIR      started by the executor tpu-vm

It runs the commands of support/gcloud.py one after the other, each printed before it runs, and watches the slice's hosts
through the bucket (support/slice_talk.py). Whatever goes wrong, the last thing it does is to delete the slice, until the
cloud says that it is gone. If this process is killed, its counter in the bucket stands still, and the slice deletes itself
(support/dead_man.sh). Its last event, `end`, says how the worker ended.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import os
import re
import shlex
import sys
import tempfile
import threading
import time
from typing import Any
import uuid

from experiments import files
from experiments.alive import lease, requests, watchdog
from experiments.alive.lease import Process
from experiments.cli import EXIT_AGAIN, EXIT_FAILURE, explain
from models.errors import InputError
from sweeps.executors.support import gcloud, slice_talk
from sweeps.executors.support.cloud_calls import (
    POLL_SECONDS,
    Cloud,
    Refused,
    Stopped,
    Unanswered,
    delete_for_good,
    tell,
)
from sweeps.executors.support.gcloud import ABSENT, ENDED, UNKNOWN, Options, Slice
from sweeps.executors.support.options import parse_options
from sweeps.executors.support.protocol import End, Failure, NotStarted
from sweeps.executors.support.slice_talk import Followed, Orders, Stillness

BEAT_SECONDS = POLL_SECONDS
LOOK_SECONDS = POLL_SECONDS / 3  # between two looks at the bucket
DESCRIBE_SECONDS = 2 * POLL_SECONDS  # between two questions to the cloud about a slice that is used
SILENT_SECONDS = 40 * POLL_SECONDS  # a host that has not raised its counter for so long is given up
GRACE_SECONDS = 4 * POLL_SECONDS  # for the other hosts to end once one has
SAVE_SECONDS = 20 * POLL_SECONDS  # for a worker that was asked to stop
SHELL_OFFSET = 128  # what a signal ended is said as a shell says it
NAME = re.compile(r"[\w-]+")
DELETE_SECONDS = 3600.0  # that we go on trying to delete; the slice does so itself meanwhile
LONGEST_PAUSE = 8 * POLL_SECONDS
BOOTSTRAP_ATTEMPTS = 3


class Hosts:
    """The hosts of a slice, of which each has a process of one worker: they live and die together."""

    def __init__(self, folder: str, attempt: str, count: int):
        self._hosts = [Followed(folder, attempt, rank) for rank in range(count)]
        self._silences = [Stillness() for _ in range(count)]
        self._ends: dict[int, int] = {}  # exit status by rank, in the order in which we have heard of them
        self._ended_at: float | None = None  # monotonic time since which the others are no use

    def look(self, now: float) -> End:
        """Pass on what the hosts say; return the worker's end once it is over, None before."""
        for rank, host in enumerate(self._hosts):
            for event in host.look():
                tell(event)
            if host.status is not None and rank not in self._ends:
                self._note(rank, host, now)
            elif host.status is None and self._silences[rank].seconds(host.state.beat) > SILENT_SECONDS:
                return Failure("node", f"host {rank} of the slice has not spoken for {SILENT_SECONDS:.0f} s")
        all_ended = len(self._ends) == len(self._hosts)
        others_late = self._ended_at is not None and now - self._ended_at > GRACE_SECONDS
        if all_ended or others_late:
            return next((status for status in self._ends.values() if status != 0), 0)
        return None

    def _note(self, rank: int, host: Followed, now: float) -> None:
        """Note that a host's process is over. The first host writes the records; where it goes on, so does the worker."""
        self._ends[rank] = host.status or 0
        sys.stderr.write(host.state.log)
        if host.status != 0 or rank == 0:
            self._ended_at = self._ended_at or now


class SliceKeeper:
    """Sees to the slice of one population."""

    def __init__(self, slice_: Slice, token: str):
        self.slice = slice_
        self.attempt = uuid.uuid4().hex[:8]
        self.cloud = Cloud(slice_)
        self._token = token
        self._beats = 0
        self._may_exist = False  # since we have asked for it
        self._over = threading.Event()

    # --- the counter that the slice lives by

    def _orders(self) -> Orders:
        """Return what we say now."""
        stop = min(len(self.cloud.stops), slice_talk.STOP_AT_ONCE)
        me = Process.of(os.getpid())
        return Orders(self._beats, stop, self._token, self.attempt, me)

    def _beat(self) -> None:
        """Raise our counter until we are done with the slice."""
        while True:
            self._beats += 1
            with contextlib.suppress(OSError):
                self._orders().write(self.slice.folder)
            if self._over.wait(BEAT_SECONDS):
                return

    # --- a slice comes

    def make(self) -> None:
        """Ask for the slice and wait for it. What an earlier attempt of ours has left is deleted first.

        Quota that is used up and a request that fails are waited for as the queue is. Raises Refused for a name that
        somebody else has and for a request that can never be met.
        """
        deadline = time.monotonic() + 3600 * self.slice.options.valid_hours
        pause = POLL_SECONDS
        while True:
            if self._is_there():
                return
            if time.monotonic() > deadline:
                raise Unanswered(f"no {self.slice.options.type} within {self.slice.options.valid_hours} h")
            self.cloud.pause(pause)
            pause = min(LONGEST_PAUSE, 1.5 * pause)

    def _is_there(self) -> bool:
        """Do the next thing for the slice to come; whether it has."""
        found = self.cloud.describe()
        if found.state == UNKNOWN:
            return False
        if found.state == ABSENT:
            self._may_exist = True
            self.cloud.create(self.attempt)
            return False
        if not self.slice.is_ours(found):
            raise Refused(f"{self.slice.name} is there and bears labels that are not ours; it is left alone")
        self._may_exist = True
        if found.labels.get("lossgrid-attempt") != self.attempt or found.state in ENDED:
            self.cloud.try_delete()
            return False
        tell({"event": "waiting", "state": found.state})
        return found.state == "ACTIVE"

    def prepare(self, population: str, scratch: str) -> None:
        """Bring population, corpora and code to where the hosts find them, and make the hosts ready."""
        value = files.read_json(population)
        root = value["execution"]["data_root"]
        if "://" not in root:
            remote = f"{self.slice.workdir}/data"
            self.cloud.run(gcloud.sync(os.path.abspath(root), remote, self.slice.options.project), BOOTSTRAP_ATTEMPTS)
            root = remote
        files.write_json(f"{self.slice.folder}/population.json", remote_population(value, root))
        code = gcloud.archive(os.path.join(scratch, "code.tar.gz"))
        self.cloud.run(self.slice.copy(code), BOOTSTRAP_ATTEMPTS)
        self.cloud.run(self.slice.bootstrap(), BOOTSTRAP_ATTEMPTS)

    # --- a worker is watched

    def train(self) -> End:
        """Start the worker on all hosts, pass on what it says, and return its end."""
        self.cloud.run(self.slice.start(self.attempt), BOOTSTRAP_ATTEMPTS)
        hosts = Hosts(self.slice.folder, self.attempt, self.slice.hosts)
        asked_at: float | None = None
        describe_at = 0.0
        while True:
            now = time.monotonic()
            end = hosts.look(now)
            if end is not None:
                return end
            if now >= describe_at:
                describe_at = now + DESCRIBE_SECONDS
                if self.cloud.is_active(self.attempt) is False:
                    return Failure("preempted", f"the slice {self.slice.name} was taken away")
            if self.cloud.stops and asked_at is None:
                asked_at = now
            waited_enough = asked_at is not None and now - asked_at > SAVE_SECONDS
            if waited_enough or len(self.cloud.stops) > 1:
                return EXIT_AGAIN
            time.sleep(LOOK_SECONDS)

    # --- from the creation to the deletion

    def live(self, population: str, scratch: str) -> End:
        """See to the slice from its creation to its deletion; return the worker's end."""
        beating = threading.Thread(target=self._beat, name="beat", daemon=True)
        beating.start()
        try:
            return self._live(population, scratch)
        finally:
            if self._may_exist and not delete_for_good(self.cloud, DELETE_SECONDS):
                text = f"{self.slice.name} may still be there, and paid: {shlex.join(self.slice.delete())}"
                tell({"event": "say", "text": text})
            self._over.set()

    def _live(self, population: str, scratch: str) -> End:
        started = False
        try:
            self.make()
            self.prepare(population, scratch)
            started = True
            return self.train()
        except Stopped:
            return EXIT_AGAIN
        except Refused as error:
            return NotStarted("user", explain(error))
        except (Unanswered, OSError) as error:
            kind = Failure if started else NotStarted
            return kind("node", explain(error))


def remote_population(population: Mapping[str, Any], data_root: str) -> dict[str, Any]:
    """Return a population as a slice is given it: its corpora are in the bucket."""
    execution = population["execution"] | {"data_root": data_root}
    return {**population, "execution": execution}


def serve(options: Options, population: str, workdir: str) -> End:
    """See to a population's slice from its creation to its deletion; return the worker's end."""
    name = os.path.splitext(os.path.basename(population))[0]
    if not NAME.fullmatch(name):
        raise InputError(f"--population={population}: expected a file named by letters and digits")
    token = os.environ.pop(lease.VARIABLE, "")
    keeper = SliceKeeper(Slice(options, workdir, name), token)
    hearing = requests.heard(lambda number, _: keeper.cloud.stops.append(number), to_the_end=True)
    with hearing, tempfile.TemporaryDirectory(prefix="lossgrid-") as scratch:
        return keeper.live(population, scratch)


def main(argv: list[str]) -> int:
    """Serve OPTIONS POPULATION WORKDIR; return the exit status."""
    options_text, population, workdir = argv
    watchdog.breathe(tell)
    try:
        options = parse_options(Options, options_text, "--executor=tpu-vm")
        options.check()
        end = serve(options, population, workdir)
    except InputError as error:
        end = NotStarted("user", explain(error))
    if isinstance(end, int):
        return end if end >= 0 else SHELL_OFFSET - end
    assert end is not None
    tell({"event": "end", "started": not isinstance(end, NotStarted), **dataclasses.asdict(end)})
    print(f"error: {end.reason}", file=sys.stderr)
    return EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
