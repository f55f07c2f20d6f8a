"""Draw the figures of a report: results in, SVG and PNG out.

Nothing here fits. A figure is a pure function of a result, so that a notebook can draw it from a fit of its own.
"""

from collections.abc import Callable
import dataclasses
import functools

from matplotlib.figure import Figure

from analysis.figures import families, isoflop, quality, scaling, tuning
from analysis.figures.picture import picture, render
from analysis.figures.rows import tells_optimum
from analysis.questions.backtest import Rolling
from analysis.reporting.survey import Survey

__all__ = ["FIGURES", "draw_all", "families", "isoflop", "picture", "quality", "render", "scaling", "tuning"]


def tells_allocation(survey: Survey) -> bool:
    """Whether the rows tell the optimum by one of the approaches."""
    return any(tells_optimum(result) for result in survey.results.values())


def has_fit(law: str) -> Callable[[Survey], bool]:
    """Make the condition that a survey has a fit of the law."""
    return lambda survey: law in survey.results


def tells_surface(survey: Survey) -> bool:
    """Whether the rows tell the loss of the parametric law at runs like theirs."""
    return "chinchilla" in survey.results and scaling.tells_surface(survey["chinchilla"])


def has_cloud(survey: Survey) -> bool:
    """Whether the parametric law was resampled, and the rows tell two of its numbers."""
    return "chinchilla" in survey.results and bool(quality.pairs_of_cloud(survey["chinchilla"]))


def has_profiles(survey: Survey) -> bool:
    """Whether a coefficient of the parametric law has a profile whose rise can be measured."""
    if "chinchilla" not in survey.results:
        return False
    return any(profile.threshold > 0 for profile in survey["chinchilla"].profiles.values())


def has_back_test(survey: Survey) -> bool:
    """Whether the grid could be split into smaller and larger runs."""
    return survey.rolling is not None


def rolling_of(survey: Survey) -> Rolling:
    """Return the back-tests of a survey that has some."""
    assert survey.rolling is not None, "the figure is drawn only where there is a back-test"
    return survey.rolling


def has_comparison(survey: Survey) -> bool:
    """Whether the grid has several families, and the rows tell what their compute is worth."""
    return survey.comparison is not None and not families.why_no_rates(survey.comparison)


def has_rates(survey: Survey) -> bool:
    """Whether the grid has runs that differ in their learning rate alone."""
    return bool(survey.rates)


def has_cells(survey: Survey) -> bool:
    """Whether the grid has runs that differ in learning rate and batch."""
    return bool(survey.cells)


@dataclasses.dataclass(frozen=True)
class ReportFigure:
    """A figure of the report: when there is something to draw, how, and what it shows."""

    applies: Callable[[Survey], bool]
    draw: Callable[[Survey], Figure]
    caption: str


# In the order of the report.
FIGURES = {
    "allocation": ReportFigure(
        tells_allocation,
        lambda survey: scaling.allocation(survey.results),
        "Where the next budgets should go. Bands are bootstrap intervals, dotted lines 1, 10, 100 times the largest budget.",
    ),
    "isoflop": ReportFigure(
        has_fit("isoflop"),
        lambda survey: isoflop.isoflop(survey["isoflop"]),
        "Loss against size at each budget. A minimum on the edge of its sizes is not used.",
    ),
    "envelope": ReportFigure(
        has_fit("envelope"),
        lambda survey: scaling.envelope(survey["envelope"]),
        "The least loss that any run reached at each compute, and the sizes of the runs that reached it.",
    ),
    "surface": ReportFigure(
        tells_surface,
        lambda survey: scaling.surface(survey["chinchilla"]),
        "The fitted law with the runs that it rests on, blank where they do not tell the loss. Losses above those of the runs "
        "share one colour.",
    ),
    "observed": ReportFigure(
        has_fit("chinchilla"),
        lambda survey: quality.observed(survey["chinchilla"], survey.test),
        "Each run against the law, and the runs of the largest budget as predicted without them.",
    ),
    "residuals": ReportFigure(
        has_fit("chinchilla"),
        lambda survey: quality.residuals(survey["chinchilla"]),
        "What the law leaves over. A bend means that its form is wrong there. Far out, the axis becomes logarithmic.",
    ),
    "cloud": ReportFigure(
        has_cloud,
        lambda survey: quality.cloud(survey["chinchilla"]),
        "How far the coefficients move together when runs are resampled.",
    ),
    "profiles": ReportFigure(
        has_profiles,
        lambda survey: quality.profile_panels(survey["chinchilla"]),
        "How much worse the law fits when one coefficient is held and the others follow. A flat side is not bounded.",
    ),
    "back_tests": ReportFigure(
        has_back_test,
        lambda survey: quality.extrapolation(rolling_of(survey)),
        "What the law says of larger runs when it is fitted to the smaller ones only, budget after budget.",
    ),
    "exchange": ReportFigure(
        has_comparison,
        families.exchange_rates,
        "What a FLOP of each family buys in FLOPs of the baseline, at equal loss, with bootstrap bands.",
    ),
    "learning_rate": ReportFigure(
        has_rates,
        tuning.learning_rate,
        "Whether the rate of the runs was near its best; a badly tuned run bends a law.",
    ),
    "rate_batch": ReportFigure(
        has_cells,
        tuning.rate_batch,
        "Loss over learning rate and batch at the sizes with most runs; the star is the best run of each.",
    ),
}


def draw_all(survey: Survey) -> dict[str, tuple[bytes, bytes, str]]:
    """Draw every figure that the survey has something for: name -> (SVG, PNG, caption)."""
    drawn = {}
    for name, figure in FIGURES.items():
        if figure.applies(survey):
            svg, png = render(functools.partial(figure.draw, survey), name)
            drawn[name] = (svg, png, figure.caption)
    return drawn
