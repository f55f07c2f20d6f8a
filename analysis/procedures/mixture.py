"""Fit the laws of data mixtures that are not formulas: the linear one by least squares, boosted trees by LightGBM."""

import dataclasses
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.fitting.weights import row_weights
from analysis.grid.table import Columns
from analysis.laws.base import Array
from analysis.laws.mixing import BoostedMixing, LinearMixing
from analysis.procedures.boosting import boost, folds, train
from analysis.trust import bootstrap, caution
from analysis.trust.certificate import Certificate
from analysis.trust.residuals import Residuals
from experiments.cli import InputError

COLLINEAR = 1e-8
INVOLVED = 0.05  # component of a part in a direction that the rows do not vary
FEWEST_TO_BOOST = 10
TINY = 1e-300


def fit_linear(columns: Columns, law: type[LinearMixing], spec: FitSpec) -> FitResult:
    """Fit the loss on the shares by ordinary least squares, with an intercept."""
    share = columns["share"]
    loss = columns["loss"]
    rows, parts = share.shape
    if rows < parts:
        raise InputError(
            f"GRID: {rows} usable rows, {law.NAME} has {parts} coefficients; expected at least {parts} rows"
        )
    weight = row_weights(columns, law.TARGET)
    best, *_ = least_squares(share, loss, weight[None])
    fitted = law(*map(float, best))
    run = columns.values.get("run")
    counts = bootstrap.row_counts(rows, spec.bootstrap, spec.seed, run, parts)

    difference = fitted.predict(share) - loss
    # A straight line may predict a loss below 0, which has no logarithm.
    predicted = np.maximum(difference + loss, TINY)
    residual = np.log(predicted) - np.log(loss)
    residuals = Residuals.of(residual, columns)
    worst = residuals.worst
    assert worst is not None, "the rows of a mixture all count: the law takes no bounds"
    return FitResult(
        law=fitted,
        spec=spec,
        columns=columns,
        objective=float(0.5 * (weight * difference**2).sum()),
        residual=residual,
        certificate=Certificate(
            converged=True,
            agreeing_starts=None,
            gradient=_scaled_gradient(share, weight, difference),
            not_identified=undetermined(share, columns.parts["share"]),
            rms_log_residual=residuals.rms,
            worst_row=int(columns.row[worst]),
            worst_log_residual=float(residual[worst]),
            warnings=caution.warnings(columns, parts, 1.0, residuals),
        ),
        draws=least_squares(share, loss, counts * weight),
    )


def _scaled_gradient(share: Array, weight: Array, difference: Array) -> float:
    """Return how far from stationary the weights of the parts are: 0 at the optimum, 1 where all rows pull one way."""
    mean = np.average(share, axis=0, weights=weight)
    weighted = weight * difference
    pull = (share - mean) * weighted[:, None]
    together = np.abs(pull.sum(axis=0))
    one_way = np.abs(pull).sum(axis=0)
    most = np.maximum(one_way, 1e-12 * len(share))
    return float(np.max(together / most))


def least_squares(share: Array, loss: Array, weight: Array) -> Array:
    """Fit (b, w) [replicates, 1 + parts] by weighted least squares; weight [replicates, rows].

    Where shares add up to 1, sum_j w_j r_j is zero at the average mixture of all rows; of parts that the rows do not
    separate, the smallest w.
    """
    total = weight.sum(axis=1, keepdims=True)
    mean_share = weight @ share / total
    mean_loss = weight @ loss / total[:, 0]
    sum_of_shares = share.sum(axis=1)
    adds_up = np.ptp(sum_of_shares) < 1e-9
    average = share.mean(axis=0)
    found = np.empty((len(weight), 1 + share.shape[1]))
    for at, trust in enumerate(weight):
        root = np.sqrt(trust)
        design = (share - mean_share[at]) * root[:, None]
        goal = (loss - mean_loss[at]) * root
        w, *_ = np.linalg.lstsq(design, goal, rcond=COLLINEAR)
        b = mean_loss[at] - w @ mean_share[at]
        if adds_up:  # then a constant may move between b and all w; this is the choice
            shift = w @ average
            b = b + shift
            w = w - shift
        found[at] = b, *w
    return found


