"""Write a study as files for other launchers: SkyPilot's managed jobs, xpk's workloads, or TPU slices one by one.

    python -m sweeps.manifest --study=FILE.py --workdir=runs/a --kind=xpk --out=xpk \\
        --options=bucket=gs://mine/work,cluster=c,type=v5litepod-16,image=gcr.io/mine/lossgrid

Runs nothing. Every population that `sweeps.launch` would train becomes one job that runs `experiments.train` on all its
hosts, which join each other. Populations and corpora go to the bucket first and the runs come back from it at the end, so
that `sweeps.status` and `sweeps.collect` read them here; a script asks for parents before their children, and may be run
again: a run that has its record is left alone. Stopped, it takes down what it has started. sweeps/manifests has a file
for each launcher.
"""

import dataclasses
import os
import pathlib
import re

from absl import flags

from experiments import cli
from experiments.cli import InputError
from sweeps import manifests
from sweeps.executors.support.options import parse_options
from sweeps.manifests.support.files import missing_populations, write_jobs
from sweeps.study import file as studies
from sweeps.work.workdir import Workdir


def main(_: list[str]) -> int:
    """Run the command line."""
    given = flags.FLAGS
    kind = manifests.load(given.kind)
    options = parse_options(kind.Options, given.options or "", "--options")
    options.check()
    study = studies.load(given.study, given.data_root)
    folder = pathlib.Path(given.out)
    if "://" in given.workdir:
        raise InputError(f"--workdir={given.workdir}: runs come back to it; expected a folder of this machine")
    if not re.fullmatch(r"[\w.-]+", folder.name):
        raise InputError(
            f"--out={given.out}: its last part names a folder of the bucket; expected letters, digits, . _ -"
        )
    _check_folder(folder)
    populations = missing_populations(study, Workdir(given.workdir))
    if not populations:
        print(f"{study.name}: nothing to do, every run has its record")
        return 0
    jobs = kind.Jobs(options, root=f"{options.bucket}/{folder.name}")
    names = write_jobs(given.kind, jobs, populations, os.path.abspath(given.workdir), folder)
    print(f"{study.name}: {len(populations)} populations as {len(names)} files in {folder}; {names[-1]} runs them")
    return 0


def _check_folder(folder: pathlib.Path) -> None:
    """Raise InputError for a folder that has files of somebody else."""
    is_used = folder.is_dir() and any(folder.iterdir())
    if is_used and not (folder / "populations").is_dir() and not flags.FLAGS.overwrite:
        raise InputError(
            f"--out={folder} has files that sweeps.manifest has not written: expected another name, or --overwrite"
        )


def options_help() -> str:
    """List the options of each kind."""
    kinds = []
    for kind in manifests.kinds():
        fields = dataclasses.fields(manifests.load(kind).Options)
        names = ", ".join(field.name for field in fields)
        kinds.append(f"{kind}: {names}")
    return f"key=value,… : {'; '.join(kinds)}"


if __name__ == "__main__":
    cli.define_path("study", None, "FILE.py[:ARG] with get_study(arg)")
    cli.define_path("workdir", None, "folder of the study, as for sweeps.launch; runs come back to it")
    flags.DEFINE_string("kind", None, f"what to write: {', '.join(manifests.kinds())}")
    cli.define_output("out", "folder for the files; its name is that of a folder in the bucket")
    flags.DEFINE_string("options", "", options_help())
    cli.define_path("data_root", None, "folder of prepared corpora; default: what the study says, or 'data'")
    cli.run(main, required=("study", "workdir", "kind", "out"))
