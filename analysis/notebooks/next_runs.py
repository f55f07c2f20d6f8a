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
import analysis as lab

grid = lab.read("runs.csv", N="params", D="tokens", loss="val_loss", where="note != 'stopped'")
plan = lab.design(grid, "N@C=3e21", laws=["chinchilla", "kaplan"], budget=2e20, count=6, bootstrap=200)
plan

# %% [markdown]
# The target is any number that the laws give: here the parameters of the compute-optimal model at a hundred times the largest
# budget. Candidates are a lattice of sizes and tokens around the grid's. Laws that extrapolate nearly as well as the best
# one all count: a run that tells them apart is worth something.

# %%
plan.to_frame()

# %% [markdown]
# The same from the command line, with the candidates of a study:
# `python -m sweeps.plan --study=STUDY.py --runs=candidates.csv`, then
# `python -m analysis.design runs.csv --target="N@C=3e21" --budget=2e20 --candidates=candidates.csv --out=design.json`.
