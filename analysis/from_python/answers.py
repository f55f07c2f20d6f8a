"""Hold answers as Python users work with them: what questions/ found, which shows itself and turns into a DataFrame."""

from collections.abc import Mapping
import dataclasses
from typing import Any, TypeVar

from matplotlib.figure import Figure
import pandas as pd
from rich.console import Console
from rich.table import Table

from analysis.command_line.answers import compare as answer_compare
from analysis.command_line.answers import design as answer_design
from analysis.command_line.answers import fit as answer_fit
from analysis.command_line.answers import predict as answer_predict
from analysis.command_line.answers import scoreboard as answer_scoreboard
from analysis.command_line.answers import trend as answer_trend
from analysis.figures import families, quality
from analysis.from_python.styled import styled
from analysis.grid.table import Columns
from analysis.questions import backtest, compare, design, lifetime, predict, trend
from analysis.questions.scoreboard import Score
from analysis.trust.interval import Interval
from analysis.writing.numbers import share
from analysis.writing.shown import Shown
from experiments.cli import InputError

Answer = TypeVar("Answer")


def as_shown(kind: type[Answer], found: Any, **more: Any) -> Answer:
    """Return an answer of questions/ as the kind of it that shows itself."""
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return kind(**fields, **more)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Prediction(Shown, predict.Prediction):
    """A prediction that shows itself."""

    fitted: predict.Fitted = dataclasses.field(compare=False)

    def show(self, console: Console) -> None:
        """Print the prediction as the command does."""
        answer_predict.show(self, self.fitted, console)

    def to_frame(self) -> pd.DataFrame:
        """Return each number with the ends of its interval: the target, the target of one more run, what else follows."""
        target = self.fitted.law.TARGET
        rows = {target: _row(self.loss, self.interval), f"{target} of one run": _row(self.loss, self.new_run)}
        for name, value in self.optimum.items():
            rows[name] = _row(value, self.optimum_intervals.get(name))
        return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"], dtype=float)


def _row(value: float, interval: Interval | None) -> tuple[float, float | None, float | None]:
    """Return a number with the ends of its interval, None where there is none."""
    if interval is None:
        return value, None, None
    return value, interval.low, interval.high


def predict_from(fitted: predict.Fitted, at: Mapping[str, float], serve_tokens: float | None = None) -> Prediction:
    """Predict from what is known of a fit; with serve_tokens, for a model that serves so many over its life."""
    text = ",".join(f"{name}={value!r}" for name, value in at.items())
    if serve_tokens is None:
        found = predict.predict(fitted, predict.parse_at(text, fitted.law))
    else:
        fitted = lifetime.serving(fitted, serve_tokens)
        found = lifetime.predict(fitted, lifetime.parse_at(text, fitted.law))
    return as_shown(Prediction, found, fitted=fitted)


@dataclasses.dataclass(frozen=True, repr=False)
class BackTests(Shown, backtest.Rolling):
    """Back-tests at every budget that show themselves."""

    def show(self, console: Console) -> None:
        """Print all splits in one sentence, then the errors by how far they reached."""
        answer_fit.show_back_test(self.summary(), console)
        table = Table("times beyond the rows fitted", "predictions", "mean error", "rms error", "in their interval")
        for one in self.by_factor():
            reach = f"{one['from']:.3g} to {one['to']:.3g}"
            errors = (f"{one['mean_error']:+.2%}", f"{one['rms_error']:.2%}")
            table.add_row(reach, str(one["predictions"]), *errors, share(one["covered"]))
        console.print(table)

    def to_frame(self) -> pd.DataFrame:
        """Return the errors by how many times the compute of a row is that of the largest row fitted."""
        return pd.DataFrame(self.by_factor())

    def plot(self) -> Figure:
        """Draw the error of each prediction against how far it reached."""
        return styled(quality.extrapolation, self)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Comparison(Shown, compare.Comparison):
    """A comparison of families that shows itself."""

    columns: Columns
    level: float

    def show(self, console: Console) -> None:
        """Print the comparison as the command does."""
        answer_compare.show(self, self.columns, self.level, console)

    def to_frame(self) -> pd.DataFrame:
        """Return the exchange rates: one row a family and compute of the baseline."""
        parts = []
        for name, rate in self.rates.items():
            part = pd.DataFrame(
                {
                    "family": name,
                    "compute": rate.compute,
                    "multiplier": rate.multiplier,
                    "low": rate.low,
                    "high": rate.high,
                    "extrapolated": rate.extrapolated,
                    "why": rate.why,
                }
            )
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def plot(self) -> Figure:
        """Draw what the compute of each family is worth in that of the baseline.

        Raises InputError where the rows tell none of that.
        """
        reasons = families.why_no_rates(self)
        if reasons:
            raise InputError(f"plot: {reasons}")
        return styled(families.exchange, self)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Design(Shown, design.Design):
    """Proposed runs that show themselves."""

    def show(self, console: Console) -> None:
        """Print the design as the command does."""
        answer_design.show(self, console)

    def to_frame(self) -> pd.DataFrame:
        """Return the runs in the order in which they are worth most, with the target's interval after each."""
        rows = []
        for step in self.steps:
            row: dict[str, float] = {}
            for role, values in self.candidates.values.items():
                if values.dtype.kind == "f" and values.ndim == 1:
                    row[role] = float(values[step.candidate])
            rows.append(row | {"spent": step.spent, "low": step.low, "high": step.high})
        return pd.DataFrame(rows)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Scoreboard(Shown):
    """Laws by their error on larger runs than they were fitted to, the best first."""

    scores: tuple[Score, ...]

    def show(self, console: Console) -> None:
        """Print the scoreboard as the command does."""
        answer_scoreboard.show(self.scores, console)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a law."""
        rows = []
        for score in self.scores:
            fields = {field.name: getattr(score, field.name) for field in dataclasses.fields(score)}
            del fields["test"]
            verdict = fields.pop("verdict")
            fields["remark"] = "" if verdict is None else verdict.line
            rows.append(fields)
        return pd.DataFrame(rows)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Trend(Shown, trend.Trend):
    """A trend that shows itself."""

    columns: Columns

    def show(self, console: Console) -> None:
        """Print the trend as the command does."""
        answer_trend.show(self, self.columns, console)
