"""Optimizers with shared exponents: what one's parameters and tokens are worth in another's."""

import dataclasses

import numpy as np
import pytest

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.chinchilla import Chinchilla
from analysis.questions import compare, efficiency

ADAMW = Chinchilla(1.7, 400.0, 2000.0, 0.34, 0.37)
MUON = dataclasses.replace(ADAMW, A=400.0 * 1.1**-0.34, B=2000.0 * 2.08**-0.37)


def columns() -> Columns:
    """Rows of two optimizers: a token of muon is worth 2.08 of adamw, a parameter 1.1."""
    N, D = (values.ravel() for values in np.meshgrid(np.geomspace(5e7, 2e9, 4), np.geomspace(1e9, 1e11, 4)))
    names = np.repeat(["adamw", "muon"], len(N))
    loss = np.concatenate([ADAMW.predict(N, D), MUON.predict(N, D)])
    loss = loss * np.exp(0.0005 * np.random.default_rng(0).standard_normal(len(loss)))
    N = np.tile(N, 2)
    D = np.tile(D, 2)
    values = {"N": N, "D": D, "C": 6 * N * D, "loss": loss, "family": names}
    return Columns(values, np.arange(len(N)), {role: role for role in values}, ())


def test_optimizers_are_compared_by_what_their_tokens_are_worth():
    rows = columns()
    spec = FitSpec(bootstrap=40, starts=16)
    found = compare.compare(rows, Chinchilla, spec, baseline="adamw", shared=("E", "alpha", "beta"))
    of_size, of_data = efficiency.efficiencies(found.families, "adamw", 0.9)["muon"]
    assert (of_size.role, of_data.role) == ("N", "D")
    assert of_data.value == pytest.approx(2.08, rel=0.03) and of_size.value == pytest.approx(1.1, rel=0.03)
    assert of_data.interval is not None and of_data.interval.low < of_data.value < of_data.interval.high
    data = compare.to_json(found, Chinchilla, rows, 0.9, "", "")
    assert data["efficiency"]["muon"]["rho_D"]["value"] == of_data.value
    apart = compare.compare(rows, Chinchilla, FitSpec(bootstrap=0, starts=16), baseline="adamw", shared=())
    assert not efficiency.efficiencies(apart.families, "adamw", 0.9)
