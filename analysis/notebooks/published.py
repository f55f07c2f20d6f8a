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
# The grid behind a published law, refitted: its numbers and ours. The files are not part of the project: `LOSSGRID_GRIDS` is
# the folder that holds them. `python -m analysis.published --data=DIR` does the same for every grid that it knows.

# %%
import os

import pandas as pd

import analysis as lab

folder = os.environ["LOSSGRID_GRIDS"]
grid = lab.read(f"{folder}/chinchilla_epoch.csv", where="in_published_fit == 1")
grid

# %% [markdown]
# ## Chinchilla, approach 3
# Besiroglu et al. 2024 read 245 runs off a figure of Hoffmann et al. 2022 and left five out.

# %%
fit = lab.fit(grid, "chinchilla", bootstrap=400)
fit

# %%
published = pd.Series({"E": 1.8172, "A": 477.84, "B": 2143.86, "alpha": 0.34731, "beta": 0.36718}, name="published")
fit.to_frame()[["value", "low", "high"]].join(published, how="right")

# %%
fit.plot.surface()

# %%
fit.plot.backtest()
