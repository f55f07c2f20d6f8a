"""Say how many times the parameters and tokens of one family those of another are worth, where they share exponents.

With shared exponents, A/N^alpha of a family is that of the baseline at rho_N N parameters, rho_N = (A_base/A)^(1/alpha),
and so for tokens: the form in which Volkova et al. 2026 (arXiv 2602.07712) compare optimizers, whose fits apart are
ill-conditioned. `--shared=E,alpha,beta` is theirs.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from analysis.laws.base import SumLaw, Term
from analysis.questions.exchange import common_region
from analysis.questions.family import Families, Family
from analysis.trust.interval import Interval
from analysis.trust.verdict import NOT_KNOWN, judge_over_region


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """One parameter, or token, of a family is worth `value` of the baseline's. role: N or D, as the law calls it.

    NaN where the rows do not tell it, for the reason `why`.
    """

    role: str
    value: float
    interval: Interval | None
    why: str = ""


def efficiencies(found: Families, baseline: str, level: float) -> dict[str, list[Efficiency]]:
    """Return what inputs of each family are worth in the baseline's, by family; empty where exponents are not shared."""
    base = found.families[baseline]
    result = {}
    for name, family in found.families.items():
        if name != baseline:
            result[name] = [_worth(term, family, base, level) for term in _scaled_terms(family, found.shared)]
    return {name: worth for name, worth in result.items() if worth}


def _scaled_terms(family: Family, shared: tuple[str, ...]) -> list[Term]:
    """Return the terms of a family's law that have one input, a shared exponent, and a prefactor of the family's own."""
    law = type(family.law)
    if not issubclass(law, SumLaw):
        return []
    found = []
    for term in law.TERMS:
        if len(term.powers) != 1 or term.prefactor in shared:
            continue
        _, sign, exponent = term.powers[0]
        if sign < 0 and exponent in shared:
            found.append(term)
    return found


def _worth(term: Term, family: Family, base: Family, level: float) -> Efficiency:
    """Return what one unit of a term's input is worth, with its interval."""
    role, _, exponent = term.powers[0]

    def ratio(own: Any, other: Any) -> Any:
        log_ratio = np.log(getattr(other, term.prefactor)) - np.log(getattr(own, term.prefactor))
        return np.exp(log_ratio / getattr(other, exponent))

    with np.errstate(all="ignore"):
        value = float(ratio(family.law, base.law))
        stack = type(family.law).stack
        draws = ratio(stack(family.draws), stack(base.draws))
    interval = Interval.of(draws, level)
    for one in (family, base):
        why = _why_not_known(one, (term.prefactor, exponent))
        if why:
            return Efficiency(role, math.nan, None, f"{one.name}: {why}")
    regions = common_region(family, base)
    if regions is None or interval is None:
        return Efficiency(role, value, interval)
    of_family, of_base = regions
    with np.errstate(all="ignore"):
        own = stack(of_family.coefficients)
        other = stack(of_base.coefficients)
        over_region = np.asarray(ratio(own, other))
    judged = judge_over_region(over_region, interval, of_family)
    return Efficiency(role, value if judged.is_known else math.nan, judged.interval, judged.why)


def _why_not_known(family: Family, names: Sequence[str]) -> str:
    """Say why one of some coefficients of a family is not known; empty where all are."""
    if family.verdict is not None and family.verdict.nothing:
        return family.verdict.nothing
    for name in names:
        if name in family.withheld:
            return f"{name} is {NOT_KNOWN}: {family.withheld[name]}"
    return ""


def to_json(found: Mapping[str, list[Efficiency]]) -> dict[str, Any]:
    """Return them for compare.json: family -> role -> value and interval."""
    described = {}
    for name, worth in found.items():
        described[name] = {f"rho_{one.role}": dataclasses.asdict(one) for one in worth}
    return described
