"""One law for several families of models: exponents that they share, multipliers of their own.

All families are fitted together (analysis/solve/formula.py takes copies of a law that share coefficients), from their
separate fits, and runs are resampled within families. Whether to share is tested, not assumed.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting import formula_fit
from analysis.fitting.result import FitError
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw, Law
from analysis.procedures.registry import procedure_of
from analysis.questions import fit as fitting
from analysis.solve import formula, newton, optimum
from analysis.solve.formula import FormulaProblem
from analysis.solve.objective import Objective
from analysis.solve.parameters import VANISHED
from analysis.trust import bootstrap, identification, influence
from analysis.trust.interval import Interval
from experiments.cli import InputError, nearest

BESIDE = 0.05  # standard deviation of ln D around a line in ln N; less determines no allocation


@dataclasses.dataclass(frozen=True)
class Family:
    """A family's law and its replicates: those of one number, in two families, are fits to one resampled grid.

    draws [replicates, coefficients]; C: the range of training FLOPs of its runs.
    """

    name: str
    law: Any
    draws: np.ndarray
    C: tuple[float, float]
    rows: int
    flops_per_param_token: float = 6.0
    not_identified: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def loss(self, C: Any) -> Any:
        """Loss at C training FLOPs, allocated as is best for this family where the law says how."""
        return self.law.target_at({input_of(type(self.law)): C}, self.flops_per_param_token)

    def losses(self, C: Any) -> np.ndarray:
        """The same of every replicate [replicates, points], for C [points] or [replicates, points]."""
        C = np.atleast_1d(np.asarray(C, dtype=np.float64))
        law = type(self.law)(*self.draws.T[:, :, None])
        with np.errstate(all="ignore"):
            return np.asarray(law.target_at({input_of(type(self.law)): C}, self.flops_per_param_token))

    def intervals(self, level: float) -> dict[str, Interval]:
        found = {n: Interval.of(v, level) for n, v in zip(self.law.names(), self.draws.T, strict=True)}
        return {name: interval for name, interval in found.items() if interval is not None}


@dataclasses.dataclass(frozen=True)
class Sharing:
    """Least squares with shared coefficients against a law for each family: is sharing justified?

    statistic: 2 ln of the likelihood ratio, on `freedom` coefficients; p_value from its F distribution, which holds on
    few rows. aicc: shared minus own; negative speaks for sharing.
    """

    statistic: float
    freedom: int
    p_value: float
    aicc: float | None
    justified: bool


@dataclasses.dataclass(frozen=True)
class Families:
    """Families by name, what they share, and the test of it (None where it cannot be made; see notes)."""

    families: dict[str, Family]
    shared: tuple[str, ...]
    sharing: Sharing | None
    objective: float
    gradient: float
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointProblem(FormulaProblem):
    """A FormulaProblem with given starts [starts, p]."""

    points: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 0)))

    def starts(self, weight: np.ndarray, keep: int) -> np.ndarray:
        del weight
        return self.points[:keep]


def default_shared(law: type[Law]) -> tuple[str, ...]:
    """The exponents of a law: coefficients that are not multipliers."""
    return tuple(name for name, known in getattr(law, "COEFFICIENTS", {}).items() if not known.log)


def fit_families(
    columns: Columns, law: type[FormulaLaw], spec: FitSpec = FitSpec(), shared: Sequence[str] | None = None
) -> Families:
    """Fit a law to the families of a grid: columns with the law's roles and `family`.

    shared: coefficients that all families have in common; by default the law's exponents. Families with too few rows
    are left out, with a note. Raises InputError for a law that is no formula or does not predict from C, an unknown
    coefficient, or fewer than two families; FitError where no optimum is found.
    """
    if not issubclass(law, FormulaLaw) or procedure_of(law) or not {("C",), ("X",)} & set(law.INPUTS):
        raise InputError(
            f"--law: {law.NAME} has no loss at C training FLOPs; expected for example chinchilla, kaplan_c or plateau"
        )
    shared = default_shared(law) if shared is None else tuple(shared)
    for name in shared:
        if name not in law.names():
            hint = nearest(name, law.names(), "coefficient")
            raise InputError(f"--shared: {name!r} is not a coefficient of {law.NAME}; {hint}")
    spec = spec.for_law(law)
    own = len(law.names()) - len(shared)
    label = columns["family"].astype(str)
    names, counts = np.unique(label, return_counts=True)
    least = max(own + 1, 2)
    few = [(str(n), int(c)) for n, c in zip(names, counts, strict=True) if c < least]
    notes = [f"family {n} is left out: {c} rows, expected at least {least} for {own} coefficients" for n, c in few]
    keep = ~np.isin(label, [n for n, _ in few])
    if len(names) - len(few) < 2:
        found = ", ".join(f"{n} ({c} rows)" for n, c in zip(names, counts, strict=True))
        raise InputError(f"--by: families {found}; expected at least two with {least} rows each")
    columns = columns.take(keep)
    parts = split(columns)
    if shared:
        result = _fit_shared(parts, columns, law, spec, shared)
    else:
        result = _fit_apart(parts, law, spec)
    sharing, why = judge_sharing(parts, columns, law, spec, shared) if shared else (None, "")
    notes += [text for name, part in parts.items() if (text := narrow(name, part, law))]
    return dataclasses.replace(result, sharing=sharing, notes=(*notes, *filter(None, [why])))


def input_of(law: type[Law]) -> str:
    """What a law calls compute: C, or X for a law of any one quantity."""
    return "C" if ("C",) in law.INPUTS else "X"


def narrow(name: str, part: Columns, law: type[Law]) -> str:
    """A note where a family's runs all lie on one line of N and D, and the law needs to know what lies beside it."""
    if not {"N", "D"} <= set(law.ROLES) or input_of(law) != "C":
        return ""
    N, D = np.log(part["N"]), np.log(part["D"])
    line = np.column_stack([np.ones_like(N), N])
    beside = D - line @ np.linalg.lstsq(line, D, rcond=None)[0]
    if beside.std() > BESIDE:
        return ""
    return (
        f"family {name}: tokens follow from parameters in all its runs, so that the best allocation of compute "
        "is a guess; compare along that line with --law=plateau --columns=X=COLUMN_OF_FLOPS"
    )


