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

sys.path.insert(
    0,
    str(next(folder for folder in pathlib.Path.cwd().joinpath("x").parents if (folder / "analysis" / "laws").is_dir())),
)

import pandas as pd

from analysis import figures, laws
from analysis.figures import scaling
from analysis.fitting.result import to_json
from analysis.fitting.spec import FitSpec
from analysis.grid import table
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
columns = table.select(grid, law.ROLES, optional=(*law.OPTIONAL, "C"))
print(columns.sources)
pd.DataFrame([vars(row) for row in columns.dropped], columns=["row", "reason"])

# %% [markdown]
# ## The law
# $L = E + A/N^\\alpha + B/D^\\beta$, from every start of a grid of exponents, with bootstrap intervals.

# %%
result = fit.fit(columns, law, SPEC)
pd.DataFrame(
    {
        name: {"value": value, "low": interval.low, "high": interval.high}
        for (name, value), interval in zip(
            (result.law.coefficients() | result.law.optimum_exponents()).items(),
            result.intervals().values(),
            strict=True,
        )
    }
).T

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
figures.picture(scaling.isoflop, everything) if "isoflop" in everything.results else everything.failures["isoflop"]

# %%
figures.picture(figures.quality.residuals, everything)

# %% [markdown]
# ## Where the next budget should go

# %%
figures.picture(scaling.allocation, everything)

# %%
output = FOLDER / "fit.json"
write(output, to_json(result, grid.sha256, "notebook"), "--out")
answer = predict.predict(predict.read(str(output)), {"C": 10 * everything.largest})
pd.DataFrame(
    {
        name: {"value": value, "low": answer.optimum_intervals[name].low, "high": answer.optimum_intervals[name].high}
        for name, value in answer.optimum.items()
    }
).T

# %% [markdown]
# The same in one command, as one page: `python -m analysis.report GRID --out=report.html`.
