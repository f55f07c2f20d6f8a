"""RegMix: the loss on thirteen domains of the Pile from the mixture trained on (Liu et al. 2024)."""

from collections.abc import Mapping
import importlib.util
from typing import Any

import numpy as np

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns, Grid
from analysis.laws import load as load_law
from analysis.laws.mixing import best_mixture, spearman
from analysis.procedures import boosting
from analysis.published.target import Found, Study, Target
from analysis.questions import fit as fitting
from analysis.solve.objective import Objective
from experiments.cli import InputError

TRAIN = "regmix_train_1m.csv"
TEST = "regmix_test.csv"
LIU = "Liu et al. 2024 (RegMix; arXiv 2407.01492)"
SIZES = {"1M": "regmix_1m_test", "60M": "regmix_60m_test", "1B": "regmix_1b_test"}
DOMAIN = "pile_cc"
# Share of each domain in the tokens of the Pile, as the notebook has it.
PRIOR = {
    "arxiv": 0.11328527,
    "freelaw": 0.07960865,
    "nih_exporter": 0.00391349,
    "pubmed_central": 0.1853759,
    "wikipedia_en": 0.05108136,
    "dm_mathematics": 0.01596293,
    "github": 0.10175077,
    "philpapers": 0.00370752,
    "stackexchange": 0.06652935,
    "enron_emails": 0.00175077,
    "gutenberg_pg_19": 0.02708548,
    "pile_cc": 0.23686921,
    "ubuntu_irc": 0.01184346,
    "europarl": 0.00792997,
    "hackernews": 0.00803296,
    "pubmed_abstracts": 0.03882595,
    "uspto_backgrounds": 0.04644696,
}
NOTEBOOK = {  # Spearman's rank correlation x 100 at 1M
    "arxiv": 99.60,
    "freelaw": 99.71,
    "pubmed_central": 99.08,
    "wikipedia_en": 99.45,
    "dm_mathematics": 97.20,
    "github": 99.77,
    "stackexchange": 99.73,
    "gutenberg_pg_19": 99.18,
    "pile_cc": 98.92,
    "ubuntu_irc": 96.87,
    "hackernews": 98.51,
    "pubmed_abstracts": 99.19,
    "uspto_backgrounds": 99.12,
}
TABLE = f"{LIU}, recalled"

TARGETS = [
    *(
        Target(f"least squares, {DOMAIN} at {size}: Spearman", value, 0.5, TABLE, True, refit, 6e-5)
        for size, value, refit in (("1M", 90.08, 90.21), ("60M", 89.26, 89.33), ("1B", 88.01, 87.66))
    ),
    *(
        Target(f"exponential, {DOMAIN} at {size}: Spearman", None, refit=refit, refit_tolerance=6e-5)
        for size, refit in (("1M", 96.52), ("60M", 95.94), ("1B", 98.76))
    ),
    Target(f"exponential, {DOMAIN}: floor c", None, refit=5.244, refit_tolerance=1e-4),
    *(Target(f"LightGBM, {name} at 1M: Spearman", value, 0.006, f"{LIU}, notebook", True) for name, value in NOTEBOOK.items()),
    *(
        Target(f"LightGBM, {DOMAIN} at {size}: Spearman as in the paper's table", value, 1.0, TABLE, True, refit, 6e-5)
        for size, value, refit in (("1M", 98.45, 98.92), ("60M", 98.64, 98.49), ("1B", 97.12, 96.51))
    ),
    Target("LightGBM: Pile-CC share of the best mixture", 0.890924344, 1e-6, f"{LIU}, notebook cell 18"),
    Target("measured: rank correlation of 1M and 60M", None, refit=99.41, refit_tolerance=6e-5),
]  # fmt: skip


def tables(grids: Mapping[str, Grid], domain: str) -> tuple[Columns, dict[str, Columns]]:
    """Rows to fit and rows to test on, by model size: shares as the file has them (rounded: not quite 1), and the loss."""
    parts = tuple(name.removeprefix("mix_") for name in grids[TRAIN].frame.columns if str(name).startswith("mix_"))
    if parts != tuple(PRIOR):
        raise InputError(f"{TRAIN}: its mix_* columns are {', '.join(parts) or 'none'}; expected {', '.join(PRIOR)}")

    def columns(grid: Grid, keep: np.ndarray) -> Columns:
        """Return the rows to keep whose shares and loss are known."""
        share = np.stack([grid.numbers(f"mix_{part}", "regmix") for part in parts], axis=1)
        loss = grid.numbers(f"loss_{domain}", "regmix")
        rows = np.flatnonzero(keep & np.isfinite(loss) & np.isfinite(share).all(axis=1))
        if not len(rows):
            raise InputError(f"GRID: {grid.path} has no usable row of {domain}")
        return Columns({"share": share[rows], "loss": loss[rows]}, rows, {}, (), (), {"share": parts})

    train = grids[TRAIN]
    test = grids[TEST]
    family = test.column("family", "regmix").to_numpy()
    return (
        columns(train, np.ones(len(train.frame), dtype=bool)),
        {size: columns(test, family == name) for size, name in SIZES.items()},
    )


