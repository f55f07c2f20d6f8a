"""Say results in sentences: names of the approaches, the headline, the back-test and the learning rates."""

import math
import re
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult, judged_verdict
from analysis.reporting.rates import Rates
from analysis.reporting.survey import Survey
from analysis.writing.numbers import counted, human, number, span

TITLES = {
    "chinchilla": "approach 3, parametric",
    "isoflop": "approach 2, parabola",
    "isoflop_cubic": "approach 2, cubic",
    "isoflop_akima": "approach 2, Akima",
    "envelope": "approach 1, envelope",
}
WORDS = {
    "good": "Nothing speaks against this fit.",
    "care": "Use with care.",
    "poor": "Do not extrapolate from this fit.",
}


def title_of(name: str) -> str:
    """Return what an approach is called on the page; a formula by its own name."""
    return TITLES.get(name, name)


def law_text(found: FitResult) -> str:
    """Return the law's formula with its numbers in place; what the rows do not tell keeps its name."""
    text = found.law.FORMULA
    values = found.values()
    for name in found.law.names():
        value = values[name]
        if value is None:
            continue
        # A whole name, and not a part of a longer one or the N of N*.
        whole_name = rf"(?<![A-Za-z_]){name}(?![A-Za-z_*])"
        text = re.sub(whole_name, number(value), text)
    return text


def headline(survey: Survey) -> dict[str, str]:
    """Return the law in one line and what it says in one sentence."""
    found = survey.results[survey.headline]
    interval = found.intervals().get("exponent_N")
    exponent = number(float(found.law.optimum_exponents()["exponent_N"]), 3)
    between = f" ({found.spec.level:.0%} interval {span(interval, 3)})" if interval else ""
    far = next(row for row in survey.optima if row["law"] == survey.headline and row["times_largest"] == 100)
    title = f"Compute-optimal parameters grow as C^{exponent}{between}"
    sentence = (
        f"At 100 times the largest budget, {number(far['C'], 2)} FLOPs: {human(far['N'])} parameters, "
        f"{human(far['D'])} tokens, loss {number(far['loss'], 4)} nats per token ({title_of(survey.headline)})."
    )
    verdict = judged_verdict(found)
    is_known = far["N"] is not None
    has_no_optimum = not is_known and verdict.is_supported
    if has_no_optimum or verdict.nothing or "exponent_N" in verdict.withheld:
        title = "These runs do not say how parameters should grow with compute"
        exponent = ""
        between = ""
        is_known = False
    if has_no_optimum:
        sentence = "The law has no compute-optimal point."
    elif not is_known:  # an exponent may be known where the size itself is not
        sentence = f"{verdict.line[0].upper()}{verdict.line[1:]}."
    return {
        "exponent": exponent,
        "between": between,
        "title": title,
        "law": law_text(found),
        "sentence": sentence,
    }


def test_text(survey: Survey) -> str:
    """Say the back-test in one sentence; empty when there is none."""
    if survey.test is None:
        return ""
    found = survey.test.summary()
    approach = title_of(str(found["law"]))
    covered = float(found["covered"])
    held = f"; {covered:.0%} of them lie in the interval that was given for them" if math.isfinite(covered) else ""
    return (
        f"Fitted to the {counted(int(found['rows_fitted']), 'smaller run')}, {found['law']} ({approach}) misses the "
        f"{counted(int(found['rows_held_out']), 'run')} of up to {found['extrapolation']:.3g}x more compute by "
        f"{found['mean_error']:+.2%} on average (absolute {found['mean_absolute_error']:.2%}, worst "
        f"{found['largest_absolute_error']:.2%}){held}."
    )


def rate_text(one: Rates) -> str:
    """Say one size of the learning-rate bracket in a sentence."""
    if one.best is None:
        lowest = one.rate[np.argmin(one.loss)]
        return f"{one.label}: the best rate tried, {lowest:.3g}, is at the edge of the bracket."
    text = f"{one.label}: the best rate is {one.best:.3g}"
    if one.used is None:
        return f"{text}."
    return f"{text}; the runs in the fit used {one.used:.3g}, which gives away {one.excess:.2%} of the loss."


def by_budget(survey: Survey) -> list[dict[str, Any]]:
    """Return the optima, budget by budget."""
    return sorted(survey.optima, key=lambda row: row["times_largest"])


def not_known(survey: Survey) -> list[str]:
    """Say why optima of the headline's approach are not known, each reason once."""
    names = {"N": "parameters", "D": "tokens", "tokens_per_param": "tokens per parameter", "loss": "loss"}
    reasons: dict[str, dict[str, None]] = {}
    for row in by_budget(survey):
        if row["law"] == survey.headline:
            for key, why in row["why"].items():
                reasons.setdefault(why, {})[names[key]] = None
    return [f"Not known: {', '.join(of_why)}: {why}." for why, of_why in reasons.items()]


def optimum_cells(row: dict[str, Any], first: str) -> dict[str, Any]:
    """Return one optimum as cells of text; `first` is the approach of the headline."""
    cells = []
    digits = {"N": 3, "D": 3, "tokens_per_param": 3, "loss": 4}
    for key, places in digits.items():
        write = human if key in "ND" else number
        interval = row["intervals"].get(key)
        between = ""
        if interval:
            between = f"{write(interval['low'], places)} to {write(interval['high'], places)}"
        cells.append({"value": write(row[key], places), "span": between})
    return {
        "times": row["times_largest"],
        "C": number(row["C"], 3),
        "law": title_of(row["law"]),
        "first": row["law"] == first,
        "cells": cells,
    }
