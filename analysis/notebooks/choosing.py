# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Choosing a law
#
# A law that fits the runs it has seen says little. What counts is its error on runs that are larger than those it was
# fitted to. Here every law that a grid allows is fitted to the smaller budgets and asked about the larger ones.

# %%
import pathlib
import sys
import tempfile

# The notebook may have been started in any folder of the project.
here = pathlib.Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "analysis" / "laws").is_dir())
sys.path.insert(0, str(root))

import pandas as pd

from analysis import figures, laws
from analysis.figures import quality
from analysis.fitting.spec import FitSpec
from analysis.notebooks import grids
from analysis.questions import scoreboard

FOLDER = pathlib.Path(tempfile.mkdtemp())

# %%
grid, source = grids.demo(FOLDER)
print(f"{len(grid.frame)} rows: {source}")
possible = scoreboard.applicable(grid, None, None)
names = [law.NAME for law in possible]
print("laws that this grid has the columns of:", ", ".join(names))

# %% [markdown]
# ## The scoreboard
# All laws are tested on the same splits. `held_out_rms` is the relative error on runs beyond the fitted ones; AICc compares
# the fits to the runs that were seen.

# %%
chosen = [laws.load(name) for name in ("chinchilla", "kaplan", "overtraining")]
columns = scoreboard.together(grid, chosen, None, None)
scores = scoreboard.scoreboard(columns, chosen, FitSpec(bootstrap=100))
criteria = {score.law: score.aicc for score in scores}
weights = scoreboard.weights(criteria)
rows = []
for score in scores:
    row = {
        "law": score.law,
        "coefficients": score.coefficients,
        "held-out error": score.held_out_rms,
        "bias": score.held_out_bias,
        "covered": score.covered,
        "residual": score.rms_residual,
        "weight": weights[score.law],
        "not identified": ", ".join(score.not_identified) or score.reason,
    }
    rows.append(row)
pd.DataFrame(rows)

# %% [markdown]
# ## How the error grows with the reach
# The best law, split after split. A drift away from zero says that its form bends the wrong way.

# %%
best = scores[0]
figures.picture(quality.extrapolation, best.test) if best.test else best.reason

# %%
pd.DataFrame(best.test.by_factor()) if best.test else None

# %% [markdown]
# The same from the command line: `python -m analysis.scoreboard GRID --out=scoreboard.json`.
