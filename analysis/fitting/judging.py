"""Make the verdict of a fit, once: what its design, its likelihood region and its certificate say together."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult
from analysis.laws.base import FormulaLaw, SumLaw
from analysis.solve.optimum import Optimum
from analysis.trust import region
from analysis.trust.design_check import lay_out
from analysis.trust.verdict import Part, Verdict, withhold


def judge_formula(result: FitResult, found: Optimum, refits: np.ndarray) -> Verdict:
    """Judge the fit of a formula from its optimum and its bootstrap refits [replicates, p], in the solver's parameters."""
    law = result.law
    spec = result.spec
    columns = result.columns
    size = found.problem.size
    freedom = result.freedom or 0
    design = lay_out(columns, law.inputs(), law.TARGET, size, freedom + size)
    explored = None
    if spec.judge and len(refits) and not design.nothing:
        explored = region.explore(found, refits, columns.values.get("run"), freedom, spec.level, spec.seed)
    withheld = withhold(
        law,
        _parts(law, spec.fixed),
        design,
        explored,
        result.intervals(),
        result.certificate.not_identified,
    )
    return Verdict(design, design.nothing, withheld, explored)


def judge_by_rows(result: FitResult) -> Verdict:
    """Judge a fit without a region of its own, of a procedure or of a joint fit: by its rows and its certificate."""
    law = result.law
    inputs = [role for role in law.ROLES if role != law.TARGET]
    design = lay_out(result.columns, inputs, law.TARGET)
    is_formula = isinstance(law, FormulaLaw)
    parts = _parts(law, result.spec.fixed) if is_formula else [Part(name, ()) for name in law.names()]
    withheld = withhold(law, parts, design, None, result.intervals(), result.certificate.not_identified)
    return Verdict(design, design.nothing, withheld)


def _parts(law: FormulaLaw, fixed: Mapping[str, Any]) -> list[Part]:
    """Say of every coefficient that was fitted what it is learned from."""
    terms = law.TERMS if isinstance(law, SumLaw) else ()
    exponents = [name for term in terms for _, _, name in term.powers]
    found = []
    for name in law.names():
        if name in fixed:
            continue
        known = law.COEFFICIENTS[name]
        end = None if known.log else known.high
        own = [term for term in terms if name == term.prefactor or name in [power for _, _, power in term.powers]]
        roles = [role for term in own for role, _, _ in term.powers]
        needs: list[str] = []
        if own and name == own[0].prefactor:
            # A prefactor is its term at an input of 1; a constant is what is left where all other terms are gone.
            needs = [power for _, _, power in own[0].powers] or exponents
        prefactor = own[0].prefactor if own else ""
        found.append(Part(name, tuple(dict.fromkeys(roles)), tuple(dict.fromkeys(needs)), end, prefactor))
    return found
