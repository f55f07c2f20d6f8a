"""Grids for the notebooks: that of `make demo` where there is one, planted ones that need no training, published ones."""

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
    law: Chinchilla = TRUTH, budgets: int = 6, sizes: int = 7, noise: float = 0.004, seed: int = 0, **columns: object
) -> pd.DataFrame:
    """Runs of a law that we chose, half a decade of compute from budget to budget, with noise in ln loss."""
    stream = np.random.default_rng(seed)
    rows = []
    for C in 10 ** (17 + 0.5 * np.arange(budgets)):
        for N in law.optimum(C)[0] * np.geomspace(0.25, 4, sizes):
            loss = law.predict(N, C / 6 / N) * np.exp(noise * stream.normal())
            rows.append({"params_total": N, "tokens": C / 6 / N, "flops_total": C, "loss_nats": loss, **columns})
    return pd.DataFrame(rows)


def as_grid(frame: pd.DataFrame, path: str | pathlib.Path) -> Grid:
    """The table as a file and back, with a hash, as any grid."""
    stream = io.BytesIO()
    frame.to_parquet(stream)
    pathlib.Path(path).write_bytes(stream.getvalue())
    return load(path)


def demo(folder: str | pathlib.Path) -> tuple[Grid, str]:
    """The grid of `make demo`, or a planted one (written into `folder`); and which it is, in words."""
    ours = ROOT / "demo" / "grid.parquet"
    if ours.exists():
        return load(ours), "the runs of `make demo`"
    return as_grid(planted(), pathlib.Path(folder) / "planted.parquet"), "a planted grid; `make demo` trains a real one"


def published(name: str) -> pathlib.Path | None:
    """The file of a published grid in the folder that LOSSGRID_GRIDS names; None where it is not there."""
    path = pathlib.Path(os.environ.get(FOLDER, "published")) / name
    return path if path.exists() else None
