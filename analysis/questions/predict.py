"""Predict from a fit: the loss of a run, or the compute-optimal N and D of a budget and the loss there.

The interval is that of the law: where its value lies, by the bootstrap in fit.json. One more run also carries noise;
`interval_new_run` adds the scatter of the rows around the law, and holds the former.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
from typing import Any

from etils import epath

from analysis import laws
from analysis.fitting.result import SCHEMA, FitResult, judged_verdict, noise_of, ranges, unpack, verdict_of
from analysis.grid import cost, numerals
from analysis.grid.roles import ROLES
from analysis.laws import written
from analysis.laws.base import Array, Law, part_inputs
from analysis.trust.interval import Interval, interval_of
from analysis.trust.one_run import Noise, interval_of_run, quantiles_of_run
from analysis.trust.verdict import Judged, Verdict
from analysis.writing.strict_json import finite_or_null
from experiments.cli import InputError, nearest
from experiments.key_values import read_pairs, refusal

SHARES_OFF = 1e-3  # that shares may add up to beside 1
NO_REPLICATES = "the fit has no replicates; fit with --bootstrap=1000 for example"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What predict needs of a fit.json."""

    law: Law
    draws: Array
    left_out: Array | None
    freedom: int | None
    level: float
    flops_per_param_token: float
    noise: Noise  # of single runs around the law
    ranges: Mapping[str, list[float]]
    columns: Mapping[str, str]  # role -> column or formula
    data_sha256: str
    command: str
    verdict: Verdict
    caution: str = ""  # of the back-test, where it says that intervals are too narrow

    @property
    def cost(self) -> str:
        """Which count of FLOPs C is, in words; empty for a law without N and D."""
        return cost.in_words(self.columns, self.flops_per_param_token)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A loss with its intervals and, for a compute budget, the optimal allocation with its intervals.

    Numbers that the rows do not tell are NaN, and `why` says why.
    """

    at: dict[str, float]
    loss: float
    interval: Interval | None
    new_run: Interval | None
    optimum: dict[str, float]
    optimum_intervals: dict[str, Interval | None]
    extrapolation: float | None  # largest ratio of an input to the largest value in the grid
    verdict: Verdict  # of the fit
    why: Mapping[str, str]  # number -> why it has no interval
    notes: tuple[str, ...] = ()  # what a reader should know beside the numbers


def read(path: str, group: str | None = None) -> Fitted:
    """Load a fit.json; group: which one, of a file with fits of several.

    Raises InputError when it is missing, damaged or of another schema, or has no such group.
    """
    try:
        data = json.loads(epath.Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"FIT: {path} does not exist; expected the JSON file that analysis.fit wrote") from None
    except (OSError, ValueError) as error:
        raise InputError(f"FIT: {path} is not a readable JSON file ({str(error).splitlines()[0]})") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise InputError(f"FIT: {path} has schema {schema!r}; expected a fit.json of schema {SCHEMA}")
    data = _of_group(data, path, group)
    try:
        return from_json(data)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"FIT: {path} is damaged ({type(error).__name__}: {error}); fit again") from None


def _of_group(data: Mapping[str, Any], path: str, group: str | None) -> Mapping[str, Any]:
    """Return the fit of one group, of a file that holds several; the whole of a file that holds one fit."""
    fits = data.get("fits")
    if fits is None:
        if group is not None:
            raise InputError(f"--group={group}: {path} holds one fit and no groups; expected no --group")
        return data
    if group not in fits:
        said = "" if group is None else f"{group!r} is none of them; {nearest(group, fits, 'group')}; "
        names = ", ".join(fits)
        raise InputError(f"--group: {path} holds fits by {data['by']} of {names}; {said}expected --group=NAME")
    return fits[group]


def from_json(data: Mapping[str, Any]) -> Fitted:
    """Return the fit of a fit.json's content. Raises KeyError, TypeError or ValueError when something is missing."""
    parts = {role: tuple(names) for role, names in data.get("parts", {}).items()}
    definition = data.get("definition")
    law = written.restore(definition) if definition else laws.load(data["law"])
    law = law.of(parts)
    return Fitted(
        law=law.restore(_coefficients(data, law.names()), data["details"]),
        draws=unpack(data["draws"]),
        left_out=None if data["left_out"] is None else unpack(data["left_out"]),
        freedom=data["freedom"],
        level=float(data["options"]["level"]),
        flops_per_param_token=float(data["flops_per_param_token"]),
        noise=noise_of(data["noise"]),
        ranges=data["ranges"],
        columns=data["columns"],
        data_sha256=data["data_sha256"],
        command=data["command"],
        caution=data.get("back_test", {}).get("caution", ""),
        verdict=verdict_of(data),
    )


