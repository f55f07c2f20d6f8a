"""Laws find the entropy of a text that is known exactly: recorded/known_entropy.csv is what sweeps/studies/known_entropy.py gave."""

import pathlib
import re

import pandas as pd
import pytest

from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select
from analysis.grid.table import load
from analysis.laws import LAWS
from analysis.questions.fit import fit
from experiments.data.sources import synthetic
from sweeps.studies import known_entropy

GRID = pathlib.Path(__file__).parent / "recorded" / "known_entropy.csv"


def test_the_entropy_in_the_grid_is_that_of_the_chain():
    frame = pd.read_csv(GRID)
    (corpus,) = frame["data_corpus"].unique()
    module, options = synthetic.parse(corpus)
    exact = module.Process(options).entropy()
    assert frame["entropy_nats"].to_numpy() == pytest.approx(exact.nats, rel=1e-12)
    assert exact.method == "exact" and (frame["entropy_nats_error"] == 0).all()
    assert (frame["loss_nats"] > exact.nats).all(), "nobody predicts better than who knows the chain"


def test_the_irreducible_loss_of_a_law_is_the_entropy():
    """Within two per cent, and identified: by the line of the study that says how it is fitted."""
    line = re.search(r"^Fit: --law=(\w+) --columns=(\S+)$", known_entropy.__doc__ or "", re.MULTILINE)
    assert line is not None
    law = LAWS[line[1]]
    grid = load(str(GRID))
    columns = select(grid, law.ROLES, columns=line[2])
    found = fit(columns, law, FitSpec(bootstrap=0))
    (entropy,) = pd.read_csv(GRID)["entropy_nats"].unique()
    assert "E" not in found.verdict.unknown
    irreducible = found.law.E
    assert irreducible == pytest.approx(entropy, rel=0.02)
