"""Plant loss grids of known laws, in the designs that people own: what an interval says can then be compared with the truth."""

from collections.abc import Callable
import dataclasses
import functools

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import FLOPS_PER_PARAM_TOKEN
from analysis.laws.chinchilla import Chinchilla

NOISE = 0.003  # standard deviation of ln loss between two runs that differ in their seed alone
WITHIN_RUN = 0.001  # of ln loss between checkpoints of one run
TOKENS_PER_PARAM = 20.0  # of a ladder, after Hoffmann et al. 2022
AHEAD = 10.0  # times the largest compute: where predictions are tried
CHECKPOINTS = 15  # of a run
LADDER_RUNS = 20
REFERENCE = (1e9, 2e10)  # N and D at which the two terms of a planted law have a known size


@dataclasses.dataclass(frozen=True)
class Planted:
    """Hold the rows that `truth` and noise made.

    line: N and D where the grid's own line is at AHEAD times its largest compute. budget: that compute, FLOPs.
    """

    columns: Columns
    truth: Chinchilla
    line: dict[str, float]

    @property
    def budget(self) -> float:
        """AHEAD times the largest compute of the grid, FLOPs."""
        return FLOPS_PER_PARAM_TOKEN * self.line["N"] * self.line["D"]


@dataclasses.dataclass(frozen=True)
class Design:
    """Name a way to lay out runs, and say how to plant a grid of it from a stream of random numbers."""

    about: str
    plant: Callable[[np.random.Generator], Planted]


def draw_law(stream: np.random.Generator) -> Chinchilla:
    """Draw a law whose terms have the sizes and exponents of published fits of approach 3."""
    N, D = REFERENCE
    alpha = stream.uniform(0.28, 0.4)
    beta = stream.uniform(0.26, 0.4)
    of_size = stream.uniform(0.25, 0.45)
    of_data = stream.uniform(0.3, 0.6)
    return Chinchilla(
        E=stream.uniform(1.5, 2.0),
        A=of_size * N**alpha,
        B=of_data * D**beta,
        alpha=alpha,
        beta=beta,
    )


def draw_error(rows: int, stream: np.random.Generator) -> np.ndarray:
    """Draw how far ln loss lies from the law [rows]."""
    return NOISE * stream.standard_normal(rows)


