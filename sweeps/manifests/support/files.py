"""Write a study's jobs into a folder."""

from collections.abc import Mapping, Sequence
import os
import pathlib

from experiments import files
from sweeps.cost import plan_file
from sweeps.executors.support.slice_keeper import remote_population
from sweeps.manifests.support.jobs import JobsBase, Line, download, script, together, upload
from sweeps.study.corpora import prepare_corpora
from sweeps.study.file import Study
from sweeps.work import populations as populations_of
from sweeps.work.populations import Population
from sweeps.work.workdir import Workdir, distinct, identify


def missing_populations(study: Study, workdir: Workdir) -> list[Population]:
    """Return what is to be trained, parents first, laid out as the workdir's plan has it if there is one."""
    together = None
    planned = plan_file.read(workdir.root)
    if planned:
        plan_file.check(planned, study, workdir.root)
        study, together = plan_file.apply_plan(study, planned)
    runs = distinct(identify(study, prepare_corpora(study)))
    missing = [node for node in runs if not workdir.finished(node.fingerprint)]

    def is_trained(parent: str) -> bool:
        return workdir.state(parent).status == "complete"

    return populations_of.arrange(missing, 1, is_trained, together=together)


def write_jobs(
    kind: str, jobs: JobsBase, populations: Sequence[Population], workdir: str, folder: pathlib.Path
) -> list[str]:
    """Write the populations, what their jobs need, and last the script that runs them; return the files' names."""
    names = []
    for population in populations:
        name = f"populations/{population.name}.json"
        given = populations_of.worker_input(population)
        remote = remote_population(given, f"{jobs.root}/data")
        files.write_json(folder / name, remote)
        names.append(name)
    inputs = os.path.abspath(folder / "populations")
    lines: list[Line] = [*upload(inputs, jobs.root, populations, workdir)]
    for level in _levels(populations):
        commands = []
        for population in level:
            names += _write_texts(jobs.files(population), folder)
            commands.append(jobs.run(population))
        lines.append(together(jobs.slots(), commands))
    text = script(lines, download(jobs.root, workdir))
    return names + _write_texts({f"{kind}.sh": text}, folder)


def _write_texts(texts: Mapping[str, str], folder: pathlib.Path) -> list[str]:
    """Write files by their names; return these."""
    for name, text in texts.items():
        files.write_bytes(folder / name, text.encode())
    return list(texts)


def _levels(populations: Sequence[Population]) -> list[list[Population]]:
    """Group populations by how many ancestors they wait for, parents first."""
    levels: dict[int, list[Population]] = {}
    for population in populations:
        levels.setdefault(population.level, []).append(population)
    return [levels[number] for number in sorted(levels)]
