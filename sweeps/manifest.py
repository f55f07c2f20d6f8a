"""A study as files for other launchers: SkyPilot tasks, an xpk script, or the gcloud commands of a TPU slice. Runs nothing.

    python -m sweeps.manifest --study=FILE.py --workdir=runs/a --kind=xpk --out=xpk \\
        --options=bucket=gs://mine/work,cluster=c,type=v5litepod-16,image=gcr.io/mine/lossgrid

Every population that `sweeps.launch` would train becomes one job that runs `experiments.train` on all its hosts, which
join each other. Populations and corpora go to the bucket first and the runs come back from it at the end, so that
`sweeps.status` and `sweeps.collect` read them here; a script asks for parents before their children, and may be run
again: a run that has its record is left alone.
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import re
import shlex
from typing import Any

from absl import flags

from experiments import cli, files
from experiments.cli import InputError, nearest
from sweeps.cost import plan_file
from sweeps.executors.support import gcloud
from sweeps.executors.support.options import parse_options
from sweeps.study import file as studies
from sweeps.study.corpora import prepare_corpora
from sweeps.work import populations as graph
from sweeps.work.populations import Population
from sweeps.work.workdir import Workdir, distinct, identify


@dataclasses.dataclass(frozen=True)
class SkyPilot:
    """Fields of a SkyPilot task."""

    bucket: str = ""
    accelerators: str = ""  # such as tpu-v5litepod-16:1 or H100:8
    nodes: int = 1
    spot: bool = False
    requirements: str = "requirements-tpu.txt"

    def check(self) -> None:
        """Raises InputError for what is missing or no name."""
        _check(self, accelerators=r"[\w.-]+(:\d+)?", requirements=r"requirements[\w.-]*\.txt")


@dataclasses.dataclass(frozen=True)
class Xpk:
    """Arguments of `xpk workload create`."""

    bucket: str = ""
    cluster: str = ""
    type: str = ""  # TPU type, such as v5litepod-16
    slices: int = 1
    zone: str = ""
    project: str = ""
    image: str = ""  # Docker image with the code and its requirements in its working folder

    def check(self) -> None:
        """Raises InputError for what is missing or no name."""
        name = r"([a-z][\w.:-]*)?"
        _check(self, cluster=r"[a-z][\w-]*", type=r"[a-z0-9]+-\d+", zone=name, project=name, image=r"[\w./:@-]+")


def _check(options: Any, **patterns: str) -> None:
    for name, pattern in {"bucket": r"gs://[a-z0-9][\w./-]+", **patterns}.items():
        if not re.fullmatch(pattern, value := getattr(options, name)):
            raise InputError(f"--options={name}={value}: expected {name}=… of the form {pattern}")


def parts(study: studies.Study, store: Workdir) -> list[Population]:
    """What is to be trained, parents first, laid out as the workdir's plan has it if there is one."""
    together = None
    if planned := plan_file.plan_to_launch(study, store.root, "local"):
        study, together = plan_file.apply_plan(study, planned)
    runs = distinct(identify(study, prepare_corpora(study)))
    missing = [node for node in runs if not store.finished(node.fingerprint)]
    return graph.populations(missing, 1, lambda parent: store.state(parent).status == "complete", together=together)


def upload(local: str, root: str, populations: Sequence[Population], workdir: str) -> list[list[str]]:
    """Commands that bring to the bucket what jobs read: populations, corpora, parents that are trained already."""
    out = [_sync(local, f"{root}/populations")]
    roots = {os.path.abspath(node.execution.data_root) for part in populations for node in part.nodes}
    if len(roots) > 1:
        raise InputError(f"the study has corpora in {', '.join(sorted(roots))}; expected one --data_root")
    out += [_sync(data, f"{root}/data") for data in roots]
    names = {node.fingerprint for part in populations for node in part.nodes}
    parents = {node.run.parent for part in populations for node in part.nodes if node.run.parent} - names
    return out + [_sync(os.path.join(workdir, "runs", name), f"{root}/runs/{name}") for name in sorted(parents)]


def collect(root: str, workdir: str) -> list[str]:
    """The command that brings runs back."""
    return _sync(f"{root}/runs", os.path.join(workdir, "runs"))


def _sync(source: str, target: str) -> list[str]:
    return gcloud.Slice(gcloud.Options(), "").sync(source, target)


def train(root: str, part: Population, hosts: bool = True) -> list[str]:
    """What each host runs."""
    where = [f"--population={root}/populations/{part.name}.json", f"--workdir={root}"]
    return ["python", "-m", "experiments.train", *where, *(["--hosts=auto"] if hosts else [])]


def script(lines: Sequence[Sequence[str] | str]) -> str:
    """A shell script that ends at the first command that fails."""
    text = (line if isinstance(line, str) else shlex.join(line) for line in lines)
    return "\n".join(["#!/usr/bin/env bash", "set -euo pipefail", *text, ""])


