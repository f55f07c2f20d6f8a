"""Write the gcloud commands that train a study's populations on TPU slices, one after the other."""

from collections.abc import Sequence
import os
import pathlib
import shlex

from sweeps.executors.support import gcloud
from sweeps.manifests.support.jobs import JobsBase, Line, population_path
from sweeps.work.populations import Population

CODE = "code.tar.gz"

Options = gcloud.Options


class Jobs(JobsBase):
    """One slice a population: created, prepared, used, deleted."""

    def submit(self, level: Sequence[Population]) -> list[Line]:
        """Return the commands of each slice's life."""
        lines: list[Line] = []
        for population in level:
            slice_ = gcloud.Slice(self.options, f"lossgrid-{population.name}")
            wait = f"until {shlex.join(slice_.describe())} | grep -q ACTIVE; do sleep 30; done"
            lines += [
                slice_.create(),
                wait,
                slice_.copy(CODE),
                slice_.bootstrap(),
                slice_.train(population_path(self.root, population), self.root),
                slice_.delete(),
            ]
        return lines

    def write_code(self, folder: pathlib.Path) -> list[str]:
        """Write the archive that is copied to every slice."""
        gcloud.archive(os.fspath(folder / CODE))
        return [CODE]
