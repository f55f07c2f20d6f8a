# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Comparing families
#
# Two families are compared by what their compute is worth: how many FLOPs of the baseline buy the loss that one FLOP of the
# other buys, how sure that is, and where it turns over.

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
from analysis.command_line.answers.compare import describe
from analysis.figures import families
from analysis.fitting.spec import FitSpec
from analysis.grid import selection
from analysis.laws.chinchilla import Chinchilla
from analysis.notebooks import grids
from analysis.questions import compare

FOLDER = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## The runs
# Planted here, so that the truth is known: a dense family, and a routed one that starts behind and overtakes. For your own
# runs load a grid with a column `family`.

# %%
routed = Chinchilla(E=1.63, A=430.0, B=440.0, alpha=0.34, beta=0.28)
dense_runs = grids.planted(family="dense", seed=1)
routed_runs = grids.planted(routed, family="routed", seed=2)
frame = pd.concat([dense_runs, routed_runs])
grid = grids.as_grid(frame, FOLDER / "families.parquet")
law = laws.load("chinchilla")
columns = selection.select(grid, (*law.ROLES, "family"), optional=("C",))

# %%
found = compare.compare(columns, Chinchilla, FitSpec(bootstrap=200))
coefficients = {}
for name, family in found.families.families.items():
    coefficients[name] = family.law.coefficients()
pd.DataFrame(coefficients).T

# %% [markdown]
# Whether the families may share exponents is tested, not assumed.

# %%
found.families.sharing

# %% [markdown]
# ## Exchange rates

# %%
figures.picture(families.exchange, found)

# %%
for name, crossing in found.crossings.items():
    print(f"{name} against {found.baseline}: {describe(crossing, 'FLOPs')}")

# %% [markdown]
# The same from the command line: `python -m analysis.compare GRID --by=family --baseline=dense --out=compare.json`. Grids
# with accelerator hours are also compared at equal hours.
