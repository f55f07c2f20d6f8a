"""Fit one law to several families of models: exponents that they share, multipliers of their own.

Whether to share is tested, not assumed. How coefficients are shared is the affair of joint_fit.py, the test that of
sharing.py.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from analysis.fitting.spec import FitSpec
from analysis.grid.cost import training_flops
from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw, Law
from analysis.procedures.registry import procedure_of
from analysis.questions import fit as fitting
from analysis.questions.family import Families, Family, Sharing, input_of, split
from analysis.questions.joint_fit import fit_jointly
from analysis.questions.sharing import judge_sharing
from experiments.cli import InputError, nearest

BESIDE = 0.05  # standard deviation of ln D around a line in ln N; less determines no allocation
ON_A_LINE = (
    "tokens follow from parameters in all runs, so that the best allocation of compute is a guess; compare along that line "
    "with --law=plateau --columns=X=COLUMN_OF_FLOPS"
)


def fit_families(
    columns: Columns, law: type[FormulaLaw], spec: FitSpec = FitSpec(), shared: Sequence[str] | None = None
) -> Families:
    """Fit a law to the families of a grid: columns with the law's roles and `family`.

    shared: coefficients that all families have in common; by default the law's exponents. Families with too few rows
    are left out, with a note. Raises InputError for a law that is no formula or does not predict from C, an unknown
    coefficient, or fewer than two families; FitError where no optimum is found.
    """
    shared = _checked_shared(law, shared)
    spec = spec.for_law(law)
    law = law.for_data(columns.values, spec.settled_objective.residual == "raw")
    own_coefficients = len(law.names()) - len(shared)
    columns, notes = _large_enough(columns, own_coefficients)
    parts = split(columns)
    compute = {name: compute_range(part) for name, part in parts.items()}
    sharing: Sharing | None = None
    if shared:
        result = fit_jointly(parts, columns, law, spec, shared, compute)
        sharing, why = judge_sharing(parts, columns, law, spec, shared)
    else:
        result = _fit_apart(parts, law, spec, compute)
        why = ""
    on_a_line = [name for name, part in parts.items() if narrow(part, law)]
    if on_a_line:
        kind = "family" if len(on_a_line) == 1 else "families"
        notes.append(f"{kind} {', '.join(on_a_line)}: {ON_A_LINE}")
    notes.append(why)
    return dataclasses.replace(result, sharing=sharing, notes=tuple(filter(None, notes)))


def default_shared(law: type[Law]) -> tuple[str, ...]:
    """Return the exponents of a law: coefficients that are not multipliers."""
    if not issubclass(law, FormulaLaw):
        return ()
    return tuple(name for name, known in law.COEFFICIENTS.items() if not known.log)


def _checked_shared(law: type[Law], shared: Sequence[str] | None) -> tuple[str, ...]:
    """Return the shared coefficients. Raises InputError for a law that cannot be compared or does not have them."""
    predicts_from_compute = ("C",) in law.INPUTS or ("X",) in law.INPUTS
    if not issubclass(law, FormulaLaw) or procedure_of(law) or not predicts_from_compute:
        raise InputError(
            f"--law: {law.NAME} has no loss at C training FLOPs; expected for example chinchilla, kaplan_c or plateau"
        )
    if shared is None:
        return default_shared(law)
    for name in shared:
        if name not in law.names():
            hint = nearest(name, law.names(), "coefficient")
            raise InputError(f"--shared: {name!r} is not a coefficient of {law.NAME}; {hint}")
    return tuple(shared)


def _large_enough(columns: Columns, own_coefficients: int) -> tuple[Columns, list[str]]:
    """Return the rows of families with rows enough for their own coefficients, and a note for each of the others.

    Raises InputError when fewer than two families are left.
    """
    fewest = max(own_coefficients + 1, 2)
    label = columns["family"].astype(str)
    names, rows = np.unique(label, return_counts=True)
    is_small = rows < fewest
    if (~is_small).sum() < 2:
        found = ", ".join(f"{name} ({count} rows)" for name, count in zip(names, rows, strict=True))
        raise InputError(f"--by: families {found}; expected at least two with {fewest} rows each")
    notes = []
    for name, count in zip(names[is_small], rows[is_small], strict=True):
        notes.append(
            f"family {name} is left out: {count} rows, expected at least {fewest} for {own_coefficients} coefficients"
        )
    return columns.take(~np.isin(label, names[is_small])), notes


def narrow(part: Columns, law: type[Law]) -> bool:
    """Say whether a family's runs all lie on one line of N and D, and the law needs what lies beside it."""
    needs_both = {"N", "D"} <= set(law.ROLES) and input_of(law) == "C"
    if not needs_both:
        return False
    log_n = np.log(part["N"])
    log_d = np.log(part["D"])
    line = np.column_stack([np.ones_like(log_n), log_n])
    coefficients, *_ = np.linalg.lstsq(line, log_d, rcond=None)
    beside = log_d - line @ coefficients
    return bool(beside.std() <= BESIDE)


def compute_range(columns: Columns) -> tuple[float, float]:
    """Return the least and most training FLOPs of the rows: C, or X of a law of one quantity, or 6 N D."""
    C = columns["X"] if "C" not in columns and "X" in columns else training_flops(columns)
    assert C is not None, "a law that predicts from compute has C, X, or N and D"
    return float(C.min()), float(C.max())


def _fit_apart(
    parts: Mapping[str, Columns],
    law: type[FormulaLaw],
    spec: FitSpec,
    compute: Mapping[str, tuple[float, float]],
) -> Families:
    """Fit each family alone, each with random numbers of its own."""
    families = {}
    objective = 0.0
    gradient = 0.0
    for at, (name, part) in enumerate(parts.items()):
        own_seed = (spec.seed + at) % 2**32
        result = fitting.fit(part, law, dataclasses.replace(spec, seed=own_seed, thorough=False))
        objective += result.objective
        gradient = max(gradient, result.certificate.gradient or 0.0)
        families[name] = Family(
            name=name,
            law=result.law,
            draws=result.draws,
            C=compute[name],
            rows=len(part),
            flops_per_param_token=result.flops_per_param_token,
            not_identified=result.certificate.not_identified,
            verdict=result.verdict,
        )
    return Families(families, (), None, objective, gradient)
