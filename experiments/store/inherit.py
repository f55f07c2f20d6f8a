"""Find the run that another one starts from, and say whether it can become that one.

A parent is a run's folder, complete, or a folder of weights (experiments/store/weights.py), for instance an import. Its model
may be the child's (a cooldown, a switch of data) or a smaller one (models/growing/operators.py says how that grows). The
child's first state is made by experiments/training/growth.py.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from typing import Any

from etils import epath
import numpy as np

from experiments import files
from experiments.cli import InputError
from experiments.run import stored
from experiments.run.schema import Execution, Run
from experiments.store import lineage, record, weights
from experiments.store.lineage import Lineage
from experiments.training import optimizers
from models import functional
from models.growing import check as growing
from models.growing import operators
from models.growing.layout import same

FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@dataclasses.dataclass(frozen=True)
class Parent:
    """Where a run starts from. `run` is None for a folder of weights, whose `lineage` is unknown.

    manifests: fingerprints of its corpora. loss_nats: its last held-out loss.
    """

    fingerprint: str
    directory: epath.Path
    family: str
    model: Any
    run: Run | None
    lineage: Lineage
    manifests: tuple[str, ...] = ()
    loss_nats: float | None = None

    def plan(self, child: Run) -> operators.Plan | None:
        """Return how the parent's model becomes the child's; None where a dense one becomes a mixture of experts."""
        if self.family != child.family:
            return None
        # All that a plan depends on of the child, so that equal plans are made once.
        asked = Run(child.family, child.model, growth=child.growth, seed=child.seed)
        return _plan(self.family, self.model, asked)

    def learns(self, child: Run) -> bool:
        """Say whether the child trains a combination of the parent's parameters first."""
        plan = self.plan(child)
        return plan is not None and plan.learns

    def added(self, child: Run) -> dict[str, np.ndarray] | None:
        """Return what masks multiply while the child's growth ramps up; None where there are none."""
        plan = self.plan(child)
        if plan is None or not child.growth.masked:
            return None
        return plan.added()

    def loss_before(self, child: Run, manifests: tuple[str, ...]) -> float | None:
        """Return its held-out loss; None where that is not of the sequences by which the child is judged."""
        if self.run is None or _judged_by(self.run, self.manifests) != _judged_by(child, manifests):
            return None
        return self.loss_nats

    def keeps_optimizer(self, child: Run) -> bool:
        """Say whether the child goes on with the parent's optimizer state."""
        if child.growth.optimizer is not None:
            return child.growth.optimizer == "grown"
        return self.run is not None and self.is_equal(child)

    def is_equal(self, child: Run) -> bool:
        """Say whether parent and child have parameters of the same names, axes and shapes."""
        source = functional.layout(self.family, self.model)
        target = functional.layout(child.family, child.model)
        return same(source, target)


def _judged_by(run: Run, manifests: tuple[str, ...]) -> tuple[Any, ...]:
    """Return what the held-out sequences of a run depend on."""
    return manifests, run.seq_len, run.evaluation.tokens, run.evaluation.weights


@functools.lru_cache(maxsize=64)
def _plan(family: str, model: Any, child: Run) -> operators.Plan:
    source = functional.layout(family, model)
    target = functional.layout(child.family, child.model)
    return operators.Plan(source, target, child.growth, child.seed)


def resolve(run: Run, execution: Execution) -> tuple[Run, Execution]:
    """Replace a parent that is given as a folder by its fingerprint; the execution then has the folder.

    Raises InputError where there is no such folder, or it holds nothing to start from.
    """
    if run.parent is None or FINGERPRINT.fullmatch(run.parent) or execution.parent_workdir:
        return run, execution
    folder = epath.Path(run.parent).expanduser()
    if not folder.exists():
        raise InputError(
            f"parent={run.parent}: expected the 16 hex digits of a run, or the folder of a run or of weights"
        )
    found = read(folder).fingerprint
    return dataclasses.replace(run, parent=found), dataclasses.replace(execution, parent_workdir=os.fspath(folder))


