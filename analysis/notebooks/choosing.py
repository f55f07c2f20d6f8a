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
# fitted to. Here laws are fitted to the smaller budgets and asked about the larger ones.

# %%
import analysis as lab

grid = lab.read("runs.csv", N="params", D="tokens", loss="val_loss", where="note != 'stopped'")
laws = lab.list_laws()
laws[laws["columns"] == "N, D, loss"]

# %% [markdown]
# ## The scoreboard
# All laws are tested on the same splits. The held-out error is that on runs beyond the fitted ones; AICc compares the fits
# to the runs that were seen.

# %%
scores = lab.scoreboard(grid, ["chinchilla", "kaplan", "overtraining"], bootstrap=100)
scores

# %% [markdown]
# ## How the error grows with the reach
# The best law, split after split. A drift away from zero says that its form bends the wrong way.

# %%
best = scores.scores[0]
fit = lab.fit(grid, best.law, bootstrap=200)
fit.plot.backtest()

# %%
fit.backtest().to_frame()
