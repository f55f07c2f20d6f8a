"""Write a study's populations as workloads of xpk, which runs TPU slices in Kubernetes."""

from collections.abc import Sequence
import dataclasses
import shlex

from sweeps.manifests.support.jobs import JobsBase, Line, check_patterns, worker_command
from sweeps.work.populations import Population

NAME = r"([a-z][\w.:-]*)?"


@dataclasses.dataclass(frozen=True)
class Options:
    """Arguments of `xpk workload create`."""

    bucket: str = ""
    cluster: str = ""
    type: str = ""  # TPU type, such as v5litepod-16
    slices: int = 1
    zone: str = ""
    project: str = ""
    image: str = ""  # Docker image with the code and its requirements in its working folder

    def check(self) -> None:
        """Raise InputError for what is missing or no name."""
        image = r"[\w./:@-]+"
        check_patterns(self, cluster=r"[a-z][\w-]*", type=r"[a-z0-9]+-\d+", zone=NAME, project=NAME, image=image)


class Jobs(JobsBase):
    """One workload a population; those of one level run at the same time."""

    def submit(self, level: Sequence[Population]) -> list[Line]:
        """Return the commands that submit all populations and then wait for each."""
        lines: list[Line] = [self._create(population) for population in level]
        lines += [self._wait(population) for population in level]
        return lines

    def _create(self, population: Population) -> list[str]:
        """Return the command that submits a population as a workload."""
        command = [*worker_command(self.root, population), "--hosts=auto"]
        return [
            *("xpk", "workload", "create"),
            f"--cluster={self.options.cluster}",
            f"--workload={_workload(population)}",
            f"--tpu-type={self.options.type}",
            f"--num-slices={self.options.slices}",
            f"--docker-image={self.options.image}",
            *self._place(),
            f"--command={shlex.join(command)}",
        ]

    def _wait(self, population: Population) -> list[str]:
        """Return the command that returns when a workload is over."""
        cluster = f"--cluster={self.options.cluster}"
        wait = f"--wait-for-job-completion={_workload(population)}"
        return ["xpk", "workload", "list", cluster, *self._place(), wait]

    def _place(self) -> list[str]:
        """Return zone and project, where they are given."""
        given = {"zone": self.options.zone, "project": self.options.project}
        return [f"--{name}={value}" for name, value in given.items() if value]


def _workload(population: Population) -> str:
    return f"lossgrid-{population.name}"
