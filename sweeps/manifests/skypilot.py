"""Write a study's populations as managed jobs of SkyPilot, which makes their machines, recovers them and takes them down."""

import dataclasses
import shlex

from experiments.cli import InputError
from sweeps.executors.support.options import at_least
from sweeps.executors.support.protocol import ROOT
from sweeps.manifests.support.jobs import JobsBase, check_patterns, worker_command
from sweeps.work.populations import Population

PORT = 8476
# Where nodes of GPUs find each other: SkyPilot tells each of them these. The hosts of a TPU slice know it themselves.
HOSTS = f'"$(echo "$SKYPILOT_NODE_IPS" | head -n1):{PORT},$SKYPILOT_NODE_RANK,$SKYPILOT_NUM_NODES"'

TASK = """\
name: {name}
workdir: {root}
num_nodes: {nodes}
resources:
  accelerators: {accelerators}
  use_spot: {spot}
  job_recovery:
    max_restarts_on_errors: {restarts}
setup: |
  set -e
  curl --silent --show-error --location --fail https://astral.sh/uv/0.13.9/install.sh | env UV_UNMANAGED_INSTALL="$PWD/.uv" sh
  .uv/uv venv --quiet --allow-existing --python 3.12 .venv
  .uv/uv pip install --quiet --python .venv/bin/python --requirements {requirements}
run: |
  exec .venv/bin/{command}
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Fields of a SkyPilot task."""

    bucket: str = ""
    accelerators: str = ""  # such as tpu-v5litepod-16 or H100:8
    nodes: int = at_least(1, 1)  # of GPUs; a TPU slice is one, however many hosts it has
    spot: bool = False
    restarts: int = at_least(0, 3)  # after errors; preemptions are recovered without end
    requirements: str = "requirements-tpu.txt"

    def check(self) -> None:
        """Raise InputError for what is missing or no name."""
        check_patterns(self, accelerators=r"[\w.-]+(:\d+)?", requirements=r"requirements[\w.-]*\.txt")
        if self.is_tpu() and self.nodes > 1:
            raise InputError(
                f"--options=accelerators={self.accelerators},nodes={self.nodes}: SkyPilot would make so many slices; "
                "a slice is one node, however many hosts it has: expected nodes=1"
            )

    def is_tpu(self) -> bool:
        """Whether a node is a TPU slice."""
        return self.accelerators.startswith("tpu")


class Jobs(JobsBase):
    """One managed job a population; those of one level run at the same time."""

    def files(self, population: Population) -> dict[str, str]:
        """Return the task as YAML."""
        command = shlex.join(worker_command(self.root, population))
        if self.options.is_tpu():
            command += " --hosts=auto"
        elif self.options.nodes > 1:
            command += f" --hosts={HOSTS}"
        text = TASK.format(
            name=self.job_name(population),
            root=ROOT,
            nodes=self.options.nodes,
            accelerators=self.options.accelerators,
            spot=str(self.options.spot).lower(),
            restarts=self.options.restarts,
            requirements=self.options.requirements,
            command=command,
        )
        return {f"{population.name}.yaml": text}

    def run(self, population: Population) -> str:
        """Return the command that submits a managed job and follows it to its end; it is cancelled when that is stopped."""
        name = shlex.quote(f"--name={self.job_name(population)}")
        launch = f"sky jobs launch --yes {name} {shlex.quote(population.name)}.yaml"
        cancel = f"sky jobs cancel --yes {name}"
        return f"trap '{cancel}; exit 143' TERM; {launch} & wait $!"