def split(columns: Columns) -> dict[str, Columns]:
    """The rows of each family, by name."""
    label = columns["family"].astype(str)
    return {str(name): columns.take(label == name) for name in np.unique(label)}


def compute(columns: Columns) -> tuple[float, float]:
    """Least and most training FLOPs of the rows; 6 N D where no column gives them."""
    C = next((columns[role] for role in ("C", "X") if role in columns), None)
    C = 6 * columns["N"] * columns["D"] if C is None else C
    return float(C.min()), float(C.max())


def _fit_apart(parts: Mapping[str, Columns], law: type[FormulaLaw], spec: FitSpec) -> Families:
    found, value, gradient = {}, 0.0, 0.0
    for at, (name, part) in enumerate(parts.items()):
        result = fitting.fit(part, law, dataclasses.replace(spec, seed=(spec.seed + at) % 2**32, thorough=False))
        lost = result.certificate.not_identified
        found[name] = Family(
            name, result.law, result.draws, compute(part), len(part), result.flops_per_param_token, lost
        )
        value, gradient = value + result.objective, max(gradient, result.certificate.gradient)
    return Families(found, (), None, value, gradient)


def _fit_shared(
    parts: Mapping[str, Columns], columns: Columns, law: type[FormulaLaw], spec: FitSpec, shared: tuple[str, ...]
) -> Families:
    problem, weight = join(parts, columns, law, spec, shared)
    deltas = spec.objective.stages(float(np.median(columns[law.TARGET])))
    best = optimum.find(problem, weight, spec.objective, deltas, spec.starts)
    if not best.gradient <= optimum.STATIONARY:
        raise FitError(
            f"{law.NAME}: the joint fit is not at a stationary point (scaled gradient {best.gradient:.1e}); "
            "no coefficients are reported"
        )
    ends = replicates(best, parts, columns, spec)
    weak, _ = identification.weak_directions(problem, best.theta, weight)
    reason = "the rows do not separate it from other coefficients"
    found = {}
    for copy, (name, part) in enumerate(parts.items()):
        values, draws = (problem.of_copy(problem.values(theta), copy) for theta in (best.theta[None], ends))
        lost = {n for (n, own), gone in zip(problem.parameters, weak, strict=True) if gone and own in (None, copy)}
        found[name] = Family(
            name=name,
            law=law(*map(float, values[0])),
            draws=draws,
            C=compute(part),
            rows=len(part),
            flops_per_param_token=formula_fit.flops_factor(part)[0],
            not_identified=dict.fromkeys(sorted(lost), reason),
        )
    return Families(found, shared, None, best.value, best.gradient)


def join(
    parts: Mapping[str, Columns], columns: Columns, law: type[FormulaLaw], spec: FitSpec, shared: tuple[str, ...]
) -> tuple[JointProblem, np.ndarray]:
    """The problem of fitting all families together, and the weights of its rows."""
    raw = spec.objective.residual == "raw"
    target = columns[law.TARGET]
    if not raw and not (target > 0).all():
        raise InputError(f"--residual=log: {law.TARGET} is not positive in every row; expected --residual=raw")
    names = list(parts)
    problem = JointProblem(
        law=law,
        inputs={role: columns[role] for role in law.inputs()},
        target=target if raw else np.log(target),
        raw=raw,
        fixed=spec.fixed,
        member=np.array([names.index(name) for name in columns["family"].astype(str)]),
        shared=shared,
        above=spec.objective.shares(columns.values.get("censored")),
    )
    weight = columns["weight"] / columns["weight"].mean() if "weight" in columns else np.ones(len(columns))
    return dataclasses.replace(problem, points=_points(problem, parts, columns, spec)), weight


