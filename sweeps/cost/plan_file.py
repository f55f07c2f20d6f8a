"""A plan as a lock file: what was planned is what may be launched.

`sweeps.plan --workdir=DIR` leaves DIR/plan.json, with a hash of the study's runs. An executor that uses machines other
than this one starts nothing without a plan for the study as it stands; the local one needs no plan, but heeds the one
that lies in the workdir. `sweeps.launch --no-plan` launches all the same.
"""

import dataclasses
import hashlib
import json
from typing import Any

from etils import epath

from experiments import files
from experiments.cli import InputError
from experiments.run import identity
from models.mesh.mesh import MeshShape
from sweeps.cost import machines
from sweeps.cost.compiler import PROGRAM
from sweeps.study.file import Cell, Study, line

NAME = "plan.json"


def study_hash(study: Study) -> str:
    """16 hex digits for all that a plan depends on: every run, its signature, and the mesh, packing and other options of its program.

    Names and tags of points are not among it, nor is where data are kept.
    """
    rows = set()
    for cell in study.cells:
        for one in line(cell):
            place = (one.execution.mesh, *(getattr(one.execution, name) for name in PROGRAM))
            rows.add((identity.fingerprint(one.run, (str(one.run.data),)), identity.signature(one.run), str(place)))
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:16]


def read(workdir: epath.PathLike) -> dict[str, Any] | None:
    """The plan of a workdir, if there is one. Raises InputError where it cannot be read."""
    path = epath.Path(workdir) / NAME
    if not path.exists():
        return None
    try:
        value = files.read_json(path)
        if not isinstance(value["hash"], str) or not isinstance(value["target"], str):
            raise TypeError("hash and target must be text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no plan that can be read ({error!r}); make it again with sweeps.plan") from error
    return value


def check(study: Study, workdir: epath.PathLike, executor: str, target: str | None = None) -> dict[str, Any] | None:
    """The plan under which a study may be launched; None where none is needed. `executor`: its name.

    Raises InputError when a plan is needed and missing, was made for other runs or another `target`, or says that a
    signature does not fit.
    """
    value = read(workdir)
    again = f"python -m sweeps.plan --study={study.spec} --workdir={workdir}"
    if value is None:
        if executor == "local":
            return None
        flag = f" --target={target}" if target else ""
        raise InputError(
            f"--executor={executor}: {workdir} has no plan.json; make one with '{again}{flag}', or --no-plan"
        )
    again += f" --target={target or value['target']}"
    if value["hash"] != study_hash(study):
        raise InputError(f"{workdir}/plan.json was made for other runs than the study has now; '{again}', or --no-plan")
    if target is not None and _slice(value["target"]) != _slice(target):
        raise InputError(f"{workdir}/plan.json is for {value['target']}, not for {target}; '{again}', or --no-plan")
    tight = [row["name"] for row in value["signatures"] if not row["fits"]]
    if tight:
        raise InputError(f"{workdir}/plan.json: {tight[0]} does not fit on {value['target']}; '{again}', or --no-plan")
    return value


def _slice(name: str) -> tuple[str | None, str | None, int]:
    found = machines.target(name)
    return found.chip, found.topology, found.chips


def laid_out(study: Study, plan: dict[str, Any]) -> tuple[Study, dict[str, int]]:
    """A study on the meshes of its plan, where its points leave them open; and how many runs of a signature share a program.

    A plan for a CPU leaves both to the launcher.
    """
    rows = {row["signature"]: row for row in plan["signatures"] if row["mesh"]}

    def placed(cell: Cell) -> Cell:
        row = rows.get(identity.signature(cell.run))
        if row is None or cell.execution.mesh != MeshShape():
            return cell
        return dataclasses.replace(
            cell, execution=dataclasses.replace(cell.execution, mesh=MeshShape(**row["mesh"]), packing=row["packing"])
        )

    together = {name: row["trials_per_program"] for name, row in rows.items()}
    return dataclasses.replace(study, cells=tuple(map(placed, study.cells))), together
