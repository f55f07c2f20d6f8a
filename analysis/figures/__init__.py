"""Figures of a report: results in, SVG and PNG out. Never fits. A figure is a pure function of a result."""

from collections.abc import Callable

from matplotlib.figure import Figure

from analysis.figures import families, quality, scaling, tuning
from analysis.figures.style import picture, render
from analysis.reporting.survey import Survey

__all__ = ["CAPTIONS", "draw_all", "families", "picture", "quality", "render", "scaling", "tuning"]

# Name -> (does the survey have something for it, the drawing, its caption), in the order of the report.
CAPTIONS: dict[str, tuple[Callable[[Survey], bool], Callable[[Survey], Figure], str]] = {
    "allocation": (
        lambda survey: True,
        scaling.allocation,
        "Where the next budgets should go. Bands are bootstrap intervals, dotted lines 1, 10, 100 times the largest budget.",
    ),
    "isoflop": (
        lambda survey: "isoflop" in survey.results,
        scaling.isoflop,
        "Loss against size at each budget. A minimum on the edge of its sizes is not used.",
    ),
    "envelope": (
        lambda survey: "envelope" in survey.results,
        scaling.envelope,
        "The least loss that any run reached at each compute, and the sizes of the runs that reached it.",
    ),
    "surface": (
        lambda survey: "chinchilla" in survey.results,
        scaling.surface,
        "The fitted law with the runs that it rests on. Losses above those of the runs share one colour.",
    ),
    "observed": (
        lambda survey: "chinchilla" in survey.results,
        quality.observed,
        "Each run against the law, and the runs of the largest budget as predicted without them.",
    ),
    "residuals": (
        lambda survey: "chinchilla" in survey.results,
        quality.residuals,
        "What the law leaves over. A bend means that its form is wrong there. Far out, the axis becomes logarithmic.",
    ),
    "cloud": (
        lambda survey: "chinchilla" in survey.results and len(survey["chinchilla"].draws) > 0,
        quality.cloud,
        "How far the coefficients move together when runs are resampled.",
    ),
    "profiles": (
        lambda survey: (
            "chinchilla" in survey.results and any(one.threshold > 0 for one in survey["chinchilla"].profiles.values())
        ),
        quality.profiles,
        "How much worse the law fits when one coefficient is held and the others follow. A flat side is not bounded.",
    ),
    "back_tests": (
        lambda survey: survey.rolling is not None,
        quality.back_tests,
        "What the law says of larger runs when it is fitted to the smaller ones only, budget after budget.",
    ),
    "exchange": (
        lambda survey: survey.comparison is not None,
        families.exchange_rates,
        "What a FLOP of each family buys in FLOPs of the baseline, at equal loss, with bootstrap bands.",
    ),
    "learning_rate": (
        lambda survey: bool(survey.rates),
        tuning.learning_rate,
        "Whether the rate of the runs was near its best; a badly tuned run bends a law.",
    ),
    "rate_batch": (
        lambda survey: bool(survey.cells),
        tuning.rate_batch,
        "Loss over learning rate and batch at the sizes with most runs; the star is the best run of each.",
    ),
}


def draw_all(survey: Survey) -> dict[str, tuple[bytes, bytes, str]]:
    """Name -> (SVG, PNG, caption) of every figure that the survey has something for."""
    return {
        name: (*render(lambda draw=draw: draw(survey), name), caption)
        for name, (has, draw, caption) in CAPTIONS.items()
        if has(survey)
    }
