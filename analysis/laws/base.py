"""What a law file gives: a frozen dataclass of coefficients with a formula, a source, a loss and an optimum.

Most laws are sums of monomials, ln L = logsumexp of terms that are linear in (ln prefactor, exponents). Such a law
states its terms once and analysis.fit does the rest. A law with a procedure of its own brings an `estimate`.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar, Self

import numpy as np

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
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = ()  # what predict takes; any one of these sets

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

    def loss(self, at: Mapping[str, Any], flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        """Predicted loss, nats per token, at one of the INPUTS."""
        raise NotImplementedError

    def optimum(self, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Compute-optimal (parameters, tokens) for C training FLOPs, with C = flops_per_param_token * N * D."""
        raise NotImplementedError

    def optimum_exponents(self) -> dict[str, Any]:
        """exponent_N and exponent_D of the compute-optimal allocation; empty for a law that has none."""
        return {}


@dataclasses.dataclass(frozen=True)
class Term:
    """One monomial: prefactor (a coefficient's name) times product of role**(sign * exponent)."""

    prefactor: str
    powers: tuple[tuple[str, float, str], ...] = ()  # (role, sign, exponent's name)


@dataclasses.dataclass(frozen=True)
class SumLaw(Law):
    """A law that is a sum of positive monomials with free exponents."""

    TERMS: ClassVar[tuple[Term, ...]]

    @classmethod
    def prefactors(cls) -> tuple[str, ...]:
        return tuple(term.prefactor for term in cls.TERMS)

    @classmethod
    def exponents(cls) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for term in cls.TERMS for _, _, name in term.powers))

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
