"""Give the page what its calculator needs: laws as steps to compute, their refits, and what their verdicts allow."""

from collections.abc import Mapping
import json
import math
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult, judged_verdict, pack, ranges
from analysis.grid.roles import ROLES
from analysis.laws.base import Law
from analysis.reporting.survey import Survey
from analysis.reporting.traced import NotWritten, write_down
from analysis.trust.interval import FEWEST_SPARE
from analysis.trust.verdict import NOT_KNOWN, farthest

LAW = "chinchilla"  # whose budgets are those of the report


def context(survey: Survey) -> dict[str, Any] | None:
    """Return what the template shows of the calculator; None where no law of N and D was fitted."""
    from markupsafe import Markup

    fits = {name: found for name, found in survey.results.items() if is_of_sizes(found)}
    fits |= survey.calculated
    if not fits:
        return None
    data = []
    for name, result in fits.items():
        spans = ranges(result.columns, result.flops_per_param_token)
        largest = survey.largest if name == LAW else spans["C"][1]
        data.append({"name": name, "formula": result.law.FORMULA, **page_data(result, largest)})
    text = json.dumps(data, allow_nan=False)
    # No text of the grid may end the script that holds it.
    safe = text.replace("<", "\\u003c")
    return {"names": list(fits), "data": Markup(safe)}


def is_of_sizes(result: FitResult) -> bool:
    """Say whether a law gives a number for runs of N parameters and D tokens."""
    return {"N", "D"} <= set(_inputs(result.law))


def _inputs(law: Law) -> tuple[str, ...]:
    """Return what a law is a function of; a law of optima has no runs, and learning rates have N and D alone."""
    given = [names for names in law.INPUTS if {"N", "D"} <= set(names) and "C" not in names]
    return given[0] if given else ()


def page_data(result: FitResult, largest: float) -> dict[str, Any]:
    """Return the fit for the page, ready for JSON: coefficients in the order of the law, refits packed as in fit.json.

    largest: FLOPs of the largest budget of the runs.
    """
    law = result.law
    names = law.names()
    coefficients = law.coefficients()
    spans = ranges(result.columns, result.flops_per_param_token)
    least, _ = spans["C"]
    none = np.empty((0, len(names)))
    left_out = none if result.left_out is None else result.left_out
    others = [name for name in _inputs(law) if name not in ("N", "D")]
    low, high = law.RANGE
    data = {
        "names": list(names),
        "law": [coefficients[name] for name in names],
        "draws": pack(refits_that_count(result)),
        "left_out": pack(left_out),
        "level": result.spec.level,
        "reach": standard_errors(result),
        "k": result.flops_per_param_token,
        "least": least,
        "largest": largest,
        "sizes": spans["N"],
        "predicts": list(law.PREDICTS),
        "target": ROLES[law.TARGET].meaning,
        "others": [{"name": name, "meaning": _meaning(name), "ends": spans[name]} for name in others],
        "range": [low if math.isfinite(low) else None, high if math.isfinite(high) else None],
    }
    return data | _programs(result) | _allowed(result)


def _meaning(name: str) -> str:
    """Return what an input is, in words; a part of a role is called by its name."""
    return ROLES[name].meaning if name in ROLES else name


def _programs(result: FitResult) -> dict[str, Any]:
    """Return the steps by which the page computes a law and its optimum, or why there are none.

    searches: the best size is searched for, as there is no formula of it.
    """
    law = result.law
    k = result.flops_per_param_token
    has_optimum = type(law).optimum is not Law.optimum and ("C",) in law.INPUTS

    def numbers(one: Any, at: Mapping[str, Any]) -> dict[str, Any]:
        derived = one.derived(at, k)
        return {"value": one.target_at(at, k), **derived}

    found: dict[str, Any] = {"program": None, "optimum": None, "searches": has_optimum, "why_none": ""}
    try:
        found["program"] = write_down(law, numbers, _inputs(law)).to_json()
    except NotWritten as error:
        found["why_none"] = (
            f"{law.NAME} has no expression that a page can compute ({error}); python -m analysis.predict does"
        )
        return found
    if has_optimum:
        try:
            program = write_down(law, lambda one, at: {"N": one.optimum(at["C"], k)[0]}, ("C",))
            found["optimum"] = program.to_json()
        except NotWritten:  # then the page searches for it
            pass
    return found


def _allowed(result: FitResult) -> dict[str, Any]:
    """Return what the verdict of the fit allows, for the page: see analysis/trust/verdict.py."""
    verdict = judged_verdict(result)
    region = verdict.region
    data: dict[str, Any] = {
        "nothing": verdict.nothing,
        "not_known": NOT_KNOWN,
        "withheld": dict(verdict.withheld),
        "region": None,
    }
    if region is not None:
        data["region"] = {
            "points": pack(region.coefficients),
            "reached": region.within(result.spec.level).astype(int).tolist(),
            "farthest": farthest(region),
        }
    return data


def standard_errors(result: FitResult) -> float:
    """Return how many of the jackknife's standard errors an interval reaches to either side (Student's distribution)."""
    from scipy.special import stdtrit

    upper = 0.5 * (1 + result.spec.level)
    refits = 0 if result.left_out is None else len(result.left_out)
    return float(stdtrit(refits - 1, upper)) if refits > 1 else 0.0


def refits_that_count(result: FitResult) -> np.ndarray:
    """Return the bootstrap refits [replicates, coefficients]; none where there are too few units for an interval."""
    has_few = result.freedom is not None and result.freedom < FEWEST_SPARE
    return result.draws[:0] if has_few else result.draws
