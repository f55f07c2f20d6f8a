"""Switch the search of a fit off, in this process: whatever is fitted then stays where it starts."""

from collections.abc import Callable
from typing import Any

from analysis.solve import newton, sums


def switch_off(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replace every way of the search; `put` is monkeypatch.setattr where it is to come back."""
    put(newton, "minimise", stay)
    put(sums.SumProblem, "approach", stay)


def stay(problem: Any, theta: Any, *_: Any, **__: Any) -> Any:
    """A search that takes no step."""
    return theta
