"""Hold a fit as Python users work with it: it shows itself, predicts, draws, tests itself, and is saved."""

import dataclasses
import functools
import os
from typing import Any

import pandas as pd
from rich.console import Console

from analysis.command_line.answers import fit as answer
from analysis.fitting.result import FitResult, judged_verdict, to_json
from analysis.from_python.answers import BackTests, Prediction, predict_from
from analysis.from_python.drawings import Drawings
from analysis.from_python.grid import NamedGrid
from analysis.grid.table import Columns
from analysis.questions import backtest, predict
from analysis.questions.backtest import REPLICATES
from analysis.writing.output_file import check_writable, write
from analysis.writing.shown import Shown


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Fit(Shown, FitResult):
    """A law fitted to a grid.

    In a notebook it shows the law, its intervals, and what speaks against it. `fit.law` has the coefficients as
    attributes, `fit.plot` the drawings; everything else that a FitResult holds is there as well.
    """

    grid: NamedGrid
    selected: Columns  # the rows that were given to the fit
    call: str  # how it was asked for

    def show(self, console: Console) -> None:
        """Print the fit as the command does."""
        answer.show(self, console)

    @property
    def plot(self) -> Drawings:
        """The drawings of this fit, each a matplotlib figure: fit.plot.isoflop(), fit.plot.residuals(), ..."""
        return Drawings(self, self._back_tests)

    def predict(self, serve_tokens: float | None = None, **at: float) -> Prediction:
        """Predict at a run or a budget: fit.predict(N=1e9, D=2e10) or fit.predict(C=1e24).

        serve_tokens: of the model's life, for which the budget C pays as well; or loss=2.1 is reached at the least cost.
        """
        return predict_from(predict.of_result(self), at, serve_tokens)

    def backtest(self) -> BackTests:
        """Fit the smaller runs alone and predict the larger ones, budget after budget.

        Raises InputError where the grid has too few rows for that. Takes as long as several fits, once.
        """
        return self._back_tests()

    def _back_tests(self) -> BackTests:
        return self._tested

    @functools.cached_property
    def _tested(self) -> BackTests:
        quick = dataclasses.replace(self.spec, bootstrap=min(self.spec.bootstrap, REPLICATES))
        found = backtest.rolling(self.selected, type(self.law), quick)
        return BackTests(found.law, found.splits)

    def to_frame(self) -> pd.DataFrame:
        """Return coefficients and the optimum's exponents: value, ends of the interval, and why there are none."""
        intervals = self.intervals()
        verdict = judged_verdict(self)
        rows: dict[str, dict[str, Any]] = {}
        for name, value in self.values().items():
            interval = intervals.get(name)
            rows[name] = {
                "value": value,
                "low": interval.low if interval else None,
                "high": interval.high if interval else None,
                "remark": verdict.remark(name),
            }
        frame = pd.DataFrame.from_dict(rows, orient="index")
        frame.index.name = "coefficient"
        return frame.astype({"value": float, "low": float, "high": float})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write fit.json, which `python -m analysis.predict` and lab.predict read.

        Raises InputError where it cannot be written.
        """
        target = os.fspath(path)
        check_writable(target, "path")
        write(target, to_json(self, self.grid.sha256, self.call), "path")
