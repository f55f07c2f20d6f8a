"""Fit a law to each group of a grid: each group alone, or all together with some coefficients in common.

The groups are the values of one column (the role `family`). How coefficients are shared is the affair of joint_fit.py,
the test of it that of sharing.py.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting import formula_fit
from analysis.fitting.result import SCHEMA, FitError, FitResult, judged_verdict, to_json
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw, Law
from analysis.questions import fit as fitting
from analysis.questions.backtest import hindsight_summary
from analysis.questions.family import Families, Family, Sharing, split
from analysis.questions.joint_fit import fit_jointly
from analysis.questions.sharing import judge_sharing
from analysis.trust.certificate import Certificate
from experiments.cli import InputError, nearest

LABEL = "family"  # the role that says which group a row belongs to
UNKNOWN = (float("nan"), float("nan"))  # a range of compute, which groups need not have


@dataclasses.dataclass(frozen=True)
class Groups:
    """Hold the fits of groups by name, and why others have none.

    shared: coefficients that all have in common; sharing: the test of whether they may, None where it is not made.
    """

    fits: dict[str, FitResult]
    failures: dict[str, str]
    shared: tuple[str, ...] = ()
    sharing: Sharing | None = None
    notes: tuple[str, ...] = ()


def fit_groups(columns: Columns, law: type[Law], spec: FitSpec = FitSpec(), shared: Sequence[str] = ()) -> Groups:
    """Fit the groups of a grid: columns with the law's roles and `family`.

    Raises InputError where no group can be fitted, for a coefficient that the law does not have, and for coefficients in
    common of a law that is no formula; FitError where the joint fit finds no optimum.
    """
    parts = split(columns)
    spec = spec.for_law(law)
    found = _together(parts, columns, law, spec, shared) if shared else _apart(parts, law, spec)
    if not found.fits:
        why = "; ".join(f"{name}: {reason}" for name, reason in found.failures.items())
        raise InputError(f"--by: none of the {len(parts)} groups can be fitted ({why})")
    return found


def _apart(parts: Mapping[str, Columns], law: type[Law], spec: FitSpec) -> Groups:
    """Fit each group alone."""
    fits = {}
    failures = {}
    for name, part in parts.items():
        try:
            fits[name] = fitting.fit(part, law, spec)
        except (InputError, FitError) as error:
            failures[name] = str(error).removeprefix("GRID: ")
    return Groups(fits, failures)


def _together(
    parts: Mapping[str, Columns], columns: Columns, law: type[Law], spec: FitSpec, shared: Sequence[str]
) -> Groups:
    """Fit all groups together; those with too few rows for their own coefficients are left out."""
    if not issubclass(law, FormulaLaw):
        raise InputError(f"--shared: {law.NAME} is fitted in steps of its own; expected a law that is one formula")
    for name in shared:
        if name not in law.names():
            hint = nearest(name, law.names(), "coefficient")
            raise InputError(f"--shared: {name!r} is not a coefficient of {law.NAME}; {hint}")
    is_raw = spec.settled_objective.residual == "raw"
    law = law.for_data(columns.values, is_raw)
    own = len(set(law.names()) - set(shared) - set(spec.fixed))
    failures = {}
    for name, part in parts.items():
        if len(part) <= own:
            failures[name] = f"{len(part)} rows; expected at least {own + 1} for {own} coefficients of its own"
    kept = {name: part for name, part in parts.items() if name not in failures}
    if len(kept) < 2:
        return Groups({}, failures or dict.fromkeys(kept, "it is the only group, with which none shares"))
    label = columns[LABEL].astype(str)
    columns = columns.take(np.isin(label, list(kept)))
    compute = dict.fromkeys(kept, UNKNOWN)
    joint = fit_jointly(kept, columns, law, spec, tuple(shared), compute)
    sharing, why = judge_sharing(kept, columns, law, spec, shared)
    fits = {}
    for name, family in joint.families.items():
        fits[name] = _result_of(family, kept[name], spec, joint)
    return Groups(fits, failures, tuple(shared), sharing, (why,) if why else ())


def _result_of(family: Family, part: Columns, spec: FitSpec, joint: Families) -> FitResult:
    """Return one group of a joint fit as a fit of its own rows. Its objective is that of all groups."""
    law = family.law
    assert joint.agreeing is not None, "a joint fit has starts"
    additive = bool((part[law.TARGET] <= 0).any())
    residual = formula_fit.residuals(law, part, additive)
    certificate = Certificate(
        converged=True,
        agreeing_starts=joint.agreeing,
        gradient=joint.gradient,
        not_identified=family.not_identified,
        rms_log_residual=float(np.sqrt(np.mean(residual**2))),
    )
    result = FitResult(
        law=law,
        spec=spec,
        columns=part,
        objective=joint.objective,
        residual=residual,
        certificate=certificate,
        draws=family.draws,
        freedom=len(part) - len(law.names()),
        details=law.of_data(),
        additive=additive,
        verdict=family.verdict,
    )
    return formula_fit.noted(result, part)


def unknown(found: Groups) -> dict[str, str]:
    """Return what the rows of groups do not tell, each with the reason; a group that could not be fitted tells nothing."""
    names = {f"any number of {name}": reason for name, reason in found.failures.items()}
    for group, result in found.fits.items():
        for name, why in judged_verdict(result).unknown.items():
            names[f"{name} of {group}"] = why
    return names


def groups_to_json(
    found: Groups, by: str, law: type[Law], spec: FitSpec, sha256: str, command: str, back_test: bool
) -> dict[str, Any]:
    """Return fit.json of several groups: one under the name of each, as a fit of that group alone writes it."""
    fits = {}
    for name, result in found.fits.items():
        fits[name] = to_json(result, sha256, command)
        if back_test and not found.shared:
            fits[name]["back_test"] = hindsight_summary(result.columns, law, spec)
    return {
        "schema": SCHEMA,
        "by": by,
        "law": law.NAME,
        "formula": law.FORMULA,
        "shared": list(found.shared),
        "sharing": None if found.sharing is None else dataclasses.asdict(found.sharing),
        "fits": fits,
        "failures": found.failures,
        "notes": list(found.notes),
        "data_sha256": sha256,
        "command": command,
    }
