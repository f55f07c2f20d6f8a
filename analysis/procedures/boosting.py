"""Boost trees on the shares of a data mixture with LightGBM, set as RegMix (Liu et al. 2024) has it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from analysis.laws.base import Array
from analysis.laws.mixing import import_lightgbm

FOLDS = 5
ROUNDS = 1000  # at most
PATIENCE = 3  # rounds without a better loss, after which boosting ends
FEW_ROWS = 200  # below, LightGBM's own defaults would leave trees with hardly a branch
SETTINGS: dict[str, Any] = {  # LightGBM's own options, of many types; both metrics can end the boosting
    "boosting": "gbdt",
    "objective": "regression",
    "metric": ["l1", "l2"],
    "learning_rate": 0.01,
    "seed": 42,
    "num_threads": 1,
    "verbosity": -1,
}


def boost(share: Array, loss: Array, validation: tuple[Array, Array] | None = None) -> tuple[str, int]:
    """Boost trees on shares [rows, parts] and losses [rows]. Returns the trees as text, and their number.

    Boosting ends when the loss on `validation` has not improved for 3 rounds; without one, after the number of rounds
    that is best in 5-fold cross-validation.
    """
    lightgbm = import_lightgbm()

    settings = settings_for(len(loss))
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    data = lightgbm.Dataset(share, loss, params=settings, free_raw_data=False)
    if validation is not None:
        held = lightgbm.Dataset(*validation, reference=data, params=settings)
        booster = lightgbm.train(settings, data, ROUNDS, valid_sets=[held], callbacks=[stop])
        return booster.model_to_string(num_iteration=booster.best_iteration), booster.best_iteration
    history = lightgbm.cv(settings, data, ROUNDS, folds=folds(len(loss)), callbacks=[stop])
    means = next(iter(history.values()))
    assert isinstance(means, list), "without return_cvbooster each value is a list of one mean a round"
    rounds = len(means)
    return train(share, loss, rounds), rounds


def train(share: Array, loss: Array, rounds: int) -> str:
    """Return the trees after so many rounds, as text."""
    lightgbm = import_lightgbm()

    settings = settings_for(len(loss))
    data = lightgbm.Dataset(share, loss, params=settings)
    return lightgbm.train(settings, data, rounds).model_to_string()


def settings_for(rows: int) -> dict[str, Any]:
    """Return LightGBM's settings; on fewer rows than its own defaults are made for, smaller leaves."""
    if rows >= FEW_ROWS:
        return SETTINGS
    return SETTINGS | {"min_data_in_leaf": max(2, rows // 10), "min_data_in_bin": 1}


def folds(rows: int) -> Iterator[tuple[Array, Array]]:
    """Return rows to learn from and rows to test on, 5 times; every row is tested on once."""
    label = np.random.RandomState(42).permutation(rows) % FOLDS
    for fold in range(FOLDS):
        is_test = label == fold
        yield np.flatnonzero(~is_test), np.flatnonzero(is_test)
