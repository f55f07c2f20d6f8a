"""See what may interrupt the steps of a population: a signal, the clock, a request, a lost claim, an error.

What one process sees is made known to all before anyone acts. An error of one process alone is kept until then, or the
others would wait for it in their next step.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses

from experiments.alive import hosts, lease
from experiments.alive.lease import Lease
from experiments.alive.stops import Stop
from experiments.training.trial import Trial

TAKEN = "another launcher has taken over these runs; nothing more is written here"


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one process or another has seen.

    stop: the process is asked to stop. late: too much time has passed since the last checkpoint. asked: a run is asked to
    end early. lost: somebody else has taken a run over.
    """

    stop: bool
    late: bool
    asked: bool
    lost: bool

    @property
    def interrupts(self) -> bool:
        """Say whether the steps have to wait for what is to be done about it."""
        return self.stop or self.late or self.asked


class Lookout:
    """Looks for all trials of a population. `held`: what this process holds of their runs, if they were claimed."""

    def __init__(self, trials: Sequence[Trial], held: Lease | None):
        self._trials = trials
        self._held = held
        self._error: OSError | None = None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Do what may fail on one process alone; its error is raised when all know of it."""
        try:
            yield
        except OSError as error:
            if hosts.count() == 1:
                raise
            self._error = self._error or error

    def agree(self, facts: Sequence[bool] = ()) -> list[bool]:
        """Return which facts hold on at least one process. Raises, on all, the error that one of them has had."""
        *known, failed = hosts.anywhere([*facts, self._error is not None])
        if failed:
            raise self._error or hosts.Failed()
        return known

    def look(self, stop: bool, late: bool) -> Seen:
        """Return what is to be seen. Raises Lost, on all processes, when somebody else has taken over a run."""
        lost = False
        asked = False
        with self.alone():
            if self._held is not None and self._held.due():
                lost = self._is_lost([trial for trial in self._trials if not trial.recorded])
            if hosts.first():
                asked = self._is_any_asked_to_stop()
        seen = Seen(*self.agree([stop, late, asked, lost]))
        if seen.lost:
            raise lease.Lost(TAKEN)
        return seen

    def _is_any_asked_to_stop(self) -> bool:
        """Look for requests to end runs early."""
        asked = False
        for trial in self._trials:
            if trial.steps_left and trial.requests.look() is not None:
                asked = True
        return asked

    def stops(self) -> dict[str, Stop]:
        """Return which runs the first process has seen asked to end early, by fingerprint."""
        found = {}
        for trial in self._trials:
            stop = trial.requests.found
            if stop is not None and trial.steps_left:
                found[trial.fingerprint] = [stop.status, stop.reason]
        told = hosts.told(found)
        return {fingerprint: Stop(*fields) for fingerprint, fields in told.items()}

    def _is_lost(self, trials: Sequence[Trial]) -> bool:
        assert self._held is not None
        return not self._held.holds([trial.directory for trial in trials])

    def check_held(self, trials: Sequence[Trial]) -> None:
        """Check that runs that are to be written are still ours. Raises Lost, on all processes, where one is not."""
        lost = False
        with self.alone():
            lost = self._held is not None and self._is_lost(trials)
        (lost_anywhere,) = self.agree([lost])
        if lost_anywhere:
            raise lease.Lost(TAKEN)
