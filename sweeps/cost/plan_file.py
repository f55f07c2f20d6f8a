"""Keep a plan as a lock file: what was planned is what may be launched.

`sweeps.plan --workdir=DIR` leaves DIR/plan.json, with a hash of the study's runs. An executor that uses machines other
than this one starts nothing without a plan for the study as it stands, and for the devices that its workers have; the
local one needs no plan, but follows the one that lies in the workdir if it is for its devices. `sweeps.launch --no-plan`
launches all the same.
"""

from collections.abc import Callable
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
from sweeps.cost.machines import Target
from sweeps.executors.support.protocol import Executor, Hardware
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
        machines.target(plan["target"])
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(f"{path} is no plan that can be read ({error!r}); make it again with sweeps.plan") from error
    return plan


def plan_to_launch(
    study: Study, workdir: epath.PathLike, name: str, executor: Executor[Any], say: Callable[[str], None] = print
) -> dict[str, Any] | None:
    """Return the plan under which a study may be launched; None where none is needed. `name`: of the executor.

    The local executor, which needs no plan, sets aside one that is for other devices than its workers have, and says so.
    Raises InputError when a plan is needed and missing, was made for other runs or other devices, or says that a
    signature does not fit.
    """
    plan = read(workdir)
    if plan is None:
        if name == "local":
            return None
        flag = f" --target={executor.target}" if executor.target else ""
        command = f"python -m sweeps.plan --study={study.spec} --workdir={workdir}{flag}"
        raise InputError(f"--executor={name}: {workdir} has no plan.json; make one with '{command}', or --no-plan")
    path = f"{workdir}/plan.json"
    wrong = wrong_devices(machines.target(plan["target"]), executor)
    if wrong and name == "local":
        say(f"note: {path} is for {wrong}: launched without that plan")
        return None
    if wrong:
        raise InputError(f"{path} is for {wrong}; make one for these with sweeps.plan, or --no-plan")
    check(plan, study, workdir)
    return plan


def check(plan: dict[str, Any], study: Study, workdir: epath.PathLike) -> None:
    """Raise InputError for a plan that was made for other runs, or says that a signature does not fit."""
    path = f"{workdir}/plan.json"
    planned_for = plan["target"]
    again = f"python -m sweeps.plan --study={study.spec} --workdir={workdir} --target={planned_for}"
    if plan["hash"] != study_hash(study):
        raise InputError(f"{path} was made for other runs than the study has now; '{again}', or --no-plan")
    too_large = [signature["name"] for signature in plan["signatures"] if not signature["fits"]]
    if too_large:
        raise InputError(f"{path}: {too_large[0]} does not fit on {planned_for}; '{again}', or --no-plan")


def wrong_devices(planned_for: Target, executor: Executor[Any]) -> str | None:
    """Say what a plan is for, and what the executor's workers have instead; None where that is one, or is not known."""
    if executor.target is not None:
        found = machines.target(executor.target)
        same = (found.chip, found.topology, found.slices) == (
            planned_for.chip,
            planned_for.topology,
            planned_for.slices,
        )
        return None if same else f"{planned_for.name}, not for {executor.target}"
    has = executor.hardware()
    planned = Hardware(planned_for.kind, planned_for.chips)
    if has is None or has == planned:
        return None
    return f"{planned_for.name} ({planned}), where a worker has {has}"


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
