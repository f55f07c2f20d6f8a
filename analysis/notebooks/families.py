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
import analysis as lab

grid = lab.read("families.csv", N="params", D="tokens", loss="val_loss")
found = lab.compare(grid, baseline="dense", bootstrap=200)
found

# %%
found.plot()

# %% [markdown]
# Whether the families may share exponents is tested above, not assumed. The rates as a table:

# %%
found.to_frame().iloc[::6]

# %% [markdown]
# The runs were planted: a dense family, and a routed one that starts behind and overtakes. The same from the command line:
# `python -m analysis.compare families.csv --columns="N=params,D=tokens,loss=val_loss" --baseline=dense --out=compare.json`.
# Grids with accelerator hours are also compared at equal hours.
