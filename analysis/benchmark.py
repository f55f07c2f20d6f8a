"""Measure how fast fits are: Chinchilla's approach 3 fitted by ours, by scipy and by variable projection, side by side.

    python -m analysis.benchmark                              # planted rows, about a minute
    python -m analysis.benchmark --data=chinchilla_epoch.csv  # the published grid

fit        4500 starts: ours (exponents on a grid, prefactors solved for, damped Newton on all at once) against scipy's
           L-BFGS-B from the 4500 starts of Besiroglu et al. 2024
bootstrap  4000 refits to resampled rows: ours against scipy's BFGS from one start, the constants of Hoffmann et al. 2022

one fit    approach 3 without replicates, by least squares and by Huber's loss of plain residuals: ours from 128 starts, with
           its certificate, against the published method of vpnls, for which a stand-in is timed (solve/projected_fit)

Both of scipy's get the analytic gradient. One process, the same rows, resampled by the same stream. Seconds are of the
process's own CPU time, which other work on the machine does not lengthen; OMP_NUM_THREADS=1 keeps it to one thread.
"""

from collections.abc import Callable, Sequence
import functools
import time
from typing import Any

from absl import flags
import numpy as np

from analysis.published.scipy_fit import ScipyFit, resampled
from analysis.solve.newton import one_thread
from analysis.solve.objective import Objective
from analysis.solve.projected_fit import ProjectedFit
from analysis.writing.terminal import open_console
from experiments import cli

STARTS = 4500
REPLICATES = 4000
ONE_FIT = 128  # starts of a fit as the user has it
DELTA = 1e-3  # of Huber's loss
SEED = 42
EQUAL = 1e-9  # relative difference of objectives from which on one is lower


