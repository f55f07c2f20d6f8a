"""The analysis part of experiments/benchmark.py: Chinchilla's approach 3 fitted by ours and by scipy, side by side.

fit        4500 starts: ours (exponents on a grid, prefactors solved for, damped Newton on all at once) against scipy's
           L-BFGS-B from the 4500 starts of Besiroglu et al. 2024
bootstrap  4000 refits to resampled rows: ours against scipy's BFGS from one start, the constants of Hoffmann et al. 2022
Both of scipy's get the analytic gradient. One process, the same rows, resampled by the same stream. Seconds are of the
process's own CPU time, which other work on the machine does not lengthen; OMP_NUM_THREADS=1 keeps it to one thread.
"""

from collections.abc import Callable
import time
from typing import Any

import numpy as np

from analysis.published.scipy_fit import ScipyFit, resampled
from analysis.solve.newton import one_thread

STARTS, REPLICATES, SEED = 4500, 4000, 42


def planted_rows(count: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D, loss) of runs on nine IsoFLOP budgets with noise and a few outliers, like the published grid."""
    draw = np.random.default_rng(0)
    C = 10 ** draw.choice(np.linspace(18.7, 21.5, 9), count)
    N = 3.0e7 * (C / 10**18.7) ** 0.5 * 10 ** draw.uniform(0.0, 1.2, count)
    D = C / 6 / N
    noise = 4e-3 * draw.standard_t(2.5, count)
    return N, D, (1.8172 + 482.01 / N**0.3478 + 2085.43 / D**0.3658) * np.exp(noise)


def published_rows(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D, loss) of a grid file, without the five highest losses, as Besiroglu et al. 2024 fit it."""
    from analysis.grid.table import load
    from analysis.published.chinchilla import columns_of

    columns = columns_of(load(path))
    return columns["N"], columns["D"], columns["loss"]


class Ours:
    """The same two jobs for analysis.fit."""

    def __init__(self, N: np.ndarray, D: np.ndarray, loss: np.ndarray):
        from analysis.grid.table import Columns

        self.columns = Columns({"N": N, "D": D, "loss": loss}, np.arange(len(N)), {}, ())

    def _run(self, starts: int, bootstrap: int) -> Any:
        from analysis.fitting.spec import FitSpec
        from analysis.laws.chinchilla import Chinchilla
        from analysis.questions.fit import fit

        spec = FitSpec(bootstrap=bootstrap, starts=starts, seed=SEED, thorough=False)  # scipy's has no profiles either
        return fit(self.columns, Chinchilla, spec)

    def fit(self) -> tuple[float, np.ndarray, float]:
        """As ScipyFit.fit."""
        result = self._run(STARTS, 0)
        at = np.array([getattr(result.law, name) for name in ("A", "B", "E", "alpha", "beta")])
        return result.objective, at, result.certificate.agreeing_starts

    def bootstrap(self) -> np.ndarray:
        """(A, B, E, alpha, beta) [replicates, 5]; a default fit comes before it, as the user has it."""
        draws = self._run(128, REPLICATES).draws
        return draws[:, [1, 2, 0, 3, 4]]


def timed(work: Callable[[], Any], rounds: int = 1) -> tuple[float, Any]:
    """CPU seconds, the median of the rounds, and what the last one gave."""
    seconds, result = [], None
    with one_thread():  # both: a second BLAS thread only burns CPU seconds on matrices this small
        for _ in range(rounds):
            start = time.process_time()
            result = work()
            seconds.append(time.process_time() - start)
    return float(np.median(seconds)), result


def bench_analysis(rounds: int, data: str | None = None) -> list[dict[str, Any]]:
    """Rows of one table: seconds of both, their ratio, who ends lower, how far the results are apart.

    scipy's jobs take half a minute each and run once, ours `rounds` times.
    """
    N, D, loss = published_rows(data) if data else planted_rows()
    theirs, ours = ScipyFit(N, D, loss), Ours(N, D, loss)
    ours._run(16, 2)  # imports and first-use costs are no part of either
    slow, (value, at, agree) = timed(theirs.fit)
    fast, (our_value, our_at, our_agree) = timed(ours.fit, rounds)
    rows = [
        {
            "job": f"fit, {STARTS} starts, {len(N)} rows",
            "scipy_seconds": slow,
            "ours_seconds": fast,
            "times_faster": slow / fast,
            "lower": _lower(our_value, value),
            "apart": float(np.abs(our_at / at - 1).max()),
            "starts_there": f"{our_agree:.0%} ours, {agree:.0%} scipy",
        }
    ]
    picks = resampled(len(N), REPLICATES, SEED)
    slow, (found, values) = timed(lambda: theirs.bootstrap(picks))
    fast, draws = timed(ours.bootstrap, rounds)
    errors, our_errors = found.std(axis=0, ddof=1), draws.std(axis=0, ddof=1)
    shown = np.column_stack([np.log(draws[:, :3]), draws[:, 3:]])
    our_values = np.array([theirs(point, rows_)[0] for point, rows_ in zip(shown, picks, strict=True)])
    lower = int((our_values < values * (1 - 1e-9)).sum())
    higher = int((our_values > values * (1 + 1e-9)).sum())
    rows.append(
        {
            "job": f"bootstrap, {REPLICATES} refits (standard errors)",
            "scipy_seconds": slow,
            "ours_seconds": fast,
            "times_faster": slow / fast,
            "lower": f"ours in {lower}, scipy in {higher} refits",
            "apart": float(np.abs(our_errors / errors - 1).max()),
            "starts_there": "",
        }
    )
    return rows


def _lower(ours: float, theirs: float) -> str:
    if abs(ours / theirs - 1) < 1e-9:
        return "equal to 1e-9"
    return f"{'ours' if ours < theirs else 'scipy'} by {abs(ours / theirs - 1):.1e}"
