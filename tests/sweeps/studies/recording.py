"""Make a recorded grid of what a study has given: without what no law looks at.

python -m tests.sweeps.studies.recording grid.csv tests/sweeps/studies/recorded/STUDY.csv
"""

import re
import sys

import pandas as pd

from analysis import laws
from analysis.grid.roles import ROLES, usual_names

# How a run was carried out, and what follows from other columns.
DROPPED = re.compile(
    r"fingerprint|name|reason|rule_.*|seconds.*|wall_seconds|packing.*|steps|steps_done|eval_tokens|lossless|parent|"
    r"flops_(?!total|lineage).*|schedule_.*|loss_nats_sem|evaluation_.*|task_\w+_sem|devices|accelerator_seconds|kwh"
)
ENTROPY = re.compile(r"entropy_.*")  # a loss above it is a formula of columns


def reduced(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep what varies and what a law may ask for."""
    assert laws.LAWS, "loading the laws declares their roles"
    asked_for = {name for role in ROLES for name in usual_names(role)}
    kept = []
    for name in frame.columns:
        column = pd.Series(frame[name])
        varies = column.nunique(dropna=False) > 1
        told = column.count() > 0
        wanted = name in asked_for or ENTROPY.fullmatch(name)
        if told and not DROPPED.fullmatch(name) and (varies or wanted):
            kept.append(name)
    return pd.DataFrame(frame[kept])


if __name__ == "__main__":
    source, out = sys.argv[1:]
    reduced(pd.read_csv(source)).to_csv(out, index=False, float_format="%.9g")