def planted_rows(count: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (N, D, loss) of runs on nine IsoFLOP budgets with noise and a few outliers, like the published grid."""
    draw = np.random.default_rng(0)
    C = 10 ** draw.choice(np.linspace(18.7, 21.5, 9), count)
    N = 3.0e7 * (C / 10**18.7) ** 0.5 * 10 ** draw.uniform(0.0, 1.2, count)
    D = C / 6 / N
    noise = 4e-3 * draw.standard_t(2.5, count)
    loss = (1.8172 + 482.01 / N**0.3478 + 2085.43 / D**0.3658) * np.exp(noise)
    return N, D, loss


def published_rows(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (N, D, loss) of a grid file, without the five highest losses, as Besiroglu et al. 2024 fit it."""
    from analysis.grid.table import load
    from analysis.published.chinchilla import columns_of

    columns = columns_of(load(path))
    return columns["N"], columns["D"], columns["loss"]


class Ours:
    """The same two jobs for analysis.fit."""

    def __init__(self, N: np.ndarray, D: np.ndarray, loss: np.ndarray):
        from analysis.grid.table import Columns

        self.columns = Columns({"N": N, "D": D, "loss": loss}, np.arange(len(N)), {}, ())

    def run(self, starts: int, bootstrap: int, objective: Objective | None = None) -> Any:
        """Fit from so many starts, with so many refits, by the law's own objective unless one is given."""
        from analysis.fitting.spec import FitSpec
        from analysis.laws.chinchilla import Chinchilla
        from analysis.questions.fit import fit

        # Without profiles, which scipy's fit has not either.
        spec = FitSpec(
            objective=objective,
            bootstrap=bootstrap,
            starts=starts,
            seed=SEED,
            thorough=False,
            judge=False,
        )
        return fit(self.columns, Chinchilla, spec)

    def fit(self, starts: int = STARTS, objective: Objective | None = None) -> tuple[float, np.ndarray, float]:
        """Return what ScipyFit.fit does: lowest objective, (A, B, E, alpha, beta), share of starts that end there."""
        result = self.run(starts, 0, objective)
        at = np.array([getattr(result.law, name) for name in ("A", "B", "E", "alpha", "beta")])
        return result.objective, at, result.certificate.agreeing_starts or 0.0

    def bootstrap(self) -> np.ndarray:
        """Return (A, B, E, alpha, beta) [replicates, 5]; a default fit comes before it, as the user has it."""
        draws = self.run(128, REPLICATES).draws
        return draws[:, [1, 2, 0, 3, 4]]


def timed(work: Callable[[], Any], rounds: int = 1) -> tuple[float, Any]:
    """Return CPU seconds, the median of the rounds, and what the last one gave."""
    seconds = []
    result = None
    with one_thread():  # both: a second BLAS thread only burns CPU seconds on matrices this small
        for _ in range(rounds):
            start = time.process_time()
            result = work()
            seconds.append(time.process_time() - start)
    return float(np.median(seconds)), result


def bench_analysis(rounds: int, data: str | None = None) -> list[dict[str, Any]]:
    """Return rows of one table: seconds of both, their ratio, who ends lower, how far the results are apart.

    scipy's jobs take half a minute each and run once, ours `rounds` times.
    """
    N, D, loss = published_rows(data) if data else planted_rows()
    theirs = ScipyFit(N, D, loss)
    ours = Ours(N, D, loss)
    ours.run(16, 2)  # imports and first-use costs are no part of either
    return [_bench_fit(ours, theirs, len(N), rounds), _bench_bootstrap(ours, theirs, len(N), rounds)]


def _bench_fit(ours: Ours, theirs: ScipyFit, rows: int, rounds: int) -> dict[str, Any]:
    """Fit from thousands of starts both ways: seconds, and whether the optimum is the same."""
    slow, (value, at, agree) = timed(theirs.fit)
    fast, (our_value, our_at, our_agree) = timed(lambda: ours.fit(STARTS), rounds)
    return {
        "job": f"fit, {STARTS} starts, {rows} rows",
        "scipy_seconds": slow,
        "ours_seconds": fast,
        "times_faster": slow / fast,
        "lower": _lower(our_value, value),
        "apart": float(np.abs(our_at / at - 1).max()),
        "starts_there": f"{our_agree:.0%} ours, {agree:.0%} scipy",
    }


def _bench_bootstrap(ours: Ours, theirs: ScipyFit, rows: int, rounds: int) -> dict[str, Any]:
    """Refit to resampled rows both ways: seconds, standard errors, and how often either end is lower."""
    picks = resampled(rows, REPLICATES, SEED)
    slow, (found, values) = timed(lambda: theirs.bootstrap(picks))
    fast, draws = timed(ours.bootstrap, rounds)
    errors = found.std(axis=0, ddof=1)
    our_errors = draws.std(axis=0, ddof=1)
    # Our refits under scipy's objective, whose first three parameters are logarithms.
    points = np.column_stack([np.log(draws[:, :3]), draws[:, 3:]])
    our_values = np.array([theirs(point, picked)[0] for point, picked in zip(points, picks, strict=True)])
    lower = np.count_nonzero(our_values < values * (1 - EQUAL))
    higher = np.count_nonzero(our_values > values * (1 + EQUAL))
    return {
        "job": f"bootstrap, {REPLICATES} refits (standard errors)",
        "scipy_seconds": slow,
        "ours_seconds": fast,
        "times_faster": slow / fast,
        "lower": f"ours in {lower}, scipy in {higher} refits",
        "apart": float(np.abs(our_errors / errors - 1).max()),
        "starts_there": "",
    }


def bench_one_fit(rounds: int, data: str | None = None) -> list[dict[str, Any]]:
    """Return rows of a table like that of `bench_analysis`: one fit beside the published method of vpnls."""
    N, D, loss = published_rows(data) if data else planted_rows()
    ours = Ours(N, D, loss)
    found = []
    for kind, delta in (("least_squares", np.inf), ("huber", DELTA)):
        objective = Objective(kind, "raw", DELTA)
        theirs = ProjectedFit(N, D, loss, delta)
        ours.fit(ONE_FIT, objective)  # first-use costs
        theirs.fit()
        slow, (value, at) = timed(theirs.fit, rounds)
        fast, (our_value, our_at, agree) = timed(functools.partial(ours.fit, ONE_FIT, objective), rounds)
        row = {
            "job": f"one fit by {kind.replace('_', ' ')}, {len(N)} rows",
            "vpnls_method_seconds": slow,
            "ours_seconds": fast,
            "times_faster": slow / fast,
            "lower": _lower(our_value, value, "theirs"),
            "apart": float(np.abs(our_at / at - 1).max()),
            "starts_there": f"{agree:.0%} ours",
        }
        found.append(row)
    return found


def _lower(ours: float, theirs: float, name: str = "scipy") -> str:
    """Say whose optimum is lower, and by how much."""
    difference = abs(ours / theirs - 1)
    if difference < EQUAL:
        return "equal to 1e-9"
    return f"{'ours' if ours < theirs else name} by {difference:.1e}"


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    open_console().print(table)


def main(_: list[str]) -> None:
    """Run the command line."""
    from analysis.writing.output_file import check_writable, write

    given = flags.FLAGS
    if given.out:
        check_writable(given.out, "--out")
    rows = bench_analysis(given.rounds, given.data)
    show("fits, ours beside scipy's", rows)
    single = bench_one_fit(given.rounds, given.data)
    show("one fit, ours beside the published method of vpnls", single)
    if given.out:
        write(given.out, {"schema": 1, "analysis": rows, "one_fit": single}, "--out")
        print(f"written: {given.out}")


if __name__ == "__main__":
    cli.define_path("data", None, "The grid to fit (chinchilla_epoch.csv); planted rows without it.")
    cli.define_integer("rounds", 5, "How often ours runs; scipy's runs once.", lower_bound=1)
    cli.define_output("out", "The JSON file to write.")
    cli.run(main)
