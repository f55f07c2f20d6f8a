# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # A law from your own CSV
#
# You have a table with one row a run: how large the model was, how many tokens it saw, which loss it reached. This notebook
# turns it into a law, asks whether the law should be believed, and says what a larger budget would give. Put your file in
# place of `runs.csv` and your column names in place of these.

# %%
import analysis as lab

grid = lab.read("runs.csv", N="params", D="tokens", loss="val_loss", where="note != 'stopped'")
grid

# %% [markdown]
# `N`, `D` and `loss` are the roles that the law asks for; a role may be a formula as well: `D="flops / (6 * params)"`. Where
# several rows are one run (its checkpoints are not independent), `run="run_id"` says so. A DataFrame does in place of a path.
#
# ## The law
# $L = E + A/N^\alpha + B/D^\beta$ (Hoffmann et al. 2022, approach 3). Rows that cannot be used are dropped, each with its reason.

# %%
fit = lab.fit(grid, "chinchilla", bootstrap=400)
fit

# %%
fit.plot.isoflop()

# %% [markdown]
# ## May I believe it?
# Intervals come from resampling the runs. What the rows do not determine is said above, in place of a number. Two looks of
# your own: what the law leaves over, which should have no shape; and how it did on larger runs than it was fitted to.

# %%
fit.plot.residuals()

# %%
fit.backtest()

# %% [markdown]
# ## What would a larger budget give?
# A hundred times the compute of the largest runs: the best size, how many tokens, and the loss, each with its interval.

# %%
fit.predict(C=3e21)

# %%
fit.plot.allocation()

# %% [markdown]
# A model that you have in mind, rather than the best one:

# %%
fit.predict(N=7e9, D=1.4e11)

# %% [markdown]
# ## Is there a better law for these runs?
# Each is fitted to the smaller runs and asked about the larger ones.

# %%
lab.scoreboard(grid, ["chinchilla", "kaplan", "overtraining"], bootstrap=100)

# %% [markdown]
# ## Which runs next?
# Those that narrow the loss at the larger budget most, for the FLOPs that the grid has cost so far.

# %%
lab.design(grid, "loss@C=3e21", laws=["chinchilla"], count=4, bootstrap=200)

# %% [markdown]
# ## Keep it
# The numbers as a DataFrame, and the fit as a file that `python -m analysis.predict fit.json --at="C=1e22"` reads. One page
# with all of this is `python -m analysis.report runs.csv --columns="N=params,D=tokens,loss=val_loss" --out=report.html`.

# %%
fit.save("fit.json")
fit.to_frame()

# %% [markdown]
# The runs of `runs.csv` were planted, so that the truth is known: $E = 1.69$, $A = 406.4$, $B = 410.7$, $\alpha = 0.34$,
# $\beta = 0.28$, with 0.4% of noise. The best size grows as $C^{0.452}$.