def isoflop_sizes(
    truth: Chinchilla,
    rows: int,
    budgets: int,
    stream: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Lay runs over a decade of sizes around the optimum of each budget: N [rows] and D [rows]."""
    number = np.arange(rows)
    of_budget = number % budgets
    place = number // budgets
    last = max(place.max(), 1)
    decades = place / last - 0.5
    decades += 0.02 * stream.standard_normal(rows)
    C = np.geomspace(1e18, 1e21, budgets)[of_budget]
    best, _ = truth.optimum(C)
    N = best * 10**decades
    D = C / FLOPS_PER_PARAM_TOKEN / N
    return N, D


def grid_of(
    truth: Chinchilla,
    N: np.ndarray,
    D: np.ndarray,
    error: np.ndarray,
    line: dict[str, float] | None = None,
    **more: np.ndarray,
) -> Planted:
    """Make a grid: ln loss is the law's plus `error` [rows]. Its line goes on from the runs of largest compute."""
    loss = truth.predict(N, D) * np.exp(error)
    values = {"N": N, "D": D, "loss": loss, **more}
    sources = {role: role for role in values}
    columns = Columns(values, np.arange(len(N)), sources, ())
    return Planted(columns, truth, line or _own_line(N, D))


def _own_line(N: np.ndarray, D: np.ndarray) -> dict[str, float]:
    """Go on from the runs of largest compute, with both N and D growing alike."""
    compute = N * D
    largest = compute > 0.99 * compute.max()
    further = np.sqrt(AHEAD * compute.max() / compute[largest].mean())
    middle_n = np.exp(np.log(N[largest]).mean())
    middle_d = compute.max() / middle_n
    return {"N": float(middle_n * further), "D": float(middle_d * further)}


def plant_isoflop(rows: int, budgets: int, stream: np.random.Generator) -> Planted:
    """Plant IsoFLOP curves."""
    truth = draw_law(stream)
    N, D = isoflop_sizes(truth, rows, budgets, stream)
    return grid_of(truth, N, D, draw_error(rows, stream))


def plant_ladder(jitter: float, stream: np.random.Generator) -> Planted:
    """Plant a ladder of sizes whose tokens follow from their parameters but for a jitter of ln D."""
    truth = draw_law(stream)
    N = np.geomspace(1e7, 1e10, LADDER_RUNS)
    D = TOKENS_PER_PARAM * N * np.exp(jitter * stream.standard_normal(LADDER_RUNS))
    further = np.sqrt(AHEAD)
    line = {"N": float(N[-1] * further), "D": float(TOKENS_PER_PARAM * N[-1] * further)}
    return grid_of(truth, N, D, draw_error(LADDER_RUNS, stream), line)


def plant_one_size(stream: np.random.Generator) -> Planted:
    """Plant models of one size on ever more tokens."""
    truth = draw_law(stream)
    D = np.geomspace(1e9, 1e12, LADDER_RUNS)
    N = np.full(LADDER_RUNS, 1e9)
    line = {"N": 1e9, "D": float(AHEAD * D[-1])}
    return grid_of(truth, N, D, draw_error(LADDER_RUNS, stream), line)


def plant_runs(runs: int, stream: np.random.Generator) -> Planted:
    """Plant the checkpoints of a few runs: those of one run share most of their error."""
    truth = draw_law(stream)
    sizes = np.geomspace(2e7, 2e9, runs)
    N = np.repeat(sizes, CHECKPOINTS)
    ratios = np.geomspace(2.0, 60.0, CHECKPOINTS)
    D = N * np.tile(ratios, runs)
    of_run = draw_error(runs, stream)
    error = np.repeat(of_run, CHECKPOINTS) + WITHIN_RUN * stream.standard_normal(len(N))
    run = np.repeat([f"run{at}" for at in range(runs)], CHECKPOINTS)
    return grid_of(truth, N, D, error, run=run)


def plant_censored(stream: np.random.Generator) -> Planted:
    """Plant IsoFLOP curves of which 12 of 42 runs were stopped early: their losses only bound the law from above."""
    truth = draw_law(stream)
    N, D = isoflop_sizes(truth, 42, 6, stream)
    error = draw_error(42, stream)
    stopped = stream.permutation(42) < 12
    error[stopped] += stream.uniform(0.15, 0.65, 12)
    return grid_of(truth, N, D, error, censored=stopped.astype(np.float64))


def plant_heavy_tails(stream: np.random.Generator) -> Planted:
    """Plant IsoFLOP curves whose noise has Student's distribution of 1.5 degrees: its variance is infinite."""
    truth = draw_law(stream)
    N, D = isoflop_sizes(truth, 42, 6, stream)
    return grid_of(truth, N, D, NOISE * stream.standard_t(1.5, 42))


def plant_outliers(stream: np.random.Generator) -> Planted:
    """Plant IsoFLOP curves of which 4 of 42 runs went wrong by 5 to 30%."""
    truth = draw_law(stream)
    N, D = isoflop_sizes(truth, 42, 6, stream)
    error = draw_error(42, stream)
    wrong = stream.permutation(42) < 4
    error[wrong] += stream.uniform(0.05, 0.3, 4)
    return grid_of(truth, N, D, error)


def plant_scattered(stream: np.random.Generator) -> Planted:
    """Plant 20 to 200 runs scattered around the optima of some budgets, noise 0.2 to 1%, 4% of the runs far above."""
    truth = draw_law(stream)
    rows = round(20 * 10 ** stream.uniform(0, 1))
    times_noise = 5 ** stream.uniform(0, 1) * 2 / 3
    budgets = min(max(rows // 5, 4), 9)
    C = stream.permutation(np.resize(np.geomspace(1e18, 3e21, budgets), rows))
    best, _ = truth.optimum(C)
    decades = stream.uniform(-0.75, 0.75, rows)
    N = best * 10**decades
    D = C / FLOPS_PER_PARAM_TOKEN / N
    error = draw_error(rows, stream)
    is_out = stream.random(rows) < 0.04
    above = NOISE * stream.uniform(5, 15, rows)
    error += np.where(is_out, above, 0.0)
    return grid_of(truth, N, D, times_noise * error)


ISOFLOP = {8: 4, 20: 4, 42: 6, 200: 8, 1000: 10, 5000: 10}  # rows -> budgets
JITTERS = (0, 1, 2, 5, 10, 20)  # percent
FEW_RUNS = (4, 5, 6, 8, 10)


def _designs() -> dict[str, Design]:
    """Return every design by the name that the command takes."""
    found = {}
    for rows, budgets in ISOFLOP.items():
        about = f"IsoFLOP curves: {rows} runs of {budgets} budgets"
        found[f"isoflop_{rows}"] = Design(about, functools.partial(plant_isoflop, rows, budgets))
    for percent in JITTERS:
        about = f"ladder: {LADDER_RUNS} sizes, D = 20 N, jitter of D {percent}%"
        found[f"ladder_{percent}"] = Design(about, functools.partial(plant_ladder, percent / 100))
    found["one_size"] = Design(f"one size, {LADDER_RUNS} token counts", plant_one_size)
    for runs in FEW_RUNS:
        about = f"{CHECKPOINTS} checkpoints of each of {runs} runs"
        found[f"runs_{runs}"] = Design(about, functools.partial(plant_runs, runs))
    found["censored"] = Design("IsoFLOP curves: 12 of 42 runs stopped early", plant_censored)
    found["heavy_tails"] = Design("IsoFLOP curves: 42 runs, noise t(1.5)", plant_heavy_tails)
    found["scattered"] = Design("20 to 200 runs around the optimum, noise 0.2 to 1%, 4% far above", plant_scattered)
    found["outliers"] = Design("IsoFLOP curves: 4 of 42 runs went wrong by 5 to 30%", plant_outliers)
    return found


DESIGNS = _designs()
