"""Give the page what its calculator needs: the parametric law, its refits, and what its verdict allows."""

import json
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult, judged_verdict, pack, ranges
from analysis.reporting.survey import Survey
from analysis.trust.interval import FEWEST_SPARE
from analysis.trust.verdict import NOT_KNOWN, farthest
from analysis.writing.numbers import number

LAW = "chinchilla"  # the law that templates/calculator.js knows: L = E + A/N^alpha + B/D^beta


def context(survey: Survey) -> dict[str, Any] | None:
    """Return what the template shows of the calculator; None where the parametric law was not fitted."""
    from markupsafe import Markup

    if LAW not in survey.results:
        return None
    result = survey[LAW]
    data = page_data(result, survey.largest)
    text = json.dumps(data, allow_nan=False)
    # No text of the grid may end the script that holds it.
    safe = text.replace("<", "\\u003c")
    return {
        "factor": number(result.flops_per_param_token, 3),
        "data": Markup(safe),
    }


def page_data(result: FitResult, largest: float) -> dict[str, Any]:
    """Return the fit for the page, ready for JSON: coefficients in the order of the law, refits packed as in fit.json.

    largest: FLOPs of the largest budget of the runs.
    """
    names = result.law.names()
    coefficients = result.law.coefficients()
    spans = ranges(result.columns, result.flops_per_param_token)
    least, _ = spans["C"]
    none = np.empty((0, len(names)))
    left_out = none if result.left_out is None else result.left_out
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
    }
    return data | _allowed(result)


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
        whole = bool(verdict.withheld)
        data["region"] = {
            "points": pack(region.coefficients),
            "reached": region.within(result.spec.level, whole).astype(int).tolist(),
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