def refit(grids: Mapping[str, Grid]) -> dict[str, Found]:
    """Every number of the table; without LightGBM, those of the other two laws."""
    train, tests = tables(grids, DOMAIN)
    linear = fitting.fit(train, law_of("mixing_linear", train), FitSpec(bootstrap=0))
    whole = {**train.values, "share": train["share"] / train["share"].sum(axis=1, keepdims=True)}
    scaled = Columns(whole, train.row, {}, (), (), train.parts)
    raw = FitSpec(Objective("least_squares", "raw"), bootstrap=0)
    exponential = fitting.fit(scaled, law_of("mixing", train), raw)
    law = unscaled(train, exponential.law)
    flaw = "shares are rounded; scaled to add up to 1 they give {:.2f}"
    found = {f"exponential, {DOMAIN}: floor c": Found(float(law.c))}
    for size, test in tests.items():
        found[f"least squares, {DOMAIN} at {size}: Spearman"] = Found(100 * spearman(linear.law, test))
        scaled_too = flaw.format(100 * spearman(exponential.law, test))
        found[f"exponential, {DOMAIN} at {size}: Spearman"] = Found(100 * spearman(law, test), scaled_too)
    found["measured: rank correlation of 1M and 60M"] = Found(same_mixtures(tests["1M"], tests["60M"]))
    return found | (boosted(grids) if importlib.util.find_spec("lightgbm") else {})


def unscaled(train: Columns, law: Any) -> Any:
    """The exponential law by least squares on the shares as they are rounded, from its fit to scaled ones.

    Where shares do not add up to 1 exactly, k and the mean of t are two coefficients, and no longer one.
    """
    from scipy.optimize import least_squares

    share = train["share"]
    loss = train["loss"]

    def slopes(at: np.ndarray) -> np.ndarray:
        value = at[1] * np.exp(share @ at[2:])
        return np.column_stack([np.ones(len(loss)), value / at[1], value[:, None] * share])

    def residuals(at: np.ndarray) -> np.ndarray:
        return at[0] + at[1] * np.exp(share @ at[2:]) - loss

    start = np.array([getattr(law, name) for name in law.names()])
    tight: dict[str, Any] = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 5000, "x_scale": "jac"}
    end = least_squares(residuals, start, slopes, **tight)  # pyright: ignore[reportArgumentType]  # the stubs want a name
    return type(law)(*map(float, end.x))


def law_of(name: str, train: Columns) -> Any:
    """The class of a law of shares for the parts of the grid."""
    return load_law(name).of(train.parts)


def same_mixtures(first: Columns, second: Columns) -> float:
    """100 times the rank correlation of the measured losses of two sizes on the same mixtures."""
    from scipy import stats

    correlation: Any = stats.spearmanr(first["loss"], second["loss"])
    return 100 * float(correlation.statistic)


def boosted(grids: Mapping[str, Grid]) -> dict[str, Found]:
    """LightGBM as the notebook has it: it ends boosting by the very rows that it reports on."""
    flaw = "boosting ends by the loss on the same test mixtures"
    found: dict[str, Found] = {}
    for domain in NOTEBOOK:
        train, tests = tables(grids, domain)
        held = (tests["1M"]["share"], tests["1M"]["loss"])
        law = law_of("mixing_lightgbm", train)(boosting.boost(train["share"], train["loss"], held)[0])
        found[f"LightGBM, {domain} at 1M: Spearman"] = Found(100 * spearman(law, tests["1M"]), flaw)
        if domain == DOMAIN:
            for size, test in tests.items():
                name = f"LightGBM, {domain} at {size}: Spearman as in the paper's table"
                found[name] = Found(100 * spearman(law, test), "the paper's table is not what its repository gives")
            best = best_mixture(law, PRIOR)
            share = float(best[law.PARTS["share"].index(DOMAIN)])
            found["LightGBM: Pile-CC share of the best mixture"] = Found(share)
    return found


STUDY = Study("Data mixtures (RegMix, Liu et al. 2024)", (TRAIN, TEST), TARGETS, refit)
