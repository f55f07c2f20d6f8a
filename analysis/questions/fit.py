"""Fit any law to a loss grid: a formula as it stands, other laws by their procedure."""

from collections.abc import Sequence
import dataclasses

from analysis.fitting.formula_fit import fit_formula, noted
from analysis.fitting.judging import judge_by_rows
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select, unused
from analysis.grid.table import Columns, Grid
from analysis.laws.base import FormulaLaw, Law
from analysis.procedures.registry import options_of, prepared, procedure_of
from analysis.solve import newton
from analysis.solve.objective import Objective
from experiments.cli import InputError

EVERYWHERE = ("N", "D", "C", "loss")  # residuals, costs and back-tests are told by them, whatever the law takes
CHANGING = {"weight", "run", "censored", "questions", "validation", "group"}  # roles that say how rows count


def fit(columns: Columns, law: type[Law], spec: FitSpec = FitSpec()) -> FitResult:
    """Fit a law to the rows of a grid.

    Raises InputError when there are fewer rows than coefficients, FitError when no optimum was reached.
    """
    spec = spec.for_law(law)
    law = law.of(columns.parts)
    with newton.one_thread():
        result = _fit(columns, law, spec)
    return noted(result, columns)


def _fit(columns: Columns, law: type[Law], spec: FitSpec) -> FitResult:
    """Fit by the law's procedure, or as the formula that it is."""
    procedure = procedure_of(law)
    _check_used(law, spec)
    if procedure is not None:
        result = procedure(columns, law, spec)
        return dataclasses.replace(result, verdict=judge_by_rows(result))
    if issubclass(law, FormulaLaw):
        return fit_formula(columns, law, spec)
    raise TypeError(f"{law.__name__} is neither a FormulaLaw nor has a procedure of its own")


def _check_used(law: type[Law], spec: FitSpec) -> None:
    """Raise InputError for an option that the fit of this law has no use for: nothing is written down that was not done."""
    used = options_of(law)
    for option in _given(law, spec):
        if option not in used:
            flags = ", ".join(f"--{one}" for one in sorted(used)) or "none"
            raise InputError(
                f"--{option}: {law.NAME} has no use for it; expected it to be left out (options that it uses: {flags})"
            )
    objective = spec.settled_objective
    unsaid = (law.OBJECTIVE.huber_delta, Objective.huber_delta)
    if objective.loss != "huber" and objective.huber_delta not in unsaid:
        raise InputError(
            f"--huber_delta: {objective.loss} has no use for it; expected it to be left out, or --loss=huber"
        )


def _given(law: type[Law], spec: FitSpec) -> list[str]:
    """Return the options that differ from what the law's fit does without them."""
    objective = spec.settled_objective
    found = []
    for field in dataclasses.fields(objective):
        if getattr(objective, field.name) != getattr(law.OBJECTIVE, field.name):
            found.append(field.name)
    if spec.fixed:
        found.append("fix")
    for name in ("resample", "interpolation", "weighted", "near_optimum"):
        if getattr(spec, name) != getattr(FitSpec, name):
            found.append(name)
    return found


def select_for(
    grid: Grid,
    law: type[Law],
    columns: str | None,
    where: str | None,
    more: Sequence[str] = (),
    optional: Sequence[str] = (),
    elsewhere: Sequence[str] = (),
    changing: bool = False,
) -> Columns:
    """Select the rows and roles that a law uses, and further roles.

    elsewhere: roles that something else uses. Raises InputError for a role that was named and is not used; with `changing` only for one that would change the fit,
    as a weight would, where it were: a grid may be read once for many laws.
    """
    needed = (*law.ROLES, *more)
    optional = (*law.OPTIONAL, *optional)
    budgets = ("group",) if law.TARGET == "loss" else ()  # of a back-test
    used = {*needed, *optional, *law.WHEN_NAMED, *law.inputs(), *budgets, *elsewhere, *EVERYWHERE}
    for role in unused(grid, columns, where, used):
        if role in CHANGING or not changing:
            raise InputError(f"--columns: {role}: {law.NAME} has no use for it; expected it to be left out")
    rows = select(grid, needed, optional=optional, columns=columns, where=where, signed=law.SIGNED)
    return prepared(rows, law)
