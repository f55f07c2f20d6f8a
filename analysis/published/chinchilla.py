"""Chinchilla's approach 3 on the points read off its figure 4 (Hoffmann et al. 2022; Besiroglu et al. 2024)."""

from collections.abc import Mapping

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select
from analysis.grid.table import Columns, Grid
from analysis.laws.chinchilla import Chinchilla
from analysis.published.scipy_fit import HOFFMANN as START
from analysis.published.scipy_fit import ScipyFit, natural, resampled
from analysis.published.target import Found, Study, Target
from analysis.questions import fit as fitting
from analysis.solve.objective import Objective

FILE = "chinchilla_epoch.csv"
HIGHEST_LOSSES = 5  # rows that the published fit leaves out
REPLICATES = 4000
CHINCHILLA_FLOPS = 5.88e23
HOFFMANN = Chinchilla(**dict(zip(("A", "B", "E", "alpha", "beta"), map(float, natural(START[None])[0]), strict=True)))

EPOCH = "Besiroglu et al. 2024 (arXiv 2404.10102)"
TARGETS = [
    *(
        Target(f"Huber 1e-3: {name}", value, tolerance, f"{EPOCH}, notebook cell 18", refit=refit, refit_tolerance=near)
        for name, value, tolerance, refit, near in (
            ("A", 477.8417, 1e-4, 477.82585, 1e-6),
            ("B", 2143.864, 3e-4, 2143.4174, 1e-6),
            ("E", 1.8172355, 1e-4, 1.8172181, 1e-6),
            ("alpha", 0.3473127, 1e-4, 0.3473105, 1e-6),
            ("beta", 0.3671826, 1e-4, 0.3671724, 1e-6),
            ("exponent of N*", 0.51390, 1e-4, 0.5138995, 1e-6),
            ("sum of Huber", 0.00101827403, 1e-7, 0.00101827401780, 1e-9),
        )
    ),
    *(
        Target(f"LAD: {name}", value, 1e-3 if " " in name else 1e-4, f"{EPOCH}, notebook cell 25", refit=refit, refit_tolerance=2e-5)
        for name, value, refit in (
            ("A", 482.00572, 482.005718),
            ("B", 2085.43420, 2085.434202),
            ("E", 1.81686, 1.8168640),
            ("alpha", 0.34781303, 0.34781303),
            ("beta", 0.36585412, 0.36585412),
            ("exponent of N*", 0.513, 0.5126397),
        )
    ),
    Target("E as the paper prints it", 1.8172, 5e-4, f"{EPOCH}, recalled"),
    *(
        Target(f"standard error of {name}", value, near, f"{EPOCH}, notebook cell 21", refit=refit, refit_tolerance=1e-6)
        for name, value, near, refit in (
            ("A", 124.52232, 1e-6, 124.522321),
            ("B", 1293.28410, 1e-6, 1293.284101),
            ("E", 0.02566, 5e-4, None),
            ("alpha", 0.01540, 5e-4, None),
            ("beta", 0.02060, 5e-4, None),
            ("exponent of N*", 0.020, 5e-2, None),
        )
    ),
    *(
        Target(f"95% interval of {name}, {end}", value, near, f"{EPOCH}, notebook cell 26")
        for name, ends, near in (
            ("A", (285.214, 743.626), 1e-5),
            ("B", (1042.357, 5810.344), 1e-5),
            ("E", (1.769, 1.871), 5e-4),
            ("alpha", (0.317, 0.373), 1e-3),
            ("beta", (0.331, 0.415), 1e-3),
        )
        for end, value in zip(("low", "high"), ends, strict=True)
    ),
    *(
        Target(f"standard error of {name}, every refit at its optimum", value, 1e-3, f"{EPOCH}, notebook cell 21")
        for name, value in (("A", 124.52232), ("B", 1293.28410), ("E", 0.02566), ("alpha", 0.01540), ("beta", 0.02060))
    ),
    Target("bootstrap refits that end above their optimum, %", None),
    Target("80% interval of exponent of N*, width", 0.051, 1e-2, f"{EPOCH}, notebook cell 59", refit=0.0514, refit_tolerance=2e-3),
    Target("LAD: N* at 5.88e23 FLOPs", None, refit=7.313e10, refit_tolerance=1e-3),
    Target("LAD: tokens per parameter at 5.88e23 FLOPs", 25.66, 1e-2, f"{EPOCH}, notebook cell 69", refit=18.33, refit_tolerance=1e-3),
    Target("Hoffmann: tokens per parameter at 5.88e23 FLOPs", None, refit=59.04, refit_tolerance=1e-3),
    Target("Hoffmann: exponent of N*", 0.46, 2e-2, "Hoffmann et al. 2022 (arXiv 2203.15556), table 2", refit=0.45653),
    Target("Hoffmann: sum of Huber over ours", None),
    *(
        Target(f"all rows: {name}", None, refit=value, refit_tolerance=1e-5)
        for name, value in (
            ("A", 495.726),
            ("B", 12845.6),
            ("E", 1.89134),
            ("alpha", 0.349313),
            ("beta", 0.453049),
            ("sum of Huber", 0.00182601),
        )
    ),
]  # fmt: skip


