# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Planning the next runs
#
# Which runs narrow the number that you want to know most, for the FLOPs that you have?

# %%
import pathlib
import sys
import tempfile

# The notebook may have been started in any folder of the project.
here = pathlib.Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "analysis" / "laws").is_dir())
sys.path.insert(0, str(root))

import pandas as pd

from analysis.fitting.spec import FitSpec
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.kaplan import KaplanND
from analysis.notebooks import grids
from analysis.questions import design, scoreboard
from analysis.questions.backtest import largest_budget
from analysis.writing.numbers import human

FOLDER = pathlib.Path(tempfile.mkdtemp())

# %%
grid, source = grids.demo(FOLDER)
print(f"{len(grid.frame)} rows: {source}")
chosen = [Chinchilla, KaplanND]
columns = scoreboard.together(grid, chosen, None, None)
_, largest = largest_budget(columns)
print(f"largest budget: {largest:.3g} FLOPs")

# %% [markdown]
# ## A target, candidates, a budget
# The target is any number that the laws give: here the parameters of the compute-optimal model a hundred times beyond the
# largest budget. Candidates are a lattice of sizes and tokens, up to three times the largest budget each.

# %%
target = design.Target.parse(f"N@C={100 * largest}")
candidates = design.lattice(columns, 3 * largest)
spec = FitSpec(bootstrap=200)
plan = design.propose(columns, chosen, target, candidates, spec, 6 * largest, 8)
between = f"{human(plan.low)} to {human(plan.high)}"
print(f"N* = {human(plan.value)}, {plan.level:.0%} interval {between} before any new run")

# %%
rows = []
for step in plan.steps:
    row = {
        "N": human(plan.candidates["N"][step.candidate]),
        "D": human(plan.candidates["D"][step.candidate]),
        "FLOPs in all": f"{step.spent:.3g}",
        "low": human(step.low),
        "high": human(step.high),
    }
    rows.append(row)
pd.DataFrame(rows)

# %% [markdown]
# The same from the command line, with the candidates of a study:
# `python -m sweeps.plan --study=STUDY.py --runs=runs.csv`, then
# `python -m analysis.design GRID --target="loss@N=7e10,D=1.4e12" --budget=1e20 --candidates=runs.csv --out=design.json`.
