"""Keep a plan as a lock file: what was planned is what may be launched.

`sweeps.plan --workdir=DIR` leaves DIR/plan.json, with a hash of the study's runs. An executor that uses machines other
than this one starts nothing without a plan for the study as it stands; the local one needs no plan, but follows the one
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
from sweeps.cost.compile_cache import PROGRAM_OPTIONS
from sweeps.study.cells import Cell, ancestry
from sweeps.study.file import Study

NAME = "plan.json"


def study_hash(study: Study) -> str:
    """Return 16 hex digits for all that a plan depends on: every run, its signature, and the options of its program.

    These are mesh, packing and the like. Names and tags of points are not among it, nor is where data are kept.
    """
    planned = set()
    for cell in study.cells:
        for one in ancestry(cell):
            options = [getattr(one.execution, name) for name in PROGRAM_OPTIONS]
            program = (one.execution.mesh, *options)
            planned.add((one.provisional_fingerprint, identity.signature(one.run), str(program)))
    return hashlib.sha256(json.dumps(sorted(planned)).encode()).hexdigest()[:16]


def read(workdir: epath.PathLike) -> dict[str, Any] | None:
    """Return the plan of a workdir, if there is one. Raises InputError where it cannot be read."""
    path = epath.Path(workdir) / NAME
    if not path.exists():
        return None
    try:
        plan = files.read_json(path)
        if not isinstance(plan["hash"], str) or not isinstance(plan["target"], str):
            raise TypeError("hash and target must be text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no plan that can be read ({error!r}); make it again with sweeps.plan") from error
    return plan


def plan_to_launch(
    study: Study, workdir: epath.PathLike, executor: str, target: str | None = None
) -> dict[str, Any] | None:
    """Return the plan under which a study may be launched; None where none is needed. `executor`: its name.

    Raises InputError when a plan is needed and missing, was made for other runs or another `target`, or says that a
    signature does not fit.
    """
    plan = read(workdir)
    again = f"python -m sweeps.plan --study={study.spec} --workdir={workdir}"
    if plan is None:
        if executor == "local":
            return None
        flag = f" --target={target}" if target else ""
        raise InputError(
            f"--executor={executor}: {workdir} has no plan.json; make one with '{again}{flag}', or --no-plan"
        )
    planned_for = plan["target"]
    again += f" --target={target or planned_for}"
    if plan["hash"] != study_hash(study):
        raise InputError(f"{workdir}/plan.json was made for other runs than the study has now; '{again}', or --no-plan")
    if target is not None and _slice(planned_for) != _slice(target):
        raise InputError(f"{workdir}/plan.json is for {planned_for}, not for {target}; '{again}', or --no-plan")
    too_large = [signature["name"] for signature in plan["signatures"] if not signature["fits"]]
    if too_large:
        raise InputError(f"{workdir}/plan.json: {too_large[0]} does not fit on {planned_for}; '{again}', or --no-plan")
    return plan


def _slice(name: str) -> tuple[str | None, str | None, int]:
    """Return what is the same for all names of one machine."""
    found = machines.target(name)
    return found.chip, found.topology, found.chips


def apply_plan(study: Study, plan: dict[str, Any]) -> tuple[Study, dict[str, int]]:
    """Put a study on the meshes of its plan, where its points leave them open; and say how many runs share a program.

    The second result is by signature. A plan for a CPU leaves both to the launcher.
    """
    planned = {signature["signature"]: signature for signature in plan["signatures"] if signature["mesh"]}
    cells = tuple(_placed(cell, planned) for cell in study.cells)
    together = {name: signature["trials_per_program"] for name, signature in planned.items()}
    return dataclasses.replace(study, cells=cells), together


def _placed(cell: Cell, planned: dict[str, dict[str, Any]]) -> Cell:
    """Return a cell with the mesh and packing that its signature was planned with, where it has no mesh of its own."""
    signature = planned.get(identity.signature(cell.run))
    if signature is None or cell.execution.mesh != MeshShape():
        return cell
    mesh = MeshShape(**signature["mesh"])
    return dataclasses.replace(
        cell, execution=dataclasses.replace(cell.execution, mesh=mesh, packing=signature["packing"])
    )