def find(run: Run, directory: epath.Path, execution: Execution) -> Parent | None:
    """Find the parent of a run whose own folder is `directory`, and check it against the run. None: it has none.

    Raises InputError when it is not there, has not been trained to its end, or cannot become the run's model.
    """
    if run.parent is None:
        if execution.parent_workdir:
            raise InputError(
                f"execution.parent_workdir={execution.parent_workdir} is set and parent is not; expected both"
            )
        return None
    folder = directory.parent / run.parent
    if execution.parent_workdir:
        folder = epath.Path(execution.parent_workdir).expanduser()
    if not folder.exists():
        raise InputError(f"parent={run.parent}: there is no {folder}; execution.parent_workdir says where else it is")
    found = read(folder)
    if found.fingerprint != run.parent:
        raise InputError(f"parent={run.parent}: {folder} holds {found.fingerprint}; expected the parent")
    try:
        check(found.family, found.model, run)
        _check_optimizer(found, run)
    except InputError as error:
        raise InputError(f"parent={run.parent}: {error}") from error
    return found


def check(family: str, model: Any, child: Run) -> None:
    """Check that a model can become the child's. Raises InputError, naming the fields, where it cannot."""
    source = (family, model)
    target = (child.family, child.model)
    if child.only_evaluates:
        growing.check_unchanged(source, target)
    else:
        growing.check(source, target, child.growth)


def _check_optimizer(parent: Parent, child: Run) -> None:
    """Check that the parent has the optimizer state that the child is to go on with."""
    grown = child.growth.optimizer == "grown"
    if parent.run is None and grown:
        raise InputError("growth.optimizer='grown': weights have no optimizer state; expected 'fresh'")
    if grown and parent.learns(child):
        raise InputError("growth.optimizer='grown' cannot follow a learned growth; expected 'fresh'")
    if grown and not optimizers.grows(child.opt.name) and not parent.is_equal(child):
        raise InputError(
            f"opt.name={child.opt.name!r} has no rule by which its state becomes that of another model; "
            "expected growth.optimizer='fresh'"
        )
    if parent.run is None or parent.run.opt.name == child.opt.name:
        return
    if parent.keeps_optimizer(child):
        raise InputError(
            f"opt.name={child.opt.name!r} cannot go on with the state of the parent's {parent.run.opt.name!r}; "
            "expected growth.optimizer='fresh'"
        )


def read(folder: epath.Path) -> Parent:
    """Read what a folder holds. Raises InputError naming the file for one that holds no whole run and no weights."""
    path = folder / "run.json"
    if not path.exists():
        return _read_weights(folder)
    try:
        value = files.read_json(path)
        run = stored.read_checked(value["run"], stored.version(value))
        fingerprint = value["fingerprint"]
        if "lineage" in value:
            line = lineage.from_json(value["lineage"])
        else:  # written before runs could have parents
            line = lineage.after(run, tuple(value["manifests"]), None)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())})") from error
    status = "not finished"
    manifests: tuple[str, ...] = ()
    loss = None
    if (folder / "record.json").exists():
        found = record.read(folder / "record.json")
        columns = found["columns"]
        status = "stopped early" if columns.get("censored") else found["status"]
        manifests = tuple(found["manifests"])
        loss = columns.get("loss_nats")
        left_out = columns.get("batches_left_out") or 0
        line = lineage.further(line, run, manifests, left_out * run.batch)
    if status != "complete":
        raise InputError(f"parent {fingerprint} in {folder} is {status}; expected a run that is complete")
    return Parent(fingerprint, folder, run.family, run.model, run, line, manifests, loss)


def _read_weights(folder: epath.Path) -> Parent:
    """Read a folder of weights. Its fingerprint is a hash of the model and of the checksums of its parameters."""
    value = weights.read_json(folder / "model.json", "expected the folder of a run or of weights")
    content = json.dumps([value.get("family"), value.get("model"), value.get("crc32")], sort_keys=True)
    found = weights.load(folder)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Parent(fingerprint, folder, found.family, found.cfg, None, Lineage(None, None))
