"""The hand-over from a run to the runs that start from it: find the parent, read its last checkpoint, let it grow.

A parent is a run's folder, complete, or a folder of weights (experiments/store/weights.py), for instance an import. Its model
may be the child's (a cooldown, a switch of data) or a smaller one (models/growing/operators.py says how that grows).
"""

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from etils import epath
import numpy as np

from experiments import files
from experiments.cli import InputError
from experiments.run import stored
from experiments.run.schema import Execution, Run
from experiments.store import lineage
from experiments.store import record as records
from experiments.store.lineage import Lineage
from models import functional
from models.growing import operators, options, upcycling
from models.growing.check import check as check_

FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@dataclasses.dataclass(frozen=True)
class Parent:
    """Where a run starts from. `run` is None for a folder of weights, whose `lineage` is unknown."""

    fingerprint: str
    directory: epath.Path
    family: str
    model: Any
    run: Run | None
    lineage: Lineage

    def plan(self, child: Run) -> operators.Plan | None:
        """How the parent's model becomes the child's; None where a dense one becomes a mixture of experts."""
        return _plan(self.family, self.model, child) if self.family == child.family else None

    def learns(self, child: Run) -> bool:
        """Whether the child trains a combination of the parent's parameters first."""
        plan = self.plan(child)
        return plan is not None and plan.learns

    def added(self, child: Run) -> dict[str, np.ndarray] | None:
        """What masks multiply while the child's growth ramps up."""
        plan = self.plan(child)
        return plan.added() if plan is not None and child.growth.masked else None


def _layout(family: str, model: Any) -> options.Layout:

    return functional.layout(family, model)


@functools.lru_cache(maxsize=64)
def _planned(family: str, model: Any, child: Run) -> operators.Plan:
    return operators.Plan(_layout(family, model), _layout(child.family, child.model), child.growth, child.seed)


def _plan(family: str, model: Any, child: Run) -> operators.Plan:
    return _planned(family, model, Run(child.family, child.model, growth=child.growth, seed=child.seed))


def resolve(run: Run, execution: Execution) -> tuple[Run, Execution]:
    """A run whose parent is given as a folder: with its fingerprint instead, and the folder in the execution."""
    if run.parent is None or FINGERPRINT.fullmatch(run.parent) or execution.parent_workdir:
        return run, execution
    folder = epath.Path(run.parent)
    if not folder.exists():
        raise InputError(
            f"parent={run.parent}: expected the 16 hex digits of a run, or the folder of a run or of weights"
        )
    found = read(folder).fingerprint
    return dataclasses.replace(run, parent=found), dataclasses.replace(execution, parent_workdir=os.fspath(folder))


def find(run: Run, directory: epath.Path, execution: Execution) -> Parent | None:
    """The parent of a run whose own folder is `directory`, checked against the run.

    Raises InputError when it is not there, has not been trained to its end, or cannot become the run's model.
    """
    if run.parent is None:
        if execution.parent_workdir:
            raise InputError(
                f"execution.parent_workdir={execution.parent_workdir} is set and parent is not; expected both"
            )
        return None
    folder = epath.Path(execution.parent_workdir) if execution.parent_workdir else directory.parent / run.parent
    if not folder.exists():
        raise InputError(f"parent={run.parent}: there is no {folder}; execution.parent_workdir says where else it is")
    found = read(folder)
    if found.fingerprint != run.parent:
        raise InputError(f"parent={run.parent}: {folder} holds {found.fingerprint}; expected the parent")
    try:
        check(found.family, found.model, run)
        if found.run is None and run.growth.optimizer == "grown":
            raise InputError("growth.optimizer='grown': weights have no optimizer state; expected 'fresh'")
        if found.learns(run) and run.growth.optimizer == "grown":
            raise InputError("growth.optimizer='grown' cannot follow a learned growth; expected 'fresh'")
    except InputError as error:
        raise InputError(f"parent={run.parent}: {error}") from error
    return found


def check(family: str, model: Any, child: Run) -> None:
    """Raises InputError, naming the fields, where a model cannot become the child's."""
    check_((family, model), (child.family, child.model), child.growth)


