"""Judge the fits of a report: good, care or poor, with the reasons in words."""

from collections.abc import Mapping, Sequence

from analysis.fitting.result import FitResult, judged_verdict, ranges
from analysis.questions.backtest import BackTest
from analysis.questions.compare import Comparison

LARGEST_MISS = 0.02  # mean error of a back-test that still lets a law be used
LEAST_SPAN = 30  # factor of compute over the runs


def judge(
    results: Mapping[str, FitResult],
    test: BackTest | None,
    comparison: Comparison | None,
    too_sure: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """Return `good`, `care` or `poor`, and the reasons, the gravest first.

    too_sure: approaches whose intervals held far fewer of the larger runs than they say, in words.
    """
    poor: list[str] = []
    care: list[str] = [*too_sure]
    law = results.get("chinchilla")
    if law is None:
        care.append("approach 3 could not be fitted, so nothing checks the allocation")
    else:
        verdict = judged_verdict(law)
        if not verdict.is_supported:
            poor.append(verdict.line)
        care += law.certificate.warnings
    if approaches_disagree(results):
        care.append("approaches 2 and 3 disagree on how parameters grow with compute: their intervals do not overlap")
    if "isoflop" not in results:
        care.append("approach 2 could not be fitted, so nothing checks approach 3")
    if test is None:
        care.append("there is no back-test")
    else:
        miss = test.mean_error
        if abs(miss) > LARGEST_MISS:
            poor.append(f"the back-test misses the largest budget by {miss:+.1%} on average")
        elif test.covered < 0.5:
            care.append("most runs of the largest budget lie outside the interval that the smaller ones gave")
    span = compute_span(law or next(iter(results.values())))
    if span is not None and span < LEAST_SPAN:
        care.append(f"the runs span a factor of {span:.3g} in compute; 100x beyond it is a long way")
    reasons = poor + care
    grade = "poor" if poor else "care" if care else "good"
    if comparison is None:
        return grade, reasons
    names = ", ".join(comparison.families.families)
    reasons.append(f"one law is fitted to runs of several families ({names}); choose one with --where")
    return ("care" if grade == "good" else grade), reasons


def approaches_disagree(results: Mapping[str, FitResult]) -> bool:
    """Whether the intervals of approaches 2 and 3 for the exponent of N* do not overlap."""
    if "chinchilla" not in results or "isoflop" not in results:
        return False
    first = results["chinchilla"].intervals().get("exponent_N")
    second = results["isoflop"].intervals().get("exponent_N")
    if first is None or second is None:
        return False
    return first.high < second.low or second.high < first.low


def compute_span(result: FitResult) -> float | None:
    """Return the largest over the smallest compute of the rows; None where compute is not known."""
    ends = ranges(result.columns, result.flops_per_param_token).get("C")
    if not ends:
        return None
    low, high = ends
    return high / low
