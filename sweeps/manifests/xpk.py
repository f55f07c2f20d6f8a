"""Write a study's populations as workloads of xpk, which runs TPU slices in Kubernetes: v4 to TPU7x."""

import dataclasses
import shlex

from experiments.cli import EXIT_AGAIN
from sweeps.executors.support.options import at_least
from sweeps.manifests.support.jobs import JobsBase, check_patterns, worker_command
from sweeps.work.populations import Population

SAVE_SECONDS = 120  # for a worker whose node is taken away
NAME = r"([a-z][\w.:-]*)?"


@dataclasses.dataclass(frozen=True)
class Options:
    """Arguments of `xpk workload create`."""

    bucket: str = ""
    cluster: str = ""
    type: str = ""  # TPU type, such as v5litepod-16 or tpu7x-16
    slices: int = at_least(1, 1)
    restarts: int = at_least(0, 20)  # after preemptions and signals
    zone: str = ""
    project: str = ""
    image: str = ""  # Docker image with the code and its requirements in its working folder

    def check(self) -> None:
        """Raise InputError for what is missing or no name."""
        image = r"[\w./:@-]+"
        check_patterns(self, cluster=r"[a-z][\w-]*", type=r"[a-z0-9]+-\d+", zone=NAME, project=NAME, image=image)


class Jobs(JobsBase):
    """One workload a population; those of one level run at the same time."""

    def run(self, population: Population) -> str:
        """Return the command that submits a workload, waits for its end and removes it, also when that is stopped.

        One that is there already, because the script was killed, is waited for.
        """
        create = shlex.join(self._create(population))
        wait = f"{shlex.join(self._wait(population))} & wait $!"
        delete = shlex.join(self._delete(population))
        end = f"code=$?; trap '' TERM; {delete} || true; exit $code"
        return f"trap {shlex.quote(end)} EXIT; trap 'exit 143' TERM; {create} || true; {wait}"

    def _create(self, population: Population) -> list[str]:
        """Return the command that submits a population as a workload, which begins again after a preemption."""
        command = [*worker_command(self.root, population), "--hosts=auto"]
        return [
            *("xpk", "workload", "create"),
            *self._place(population),
            f"--tpu-type={self.options.type}",
            f"--num-slices={self.options.slices}",
            f"--docker-image={self.options.image}",
            f"--max-restarts={self.options.restarts}",
            f"--restart-on-exit-codes={EXIT_AGAIN}",
            f"--termination-grace-period-seconds={SAVE_SECONDS}",
            f"--command={shlex.join(command)}",
        ]

    def _wait(self, population: Population) -> list[str]:
        """Return the command that returns when a workload is over, with 0 only where it has succeeded."""
        name, *where = self._place(population)
        wait = name.replace("--workload=", "--wait-for-job-completion=")
        return ["xpk", "workload", "list", *where, wait]

    def _delete(self, population: Population) -> list[str]:
        """Return the command that removes a workload, whatever its state."""
        return ["xpk", "workload", "delete", *self._place(population), "--force"]

    def _place(self, population: Population) -> list[str]:
        """Return the name of a workload, and where it is."""
        given = {"cluster": self.options.cluster, "zone": self.options.zone, "project": self.options.project}
        where = [f"--{name}={value}" for name, value in given.items() if value]
        return [f"--workload={self.job_name(population)}", *where]
