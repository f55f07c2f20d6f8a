"""Loss grids from a law that we chose, for the tests of analysis/."""

import pathlib
import re

import numpy as np
import pandas as pd

from analysis.grid.table import Columns, Grid
from analysis.laws.chinchilla import Chinchilla

GRIDS = pathlib.Path(__file__).parents[3] / "shared" / "grids"
EPOCH = GRIDS / "chinchilla_epoch.csv"
TRUTH = Chinchilla(E=1.7, A=400.0, B=2000.0, alpha=0.34, beta=0.37)


def columns(N: np.ndarray, D: np.ndarray, loss: np.ndarray) -> Columns:
    return Columns({"N": N, "D": D, "loss": loss}, np.arange(len(N)), {}, ())


def isoflop_frame(
    law: Chinchilla = TRUTH,
    budgets: int = 5,
    sizes: int = 7,
    noise: float = 0.0,
    jitter: float = 0.0,
    off_centre: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Budgets half a decade apart, sizes over a decade around (or beside) the optimum; columns as other people name them."""
    stream = np.random.default_rng(seed)
    rows = []
    for budget in 10 ** (18 + 0.5 * np.arange(budgets)):
        middle = law.optimum(budget)[0] * off_centre
        for size in middle * np.geomspace(10**-0.5, 10**0.5, sizes):
            C = budget * np.exp(jitter * stream.normal())
            D = C / 6 / size
            loss = law.predict(size, D) * np.exp(noise * stream.normal())
            rows.append({"params": size, "tokens": D, "flops": C, "loss": loss})
    return pd.DataFrame(rows)


def grid(frame: pd.DataFrame) -> Grid:
    return Grid("grid.csv", frame, "0" * 64)


def our_frame() -> pd.DataFrame:
    """A grid as sweeps.collect writes it: IsoFLOP runs, a learning-rate bracket, a run that diverged."""
    frame = isoflop_frame(budgets=4, sizes=5, noise=0.002, seed=3)
    frame = frame.rename(columns={"params": "params_total", "flops": "flops_total", "loss": "loss_nats"})
    frame["budget_flops"] = np.repeat(10 ** (18 + 0.5 * np.arange(4)), 5)
    frame["params_no_embed"] = 0.8 * frame["params_total"]
    frame["flops_6nd"] = 6 * frame["params_total"] * frame["tokens"]
    frame["flops_total"] = 1.2 * frame["flops_6nd"]
    frame = frame.assign(
        family="dense", seed=0, group="isoflop", status="complete", reason="", lr=4e-3, batch_tokens=4096
    )
    bracket = pd.concat([frame.iloc[[7]]] * 5, ignore_index=True)
    bracket["lr"] = [5e-4, 1e-3, 2e-3, 8e-3, 1.6e-2]
    bracket["loss_nats"] *= 1 + 0.02 * np.log2(bracket["lr"] / 3e-3) ** 2
    bracket["group"] = "lr_bracket"
    wild = frame.iloc[[7]].assign(group="lr_bracket", status="diverged", reason="loss is nan", loss_nats=np.nan, lr=0.1)
    return pd.concat([frame, bracket, wild], ignore_index=True)


def outside_references(html: str) -> list[str]:
    """What a browser would fetch for this page; links that a reader may follow are not."""
    inside = re.sub(r'xmlns(:\w+)?="[^"]*"|<a href="report_figures/\w+\.(svg|png)">', "", html)
    return re.findall(
        r"""(?:src|href|action|data)\s*=\s*["'](?!#)[^"']*|url\((?!#|['"]?#)[^)]*\)|@import|<link""", inside
    )
