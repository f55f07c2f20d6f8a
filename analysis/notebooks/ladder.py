# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # A ladder, and what it cannot say
#
# Many grids are ladders: models that grow in size, each trained on about 20 tokens a parameter. Such runs say well what the
# next rung will give. They are then asked how parameters and tokens should be shared out, and that they cannot say: size and
# tokens grew together, so nothing tells which of the two lowered the loss.

# %%
import pandas as pd

import analysis as lab

ladder = lab.read("ladder.csv", N="params", D="tokens", loss="val_loss")
fit = lab.fit(ladder, "chinchilla", bootstrap=400)
fit

# %% [markdown]
# ## Why
# Hold one exponent wherever you like: the others make room, and the law passes through the runs as well as before. What
# the best size does with compute is then whatever you held.

# %%
rows = {}
for alpha in (0.28, 0.31, 0.34, 0.37, 0.4):
    held = lab.fit(ladder, "chinchilla", fixed={"alpha": alpha}, bootstrap=0)
    law = held.law
    best = law.optimum_exponents()
    rows[alpha] = {"beta": law.beta, "exponent_N": best["exponent_N"], "scatter, %": 100 * held.residual.std()}
table = pd.DataFrame(rows).T
table.rename_axis("alpha, held").round(3)

# %% [markdown]
# ## What it can say
# The next rungs: ten times the compute of the largest run, with 20 tokens a parameter.

# %%
fit.predict(N=3.2e9, D=6.4e10)

# %% [markdown]
# The best allocation of that compute is another question, and has no answer here:

# %%
fit.predict(C=1.2e21)

# %% [markdown]
# ## What is missing
# A few cheap runs beside the ladder: sizes of its lower half, with a tenth and with ten times the tokens. All eight together
# cost less than the last rung.

# %%
beside = pd.read_csv("off_the_ladder.csv")
both = lab.read(pd.concat([ladder.frame, beside]), N="params", D="tokens", loss="val_loss")
complete = lab.fit(both, "chinchilla", bootstrap=400)
complete

# %%
complete.plot.surface()

# %%
complete.predict(C=1.2e21)

# %% [markdown]
# The runs were planted: $\alpha = 0.34$, $\beta = 0.28$; the best size grows as $C^{0.452}$.
