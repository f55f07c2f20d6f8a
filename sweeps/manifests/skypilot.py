"""Write a study's populations as SkyPilot tasks."""

from collections.abc import Sequence
import dataclasses
import shlex

from sweeps.manifests.support.jobs import JobsBase, Line, check_patterns, worker_command
from sweeps.work.populations import Population

# Where nodes find each other: SkyPilot tells each of them these.
HOSTS = '"$(echo "$SKYPILOT_NODE_IPS" | head -n1):8476,$SKYPILOT_NODE_RANK,$SKYPILOT_NUM_NODES"'

TASK = """\
name: lossgrid-{name}
workdir: .
num_nodes: {nodes}
resources:
  accelerators: {accelerators}
  use_spot: {spot}
setup: |
  python3 -m venv .venv
  .venv/bin/pip install -q -r {requirements}
run: |
  .venv/bin/{command}
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Fields of a SkyPilot task."""

    bucket: str = ""
    accelerators: str = ""  # such as tpu-v5litepod-16:1 or H100:8
    nodes: int = 1
    spot: bool = False
    requirements: str = "requirements-tpu.txt"

    def check(self) -> None:
        """Raise InputError for what is missing or no name."""
        check_patterns(self, accelerators=r"[\w.-]+(:\d+)?", requirements=r"requirements[\w.-]*\.txt")


class Jobs(JobsBase):
    """One task a population, each on a cluster of its own."""

    def files(self, population: Population) -> dict[str, str]:
        """Return the task as YAML."""
        command = shlex.join(worker_command(self.root, population))
        if self.options.nodes > 1:
            command += f" --hosts={HOSTS}"
        text = TASK.format(
            name=population.name,
            nodes=self.options.nodes,
            accelerators=self.options.accelerators,
            spot=str(self.options.spot).lower(),
            requirements=self.options.requirements,
            command=command,
        )
        return {f"{population.name}.yaml": text}

    def submit(self, level: Sequence[Population]) -> list[Line]:
        """Return the commands that train populations one after the other."""
        return [_launch(population) for population in level]


def _launch(population: Population) -> list[str]:
    cluster = f"--cluster=lossgrid-{population.name}"
    return ["sky", "launch", "--yes", "--down", cluster, f"{population.name}.yaml"]
