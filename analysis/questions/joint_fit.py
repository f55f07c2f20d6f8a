"""Fit a law to all families together: some coefficients are shared, the others are each family's own.

The problem is that of one formula with copies (analysis/solve/formula.py). It starts from the separate fits of the
families, and runs are resampled within families.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from analysis.fitting.result import FitError
from analysis.fitting.spec import FitSpec
from analysis.fitting.stationary import stationary
from analysis.fitting.weights import row_weights
from analysis.grid import cost
from analysis.grid.table import Columns
from analysis.laws.base import Array, FormulaLaw
from analysis.questions import fit as fitting
from analysis.questions.family import Families, Family
from analysis.questions.joint_verdict import judge_families, run_names
from analysis.solve import formula, newton, optimum
from analysis.solve.formula import FormulaProblem
from analysis.solve.parameters import VANISHED
from analysis.trust import bootstrap, identification, influence
from experiments.cli import InputError

STARTS_OF_GUESS = 32  # of the separate fits that the joint one starts from
NOT_SEPARATED = "the rows do not separate it from other coefficients"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointProblem(FormulaProblem):
    """A FormulaProblem with given starts [starts, p]."""

    points: Array = dataclasses.field(default_factory=lambda: np.empty((0, 0)))

    def starts(self, weight: Array, keep: int) -> Array:
        """Return the starts that were given, the first `keep` of them."""
        del weight
        return self.points[:keep]


def fit_jointly(
    parts: Mapping[str, Columns],
    columns: Columns,
    law: type[FormulaLaw],
    spec: FitSpec,
    shared: tuple[str, ...],
    compute: Mapping[str, tuple[float, float]],
) -> Families:
    """Fit the families together. parts: their rows by name, compute: the range of their FLOPs.

    Raises FitError where no optimum is found.
    """
    problem, weight = join(parts, columns, law, spec, shared)
    best, _ = stationary(optimum_of(problem, weight, spec), law, spec.settled_objective)
    ends = replicates(best, parts, columns, spec)
    is_weak, _ = identification.weak_directions(problem, best.theta, weight)
    best_values = problem.values(best.theta[None])
    values_of_replicates = problem.values(ends)
    families = {}
    for copy, (name, part) in enumerate(parts.items()):
        own_values = problem.of_copy(best_values, copy)
        factor, _ = cost.flops_factor(part)
        # A search that stops on the floor of a valley leaves open what lies along it, in all families.
        lost = sorted({*_lost(problem, is_weak, copy), *best.valley})
        families[name] = Family(
            name=name,
            law=law(*map(float, own_values[0])),
            draws=problem.of_copy(values_of_replicates, copy),
            C=compute[name],
            rows=len(part),
            flops_per_param_token=factor,
            not_identified=dict.fromkeys(lost, NOT_SEPARATED),
        )
    families = judge_families(families, parts, columns, best, ends, spec, shared)
    return Families(families, shared, None, best.value, best.gradient, agreeing=best.agreeing)


def _lost(problem: JointProblem, is_weak: Array, copy: int) -> list[str]:
    """Return the coefficients of one copy that the rows do not determine: its own, and the shared ones."""
    lost = set()
    for (name, owner), weak in zip(problem.parameters, is_weak, strict=True):
        if weak and owner in (None, copy):
            lost.add(name)
    return sorted(lost)


def optimum_of(problem: JointProblem, weight: Array, spec: FitSpec) -> optimum.Optimum:
    """Return the best end of all starts."""
    objective = spec.settled_objective
    typical = float(np.median(problem.target))  # sets the scale of raw residuals; log residuals have none
    deltas = objective.stages(typical)
    return optimum.find(problem, weight, objective, deltas, spec.starts)


def join(
    parts: Mapping[str, Columns], columns: Columns, law: type[FormulaLaw], spec: FitSpec, shared: tuple[str, ...]
) -> tuple[JointProblem, Array]:
    """Pose the fit of all families together. Returns the problem and the weights of its rows."""
    objective = spec.settled_objective
    is_raw = objective.residual == "raw"
    target = columns[law.TARGET]
    if not is_raw and not (target > 0).all():
        raise InputError(f"--residual=log: {law.TARGET} is not positive in every row; expected --residual=raw")
    place = {name: at for at, name in enumerate(parts)}
    label = columns["family"].astype(str)
    member = [place[name] for name in label]
    problem = JointProblem(
        law=law,
        inputs={role: columns[role] for role in law.inputs()},
        target=target if is_raw else np.log(target),
        raw=is_raw,
        fixed=spec.fixed,
        member=np.array(member),
        shared=shared,
        above=objective.shares(columns.values.get("censored")),
    )
    # The starts come from fits of the families alone, posed as the joint problem says.
    points = _starts(problem, parts, columns, spec)
    return dataclasses.replace(problem, points=points), row_weights(columns, law.TARGET)


def _starts(problem: JointProblem, parts: Mapping[str, Columns], columns: Columns, spec: FitSpec) -> Array:
    """Return starts [starts, p]: shared coefficients as in a family alone, in all rows and between; own ones to match."""
    free = [name for name in problem.shared if name not in spec.fixed]
    guesses = _guesses(problem.law, [*parts.values(), columns], free, spec)
    if not guesses:
        raise InputError(f"GRID: {problem.law.NAME} fits none of the families {', '.join(parts)} alone")
    between = {}
    for name in free:
        values = [guess[name] for guess in guesses]
        between[name] = float(np.median(values))
    low, high = problem.bounds()
    points = [_start(problem, parts, guess, spec) for guess in (*guesses, between)]
    return np.clip(points, low, high)


def _guesses(
    law: type[FormulaLaw], tables: Sequence[Columns], free: Sequence[str], spec: FitSpec
) -> list[dict[str, float]]:
    """Return the shared coefficients of a fit to each table alone; tables that are too small for one are left out."""
    quick = dataclasses.replace(spec, bootstrap=0, starts=STARTS_OF_GUESS)
    guesses = []
    for table in tables:
        try:
            result = fitting.fit(table, law, quick)
        except (FitError, InputError):
            continue  # too few rows to stand alone; the others will do
        guess = {name: float(getattr(result.law, name)) for name in free}
        guesses.append(guess)
    return guesses


def _start(problem: JointProblem, parts: Mapping[str, Columns], guess: Mapping[str, float], spec: FitSpec) -> Array:
    """Return one start [p]: the guess of the shared coefficients, and each family's own ones solved for given it."""
    theta = np.empty(problem.size)
    for name, value in guess.items():
        place = problem.parameters.index((name, None))
        is_log = problem.law.COEFFICIENTS[name].log
        theta[place] = np.log(max(value, VANISHED)) if is_log else value
    held = {**spec.fixed, **guess}
    for copy, part in enumerate(parts.values()):
        rest = formula.problem(problem.law, part.values, problem.raw, held)
        if not rest.size:
            continue
        alike = np.ones(len(part))
        own = rest.starts(alike, 1)[0]
        for name, value in zip(rest.names, own, strict=True):
            place = problem.parameters.index((name, copy))
            theta[place] = value
    return theta


