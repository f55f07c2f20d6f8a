"""How the laws of data mixtures are fitted: the exponential one as two terms, the linear one, boosted trees."""

from collections.abc import Iterator
import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.trust import bootstrap, caution
from analysis.trust.certificate import Certificate
from experiments.cli import InputError

FOLDS = 5
COLLINEAR = 1e-8
SETTINGS = {  # of LightGBM, as RegMix has them; both metrics can end the boosting
    "boosting": "gbdt",
    "objective": "regression",
    "metric": ["l1", "l2"],
    "learning_rate": 0.01,
    "seed": 42,
    "num_threads": 1,
    "verbosity": -1,
}
ITERATIONS, PATIENCE = 1000, 3


def fit_linear(columns: Columns, law: Any, spec: FitSpec) -> FitResult:
    """Ordinary least squares of the loss on the shares, with an intercept."""
    objective = spec.objective
    if (objective.loss, objective.residual) != ("least_squares", "raw") or spec.fixed:
        raise InputError(f"--law: {law.NAME} is ordinary least squares; expected no --loss, --residual or --fix")
    if spec.resample != "paired":
        raise InputError(f"--resample: {spec.resample!r} is not for {law.NAME}; expected paired")
    share, loss = columns["share"], columns["loss"]
    rows, parts = share.shape
    if rows < parts:
        raise InputError(
            f"GRID: {rows} usable rows, {law.NAME} has {parts} coefficients; expected at least {parts} rows"
        )
    weight = columns["weight"] / columns["weight"].mean() if "weight" in columns else np.ones(rows)
    best = least_squares(share, loss, weight[None])[0]
    fitted = law(*map(float, best))
    counts = bootstrap.row_counts(rows, spec.bootstrap, spec.seed, columns.values.get("run"), parts)
    draws = least_squares(share, loss, counts * weight)
    difference = fitted.predict(share) - loss
    residual = np.log(np.maximum(difference + loss, 1e-300)) - np.log(loss)
    mean = np.average(share, axis=0, weights=weight)
    pull = (share - mean) * (weight * difference)[:, None]
    worst = int(np.argmax(np.abs(residual)))
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=float(0.5 * (weight * difference**2).sum()),
        residual=residual,
        certificate=Certificate(
            converged=True,
            agreeing_starts=1.0,
            gradient=float(np.max(np.abs(pull.sum(axis=0)) / np.maximum(np.abs(pull).sum(axis=0), 1e-12 * rows))),
            not_identified=undetermined(share, columns.parts["share"]),
            rms_log_residual=float(np.sqrt(np.mean(residual**2))),
            worst_row=int(columns.row[worst]),
            worst_log_residual=float(residual[worst]),
            warnings=caution.warnings(columns, parts, 1.0, residual),
        ),
        draws=draws,
    )


