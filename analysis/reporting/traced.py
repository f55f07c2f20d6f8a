"""Write the formula of a law as a list of steps that a page can compute: by running it on symbols in place of numbers.

numpy hands every function over to its arguments (`__array_ufunc__`, `__array_function__`), so that a law's own `predict`
writes down what it does, and no law is written twice. What looks at the numbers themselves, as a search does, cannot be
written down; then there are no steps.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from analysis.laws.base import Law

Step = list[Any]  # ["+", 3, 5]: what is done to the results of which earlier steps
NUMBERS = (int, float, np.integer, np.floating)
NAMES = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "power": "^",
    "float_power": "^",
    "greater": ">",
    "greater_equal": ">=",
    "less": "<",
    "less_equal": "<=",
    "equal": "==",
    "not_equal": "!=",
    "logical_and": "and",
    "bitwise_and": "and",
    "logical_or": "or",
    "bitwise_or": "or",
    "absolute": "abs",
    "maximum": "max",
    "minimum": "min",
}
PLAIN = ("exp", "log", "expm1", "log1p", "log2", "log10", "sqrt", "tanh", "negative", "isfinite", "sign")
CHECKED = 8  # points at which the steps are compared with the law
SAME = 1e-11  # relative


class NotWritten(Exception):
    """Raised where a law does what cannot be written down as steps."""


class Recording:
    """Keep the steps of a formula in the order in which they are done; equal steps are done once."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._known: dict[tuple[Any, ...], int] = {}

    def add(self, *step: Any) -> "Symbol":
        """Return the symbol of a step."""
        if step not in self._known:
            self._known[step] = len(self.steps)
            self.steps.append(list(step))
        return Symbol(self, self._known[step])

    def symbol(self, value: Any) -> "Symbol":
        """Return the symbol of a number, or of what is one already."""
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        if isinstance(value, Symbol):
            return value
        if isinstance(value, bool | np.bool_) or not isinstance(value, NUMBERS):
            raise NotWritten(f"{value!r} is no number")
        number = float(value)
        return self.add("number", number if np.isfinite(number) else repr(number))


class Symbol(NDArrayOperatorsMixin):
    """Stand for a number that is not known; what is done to it is recorded."""

    def __init__(self, recording: Recording, place: int):
        self.recording = recording
        self.place = place

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            raise NotWritten(f"{ufunc.__name__} with {method} and {sorted(options)}")
        if ufunc.__name__ in ("conjugate", "positive"):
            return inputs[0]
        if ufunc.__name__ == "square":
            return self._do("*", inputs[0], inputs[0])
        name = NAMES.get(ufunc.__name__, ufunc.__name__)
        if name not in NAMES.values() and name not in PLAIN:
            raise NotWritten(ufunc.__name__)
        return self._do(name, *inputs)

    def __array_function__(self, function: Callable[..., Any], types: Any, values: Sequence[Any], options: Any) -> Any:
        del types
        if function is np.where and len(values) == 3:
            return self._do("where", *values)
        if function is np.clip and len(values) == 3:
            value, low, high = values
            return self._do("min", self._do("max", value, low), high)
        if function is np.real:
            return values[0]
        raise NotWritten(f"{function.__name__} {sorted(options)}")

    def _do(self, name: str, *inputs: Any) -> "Symbol":
        places = [self.recording.symbol(value).place for value in inputs]
        return self.recording.add(name, *places)

    @property
    def real(self) -> "Symbol":
        """A symbol stands for a real number."""
        return self

    def __bool__(self) -> bool:
        raise NotWritten("a choice between two ways")

    def __float__(self) -> float:
        raise NotWritten("a number")

    def __hash__(self) -> int:
        return hash(self.place)

    def __getattr__(self, name: str) -> Any:
        # numpy asks the elements of an array of objects for a method of the function's name.
        if name in PLAIN:
            return lambda: self._do(name, self)
        raise AttributeError(name)


@dataclasses.dataclass(frozen=True)
class Program:
    """Steps, each of earlier ones, and which of them are the results, by name."""

    steps: list[Step]
    results: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the program for the page."""
        return {"steps": self.steps, "results": self.results}


def write_down(law: Law, quantity: Callable[[Any, dict[str, Any]], dict[str, Any]], inputs: Sequence[str]) -> Program:
    """Return the steps of `quantity(law, inputs)`, whose results have names. Raises NotWritten where there are none.

    Coefficients are the steps ["coefficient", place], inputs ["input", name].
    """
    recording = Recording()
    coefficients = [recording.add("coefficient", at) for at in range(len(law.names()))]
    symbols = {name: recording.add("input", name) for name in inputs}
    try:
        with np.errstate(all="ignore"):
            found = quantity(type(law)(*coefficients), symbols)
            results = {name: recording.symbol(value).place for name, value in found.items()}
    except NotWritten:
        raise
    except Exception as error:  # whatever a formula of any law does with what is no array
        raise NotWritten(f"{type(error).__name__}: {error}") from None
    program = Program(recording.steps, results)
    _check(program, law, quantity, inputs)
    return program


def _check(program: Program, law: Law, quantity: Callable[..., dict[str, Any]], inputs: Sequence[str]) -> None:
    """Raise NotWritten where the steps give other numbers than the law, at points near its coefficients."""
    stream = np.random.default_rng(0)
    values = np.array([float(getattr(law, name)) for name in law.names()])
    for _ in range(CHECKED):
        near = values * np.exp(0.05 * stream.standard_normal(len(values)))
        at = {name: float(np.exp(stream.uniform(0.1, 2.0))) for name in inputs}
        for name in {"N", "D", "C"} & set(at):
            at[name] = float(10 ** stream.uniform(7, 11))
        for name in inputs:
            if name.endswith(("sparsity", "share")):
                at[name] = float(stream.uniform(0.1, 0.9))
        with np.errstate(all="ignore"):
            expected = quantity(type(law)(*near.tolist()), at)
            found = compute(program, near, at)
        for name, value in expected.items():
            one = np.asarray(value, dtype=np.float64)
            if not np.allclose(found[name], one, rtol=SAME, atol=0.0, equal_nan=True):
                raise NotWritten(f"{name} is {found[name]} by its steps and {one} by the law")


COMPUTE: dict[str, Callable[..., Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "^": np.power,
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
    "==": np.equal,
    "!=": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "abs": np.abs,
    "max": np.maximum,
    "min": np.minimum,
    "where": np.where,
    **{name: getattr(np, name) for name in PLAIN},
}


def compute(program: Program, coefficients: np.ndarray, at: dict[str, float]) -> dict[str, float]:
    """Compute a program as the page does."""
    done: list[Any] = []
    for name, *parts in program.steps:
        if name == "number":
            value = np.float64(parts[0])
        elif name == "coefficient":
            value = np.float64(coefficients[parts[0]])
        elif name == "input":
            value = np.float64(at[parts[0]])
        else:
            value = COMPUTE[name](*(done[part] for part in parts))
        done.append(value)
    return {name: float(done[place]) for name, place in program.results.items()}
