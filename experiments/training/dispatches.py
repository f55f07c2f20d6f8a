"""Keep the devices busy: they are given the next steps before the metrics of the last ones are fetched.

The host reads the batches of a dispatch in a thread while the devices work on those before. What is read ahead is what
will probably be asked for; where something else is (after a spike, or the end of a neighbour), it is read anew.
"""

import collections
from collections.abc import Callable
import concurrent.futures
import dataclasses
from typing import Any

import numpy as np

from experiments.training.clock import Clock
from experiments.training.population import Metrics, Population, Request


class ReadAhead:
    """Reads in a thread of its own, at most one request ahead. Errors are raised where the result is asked for."""

    def __init__(self, read: Callable[[Request], np.ndarray]):
        self._read = read
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="reads ahead")
        self._request: Request | None = None
        self._result: concurrent.futures.Future[np.ndarray] | None = None

    def expect(self, request: Request) -> None:
        """Begin to read what will probably be asked for."""
        self._request = request
        self._result = self._thread.submit(self._read, request)

    def get(self, request: Request) -> np.ndarray:
        """Return what was asked for."""
        result = self._result
        if result is None or request != self._request:
            result = self._thread.submit(self._read, request)
        self._request = None
        self._result = None
        return result.result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Steps of each slot in one call of the program, and their metrics, which may not have been computed yet."""

    steps: np.ndarray
    metrics: dict[str, Any]


class Dispatches:
    """The dispatches of a population that are under way."""

    def __init__(self, population: Population, clock: Clock):
        self._population = population
        self._clock = clock
        self._pending: collections.deque[Dispatch] = collections.deque()
        self._reader = ReadAhead(population.read)

    def give(self) -> bool:
        """Give the devices the next steps of all slots that may go on; return whether there are any."""
        population = self._population
        ahead = self._steps_ahead()
        steps = population.next_steps(ahead)
        if not steps.any():
            return False
        with self._clock.share("data"):
            tokens = self._reader.get(population.request(steps, ahead))
        with self._clock.share("step"):
            metrics = population.enqueue(tokens, steps)
        self._pending.append(Dispatch(steps, metrics))
        self._expect_next(ahead + steps)
        return True

    def _expect_next(self, ahead: np.ndarray) -> None:
        population = self._population
        steps = population.next_steps(ahead)
        if not steps.any():
            # All are where something is due: what comes behind it.
            steps = population.steps_behind(ahead)
        if steps.any():
            self._reader.expect(population.request(steps, ahead))

    def _steps_ahead(self) -> np.ndarray:
        """Return the steps of each slot that are under way."""
        none = np.zeros(len(self._population.slots), np.int32)
        return sum((dispatch.steps for dispatch in self._pending), none)

    def take(self, leave: int = 0) -> tuple[np.ndarray, Metrics] | None:
        """Wait for the oldest dispatch and return its steps and metrics [slot, step].

        Returns None where no more than `leave` are under way.
        """
        if len(self._pending) <= leave:
            return None
        dispatch = self._pending.popleft()
        with self._clock.share("step"):
            return dispatch.steps, self._population.fetch(dispatch.metrics)

    def close(self) -> None:
        """End the reading."""
        self._reader.close()