def _coefficients(data: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Return the coefficients of a fit.json, those that the rows do not tell from where the search ended."""
    valley = data["one_point_of_a_valley"]
    found = dict(data["coefficients"])
    for name in names:
        if name in valley:
            found[name] = valley[name]
    return found


def of_result(result: FitResult) -> Fitted:
    """Return what predict needs of a fit that has just been made."""
    return Fitted(
        law=result.law,
        draws=result.draws,
        left_out=result.left_out,
        freedom=result.freedom,
        level=result.spec.level,
        flops_per_param_token=result.flops_per_param_token,
        noise=result.noise,
        ranges=ranges(result.columns, result.flops_per_param_token),
        columns=result.columns.sources,
        data_sha256="",
        command="",
        verdict=judged_verdict(result),
    )


def parse_at(text: str, law: Law) -> dict[str, float]:
    """Read `N=1e9,D=2e10`. Raises InputError with what the law takes when it cannot use it."""
    at: dict[str, float] = {}
    known = sorted({name for names in law.INPUTS for name in names})
    for name, value in read_pairs(text, "--at", "INPUT=NUMBER", "N=1e9").items():
        if name not in known:
            problem = f"is not an input of {law.NAME}"
            raise refusal("--at", name, problem, f"one of them; {nearest(name, known, 'input')}")
        at[name] = _number_at(name, value, law)
    return check_at(at, law, text)


def _parts_of(law: Law) -> set[str]:
    """Return the inputs that are parts of one role, such as share_web; parts that are not given are zero."""
    return {name for role in law.PARTS for name in part_inputs(role, law.PARTS)}


def _number_at(name: str, text: str, law: Law) -> float:
    """Read one value of --at. Raises InputError for what is not a number that the input may have."""
    value = numerals.number(text)
    word = f"{name}={text}"
    if math.isnan(value):
        raise refusal("--at", word, "is not a number", f"{name}=number")
    may_be_negative = name in law.SIGNED or (name in ROLES and not ROLES[name].positive)
    may_be_zero = name in _parts_of(law)
    in_range = may_be_negative or value > 0 or (may_be_zero and value == 0)
    if not math.isfinite(value) or not in_range:
        kind = "finite number" if may_be_negative else "positive finite number"
        raise refusal("--at", word, f"is not a {kind}", f"{name}={kind}")
    return value


def check_at(at: Mapping[str, float], law: Law, text: str) -> dict[str, float]:
    """Return the inputs with missing parts as zeros. Raises InputError when the law takes other ones.

    `text` is what the user wrote, for the message.
    """
    found = dict(at)
    parts = _parts_of(law)
    if parts & set(found):
        found |= dict.fromkeys(sorted(parts - set(found)), 0.0)
        shares = [name for role in law.PARTS if ROLES[role].shares for name in part_inputs(role, law.PARTS)]
        total = sum(found[name] for name in shares)
        if abs(total - 1) > SHARES_OFF:
            raise InputError(f"--at: the shares in {text!r} add up to {total:.4g}; expected 1")
    if not any(set(found) == set(names) for names in law.INPUTS):
        choices = " or ".join(",".join(f"{name}=.." for name in names) for names in law.INPUTS)
        raise InputError(f"--at: {text!r} is not what {law.NAME} takes; expected {choices}")
    return found


def interval_of_law(fitted: Fitted, at: Mapping[str, float], level: float) -> Judged:
    """Build the interval of what the law gives at `at`, or say why there is none.

    A loss at a budget is that at its optimum, and needs what the optimum needs.
    """
    law = fitted.law
    factor = fitted.flops_per_param_token

    def value(one: Law) -> Any:
        return one.within_range(one.target_at(at, factor))

    made = set(law.derived(at, factor)) - set(law.PREDICTS)
    needs_optimum = set(at) == {"C"} and bool(made)
    return _judged(fitted, value, level, needs_optimum)


def _judged(fitted: Fitted, quantity: Any, level: float, is_derived: bool) -> Judged:
    """Build the interval of a function of the law, or say why there is none."""
    law = fitted.law
    interval = interval_of(quantity, law, fitted.draws, fitted.left_out, level, fitted.freedom)
    judged = fitted.verdict.judge(quantity, law, interval, is_derived)
    if not len(fitted.draws) and not judged.why:
        return Judged(None, NO_REPLICATES)
    return judged


def run_quantiles(fitted: Fitted, at: Mapping[str, float], shares: Array) -> Array:
    """Return quantiles of what one more run at `at` may give: the ends of its intervals of every level."""
    estimate = float(fitted.law.within_range(fitted.law.target_at(at, fitted.flops_per_param_token)))

    def law_interval(level: float) -> Interval | None:
        return interval_of_law(fitted, at, level).interval

    return fitted.law.within_range(quantiles_of_run(estimate, law_interval, fitted.noise, shares))


def predict(fitted: Fitted, at: Mapping[str, float]) -> Prediction:
    """Predict at one of the law's INPUTS."""
    law = fitted.law
    factor = fitted.flops_per_param_token

    of_law = interval_of_law(fitted, at, fitted.level)
    why = {law.TARGET: of_law.why}
    optimum = {}
    optimum_intervals = {}
    for name, value in law.derived(at, factor).items():
        is_made = name not in law.PREDICTS
        of_number = _judged(fitted, lambda one, name=name: one.derived(at, factor)[name], fitted.level, is_made)
        optimum[name] = float(value) if of_number.is_known else math.nan
        optimum_intervals[name] = of_number.interval
        why[name] = of_number.why
    by_formula = float(law.target_at(at, factor)) if of_law.is_known else math.nan
    loss = float(law.within_range(by_formula))
    notes = []
    if loss != by_formula and math.isfinite(by_formula):
        notes.append(f"the formula gives {by_formula:.4g} here; {law.TARGET} ends at {loss:g}")
    of_run = interval_of_run(loss, of_law.interval, fitted.noise)
    if of_run is not None:
        low, high = law.within_range([of_run.low, of_run.high])
        of_run = dataclasses.replace(of_run, low=float(low), high=float(high))
    return Prediction(
        at=dict(at),
        loss=loss,
        interval=of_law.interval,
        new_run=of_run,
        optimum=optimum,
        optimum_intervals=optimum_intervals,
        extrapolation=extrapolation(fitted, at),
        verdict=fitted.verdict,
        why={name: reason for name, reason in why.items() if reason},
        notes=(*notes, *filter(None, [fitted.caution])),
    )


def extrapolation(fitted: Fitted, at: Mapping[str, float]) -> float | None:
    """Return the largest ratio of an input to the largest value in the grid; None where the grid has none of them."""
    ratios = []
    for name, value in at.items():
        _, largest = fitted.ranges.get(name, (0.0, 0.0))
        if largest > 0:
            ratios.append(value / largest)
    return max(ratios, default=None)


def to_json(prediction: Prediction) -> dict[str, Any]:
    """Return predict's JSON as DESIGN names it; numbers that are not finite become null."""
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": prediction.verdict.to_json(),
        "at": prediction.at,
        "prediction": prediction.loss,
        "interval": _ends(prediction.interval),
        "interval_new_run": _ends(prediction.new_run),
        "extrapolation": prediction.extrapolation,
        "notes": list(prediction.notes),
        "why_no_interval": dict(prediction.why),
    }
    if prediction.optimum:
        data["optimum"] = prediction.optimum
        data["optimum_intervals"] = {name: _ends(value) for name, value in prediction.optimum_intervals.items()}
    return finite_or_null(data)


def _ends(interval: Interval | None) -> dict[str, float] | None:
    """Return an interval for JSON, without its standard error."""
    if interval is None:
        return None
    return {"level": interval.level, "low": interval.low, "high": interval.high}