def least_squares(share: np.ndarray, loss: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(b, w) [replicates, 1 + parts] by weighted least squares; weight [replicates, rows].

    Where shares add up to 1, sum_j w_j r_j is zero at the average mixture of all rows; of parts that the rows do not
    separate, the smallest w.
    """
    total = weight.sum(axis=1, keepdims=True)
    mean, middle = weight @ share / total, weight @ loss / total[:, 0]
    found = np.empty((len(weight), 1 + share.shape[1]))
    whole = np.ptp(share.sum(axis=1)) < 1e-9
    for at, (trust, m, y) in enumerate(zip(weight, mean, middle, strict=True)):
        root = np.sqrt(trust)
        w = np.linalg.lstsq((share - m) * root[:, None], (loss - y) * root, rcond=COLLINEAR)[0]
        b = y - w @ m
        if whole:
            shift = w @ share.mean(axis=0)
            b, w = b + shift, w - shift
        found[at] = b, *w
    return found


def undetermined(share: np.ndarray, parts: tuple[str, ...]) -> dict[str, str]:
    """Coefficients of parts that the rows do not separate, with the reason."""
    reference = int(np.argmax(share.mean(axis=0)))
    centred = np.delete(share - share.mean(axis=0), reference, axis=1)
    size = np.linalg.norm(centred, axis=0)
    _, values, vectors = np.linalg.svd(centred / np.where(size > 0, size, 1.0), full_matrices=False)
    lost = (np.abs(vectors[values <= COLLINEAR * max(values[0], 1e-300)]) > 0.05).any(axis=0)
    names = [part for at, part in enumerate(parts) if at != reference]
    return {
        f"w_{name}": "no row varies it" if flat else "the rows do not separate it from other parts"
        for name, gone, flat in zip(names, lost, size == 0, strict=True)
        if gone or flat
    }


def boost(
    share: np.ndarray, loss: np.ndarray, validation: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[str, int]:
    """Trees as text and their number, fitted to shares [rows, parts] and losses [rows].

    Boosting ends when the loss on `validation` has not improved for 3 rounds; without one, after the number of rounds
    that is best in 5-fold cross-validation.
    """
    import lightgbm

    settings = settings_for(len(loss))
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    data = lightgbm.Dataset(share, loss, params=settings, free_raw_data=False)
    if validation is not None:
        held = lightgbm.Dataset(*validation, reference=data, params=settings)
        booster = lightgbm.train(settings, data, ITERATIONS, valid_sets=[held], callbacks=[stop])
        return booster.model_to_string(num_iteration=booster.best_iteration), booster.best_iteration
    history = lightgbm.cv(settings, data, ITERATIONS, folds=folds(len(loss)), callbacks=[stop])
    rounds = len(next(iter(history.values())))
    return train(share, loss, rounds), rounds


def train(share: np.ndarray, loss: np.ndarray, rounds: int) -> str:
    """Trees as text after so many rounds."""
    import lightgbm

    settings = settings_for(len(loss))
    return lightgbm.train(settings, lightgbm.Dataset(share, loss, params=settings), rounds).model_to_string()


def settings_for(rows: int) -> dict[str, Any]:
    """LightGBM's settings; on fewer rows than its own defaults are made for, smaller leaves."""
    return SETTINGS | ({"min_data_in_leaf": max(2, rows // 10), "min_data_in_bin": 1} if rows < 200 else {})


def folds(rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to test on, 5 times; every row is tested on once."""
    label = np.random.RandomState(42).permutation(rows) % FOLDS
    return ((np.flatnonzero(label != fold), np.flatnonzero(label == fold)) for fold in range(FOLDS))


def fit_boosted(columns: Columns, law: Any, spec: FitSpec) -> FitResult:
    """LightGBM on the shares. `residual` is that of rows unseen by the trees; there are no bootstrap replicates.

    Rows whose `validation` is not zero decide when boosting ends, and are the unseen rows; else 5 folds are.
    """
    if spec.fixed:
        raise InputError(f"--fix: {law.NAME} has no coefficients to hold")
    share, loss = columns["share"], columns["loss"]
    held = columns["validation"] != 0 if "validation" in columns else np.zeros(len(loss), dtype=bool)
    if (~held).sum() < 10 or 0 < held.sum() < 2:
        raise InputError(
            f"GRID: {(~held).sum()} usable rows to fit and {held.sum()} to validate; {law.NAME} needs 10, and 2 or none"
        )
    trees, rounds = boost(share[~held], loss[~held], (share[held], loss[held]) if held.any() else None)
    fitted = law(trees)
    predicted = np.asarray(fitted.predict(share))
    unseen = predicted.copy()
    for learn, test in folds(len(loss)) if not held.any() else ():
        unseen[test] = law(train(share[learn], loss[learn], rounds)).predict(share[test])
    tested = held if held.any() else np.ones(len(loss), dtype=bool)
    residual = np.log(np.maximum(unseen, 1e-300)) - np.log(loss)
    worst = int(np.flatnonzero(tested)[np.argmax(np.abs(residual[tested]))])
    from scipy import stats

    return FitResult(
        law=fitted,
        spec=dataclasses.replace(spec, bootstrap=0),
        columns=columns,
        objective=float(0.5 * ((predicted - loss)[~held] ** 2).sum()),
        residual=residual,
        certificate=Certificate(
            converged=True,
            agreeing_starts=1.0,
            gradient=0.0,
            rms_log_residual=float(np.sqrt(np.mean(residual[tested] ** 2))),
            worst_row=int(columns.row[worst]),
            worst_log_residual=float(residual[worst]),
            warnings=("trees are greedy: a certificate of an optimum does not apply, and there are no intervals",),
        ),
        draws=np.empty((0, 0)),
        details={
            "trees": trees,
            "iterations": rounds,
            "unseen_rows": int(tested.sum()),
            "spearman_unseen": float(stats.spearmanr(unseen[tested], loss[tested]).statistic),
        },
    )
