"""Draw a fit: fit.plot.isoflop(), fit.plot.residuals(), ... Each returns a matplotlib figure, which a notebook shows."""

from collections.abc import Callable

from matplotlib.figure import Figure

from analysis.figures import isoflop, quality, scaling
from analysis.figures.rows import tells_optimum
from analysis.fitting.result import FitResult, judged_verdict
from analysis.from_python.answers import BackTests
from analysis.from_python.styled import styled
from analysis.laws.base import Law
from experiments.cli import InputError


class Drawings:
    """The drawings of one fit. One that has nothing to show raises InputError, which says what it needs."""

    def __init__(self, fit: FitResult, back_tests: Callable[[], BackTests]):
        self._fit = fit
        self._back_tests = back_tests

    def __repr__(self) -> str:
        names = [name for name in vars(type(self)) if not name.startswith("_")]
        return "drawings: " + ", ".join(f"{name}()" for name in names)

    def isoflop(self) -> Figure:
        """Draw loss against size at each budget, with the curves of the law."""
        if "budgets" in self._fit.details:
            return styled(isoflop.isoflop, self._fit)
        self._need_sizes_and_tokens("isoflop")
        return styled(isoflop.isoflop_of_law, self._fit, self._has_optimum())

    def allocation(self) -> Figure:
        """Draw the optimal size, tokens and loss against compute, with bands, up to 180 times the largest budget."""
        self._need_optimum("allocation")
        if not tells_optimum(self._fit):
            raise self._not_told("allocation")
        return styled(scaling.allocation, {self._fit.law.NAME: self._fit})

    def surface(self) -> Figure:
        """Draw contours of the loss over size and tokens, with the runs and the compute-optimal line."""
        self._need_sizes_and_tokens("surface")
        self._need_optimum("surface")
        if not scaling.tells_surface(self._fit):
            raise self._not_told("surface")
        return styled(scaling.surface, self._fit)

    def residuals(self) -> Figure:
        """Draw what the law leaves over, against each quantity that it takes."""
        return styled(quality.residuals, self._fit)

    def observed(self) -> Figure:
        """Draw what the law gives against what was observed."""
        return styled(quality.observed, self._fit)

    def cloud(self) -> Figure:
        """Draw how coefficients move together when runs are resampled."""
        if not len(self._fit.draws):
            raise InputError("cloud: the fit has no replicates; fit with bootstrap=200 for example")
        if len(self._fit.law.names()) < 2:
            raise InputError(f"cloud: {self._fit.law.NAME} has one coefficient; expected a pair")
        if not quality.pairs_of_cloud(self._fit):
            raise self._not_told("cloud")
        return styled(quality.cloud, self._fit)

    def profiles(self) -> Figure:
        """Draw how much worse the law fits when one coefficient is held and the others follow."""
        if not any(profile.threshold > 0 for profile in self._fit.profiles.values()):
            raise InputError(
                "profiles: the fit has none (thorough=False, bootstrap=0, a procedure, or no scatter of the rows)"
            )
        return styled(quality.profile_panels, self._fit)

    def backtest(self) -> Figure:
        """Draw errors on larger runs than the law was fitted to, against how far it had to reach."""
        return self._back_tests().plot()

    def _not_told(self, name: str) -> InputError:
        """Return the error of a drawing of what the rows do not tell."""
        verdict = judged_verdict(self._fit)
        return InputError(f"{name}: {verdict.line}")

    def _has_optimum(self) -> bool:
        """Whether the law has a compute-optimal allocation, and the rows tell it."""
        return type(self._fit.law).optimum is not Law.optimum and tells_optimum(self._fit)

    def _need_optimum(self, name: str) -> None:
        """Raise InputError for a law that has no compute-optimal allocation."""
        law = self._fit.law
        if type(law).optimum is Law.optimum:
            raise InputError(f"{name}: {law.NAME} has no compute-optimal allocation; expected for example chinchilla")

    def _need_sizes_and_tokens(self, name: str) -> None:
        """Raise InputError for a law that does not predict the loss of N parameters and D tokens."""
        law = self._fit.law
        if not any(set(names) == {"N", "D"} for names in law.INPUTS):
            raise InputError(f"{name}: {law.NAME} gives no loss at N and D; expected for example chinchilla")
