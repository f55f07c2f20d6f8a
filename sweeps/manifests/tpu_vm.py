"""Write a script that trains a study's populations on TPU slices, without the launcher's retries.

Each population is seen to by the process that the executor tpu-vm uses for it (sweeps/executors/support/slice_keeper.py):
it makes the slice, waits for its worker, and deletes it, also when the script is stopped. When script and process are
killed, the slice deletes itself.
"""

import dataclasses
import shlex
import sys

from sweeps.executors.support import gcloud
from sweeps.executors.support.options import options_text
from sweeps.executors.support.protocol import ROOT
from sweeps.manifests.support.jobs import JobsBase, check_patterns, population_path
from sweeps.work.populations import Population


@dataclasses.dataclass(frozen=True)
class Options(gcloud.Options):
    """Of one slice, and the bucket."""

    bucket: str = ""

    def check(self) -> None:
        """Raise InputError for what is missing or no name."""
        check_patterns(self)
        super().check()


class Jobs(JobsBase):
    """One slice a population."""

    def run(self, population: Population) -> str:
        """Return the command that sees to the population's slice."""
        fields = dataclasses.fields(gcloud.Options)
        given = {field.name: getattr(self.options, field.name) for field in fields}
        options = options_text(gcloud.Options(**given))
        keeper = [sys.executable, "-m", "sweeps.executors.support.slice_keeper"]
        words = [*keeper, options, population_path(self.root, population), self.root]
        log = shlex.quote(f"{population.name}.log")
        return f"export PYTHONPATH={shlex.quote(ROOT)}; exec {shlex.join(words)} >>{log} 2>&1"

    def slots(self) -> int:
        """Return how many slices there are at a time."""
        return self.options.slots
