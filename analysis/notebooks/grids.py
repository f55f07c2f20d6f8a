"""Give the notebooks their grids.

These are that of `make demo` where there is one, planted ones that need no training, and published ones.
"""

import io
import os
import pathlib

import numpy as np
import pandas as pd

from analysis.grid.table import Grid, load
from analysis.laws.chinchilla import Chinchilla

ROOT = pathlib.Path(__file__).parents[2]
TRUTH = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
FOLDER = "LOSSGRID_GRIDS"  # environment variable: where published grids lie


def planted(
    law: Chinchilla = TRUTH,
    budgets: int = 6,
    sizes: int = 7,
    noise: float = 0.004,
    seed: int = 0,
    **columns: object,
) -> pd.DataFrame:
    """Make runs of a law that we chose, half a decade of compute from budget to budget, with noise in ln loss."""
    stream = np.random.default_rng(seed)
    exponents = 17 + 0.5 * np.arange(budgets)
    rows = []
    for C in 10**exponents:
        best, _ = law.optimum(C)
        for N in best * np.geomspace(0.25, 4, sizes):
            D = C / 6 / N
            scatter = np.exp(noise * stream.normal())
            loss = law.predict(N, D) * scatter
            row = {
                "params_total": N,
                "tokens": D,
                "flops_total": C,
                "loss_nats": loss,
            }
            rows.append(row | columns)
    return pd.DataFrame(rows)


def as_grid(frame: pd.DataFrame, path: str | pathlib.Path) -> Grid:
    """Write the table to a file and read it back, with a hash, as any grid."""
    stream = io.BytesIO()
    frame.to_parquet(stream)
    pathlib.Path(path).write_bytes(stream.getvalue())
    return load(path)


def demo(folder: str | pathlib.Path) -> tuple[Grid, str]:
    """Return the grid of `make demo`, or a planted one (written into `folder`); and which it is, in words."""
    ours = ROOT / "demo" / "grid.parquet"
    if ours.exists():
        return load(ours), "the runs of `make demo`"
    path = pathlib.Path(folder) / "planted.parquet"
    return as_grid(planted(), path), "a planted grid; `make demo` trains a real one"


def published(name: str) -> pathlib.Path | None:
    """Return the file of a published grid in the folder that LOSSGRID_GRIDS names; None where it is not there."""
    folder = os.environ.get(FOLDER, "published")
    path = pathlib.Path(folder) / name
    return path if path.exists() else None
