"""How much cheaper a run reached its loss than runs from scratch do."""

from collections.abc import Sequence

from jaxtyping import Float
import numpy as np


def speedup(
    flops_grown: float, loss_grown: float, flops_scratch: Sequence[float], loss_scratch: Sequence[float]
) -> Float[np.ndarray, ""]:
    """FLOPs_scratch / FLOPs_grown - 1 at equal loss (Du et al. 2024, eq. 48): 0.546 is "54.6% faster".

    `flops_grown` counts all ancestors (the column flops_lineage). The FLOPs from scratch are interpolated between runs
    of several budgets, straight in log FLOPs over loss. nan where the loss lies outside of theirs: nothing is extrapolated.
    """
    order = np.argsort(loss_scratch)
    loss, flops = np.asarray(loss_scratch, float)[order], np.asarray(flops_scratch, float)[order]
    log_flops = np.interp(loss_grown, loss, np.log(flops), left=np.nan, right=np.nan)
    return np.asarray(np.exp(log_flops) / flops_grown - 1)
