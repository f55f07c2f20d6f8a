"""Plant the tables that the notebooks read, from laws that we chose: `python -m analysis.notebooks.tables` writes them.

Each is a CSV file as people have them, so that a reader of a notebook can put a file of their own in its place.
"""

import pathlib

import numpy as np
import pandas as pd

from analysis.laws.chinchilla import Chinchilla

FOLDER = pathlib.Path(__file__).parent
TRUTH = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
ROUTED = Chinchilla(E=1.63, A=430.0, B=440.0, alpha=0.34, beta=0.28)  # starts behind, and overtakes
NOISE = 0.004  # of ln loss of one run
LADDER_RATIO = 20.0  # tokens per parameter


def budgets(law: Chinchilla, seed: int, count: int = 6, sizes: int = 7) -> pd.DataFrame:
    """Plant runs at FLOP budgets half a decade apart, over sizes around the best one of each."""
    exponents = 17 + 0.5 * np.arange(count)
    compute = np.repeat(10**exponents, sizes)
    best, _ = law.optimum(compute)
    around = np.geomspace(0.25, 4, sizes)
    params = best * np.tile(around, count)
    return runs(law, params, compute / 6 / params, seed)


def ladder(law: Chinchilla, seed: int, count: int = 24, jitter: float = 0.02) -> pd.DataFrame:
    """Plant runs that grow in size, all with about 20 tokens a parameter."""
    stream = np.random.default_rng(seed)
    params = np.geomspace(1e7, 1e9, count)
    tokens = LADDER_RATIO * params * np.exp(jitter * stream.normal(size=count))
    return runs(law, params, tokens, seed)


def off_the_ladder(law: Chinchilla, seed: int) -> pd.DataFrame:
    """Plant eight runs beside the ladder: sizes of its middle with far fewer and far more tokens."""
    sizes = (2e7, 5e7, 1e8, 2e8)
    params = np.repeat(sizes, 2)
    ratios = np.tile([2.0, 200.0], len(sizes))
    return runs(law, params, ratios * params, seed)


def runs(law: Chinchilla, params: np.ndarray, tokens: np.ndarray, seed: int) -> pd.DataFrame:
    """Return runs with their losses, in whole parameters and tokens, losses with four digits as a log would have them."""
    stream = np.random.default_rng(seed)
    noise = np.exp(NOISE * stream.normal(size=len(params)))
    loss = law.predict(params, tokens) * noise
    columns = {
        "params": params.round().astype(int),
        "tokens": tokens.round().astype(int),
        "val_loss": loss.round(4),
    }
    return pd.DataFrame(columns)


def own_table() -> pd.DataFrame:
    """Return the table of the tutorial: names of runs, one that diverged, one that was cut short."""
    frame = budgets(TRUTH, seed=0)
    names = [f"run-{number:02}" for number in range(len(frame))]
    frame.insert(0, "run_id", names)
    frame["note"] = ""
    frame.loc[9, "val_loss"] = np.nan
    frame.loc[9, "note"] = "diverged"
    frame.loc[30, "val_loss"] = 4.9
    frame.loc[30, "note"] = "stopped"
    return frame


def families() -> pd.DataFrame:
    """Return a table of two families of models."""
    dense = budgets(TRUTH, seed=1).assign(family="dense")
    routed = budgets(ROUTED, seed=2).assign(family="routed")
    return pd.concat([dense, routed], ignore_index=True)


TABLES = {
    "runs": own_table,
    "ladder": lambda: ladder(TRUTH, seed=3),
    "off_the_ladder": lambda: off_the_ladder(TRUTH, seed=4),
    "families": families,
}


def main() -> None:
    """Write every table beside this file."""
    for name, make in TABLES.items():
        make().to_csv(FOLDER / f"{name}.csv", index=False)


if __name__ == "__main__":
    main()
