"""Rows that look like checkpoints of runs that no column names are asked about; independent runs are not."""

import numpy as np
import pytest

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.chinchilla import Chinchilla
from analysis.questions import fit as fitting
from analysis.trust import clusters
from analysis.trust.residuals import Residuals
from tests.support import planted

SPEC = FitSpec(bootstrap=0, thorough=False, judge=False, starts=4)
GRIDS = 50


def checkpoints(
    seed: int,
    runs: int = 10,
    each: int = 8,
    shared: float = 0.005,
    own: float = 0.001,
    again: int = 1,
    drift: float = 1.0,
) -> Columns:
    """Runs of growing size; what a run has of its own (`shared`) is kept from checkpoint to checkpoint by `drift`."""
    stream = np.random.default_rng(seed)
    rows = []
    for N in np.repeat(np.geomspace(1e7, 1e9, runs), again):
        luck = shared * stream.normal()
        for D in 20 * N * np.geomspace(0.05, 1, each):
            rows.append((N, D, planted.TRUTH.predict(N, D) * np.exp(luck + own * stream.normal())))
            luck = drift * luck + np.sqrt(1 - drift**2) * shared * stream.normal()
    return planted.columns(*np.array(rows).T)


def independent(seed: int, design: str, heavy: bool = False) -> Columns:
    """Runs of their own: a few sizes that every budget has, sizes around each optimum, or every size with all tokens."""
    stream = np.random.default_rng(seed)
    rows = []
    sizes = np.geomspace(3e7, 3e9, 12)
    for budget in 10 ** (18 + 0.5 * np.arange(5)):
        middle = planted.TRUTH.optimum(budget)[0]
        own = middle * np.geomspace(0.3, 3, 7)
        if design == "common sizes":
            own = sizes[np.argsort(np.abs(np.log(sizes / middle)))[:7]]
        rows += [(N, budget / 6 / N) for N in own]
    N, D = np.array(rows).T
    if design == "lattice":
        N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(1e9, 1e11, 8)))
    scatter = stream.standard_t(2, len(N)) if heavy else stream.normal(size=len(N))
    return planted.columns(N, D, planted.TRUTH.predict(N, D) * np.exp(0.003 * scatter))


def asked(columns: Columns) -> bool:
    warnings = fitting.fit(columns, Chinchilla, SPEC).certificate.warnings
    return any("--columns=run=COLUMN" in text for text in warnings)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="luck of the run"),
        pytest.param({"shared": 0.003, "own": 0.002}, id="half of the scatter is the run's"),
        pytest.param({"own": 0.0, "drift": 0.9, "each": 15}, id="drift"),
        pytest.param({"runs": 4, "each": 15, "shared": 0.003}, id="so few runs that the law follows each"),
        pytest.param({"again": 3, "runs": 5}, id="several runs of one size"),
    ],
)
def test_checkpoints_without_a_run_are_asked_about(how):
    assert all(asked(checkpoints(seed, **how)) for seed in range(3))
    columns = checkpoints(0, **how)
    run = np.repeat(np.arange(len(columns)), how.get("each", 8))[: len(columns)].astype(str)
    named = Columns({**columns.values, "run": run}, columns.row, {}, ())
    assert not asked(named)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("design", ["common sizes", "own sizes", "lattice"])
def test_independent_runs_are_rarely_asked_about(design, heavy):
    """Residuals of the law that made them, so that many grids take no time; fits of some of them."""
    alarms = 0
    for seed in range(GRIDS):
        columns = independent(seed, design, heavy)
        residual = np.log(planted.TRUTH.predict(columns["N"], columns["D"]) / columns["loss"])
        alarms += bool(clusters.warn_of_clusters(columns, Residuals.of(residual, columns), 5))
    assert alarms <= 0.04 * GRIDS
    assert not any(asked(independent(seed, design, heavy)) for seed in range(2))
