"""Name the number that a design pins down: a law's value at some inputs, its optimum, or a coefficient."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from analysis.grid import numerals
from analysis.laws.base import Law
from experiments.cli import InputError, nearest
from experiments.key_values import read_pairs, refusal

OF_OPTIMUM = ("N", "D", "tokens_per_param")


@dataclasses.dataclass(frozen=True)
class Target:
    """A number that a law gives: a quantity, and where."""

    name: str
    at: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read `loss@N=7e10,D=1.4e12`. Raises InputError when it is not of that form."""
        name, _, place = (part.strip() for part in text.partition("@"))
        at = {}
        for role, value in read_pairs(place, "--target", "ROLE=NUMBER", "loss@N=7e10,D=1.4e12").items():
            at[role] = _positive(role, value)
        if not name:
            raise InputError(f"--target: {text!r} names no quantity; expected for example loss@N=7e10,D=1.4e12")
        return cls(name, at)

    def __str__(self) -> str:
        """The target as the command line takes it."""
        place = ",".join(f"{role}={value:g}" for role, value in self.at.items())
        return f"{self.name}@{place}" if place else self.name

    def of(self, law: Law, flops_per_param_token: float) -> Any:
        """Return its value under a law: a number, or an array for a stack of laws.

        Raises InputError when the law has no such number.
        """
        exponents = law.optimum_exponents()
        if self.name == law.TARGET:
            return self._loss(law, flops_per_param_token)
        if self.name in exponents:
            return exponents[self.name]
        if self.name in OF_OPTIMUM:
            return self._optimum(law, flops_per_param_token)
        if self.name in law.names():
            return getattr(law, self.name)
        known = [law.TARGET, *OF_OPTIMUM, *exponents, *law.names()]
        raise InputError(f"--target: {law.NAME} has no {self.name!r}; {nearest(self.name, known, 'target')}")

    def _loss(self, law: Law, flops_per_param_token: float) -> Any:
        """Return what the law predicts at the target's inputs."""
        if not any(set(self.at) == set(names) for names in law.INPUTS):
            choices = " or ".join(",".join(f"{name}=.." for name in names) for names in law.INPUTS)
            raise InputError(f"--target: {self.name} of {law.NAME} is taken at {choices}")
        return law.target_at(self.at, flops_per_param_token)

    def _optimum(self, law: Law, flops_per_param_token: float) -> Any:
        """Return a number of the compute-optimal allocation."""
        if set(self.at) != {"C"}:
            raise InputError(f"--target: {self.name} is that of the optimum at a budget; expected {self.name}@C=..")
        N, D = law.optimum(self.at["C"], flops_per_param_token)
        values = {"N": N, "D": D, "tokens_per_param": D / N}
        return values[self.name]


@dataclasses.dataclass(frozen=True)
class Until:
    """How wide an interval may be: `0.02` in the units of the number, or `5%` of the middle of the interval."""

    text: str
    width: float
    is_share: bool

    @classmethod
    def parse(cls, text: str) -> "Until":
        """Read `5%` or `0.02`. Raises InputError for what is no width."""
        is_share = text.strip().endswith("%")
        try:
            width = float(text.strip().removesuffix("%"))
        except ValueError:
            width = math.nan
        if not (math.isfinite(width) and width > 0):
            raise InputError(f"--until: {text!r} is not a width; expected for example 0.02, or 5% of the number")
        return cls(text, width / 100 if is_share else width, is_share)

    def holds(self, low: float, high: float) -> bool:
        """Whether an interval is no wider than that."""
        limit = self.width * abs(low + high) / 2 if self.is_share else self.width
        return high - low <= limit

    def __str__(self) -> str:
        return self.text


def _positive(role: str, text: str) -> float:
    """Read a positive number."""
    value = numerals.number(text)
    word = f"{role}={text}"
    if math.isnan(value):
        raise refusal("--target", word, "is not ROLE=NUMBER", f"{role}=positive number")
    if not (math.isfinite(value) and value > 0):
        raise refusal("--target", word, "is not a positive finite number", f"{role}=positive number")
    return value
