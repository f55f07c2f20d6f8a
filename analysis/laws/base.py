"""What a law file gives: a frozen dataclass of coefficients with a formula, a source, a loss and an optimum.

A law is a formula with named coefficients: it says what is known of each before any data, and analysis.fit does the
rest. Many are sums of monomials, ln L = logsumexp of terms that are linear in (ln prefactor, exponents); such a law
states its terms, which is a faster way to the same fit. A law with a procedure of its own brings an `estimate`.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, ClassVar, Self

import numpy as np

from analysis.solve.objective import Objective

Array = np.ndarray
FLOPS_PER_PARAM_TOKEN = 6.0  # C = 6 N D: multiply and add, forward and twice that backward (Kaplan et al. 2020)


@dataclasses.dataclass(frozen=True)
class Law:
    """Base of every law. Fields are the coefficients, named as in the source."""

    NAME: ClassVar[str]
    FORMULA: ClassVar[str]
    SOURCE: ClassVar[str]
    ROLES: ClassVar[tuple[str, ...]]  # columns that a fit needs
    OPTIONAL: ClassVar[tuple[str, ...]] = ()  # columns that a fit uses when they are there
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = ()  # what `at` takes; any one of these sets
    TARGET: ClassVar[str] = "loss"  # the role that it predicts
    SIGNED: ClassVar[tuple[str, ...]] = ()  # roles that may be negative or zero, whatever the role says
    OBJECTIVE: ClassVar[Objective] = Objective()  # what its source minimises
    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # names of the parts of roles that have many

    @classmethod
    def of(cls, parts: Mapping[str, tuple[str, ...]]) -> type[Self]:
        """The law for these parts of the data; a law without a coefficient for each part is the same for all."""
        del parts
        return cls

    @classmethod
    def restore(cls, coefficients: Mapping[str, Any], details: Mapping[str, Any]) -> Self:
        """The law from `coefficients` and `details` of its fit.json; KeyError or TypeError when they are not there."""
        del details
        return cls(*(float(coefficients[name]) for name in cls.names()))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Coefficient names, in the order of the rows of bootstrap draws."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def stack(cls, draws: Array) -> Self:
        """One law whose coefficients are arrays [draws], from an array [draws, coefficients]."""
        return cls(*np.asarray(draws, dtype=np.float64).T)

    def coefficients(self) -> dict[str, float]:
        return {name: float(getattr(self, name)) for name in self.names()}

    def target_at(self, at: Mapping[str, Any], flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """The prediction (of TARGET; a loss is in nats per token) at one of the INPUTS."""
        raise NotImplementedError

    def optimum(self, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Compute-optimal (parameters, tokens) for C training FLOPs, with C = flops_per_param_token * N * D."""
        raise NotImplementedError

    def derived(self, at: Mapping[str, Any], flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> dict[str, Any]:
        """What else the law says at `at`, by name; by default the optimum where C alone is given."""
        if set(at) != {"C"} or type(self).optimum is Law.optimum:
            return {}
        N, D = self.optimum(at["C"], flops_per_param_token)
        return {"N": N, "D": D, "tokens_per_param": D / N}

    def optimum_exponents(self) -> dict[str, Any]:
        """exponent_N and exponent_D of the compute-optimal allocation; empty for a law that has none."""
        return {}


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """What a fit knows of a coefficient before it has seen data.

    start: values to start from; none for one that enters the formula linearly, given the others: it is solved for.
    log: positive, and searched over its logarithm. low, high: bounds, in its own units.
    """

    start: tuple[float, ...] = ()
    log: bool = False
    low: float = -math.inf
    high: float = math.inf


def prefactor(*start: float, low: float = 0.0, high: float = math.inf) -> Coefficient:
    """A positive number of any size; solved for when no start is given."""
    return Coefficient(start, True, low, high)


def exponent(*start: float, low: float = 0.0, high: float = 4.0) -> Coefficient:
    """Starts spread over what published laws have."""
    return Coefficient(start or (0.05, 0.1, 0.2, 0.35, 0.55, 0.8, 1.2), False, low, high)


def free(*start: float, low: float = -math.inf, high: float = math.inf) -> Coefficient:
    """Of either sign; solved for when no start is given."""
    return Coefficient(start, False, low, high)


@dataclasses.dataclass(frozen=True)
class FormulaLaw(Law):
    """A law that is one formula: `predict` takes the roles besides TARGET by name.

    The formula is evaluated at complex coefficients too (analysis/solve/formula.py): analytic functions only.
    """

    OPTIONAL: ClassVar[tuple[str, ...]] = ("weight", "run", "censored")
    COEFFICIENTS: ClassVar[dict[str, Coefficient]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if {"ROLES", "PARTS"} & set(cls.__dict__) and "INPUTS" not in cls.__dict__:
            cls.INPUTS = (tuple(name for role in cls.inputs() for name in part_inputs(role, cls.PARTS)),)

    @classmethod
    def inputs(cls) -> tuple[str, ...]:
        """The roles that `predict` takes."""
        return tuple(role for role in cls.ROLES if role != cls.TARGET)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """TARGET at the inputs, in their order or by name; coefficients may be arrays that broadcast against them."""
        raise NotImplementedError

    def target_at(self, at: Mapping[str, Any], flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        del flops_per_param_token
        return self.predict(**{role: gather(role, self.PARTS, at) for role in self.inputs()})


def part_inputs(role: str, parts: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What `at` calls a role: its name, or one name for each of its parts (share_web, share_code)."""
    return tuple(f"{role}_{part}" for part in parts[role]) if role in parts else (role,)


def gather(role: str, parts: Mapping[str, tuple[str, ...]], at: Mapping[str, Any]) -> Any:
    """A role's value in `at`; of parts given one by one, an array [..., parts] in which those left out are zero."""
    if role in at or role not in parts:
        return at[role]
    return np.stack(np.broadcast_arrays(*(at.get(name, 0.0) for name in part_inputs(role, parts))), axis=-1)


def power(base: Any, exponent: Any) -> Any:
    """base**exponent for a positive base: several times faster than numpy's power where the exponent is complex."""
    return np.exp(exponent * np.log(base))


def rounded_minimum(first: Any, second: Any, sharpness: Any) -> Any:
    """(first^-q + second^-q)^(-1/q) for positive arguments: their minimum as q grows, with a slope everywhere.

    At first = second it lies below them by a factor 2^(-1/q).
    """
    first, second = np.log(first), np.log(second)
    apart = np.where(first.real > second.real, first - second, second - first)
    lower = np.where(first.real > second.real, second, first)
    return np.exp(lower - np.log(1 + np.exp(-sharpness * apart)) / sharpness)


@dataclasses.dataclass(frozen=True)
class Term:
    """One monomial: prefactor (a coefficient's name) times product of role**(sign * exponent)."""

    prefactor: str
    powers: tuple[tuple[str, float, str], ...] = ()  # (role, sign, exponent's name)


@dataclasses.dataclass(frozen=True)
class SumLaw(FormulaLaw):
    """A law that is a sum of positive monomials with free exponents."""

    TERMS: ClassVar[tuple[Term, ...]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.COEFFICIENTS = {name: prefactor() for name in cls.prefactors()}
        cls.COEFFICIENTS |= {name: exponent() for name in cls.exponents()}

    @classmethod
    def prefactors(cls) -> tuple[str, ...]:
        return tuple(term.prefactor for term in cls.TERMS)

    @classmethod
    def exponents(cls) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for term in cls.TERMS for _, _, name in term.powers))

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """The sum of the terms."""
        inputs = dict(zip(self.inputs(), args, strict=False)) | kwargs
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return sum(self._term(term, inputs) for term in self.TERMS)

    def _term(self, term: Term, inputs: Mapping[str, Any]) -> Any:
        value = getattr(self, term.prefactor)
        for role, sign, name in term.powers:
            value = value * power(inputs[role], sign * getattr(self, name))
        return value

    @classmethod
    def slopes(cls, columns: Mapping[str, Array]) -> Array:
        """d ln(term) / d exponent for every term, row and exponent: [terms, rows, exponents]."""
        names = cls.exponents()
        rows = len(next(iter(columns.values())))
        slopes = np.zeros((len(cls.TERMS), rows, len(names)))
        for at, term in enumerate(cls.TERMS):
            for role, sign, name in term.powers:
                slopes[at, :, names.index(name)] += sign * np.log(columns[role])
        return slopes