def columns_of(grid: Grid, drop: int = HIGHEST_LOSSES) -> Columns:
    """The rows below the `drop`-th highest loss, in the file's order."""
    columns = select(grid, Chinchilla.ROLES, columns="N=params_total,D=tokens,loss=loss")
    if not drop or len(columns) <= drop:
        return columns
    return columns.take(columns["loss"] < np.sort(columns["loss"])[-drop], f"one of the {drop} highest losses")


def described(result: FitResult, prefix: str) -> dict[str, Found]:
    """Coefficients, exponent and objective of a fit."""
    found = {f"{prefix}: {name}": Found(value) for name, value in result.law.coefficients().items()}
    found[f"{prefix}: exponent of N*"] = Found(float(result.law.optimum_exponents()["exponent_N"]))
    found[f"{prefix}: sum of Huber"] = Found(result.objective)
    return found


def refit(grids: Mapping[str, Grid]) -> dict[str, Found]:
    """Every number of the table."""
    columns = columns_of(grids[FILE])
    huber = fitting.fit(columns, Chinchilla, FitSpec(bootstrap=REPLICATES, thorough=False, judge=False))
    lad = fitting.fit(columns, Chinchilla, FitSpec(Objective("lad"), bootstrap=0))
    every = fitting.fit(columns_of(grids[FILE], drop=0), Chinchilla, FitSpec(bootstrap=0))
    found = described(huber, "Huber 1e-3") | described(lad, "LAD") | described(every, "all rows")
    for name in ("LAD: sum of Huber", "all rows: exponent of N*"):
        del found[name]
    found["Huber 1e-3: B"] = Found(huber.law.B, "the notebook's optimizer stopped 2e-4 short of the optimum in B")
    found["E as the paper prints it"] = Found(
        lad.law.E, "the paper prints the Huber fit's E (1.8172) beside the LAD fit's other constants"
    )
    found |= spreads(columns, huber) | optima(lad.law) | against_hoffmann(columns, huber)
    return found


def spreads(columns: Columns, result: FitResult) -> dict[str, Found]:
    """Standard errors and percentiles of the bootstrap, by scipy's BFGS as published and by our refits."""
    theirs = ScipyFit(columns["N"], columns["D"], columns["loss"])
    picks = resampled(len(columns), REPLICATES)
    points, values = theirs.bootstrap(picks)
    names = ("A", "B", "E", "alpha", "beta")
    draws: dict[str, np.ndarray] = dict(zip(names, points.T, strict=True))
    ours = {name: result.draws[:, result.law.names().index(name)] for name in names}
    shown = np.column_stack([*(np.log(ours[name]) for name in names[:3]), ours["alpha"], ours["beta"]])
    least = np.array([theirs(point, rows)[0] for point, rows in zip(shown, picks, strict=True)])
    short = 100 * float(np.mean(values > least * (1 + 1e-9)))
    flaw = f"{short:.0f}% of the published refits stop above their optimum"
    found = {
        f"standard error of {name}, every refit at its optimum": Found(float(ours[name].std(ddof=1)), flaw)
        for name in names
    }
    found["bootstrap refits that end above their optimum, %"] = Found(short, "BFGS from one start stops at kinks")
    draws["exponent of N*"] = draws["beta"] / (draws["alpha"] + draws["beta"])
    found |= {f"standard error of {name}": Found(float(values.std(ddof=1))) for name, values in draws.items()}
    for name, values in draws.items():
        if name != "exponent of N*":
            for end, percent in (("low", 2.5), ("high", 97.5)):
                found[f"95% interval of {name}, {end}"] = Found(float(np.percentile(values, percent)))
    low, high = np.percentile(draws["exponent of N*"], [10, 90])
    return found | {"80% interval of exponent of N*, width": Found(float(high - low))}


def optima(law: Chinchilla) -> dict[str, Found]:
    """The compute-optimal model at Chinchilla's own budget."""
    N, D = law.optimum(CHINCHILLA_FLOPS)
    return {
        "LAD: N* at 5.88e23 FLOPs": Found(float(N)),
        "LAD: tokens per parameter at 5.88e23 FLOPs": Found(
            float(D / N), "the notebook's cell overwrites the FLOPs with ratios before it evaluates the optimum"
        ),
    }


def against_hoffmann(columns: Columns, ours: FitResult) -> dict[str, Found]:
    """What the constants of Hoffmann et al. say on the same rows."""
    N, D = HOFFMANN.optimum(CHINCHILLA_FLOPS)
    theirs = Objective().value(np.log(HOFFMANN.predict(columns["N"], columns["D"])) - np.log(columns["loss"])).sum()
    return {
        "Hoffmann: tokens per parameter at 5.88e23 FLOPs": Found(
            float(D / N), "Hoffmann et al. trained with 20 tokens per parameter, which their approach 3 contradicts"
        ),
        "Hoffmann: exponent of N*": Found(float(HOFFMANN.optimum_exponents()["exponent_N"])),
        "Hoffmann: sum of Huber over ours": Found(
            float(theirs / ours.objective), "their constants do not fit the points of their own figure"
        ),
    }


STUDY = Study("Chinchilla, approach 3 (Besiroglu et al. 2024)", (FILE,), TARGETS, refit)