def undetermined(share: Array, parts: tuple[str, ...]) -> dict[str, str]:
    """Return coefficients of parts that the rows do not separate, with the reason."""
    # Shares add up to 1: one part, the largest, follows from the others.
    average = share.mean(axis=0)
    reference = int(np.argmax(average))
    centred = np.delete(share - average, reference, axis=1)
    size = np.linalg.norm(centred, axis=0)
    scaled = centred / np.where(size > 0, size, 1.0)
    _, values, vectors = np.linalg.svd(scaled, full_matrices=False)
    largest = max(values[0], TINY)
    is_empty = np.asarray(values <= COLLINEAR * largest)
    is_involved = np.abs(vectors[is_empty]) > INVOLVED
    is_lost = np.asarray(is_involved.any(axis=0))
    others = [part for at, part in enumerate(parts) if at != reference]
    found = {}
    for at, name in enumerate(others):
        if size[at] == 0:
            found[f"w_{name}"] = "no row varies it"
        elif is_lost[at]:
            found[f"w_{name}"] = "the rows do not separate it from other parts"
    return found


def fit_boosted(columns: Columns, law: type[BoostedMixing], spec: FitSpec) -> FitResult:
    """Boost trees on the shares. `residual` is that of rows unseen by the trees; there are no bootstrap replicates.

    Rows whose `validation` is not zero decide when boosting ends, and are the unseen rows; else 5 folds are.
    """
    share = columns["share"]
    loss = columns["loss"]
    is_held = columns["validation"] != 0 if "validation" in columns else np.zeros(len(loss), dtype=bool)
    held = int(is_held.sum())
    fitted_rows = len(loss) - held
    if fitted_rows < FEWEST_TO_BOOST or held == 1:
        raise InputError(
            f"GRID: {fitted_rows} usable rows to fit and {held} to validate; {law.NAME} needs 10, and 2 or none"
        )
    validation = (share[is_held], loss[is_held]) if held else None
    trees, rounds = boost(share[~is_held], loss[~is_held], validation)
    fitted = law(trees)
    predicted = np.asarray(fitted.predict(share))
    unseen = predicted if held else _cross_validated(law, share, loss, rounds)
    return _boosted_result(columns, fitted, spec, predicted, unseen, is_held, rounds)


def _cross_validated(law: type[BoostedMixing], share: Array, loss: Array, rounds: int) -> Array:
    """Predict every row [rows] by trees that have not seen it."""
    unseen = np.empty(len(loss))
    for learn, test in folds(len(loss)):
        trees = train(share[learn], loss[learn], rounds)
        unseen[test] = law(trees).predict(share[test])
    return unseen


def _boosted_result(
    columns: Columns,
    fitted: BoostedMixing,
    spec: FitSpec,
    predicted: Array,
    unseen: Array,
    is_held: Array,
    rounds: int,
) -> FitResult:
    """Return the result of trees: what they predict [rows], what trees predict that have not seen the row [rows].

    The rows that were held out are the unseen ones; where none were, all are.
    """
    from scipy.stats import spearmanr

    loss = columns["loss"]
    is_unseen = is_held if is_held.any() else np.ones(len(loss), dtype=bool)
    residual = np.log(np.maximum(unseen, TINY)) - np.log(loss)
    candidates = np.flatnonzero(is_unseen)
    sizes = np.abs(residual[candidates])
    worst = int(candidates[np.argmax(sizes)])
    mean_square = np.mean(residual[is_unseen] ** 2)
    squares = (predicted - loss)[~is_held] ** 2
    ranked: Any = spearmanr(unseen[is_unseen], loss[is_unseen])
    correlation = ranked.statistic
    return FitResult(
        law=fitted,
        spec=dataclasses.replace(spec, bootstrap=0),
        columns=columns,
        objective=float(0.5 * squares.sum()),
        residual=residual,
        certificate=Certificate(
            converged=None,
            agreeing_starts=None,
            gradient=None,
            rms_log_residual=float(np.sqrt(mean_square)),
            worst_row=int(columns.row[worst]),
            worst_log_residual=float(residual[worst]),
            warnings=("trees are greedy: a certificate of an optimum does not apply, and there are no intervals",),
        ),
        draws=np.empty((0, 0)),
        details={
            "trees": fitted.trees,
            "iterations": rounds,
            "unseen_rows": int(is_unseen.sum()),
            "spearman_unseen": float(correlation),
        },
    )