def _points(problem: JointProblem, parts: Mapping[str, Columns], columns: Columns, spec: FitSpec) -> np.ndarray:
    """Starts [starts, p]: shared coefficients as in a family alone, in all rows and between; own ones to match."""
    free = [name for name in problem.shared if name not in spec.fixed]
    quick = dataclasses.replace(spec, bootstrap=0, starts=32)
    guesses: list[dict[str, float]] = []
    for part in (*parts.values(), columns):
        try:
            alone = fitting.fit(part, problem.law, quick).law
        except (FitError, InputError):
            continue  # too few rows to stand alone; the others will do
        guesses.append({name: float(getattr(alone, name)) for name in free})
    if not guesses:
        raise InputError(f"GRID: {problem.law.NAME} fits none of the families {', '.join(parts)} alone")
    guesses.append({name: float(np.median([guess[name] for guess in guesses])) for name in free})
    points = []
    for guess in guesses:
        theta = np.empty(problem.size)
        for copy, part in enumerate(parts.values()):
            fixed = {**spec.fixed, **guess}
            rest = formula.problem(problem.law, part.values, problem.raw, fixed)
            own = rest.starts(np.ones(len(part)), 1)[0] if rest.size else np.empty(0)
            for name, value in zip(rest.names, own, strict=True):
                theta[problem.parameters.index((name, copy))] = value
        for name in free:
            log = problem.law.COEFFICIENTS[name].log
            theta[problem.parameters.index((name, None))] = np.log(max(guess[name], VANISHED)) if log else guess[name]
        points.append(theta)
    return np.clip(points, *problem.bounds())


def replicates(best: optimum.Optimum, parts: Mapping[str, Columns], columns: Columns, spec: FitSpec) -> np.ndarray:
    """Parameters [replicates, p] of joint fits to other rows, or to other signs or residuals of the same ones."""
    if spec.resample == "paired" or not spec.bootstrap:
        counts = resample(parts, columns, spec, best.problem.size)
        theta = np.repeat(best.theta[None], len(counts), axis=0)
        return newton.minimise(best.problem, theta, counts * best.weight, best.deltas)
    run = None
    if "run" in columns:
        run = np.char.add(np.char.add(columns["family"].astype(str), " "), columns["run"].astype(str))
    leverage = influence.leverage(best)
    return bootstrap.refits(best, spec.resample, spec.bootstrap, spec.seed, run, leverage)


def resample(parts: Mapping[str, Columns], columns: Columns, spec: FitSpec, size: int) -> np.ndarray:
    """How often each row is drawn in each replicate [replicates, rows]: runs with replacement, within families."""
    fewest = -(-size // len(parts))
    drawn = [
        bootstrap.row_counts(len(part), spec.bootstrap, (spec.seed + at) % 2**32, part.values.get("run"), fewest)
        for at, part in enumerate(parts.values())
    ]
    least = min(len(counts) for counts in drawn)
    counts = np.empty((least, len(columns)))
    label = columns["family"].astype(str)
    for name, part in zip(parts, drawn, strict=True):
        counts[:, label == name] = part[:least]
    return counts


def judge_sharing(
    parts: Mapping[str, Columns], columns: Columns, law: type[FormulaLaw], spec: FitSpec, shared: tuple[str, ...]
) -> tuple[Sharing | None, str]:
    """Whether families may share coefficients, or why that cannot be tested."""
    from scipy import stats

    squares = dataclasses.replace(spec, bootstrap=0, objective=Objective("least_squares", spec.objective.residual))
    rows, own = len(columns), len(law.names()) - len(spec.fixed)
    many, few = own * len(parts), own * len(parts) - len([n for n in shared if n not in spec.fixed]) * (len(parts) - 1)
    if many == few or rows <= many:
        return None, f"sharing is not tested: {rows} rows, {many} coefficients if each family has its own"
    problem, weight = join(parts, columns, law, squares, shared)
    together = 2 * optimum.find(problem, weight, squares.objective, squares.objective.stages(), squares.starts).value
    try:
        alone = {name: fitting.fit(part, law, squares).law for name, part in parts.items()}
    except (FitError, InputError) as error:
        return None, f"sharing is not tested: {error}"
    label, residual = columns["family"].astype(str), np.empty(rows)
    for name, fitted in alone.items():
        predicted = np.asarray(fitted.predict(**{role: parts[name][role] for role in law.inputs()}))
        observed = parts[name][law.TARGET]
        residual[label == name] = predicted - observed if problem.raw else np.log(predicted / observed)
    apart = max(min(float((weight * residual**2).sum()), together), 1e-300)
    statistic = rows * float(np.log(max(together, 1e-300) / apart))
    ratio = (together - apart) / (many - few) / (apart / (rows - many))
    p_value = float(stats.f.sf(ratio, many - few, rows - many))
    aicc = None
    if rows > many + 2:
        extra = [2 * (k + 1) * rows / (rows - k - 2) for k in (few, many)]
        aicc = float(statistic + extra[0] - extra[1])
    return Sharing(statistic, many - few, p_value, aicc, p_value >= 0.05), ""
