"""The gradient noise scale foretells the critical batch that a sweep of batches measures.

recorded/critical_batch.csv is what `sweeps.collect --evaluations` wrote of sweeps/studies/critical_batch.py, without the columns
that are not looked at here.
"""

import pathlib

import numpy as np
import pandas as pd

from analysis.grid.table import Columns
from analysis.procedures import batch

RECORDED = pathlib.Path(__file__).parent / "recorded" / "critical_batch.csv"
LOSSES = (2.5, 2.4, 2.3, 2.2, 2.1)


def columns(frame: pd.DataFrame, roles: dict[str, str]) -> Columns:
    values = {role: frame[name].to_numpy() for role, name in roles.items()}
    return Columns(values, np.arange(len(frame)), roles, ())


def scale_at(frame: pd.DataFrame, run: str, loss: float) -> float:
    """The noise scale of a run where it first reaches a loss."""
    curve = frame[frame["run"] == run].sort_values("step")
    return float(curve.loc[curve["loss_nats"] <= loss, "noise_scale_tokens"].iloc[0])


def test_the_noise_scale_foretells_the_critical_batch():
    """Within a factor of two at every loss, in every batch with some sequences in its halves; both rise as the loss falls."""
    frame = pd.read_csv(RECORDED)
    curves = columns(frame, {"run": "run", "S": "step", "batch": "batch_tokens", "loss": "loss_nats"})
    crossings = batch.contours(curves, LOSSES)
    reached = pd.DataFrame({role: crossings[role] for role in ("loss", "batch", "S", "run")})
    # Of each batch the run at the rate that suits it.
    best = reached.loc[reached.groupby(["loss", "batch"])["S"].idxmin()]
    measured = batch.critical_batches(columns(best, {"loss": "loss", "batch": "batch", "S": "S"}))
    critical = dict(zip(measured["loss"].tolist(), measured["critical_batch"].tolist(), strict=True))
    assert sorted(critical) == sorted(LOSSES)
    means = []
    for loss in LOSSES:
        large = best[(best["loss"] == loss) & (best["batch"] >= 256)]
        scales = [scale_at(frame, run, loss) for run in large["run"]]
        assert len(scales) == 3
        for scale in scales:
            assert 1 / 2 < scale / critical[loss] < 2, (loss, scale, critical[loss])
        means.append(float(np.exp(np.mean(np.log(scales)))))
        assert 1 / 1.5 < means[-1] / critical[loss] < 1.5
    assert means == sorted(means) and means[-1] > 2 * means[0], "noise grows as the loss falls"
