"""Put points between the runs of a grid of vocabularies, and keep the frontier of loss over FLOPs.

Both are those of Tao et al. 2024 (arXiv 2407.13623), approach 1. What is fitted to the frontier is the affair of
vocabulary.py.
"""

from collections.abc import Iterator
import dataclasses

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Array
from analysis.laws.vocabulary import LARGEST_MEASURED, TOKENS_PER_CHARACTER, tokens_per_character, width_of

ALONG_SIZES = 50  # interpolated points for each vocabulary
ALONG_VOCABULARIES = 20  # and for each model
FEWEST_FOR_CURVE = 3


@dataclasses.dataclass(frozen=True)
class Points:
    """Runs and points between them: arrays [points]. N_v in parameters, H in characters, C in FLOPs."""

    N_nv: Array
    N_v: Array
    H: Array
    C: Array
    loss: Array

    def take(self, keep: Array) -> "Points":
        """Return the points that `keep` names, by position or by booleans."""
        return Points(self.N_nv[keep], self.N_v[keep], self.H[keep], self.C[keep], self.loss[keep])


def concatenate(parts: list[Points]) -> Points:
    """Return the points of all parts, in order."""
    return Points(
        N_nv=np.concatenate([part.N_nv for part in parts]),
        N_v=np.concatenate([part.N_v for part in parts]),
        H=np.concatenate([part.H for part in parts]),
        C=np.concatenate([part.C for part in parts]),
        loss=np.concatenate([part.loss for part in parts]),
    )


def measured(columns: Columns) -> Points:
    """Return the runs of a grid."""
    return Points(columns["N_nv"], columns["N_v"], columns["H"], columns["C"], columns["loss"])


class Tokenizer:
    """Tokens per character of any vocabulary: a parabola in ln V through the grid's own C = 6 (N_nv + N_v) H f(V)."""

    def __init__(self, columns: Columns):
        V = columns["V"]
        params = columns["N_nv"] + columns["N_v"]
        flops_at_one_token = FLOPS_PER_PARAM_TOKEN * params * columns["H"]
        rate = columns["C"] / flops_at_one_token
        log_v = np.log(V)
        vocabularies = np.unique(log_v)
        degree = min(2, len(vocabularies) - 1)
        self.centre = log_v.mean()
        self.coefficients = np.polyfit(log_v - self.centre, rate, degree)
        # A grid of the paper's own tokenizers has the paper's constants, without the rounding of a fit.
        ratio = tokens_per_character(V) / rate
        from_paper = np.abs(ratio - 1)
        if from_paper.max() < 1e-6:
            self.centre = 0.0
            self.coefficients = np.array(TOKENS_PER_CHARACTER)

    def rate(self, V: Array) -> Array:
        """Return tokens per character of vocabularies [points]."""
        # Above the largest vocabulary that was measured, the rate is taken as constant.
        measured_v = np.minimum(V, LARGEST_MEASURED)
        log_v = np.log(measured_v)
        return np.polyval(self.coefficients, log_v - self.centre)


def width_between(columns: Columns, N_nv: Array) -> Array:
    """Return the width at any N_nv [points].

    It is the paper's step function where the grid's models follow it, else a line between models in logarithms.
    """
    sizes = columns["N_nv"]
    width = columns["N_v"] / columns["V"]
    if np.allclose(width_of(sizes), width, rtol=1e-9):
        return width_of(N_nv)
    order = np.argsort(sizes)
    log_sizes = np.log(sizes[order])
    log_widths = np.log(width[order])
    log_width = np.interp(np.log(N_nv), log_sizes, log_widths)
    return np.exp(log_width)


def between(columns: Columns) -> Points:
    """Return points between the runs, of both kinds that the paper has; those without a finite loss are left out."""
    tokenizer = Tokenizer(columns)
    parts = [_nothing(), *_on_surfaces(columns, tokenizer), *_on_curves(columns, tokenizer)]
    return concatenate(parts)


def _nothing() -> Points:
    """Return no points: what a grid gives that is too small for any surface or curve."""
    empty = np.empty(0)
    return Points(empty, empty, empty, empty, empty)


