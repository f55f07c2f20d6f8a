"""Say what a law is: a frozen dataclass of coefficients with a formula, a source, a target and an optimum.

A law is a formula with named coefficients and says what is known of each before any data; analysis/fitting does the
rest. Many laws are sums of monomials, ln L = logsumexp of terms that are linear in (ln prefactor, exponents); such a law
states its terms, which is a faster way to the same fit. A law whose fit takes steps of its own has a procedure in
analysis/procedures; it knows nothing of it.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, ClassVar, Self

import numpy as np

from analysis.grid import roles
from analysis.grid.cost import FLOPS_PER_PARAM_TOKEN as FLOPS_PER_PARAM_TOKEN  # laws import it from here
from analysis.grid.roles import Role
from analysis.solve.objective import Objective
from analysis.solve.problem import Problem

Number = float | np.ndarray  # one value, or one a replicate; a jet where a formula is differentiated
Array = np.ndarray
Inputs = Mapping[str, Any]  # role -> its value; numbers and arrays of any shape that broadcast


@dataclasses.dataclass(frozen=True)
class Law:
    """Hold the coefficients of a law; base of every law. Fields are the coefficients, named as in the source."""

    NAME: ClassVar[str]
    FORMULA: ClassVar[str]
    SOURCE: ClassVar[str]
    ROLES: ClassVar[tuple[str, ...]]  # columns that a fit needs
    OPTIONAL: ClassVar[tuple[str, ...]] = ()  # columns that a fit uses when they are there
    WHEN_NAMED: ClassVar[tuple[str, ...]] = ()  # columns that it uses where a user names them, and does not look for
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {}  # meanings of columns that no law before it asked for
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = ()  # what `at` takes; any one of these sets
    TARGET: ClassVar[str] = "loss"  # the role that it predicts
    PREDICTS: ClassVar[tuple[str, ...]] = ()  # of what `derived` gives: predictions beside TARGET, made as it is
    SIGNED: ClassVar[tuple[str, ...]] = ()  # roles that may be negative or zero, whatever the role says
    OBJECTIVE: ClassVar[Objective] = Objective()  # what its source minimises
    DEFINITION: ClassVar[Mapping[str, Any] | None] = None  # of a law that no file of this folder has, for fit.json
    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # names of the parts of roles that have many
    RANGE: ClassVar[tuple[float, float]] = (-math.inf, math.inf)  # what TARGET can be

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        roles.declare(cls.OWN_ROLES)

    @classmethod
    def of(cls, parts: Mapping[str, tuple[str, ...]]) -> type[Self]:
        """Return the law for these parts of the data; a law without a coefficient for each part is the same for all."""
        del parts
        return cls

    @classmethod
    def restore(cls, coefficients: Mapping[str, Any], details: Mapping[str, Any]) -> Self:
        """Build the law from `coefficients` and `details` of its fit.json; KeyError or TypeError when they are not there."""
        del details
        values = [float(coefficients[name]) for name in cls.names()]
        return cls(*values)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the coefficients, in the order of the rows of bootstrap draws."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def stack(cls, draws: Array) -> Self:
        """Build one law whose coefficients are arrays [draws], from an array [draws, coefficients]."""
        return cls(*np.asarray(draws, dtype=np.float64).T)

    @classmethod
    def inputs(cls) -> tuple[str, ...]:
        """Return the roles of a run that `predict` takes; none for a law that predicts no number of single runs."""
        return ()

    @classmethod
    def within_range(cls, value: Any) -> Array:
        """Return predictions of TARGET moved to the nearest value that it can have: an accuracy ends at 1."""
        return np.clip(value, *cls.RANGE)

    def coefficients(self) -> dict[str, float]:
        """Return the coefficients by name."""
        return {name: float(getattr(self, name)) for name in self.names()}

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predict TARGET at one of the INPUTS; a loss is in nats per token."""
        raise NotImplementedError

    def optimum(self, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Return the best (parameters, tokens) for C training FLOPs, with C = flops_per_param_token * N * D."""
        raise NotImplementedError

    def derived(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """Say what else follows at `at`, by name; by default the optimum where C alone is given."""
        has_optimum = type(self).optimum is not Law.optimum
        if set(at) != {"C"} or not has_optimum:
            return {}
        N, D = self.optimum(at["C"], flops_per_param_token)
        return {"N": N, "D": D, "tokens_per_param": D / N}

    def optimum_exponents(self) -> dict[str, Any]:
        """Return exponent_N and exponent_D of the best allocation of compute; empty for a law that has none."""
        return {}


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """Say what a fit knows of a coefficient before it has seen data.

    start: values to start from; none for one that enters the formula linearly, given the others: it is solved for.
    log: positive, and searched over its logarithm. low, high: bounds, in its own units. scale: a typical size, where no
    start tells it.
    """

    start: tuple[float, ...] = ()
    log: bool = False
    low: float = -math.inf
    high: float = math.inf
    scale: float | None = None


def prefactor(*start: float, low: float = 0.0, high: float = math.inf) -> Coefficient:
    """Describe a positive number of any size; it is solved for when no start is given."""
    return Coefficient(start, True, low, high)


def exponent(*start: float, low: float = 0.0, high: float = 4.0) -> Coefficient:
    """Describe an exponent, by default with starts spread over what published laws have."""
    usual = (0.05, 0.1, 0.2, 0.35, 0.55, 0.8, 1.2)
    return Coefficient(start or usual, False, low, high)


def free(*start: float, low: float = -math.inf, high: float = math.inf) -> Coefficient:
    """Describe a number of either sign; it is solved for when no start is given."""
    return Coefficient(start, False, low, high)


@dataclasses.dataclass(frozen=True)
class FormulaLaw(Law):
    """Hold a law that is one formula: `predict` takes the roles besides TARGET by name.

    The formula is evaluated at coefficients that carry derivatives, too (analysis/solve/jet.py, whose functions it may use).
    """

    OPTIONAL: ClassVar[tuple[str, ...]] = ("weight", "run", "censored")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]]
    HAS_CORNERS: ClassVar[bool] = False  # the formula has no slope somewhere, as min, max and abs have none

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        states_roles = "ROLES" in cls.__dict__ or "PARTS" in cls.__dict__
        if states_roles and "INPUTS" not in cls.__dict__:
            names: list[str] = []
            for role in cls.inputs():
                names += part_inputs(role, cls.PARTS)
            cls.INPUTS = (tuple(names),)

    @classmethod
    def inputs(cls) -> tuple[str, ...]:
        """Return the roles that `predict` takes."""
        return tuple(role for role in cls.ROLES if role != cls.TARGET)

    @classmethod
    def for_data(cls, values: Mapping[str, Array], raw: bool) -> type[Self]:
        """Return the law with bounds and starts that these data tell; most laws know theirs before any data.

        values: by role; raw: residuals are differences, not those of logarithms.
        """
        del values, raw
        return cls

    @classmethod
    def of_data(cls) -> dict[str, Any]:
        """Return what `for_data` settled and `restore` needs, for the details of fit.json; nothing by default."""
        return {}

    @classmethod
    def problem(
        cls, columns: Any, raw: bool, above: Array | float | None, fixed: Mapping[str, float]
    ) -> Problem | None:
        """Pose the fit in a way of the law's own; None where the common ways do.

        columns: analysis.grid.table.Columns; raw: residuals are differences, not those of logarithms; above: see
        Objective.shares; fixed: coefficients that are held.
        """
        del columns, raw, above, fixed
        return None

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Return points to start from besides COEFFICIENTS' starts [points, coefficients], found from the rows.

        NaN stands for a coefficient without starts, which is solved for. None by default.
        """
        del inputs, target
        return np.empty((0, len(cls.names())))

    def end_of_range(self, name: str) -> str:
        """Say in words that a coefficient lies at an end of its range."""
        return f"{name} is {float(getattr(self, name)):.4g}, the end of its range"

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict TARGET at the inputs, in their order or by name; coefficients may be arrays that broadcast with them."""
        raise NotImplementedError

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predict TARGET at one of the INPUTS."""
        del flops_per_param_token
        inputs = {role: gather(role, self.PARTS, at) for role in self.inputs()}
        return self.predict(**inputs)


def part_inputs(role: str, parts: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return what `at` calls a role: its name, or one name for each of its parts (share_web, share_code)."""
    if role not in parts:
        return (role,)
    return tuple(f"{role}_{part}" for part in parts[role])


def gather(role: str, parts: Mapping[str, tuple[str, ...]], at: Inputs) -> Any:
    """Return a role's value in `at`; of parts given one by one, an array [..., parts] in which those left out are zero."""
    if role in at or role not in parts:
        return at[role]
    values = [at.get(name, 0.0) for name in part_inputs(role, parts)]
    return np.stack(np.broadcast_arrays(*values), axis=-1)


def power(base: Number, exponent: Number) -> Number:
    """Raise a positive base to an exponent; faster than numpy's power."""
    return np.exp(exponent * np.log(base))


def rounded_minimum(first: Number, second: Number, sharpness: Number) -> Number:
    """Return (first^-q + second^-q)^(-1/q) for positive arguments: their minimum as q grows, with a slope everywhere.

    At first = second it lies below them by a factor 2^(-1/q).
    """
    first = np.log(first)
    second = np.log(second)
    # The larger is written as the smaller times e^apart, so that the exponential below never overflows.
    first_is_larger = np.real(first) > np.real(second)
    apart = np.where(first_is_larger, first - second, second - first)
    lower = np.where(first_is_larger, second, first)
    return np.exp(lower - np.log(1 + np.exp(-sharpness * apart)) / sharpness)


@dataclasses.dataclass(frozen=True)
class Term:
    """Describe one monomial: prefactor (a coefficient's name) times product of role**(sign * exponent)."""

    prefactor: str
    powers: tuple[tuple[str, float, str], ...] = ()  # (role, sign, exponent's name)


@dataclasses.dataclass(frozen=True)
class SumLaw(FormulaLaw):
    """Hold a law that is a sum of positive monomials with free exponents.

    COEFFICIENTS may state what is known of some of them, `exponent(low=-2.0)` for one that may be negative.
    """

    TERMS: ClassVar[tuple[Term, ...]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        stated = cls.__dict__.get("COEFFICIENTS", {})
        usual = {name: prefactor() for name in cls.prefactors()}
        usual |= {name: exponent() for name in cls.exponents()}
        unknown = sorted(stated.keys() - usual.keys())
        if unknown:
            raise TypeError(f"{cls.__name__}.COEFFICIENTS: {unknown[0]!r} is in no term; expected {', '.join(usual)}")
        inherited = getattr(super(cls, cls), "COEFFICIENTS", {})
        known = {name: inherited[name] for name in usual if name in inherited}
        cls.COEFFICIENTS = usual | known | stated

    @classmethod
    def prefactors(cls) -> tuple[str, ...]:
        """Return the names of the prefactors, one a term."""
        return tuple(term.prefactor for term in cls.TERMS)

    @classmethod
    def exponents(cls) -> tuple[str, ...]:
        """Return the names of the exponents, each once: terms may share one."""
        names: list[str] = []
        for term in cls.TERMS:
            names += [name for _, _, name in term.powers]
        return tuple(dict.fromkeys(names))

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict TARGET as the sum of the terms."""
        inputs = dict(zip(self.inputs(), args, strict=False)) | kwargs
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return sum(self._term(term, inputs) for term in self.TERMS)

    def _term(self, term: Term, inputs: Inputs) -> Any:
        """Return one monomial at the inputs."""
        value = getattr(self, term.prefactor)
        for role, sign, name in term.powers:
            value = value * power(inputs[role], sign * getattr(self, name))
        return value

    @classmethod
    def slopes(cls, columns: Mapping[str, Array]) -> Array:
        """Return d ln(term) / d exponent for every term, row and exponent: [terms, rows, exponents]."""
        names = cls.exponents()
        rows = len(next(iter(columns.values())))
        slopes = np.zeros((len(cls.TERMS), rows, len(names)))
        for at, term in enumerate(cls.TERMS):
            for role, sign, name in term.powers:
                slopes[at, :, names.index(name)] += sign * np.log(columns[role])
        return slopes
