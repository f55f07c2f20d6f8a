# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # From a loss grid to a law
#
# A loss grid is a table with one row a run: parameters, tokens, FLOPs, loss. Here one becomes a law, the law is asked
# whether it should be believed, and it says where the next budget should go.

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
from analysis.figures import scaling
from analysis.fitting.result import to_json
from analysis.fitting.spec import FitSpec
from analysis.grid import selection
from analysis.notebooks import grids
from analysis.questions import fit, predict
from analysis.reporting.survey import survey
from analysis.writing.output_file import write

FOLDER = pathlib.Path(tempfile.mkdtemp())
SPEC = FitSpec(bootstrap=200)

# %% [markdown]
# ## The grid
# Any Parquet or CSV file will do. Columns are found by their usual names, or named with `columns="N=params,loss=val"`.

# %%
grid, source = grids.demo(FOLDER)
print(f"{len(grid.frame)} rows: {source}")
grid.frame.head()

# %%
law = laws.load("chinchilla")
columns = selection.select(grid, law.ROLES, optional=(*law.OPTIONAL, "C"))
print(columns.sources)
dropped = [vars(row) for row in columns.dropped]
pd.DataFrame(dropped, columns=["row", "reason"])

# %% [markdown]
# ## The law
# $L = E + A/N^\\alpha + B/D^\\beta$, from every start of a grid of exponents, with bootstrap intervals.

# %%
result = fit.fit(columns, law, SPEC)
values = result.law.coefficients() | result.law.optimum_exponents()
rows = {}
for name, interval in result.intervals().items():
    rows[name] = {
        "value": values[name],
        "low": interval.low,
        "high": interval.high,
    }
pd.DataFrame(rows).T

# %% [markdown]
# ## Whether to believe it
# The gradient at the end, the share of starts that agree, what the rows do not determine, and what else is worth a look.

# %%
certificate = result.certificate
print(f"gradient {certificate.gradient:.1e}, {certificate.agreeing_starts:.0%} of the starts agree")
print("not identified:", dict(certificate.not_identified) or "nothing")
print(*certificate.warnings, sep="\n")

# %%
everything = survey(grid, SPEC, None, None)
print(everything.verdict, *everything.reasons, sep="\n- ")

# %%
has_budgets = "isoflop" in everything.results
figures.picture(scaling.isoflop, everything) if has_budgets else everything.failures["isoflop"]

# %%
figures.picture(figures.quality.residuals, everything)

# %% [markdown]
# ## Where the next budget should go

# %%
figures.picture(scaling.allocation, everything)

# %%
output = FOLDER / "fit.json"
write(output, to_json(result, grid.sha256, "notebook"), "--out")
fitted = predict.read(str(output))
answer = predict.predict(fitted, {"C": 10 * everything.largest})
rows = {}
for name, value in answer.optimum.items():
    interval = answer.optimum_intervals[name]
    assert interval is not None, "the fit was resampled"
    rows[name] = {
        "value": value,
        "low": interval.low,
        "high": interval.high,
    }
pd.DataFrame(rows).T

# %% [markdown]
# The same in one command, as one page: `python -m analysis.report GRID --out=report.html`.