def read(folder: epath.Path) -> Parent:
    """What a folder holds. Raises InputError naming the file for one that holds no whole run and no weights."""
    path = folder / "run.json"
    if not path.exists():
        return _read_weights(folder)
    try:
        value = files.read_json(path)
        run = stored.read(value["run"], stored.version(value))
        name = value["fingerprint"]
        if "lineage" in value:
            line = lineage.from_json(value["lineage"])
        else:  # written before runs could have parents
            line = lineage.after(run, tuple(value["manifests"]), None)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())})") from error
    status = "not finished"
    if (folder / "record.json").exists():
        found = records.read(folder / "record.json")
        status = "stopped early" if found["columns"].get("censored") else found["status"]
        left_out = found["columns"].get("batches_left_out") or 0
        line = lineage.further(line, run, tuple(found["manifests"]), left_out * run.batch)
    if status != "complete":
        raise InputError(f"parent {name} in {folder} is {status}; expected a run that is complete")
    return Parent(name, folder, run.family, run.model, run, line)


def _read_weights(folder: epath.Path) -> Parent:
    from experiments.store import weights

    value = weights.read_json(pathlib.Path(folder) / "model.json", "expected the folder of a run or of weights")
    content = json.dumps([value.get("family"), value.get("model"), value.get("crc32")], sort_keys=True)
    found = weights.load(folder)
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Parent(name, folder, found.family, found.cfg, None, Lineage(None, None))


# --- states


def state(parent: Parent, child: Run, fresh: Any, batch: Callable[[int], np.ndarray]) -> Any:
    """The child's first TrainState, on the host; `fresh` is the one that it would have without a parent.

    `batch(step)` gives the tokens of a step of learned growth. Raises InputError for a checkpoint that does not fit.
    """

    source, target = _layout(parent.family, parent.model), functional.layout(child.family, child.model)
    grown = child.growth.optimizer == "grown" or (
        child.growth.optimizer is None and parent.run is not None and operators.same(source, target)
    )
    before, plan = _read_state(parent, source, grown), parent.plan(child)

    def grow(tree: Any, moments: bool) -> Any:
        if plan is None:
            return upcycling.upcycle(source, target, tree, fresh.params, child.growth, child.seed, moments)
        return plan.grow(tree, fresh.params, moments)

    if plan is not None and plan.learns:
        params = combine(child, plan, before.params, batch)
    else:
        params = grow(before.params, False)
    params = {path: np.asarray(params[path], np.float32) for path in fresh.params}
    return fresh._replace(params=params, opt=_grow_opt(before.opt, fresh.opt, grow) if grown else fresh.opt)


def _read_state(parent: Parent, source: options.Layout, with_opt: bool) -> Any:
    import jax

    from experiments.store import checkpoint, weights
    from experiments.training import step

    if parent.run is None:
        return step.TrainState(weights.load(parent.directory).params, None, None)
    run = parent.run
    like = jax.eval_shape(lambda: step.init_state(run, run))
    like = step.TrainState(like.params, like.opt if with_opt else None, None)
    found, at = checkpoint.read_state(parent.directory / "checkpoints", like)
    if at != run.steps:
        raise InputError(f"{parent.directory}/checkpoints ends at step {at}; expected the parent's last, {run.steps}")
    return found


def _grow_opt(before: Any, fresh: Any, grow: Callable[[Any, bool], Any]) -> Any:
    """Optimizer state with the moments of every parameter grown and its counts kept."""
    import jax

    def is_params(node: Any) -> bool:
        return isinstance(node, dict)

    grown = jax.tree.map(lambda n: grow(n, True) if is_params(n) else np.asarray(n), before, is_leaf=is_params)
    if jax.tree.structure(grown) != jax.tree.structure(fresh):
        raise InputError("growth.optimizer='grown' needs the parent's optimizer; opt.name or opt.clip_norm differ")
    return grown


def combine(
    run: Run, plan: operators.Plan, params: operators.Params, batch: Callable[[int], np.ndarray]
) -> dict[str, np.ndarray]:
    """A learned growth: train the combination on the run's own loss with everything else as it is, then apply it.

    growth.learn_steps steps of Adam (LiGO, Wang et al. 2023). On one device: the combination is not split over a mesh.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from experiments.training import step

    source, optimizer = dict(plan.widened(params)), optax.adam(run.growth.learn_lr)

    @jax.jit
    def update(learned: Any, opt: Any, source: Any, tokens_BT: Any) -> tuple[Any, Any, Any]:

        def objective(learned: Any) -> Any:
            return step.objective(run, run, plan.expand(learned, source), tokens_BT)[0]

        nats, gradient = jax.value_and_grad(objective)(learned)
        change, opt = optimizer.update(gradient, opt)
        return optax.apply_updates(learned, change), opt, nats

    learned = jax.tree.map(jnp.asarray, plan.combination())
    opt = optimizer.init(learned)
    for number in range(run.growth.learn_steps):
        learned, opt, _ = update(learned, opt, source, batch(number))
    return {path: np.asarray(value) for path, value in plan.expand(learned, source).items()}