def sky_task(options: SkyPilot, root: str, part: Population) -> str:
    """One task as YAML. Several nodes join each other by what SkyPilot tells each of them."""
    line = shlex.join(train(root, part, hosts=False))
    if options.nodes > 1:
        first = '$(echo "$SKYPILOT_NODE_IPS" | head -n1)'
        line += f' --hosts="{first}:8476,$SKYPILOT_NODE_RANK,$SKYPILOT_NUM_NODES"'
    indented = {"setup": ["python3 -m venv .venv", f".venv/bin/pip install -q -r {options.requirements}"]}
    indented["run"] = [f".venv/bin/{line}"]
    head = [f"name: lossgrid-{part.name}", "workdir: .", f"num_nodes: {options.nodes}", "resources:"]
    head += [f"  accelerators: {options.accelerators}", f"  use_spot: {str(options.spot).lower()}"]
    return "\n".join(
        [*head, *(f"{key}: |\n" + "\n".join(f"  {x}" for x in lines) for key, lines in indented.items()), ""]
    )


def xpk_workload(options: Xpk, root: str, part: Population) -> list[str]:
    """The command that submits a population as a workload."""
    place = [f"--{name}={getattr(options, name)}" for name in ("zone", "project") if getattr(options, name)]
    size = [f"--tpu-type={options.type}", f"--num-slices={options.slices}", f"--docker-image={options.image}"]
    name = ["xpk", "workload", "create", f"--cluster={options.cluster}", f"--workload=lossgrid-{part.name}"]
    return [*name, *size, *place, f"--command={shlex.join(train(root, part))}"]


def xpk_wait(options: Xpk, part: Population) -> list[str]:
    """The command that returns when a workload is over."""
    place = [f"--{name}={getattr(options, name)}" for name in ("zone", "project") if getattr(options, name)]
    wait = f"--wait-for-job-completion=lossgrid-{part.name}"
    return ["xpk", "workload", "list", f"--cluster={options.cluster}", *place, wait]


def write(kind: str, options: Any, populations: Sequence[Population], workdir: str, out: pathlib.Path) -> list[str]:
    """Write the files of a kind into a folder; their names."""
    root, made = f"{options.bucket}/{out.name}", []

    def put(name: str, text: str) -> None:
        files.write_bytes(out / name, text.encode())
        made.append(name)

    for part in populations:
        value = gcloud.remote_population(graph.worker_input(part), root)
        files.write_json(out / "populations" / f"{part.name}.json", value)
        made.append(f"populations/{part.name}.json")
    before = upload(os.path.abspath(out / "populations"), root, populations, workdir)
    lines: list[Sequence[str] | str] = [*before]
    by_level = [[p for p in populations if p.level == level] for level in sorted({p.level for p in populations})]
    for level in by_level:
        if kind == "xpk":
            lines += [xpk_workload(options, root, part) for part in level]
            lines += [xpk_wait(options, part) for part in level]
        elif kind == "skypilot":
            for part in level:
                put(f"{part.name}.yaml", sky_task(options, root, part))
                lines.append(
                    ["sky", "launch", "--yes", "--down", f"--cluster=lossgrid-{part.name}", f"{part.name}.yaml"]
                )
        else:
            for part in level:
                one = gcloud.Slice(options, f"lossgrid-{part.name}")
                ready = f"until {shlex.join(one.describe())} | grep -q ACTIVE; do sleep 30; done"
                lines += [one.create(), ready, one.copy("code.tar.gz"), one.bootstrap()]
                lines += [one.train(f"{root}/populations/{part.name}.json", root), one.delete()]
    if kind == "tpu-vm":
        gcloud.archive(os.fspath(out / "code.tar.gz"))
        made.append("code.tar.gz")
    put(f"{kind}.sh", script([*lines, collect(root, workdir)]))
    return made


KINDS = {"skypilot": SkyPilot, "xpk": Xpk, "tpu-vm": gcloud.Options}


def main(_: list[str]) -> int:
    """The command line."""
    given = flags.FLAGS
    if given.kind not in KINDS:
        raise InputError(f"--kind={given.kind!r} is not known; {nearest(given.kind, KINDS, 'kind')}")
    options = parse_options(KINDS[given.kind], given.options or "", "--options")
    options.check()
    study, out = studies.load(given.study, given.data_root), pathlib.Path(given.out)
    if not re.fullmatch(r"[\w.-]+", out.name):
        raise InputError(
            f"--out={given.out}: its last part names a folder of the bucket; expected letters, digits, . _ -"
        )
    populations = parts(study, Workdir(given.workdir))
    if not populations:
        print(f"{study.name}: nothing to do, every run has its record")
        return 0
    made = write(given.kind, options, populations, os.path.abspath(given.workdir), out)
    print(f"{study.name}: {len(populations)} populations as {len(made)} files in {out}; {made[-1]} runs them")
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("study", None, "FILE.py[:ARG] with get_study(arg)")
    flags.DEFINE_string("workdir", None, "folder of the study, as for sweeps.launch; runs come back to it")
    flags.DEFINE_string("kind", None, f"what to write: {', '.join(KINDS)}")
    flags.DEFINE_string("out", None, "folder for the files; its name is that of a folder in the bucket")
    flags.DEFINE_string(
        "options",
        "",
        "key=value,… : "
        + "; ".join(
            f"{kind}: {', '.join(field.name for field in dataclasses.fields(cls))}" for kind, cls in KINDS.items()
        ),
    )
    flags.DEFINE_string("data_root", None, "folder of prepared corpora; default: what the study says, or 'data'")
    cli.run(main, required=("study", "workdir", "kind", "out"))