def replicates(best: optimum.Optimum, parts: Mapping[str, Columns], columns: Columns, spec: FitSpec) -> Array:
    """Return parameters [replicates, p] of joint fits to other rows, or to other signs or residuals of the same ones."""
    if spec.resample == "paired" or not spec.bootstrap:
        counts = resample(parts, columns, spec, best.problem.size)
        starts = np.repeat(best.theta[None], len(counts), axis=0)
        return newton.minimise(best.problem, starts, counts * best.weight, best.deltas)
    leverage = influence.leverage(best)
    return bootstrap.refits(best, spec.resample, spec.bootstrap, spec.seed, run_names(columns), leverage)


def resample(parts: Mapping[str, Columns], columns: Columns, spec: FitSpec, size: int) -> Array:
    """Say how often each row is drawn in each replicate [replicates, rows]: runs with replacement, within families."""
    fewest = -(-size // len(parts))  # rounded up
    drawn = []
    for at, part in enumerate(parts.values()):
        own_seed = (spec.seed + at) % 2**32
        run = part.values.get("run")
        drawn.append(bootstrap.row_counts(len(part), spec.bootstrap, own_seed, run, fewest))
    replicates_of_all = min(len(counts) for counts in drawn)
    label = columns["family"].astype(str)
    counts = np.empty((replicates_of_all, len(columns)))
    for name, own in zip(parts, drawn, strict=True):
        counts[:, label == name] = own[:replicates_of_all]
    return counts
