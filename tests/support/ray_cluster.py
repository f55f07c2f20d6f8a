"""A Ray cluster on this machine, whose nodes can be harmed and are mended."""

import contextlib
import json
import os
import signal
from typing import Any

from etils import epath
import psutil

# Nodes that share two busy cores start slowly, and need no processes that wait for work.
SETTINGS = {
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


class RayCluster:
    """A head and three nodes, with room for one host of a worker each. A node is its raylet, which starts all else on it."""

    def __init__(self) -> None:
        os.environ.update(SETTINGS)  # before Ray is imported, which reads them then
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self._nodes = [self._add() for _ in range(3)]
        self._stopped: list[int] = []  # process ids

    def _add(self) -> Any:
        """Add a node. Ray gives one thirty seconds to start, which is not enough on a machine that is busy."""
        for _ in range(4):
            with contextlib.suppress(Exception):
                return self._cluster.add_node(num_cpus=1)
        return self._cluster.add_node(num_cpus=1)

    @property
    def address(self) -> str:
        """Where launchers reach it."""
        return self._cluster.address

    def _raylet(self, node: Any) -> int:
        """The process id of a node's raylet."""
        return node.all_processes["raylet"][0].process.pid

    def raylets(self) -> set[int]:
        """Process ids of the nodes that may be harmed: all but the head's."""
        return {self._raylet(node) for node in self._nodes}

    def head_server(self) -> int:
        """The process id of what knows all nodes (GCS)."""
        return self._cluster.head_node.all_processes["gcs_server"][0].process.pid

    def worker_away_from_head(self, workdir: epath.Path) -> tuple[int, int, int] | None:
        """Process ids of a worker of a workdir, its actor and its raylet; None while there is none."""
        for path in workdir.glob("workers/*.json"):
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, psutil.NoSuchProcess):
                worker = psutil.Process(json.loads(path.read_text())["worker"]["pid"])
                actor = worker.parent()
                raylet = actor.parent() if actor else None
                if actor and raylet and raylet.pid in self.raylets():
                    return worker.pid, actor.pid, raylet.pid
        return None

    def freeze(self, pid: int) -> None:
        """Stop a process until the cluster is mended."""
        os.kill(pid, signal.SIGSTOP)
        self._stopped.append(pid)

    def thaw(self) -> None:
        """Let all go on that was stopped."""
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped = []

    def mend(self) -> None:
        """Let all go on that was stopped, and put new nodes in the place of those that are gone."""
        harmed = set(self._stopped)
        self.thaw()
        for node in list(self._nodes):
            alive = psutil.pid_exists(self._raylet(node)) and node.all_processes["raylet"][0].process.poll() is None
            if not alive or self._raylet(node) in harmed:
                self._nodes.remove(node)
                self._cluster.remove_node(node, allow_graceful=False)
                self._nodes.append(self._add())

    def close(self) -> None:
        """End it."""
        import ray

        ray.shutdown()  # of tests that were connected
        self.thaw()
        self._cluster.shutdown()
