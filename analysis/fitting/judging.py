"""Make the verdict of a fit, once: what its design, its likelihood region and its certificate say together."""

from collections.abc import Mapping, Sequence, Set
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.laws.allocation import Allocation
from analysis.laws.base import FormulaLaw, SumLaw, Term
from analysis.solve.optimum import Optimum
from analysis.trust import region
from analysis.trust.design_check import Design, lay_out
from analysis.trust.interval import Interval
from analysis.trust.verdict import Part, Verdict, withhold

WHY_NONE = "why_no_interval"  # in the details of a procedure that has too few units of its own


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
        explored = region.explore(
            found,
            refits,
            run=columns.values.get("run"),
            freedom=freedom,
            level=spec.level,
            seed=spec.seed,
        )
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
    if is_formula:
        parts = _parts(law, result.spec.fixed)
    else:
        # What is best, and how good that is, is learned from runs that differ at one cost.
        roles = ("N", "C") if isinstance(law, Allocation) else ()
        parts = [Part(name, roles) for name in law.names()]
    withheld = withhold(law, parts, design, None, result.intervals(), result.certificate.not_identified)
    return Verdict(design, design.nothing or result.details.get(WHY_NONE, ""), withheld)


def judge_family(
    law: FormulaLaw,
    design: Design,
    explored: region.Region | None,
    intervals: Mapping[str, Interval],
    lost: Mapping[str, str],
    told: Set[str],
    spec: FitSpec,
    shared: Sequence[str],
) -> Verdict:
    """Judge one family of a joint fit, by its region among all coefficients.

    told: inputs that the rows of some family tell apart, from which the coefficients that are `shared` are learned.
    """
    parts = []
    for part in _parts(law, spec.fixed):
        is_told_by_others = part.name in shared and set(part.roles) <= told
        parts.append(dataclasses.replace(part, roles=()) if is_told_by_others else part)
    withheld = withhold(law, parts, design, explored, intervals, lost)
    return Verdict(design, design.nothing, withheld, explored)


def _parts(law: FormulaLaw, fixed: Mapping[str, Any]) -> list[Part]:
    """Say of every coefficient that was fitted what it is learned from."""
    terms = law.TERMS if isinstance(law, SumLaw) else ()
    exponents: list[str] = []
    for term in terms:
        exponents += _exponents_of(term)
    found = []
    for name in law.names():
        if name in fixed:
            continue
        known = law.COEFFICIENTS[name]
        end = None if known.log else known.high
        own = _terms_with(name, terms)
        roles: list[str] = []
        for term in own:
            roles += [role for role, _, _ in term.powers]
        needs: list[str] = []
        prefactor = ""
        for term in own[:1]:
            prefactor = term.prefactor
            if name == prefactor:
                # A prefactor is its term at an input of 1; a constant is what is left where all other terms are gone.
                needs = _exponents_of(term) or exponents
        part = Part(
            name=name,
            roles=tuple(dict.fromkeys(roles)),
            needs=tuple(dict.fromkeys(needs)),
            end=end,
            term=prefactor,
        )
        found.append(part)
    return found


def _terms_with(name: str, terms: Sequence[Term]) -> list[Term]:
    """Return the terms that a coefficient is in."""
    found = []
    for term in terms:
        if name == term.prefactor or name in _exponents_of(term):
            found.append(term)
    return found


def _exponents_of(term: Term) -> list[str]:
    """Return the names of the exponents of a term."""
    return [name for _, _, name in term.powers]
