# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Published grids
#
# The grids behind published laws, refitted: their numbers, ours, and what is wrong with some of them. The files are not part
# of the project. Set `LOSSGRID_GRIDS` to the folder that holds them (`chinchilla_epoch.csv`, ...); what is not there
# is skipped.

# %%
import pathlib
import sys

# The notebook may have been started in any folder of the project.
here = pathlib.Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "analysis" / "laws").is_dir())
sys.path.insert(0, str(root))

import importlib

import pandas as pd

from analysis import figures, laws
from analysis.figures import quality
from analysis.fitting.spec import FitSpec
from analysis.grid import selection, table
from analysis.laws.chinchilla import Chinchilla
from analysis.notebooks import grids
from analysis.published import STUDIES
from analysis.published.target import compare
from analysis.questions import fit
from analysis.reporting.survey import survey

# %%
studies = {}
files = {}
rows = {}
for name, module in STUDIES.items():
    study = importlib.import_module(f"analysis.published.{module}").STUDY
    studies[name] = study
    files[name] = [grids.published(file) for file in study.files]
    rows[name] = {
        "title": study.title,
        "files here": all(files[name]),
    }
pd.DataFrame(rows).T

# %% [markdown]
# ## Chinchilla, approach 3
# Besiroglu et al. 2024 read 245 runs off a figure of Hoffmann et al. 2022 and left five out.

# %%
path = grids.published("chinchilla_epoch.csv")
if path is None:
    print("chinchilla_epoch.csv is not here")
else:
    grid = table.load(path)
    columns = selection.select(grid, ("N", "D", "loss"), optional=("C",), where="in_published_fit == 1")
    result = fit.fit(columns, laws.load("chinchilla"), FitSpec(bootstrap=100))
    published = Chinchilla(E=1.8172, A=477.84, B=2143.86, alpha=0.34731, beta=0.36718)
    both = {"published": published.coefficients(), "ours": result.law.coefficients()}
    display(pd.DataFrame(both))
    everything = survey(grid, FitSpec(bootstrap=100), None, "in_published_fit == 1")
    display(figures.picture(quality.back_tests, everything))

# %% [markdown]
# ## Published numbers and ours
# Every number that a study states. Those of the other grids take minutes: name them in `wanted`.

# %%
wanted = ["clark"]
rows = []
for name in wanted:
    study = studies[name]
    if not all(files[name]):
        continue
    tables = {}
    for file, found in zip(study.files, files[name], strict=True):
        tables[file] = table.load(found)
    refitted = study.refit(tables)
    rows += compare(name, study, refitted)
listed = [vars(row) for row in rows]
pd.DataFrame(listed, columns=["study", "quantity", "published", "ours", "verdict", "note"])