def _points_at(columns: Columns, tokenizer: Tokenizer, N_nv: Array, H: Array, V: Array, loss: Array) -> Points:
    """Return points at sizes, characters and vocabularies [points] with their cost; those without a loss are left out."""
    N_v = V * width_between(columns, N_nv)
    C = FLOPS_PER_PARAM_TOKEN * (N_nv + N_v) * H * tokenizer.rate(V)
    points = Points(N_nv, N_v, H, C, loss)
    return points.take(np.isfinite(loss))


def _on_surfaces(columns: Columns, tokenizer: Tokenizer) -> Iterator[Points]:
    """Interpolate, for every vocabulary, on a cubic surface of loss over (N_nv, H).

    The points are 50 pairs along the way from the smallest to the largest of both.
    """
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    N_nv = columns["N_nv"]
    H = columns["H"]
    losses = columns["loss"]
    sizes = np.geomspace(N_nv.min(), N_nv.max(), ALONG_SIZES)
    lengths = np.geomspace(H.min(), H.max(), ALONG_SIZES)
    pairs = np.stack([sizes, lengths], axis=1)
    for vocabulary in np.unique(columns["V"]):
        rows = columns["V"] == vocabulary
        runs = np.stack([N_nv[rows], H[rows]], axis=1)
        try:
            loss = griddata(runs, losses[rows], pairs, "cubic")
        except (QhullError, ValueError):  # too few runs, or all on one line: no surface
            continue
        same_vocabulary = np.full(ALONG_SIZES, vocabulary)
        yield _points_at(columns, tokenizer, sizes, lengths, same_vocabulary, loss)


def _on_curves(columns: Columns, tokenizer: Tokenizer) -> Iterator[Points]:
    """Interpolate, for every model, on a quadratic curve of its last losses over V, at the model's most tokens."""
    V = columns["V"]
    vocabularies = np.geomspace(V.min(), V.max(), ALONG_VOCABULARIES)
    rates = tokenizer.rate(vocabularies)
    for rows in models(columns):
        last = _last_of_each(V, rows)
        if len(last) < FEWEST_FOR_CURVE:
            continue
        last_losses = columns["loss"][last]
        loss = quadratic_curve(V[last], last_losses, vocabularies)
        # The same tokens are more characters where a larger vocabulary makes fewer tokens of each.
        tokens = columns["H"][rows] * tokenizer.rate(V[rows])
        characters = tokens.max() / rates
        size = columns["N_nv"][rows[0]]
        same_size = np.full(ALONG_VOCABULARIES, size)
        yield _points_at(columns, tokenizer, same_size, characters, vocabularies, loss)


def _last_of_each(values: Array, rows: Array) -> Array:
    """Return the last of the rows that has each of their values, by increasing value."""
    own = values[rows]
    last = []
    for one in np.unique(own):
        with_it = rows[own == one]
        last.append(with_it[-1])
    return np.array(last)


def quadratic_curve(x: Array, y: Array, at: Array | float) -> Array:
    """Return a quadratic spline through (x, y) at points; beyond its ends it goes on. Of equal x it takes the mean y."""
    from scipy.interpolate import interp1d

    x, of_x = np.unique(x, return_inverse=True)
    total = np.bincount(of_x, y)
    times = np.bincount(of_x)
    y = total / times
    # scipy's stubs know no word for fill_value, its documentation does.
    curve = interp1d(x, y, kind="quadratic", fill_value="extrapolate")  # pyright: ignore[reportArgumentType]
    return curve(at)


def models(columns: Columns) -> Iterator[Array]:
    """Return the rows of every model, smallest first, each by characters seen."""
    for size in np.unique(columns["N_nv"]):
        rows = np.flatnonzero(columns["N_nv"] == size)
        by_characters = np.argsort(columns["H"][rows], kind="stable")
        yield rows[by_characters]


def frontier(points: Points) -> Points:
    """Return the points that have a lower loss than every point of no more FLOPs, by FLOPs."""
    by_flops = np.argsort(points.C, kind="stable")
    points = points.take(by_flops)
    least_so_far = np.minimum.accumulate(points.loss)
    least_before = np.r_[np.inf, least_so_far[:-1]]
    return points.take(points.loss < least_before)
