"""A worker as a subprocess of this machine. Executors of other machines use it there, in an actor or a job."""

from collections.abc import Mapping, Sequence
import json
import os
import selectors
import signal
import subprocess
import sys
from typing import IO, BinaryIO

from etils import epath

from experiments import files
from sweeps.executors.support.protocol import Event, python_path

PINNED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pinned.py")
BLOCK_BYTES = 1 << 16  # of its output, read at a time
LOOK_SECONDS = 0.02  # between two looks when the end of a worker cannot be waited for by its output


class SubprocessWorker:
    """A subprocess. Its events come through a pipe, everything else it says goes to the log."""

    def __init__(self, command: Sequence[str], cores: Sequence[int] | None, env: Mapping[str, str], log: epath.Path):
        """Start `command`, on these cores (None: on all), with `env` added to our environment; it waits for `go`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log: BinaryIO = files.append(log)  # closed by `close`
        pinning = ",".join(map(str, cores)) if cores else "-"
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-E", PINNED, str(os.getpid()), pinning, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=os.environ | {"PYTHONPATH": python_path()} | dict(env),
                bufsize=0,
                start_new_session=True,  # Ctrl-C reaches the launcher only, which stops workers in order
            )
        except OSError:
            self._log.close()
            raise
        self.pid = self.process.pid
        self.silent = False  # it has closed its output
        self._partial_line = b""
        os.set_blocking(self._output.fileno(), False)

    @property
    def _output(self) -> IO[bytes]:
        assert self.process.stdout
        return self.process.stdout

    @property
    def _input(self) -> IO[bytes]:
        assert self.process.stdin
        return self.process.stdin

    def fileno(self) -> int:
        """Return the file descriptor of its output, for `select`."""
        return self._output.fileno()

    def go(self, token: str = "") -> None:
        """Let it begin."""
        try:
            self._input.write(f"go {token}\n".encode())
            self._input.close()
        except BrokenPipeError:
            pass  # it is over already, as its exit status will say

    def events(self) -> list[Event]:
        """Return its events since the last call; lines that are not events go to the log."""
        found = []
        for line in self._new_lines():
            event = parse_event(line)
            if event is None:
                self._log.write(line + b"\n")
            else:
                found.append(event)
        return found

    def _new_lines(self) -> list[bytes]:
        """Read all that it has written, and return the lines that are whole."""
        while not self.silent:
            block = self._output.read(BLOCK_BYTES)
            if block is None:  # nothing more for now
                break
            self._partial_line += block
            self.silent = not block  # the end of its output
        *lines, self._partial_line = self._partial_line.split(b"\n")
        return lines

    def poll(self) -> int | None:
        """Return its exit status once it is over."""
        return self.process.poll()

    def close(self) -> None:
        """Let go of its pipes and its log."""
        self._output.close()
        self._input.close()
        self._log.close()

    def stop(self, force: bool = False) -> None:
        """Send SIGTERM, on which it saves; or SIGKILL."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if force else signal.SIGTERM)


def parse_event(line: bytes) -> Event | None:
    """Return the event that a line of output is; None for any other text."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if isinstance(value, dict) and isinstance(value.get("event"), str):
        return value
    return None


def wait_for_output(workers: Sequence[SubprocessWorker], seconds: float) -> None:
    """Return when one of the workers writes or ends, or after so long."""
    talking = [worker for worker in workers if not worker.silent]
    all_talk = len(talking) == len(workers)
    with selectors.DefaultSelector() as selector:
        for worker in talking:
            selector.register(worker.fileno(), selectors.EVENT_READ)
        # One that has closed its output is about to end, which no output will tell.
        selector.select(seconds if all_talk else LOOK_SECONDS)
