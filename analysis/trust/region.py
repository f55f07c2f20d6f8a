"""Map the likelihood region of a fit: every set of coefficients that the rows do not rule out, around all optima.

Standard errors describe the bottom of one valley. A grid that hardly separates its coefficients has a long bent valley, or
several, and the bootstrap, which starts in one, does not see the others. The region is all that lies below one level of
the objective, wherever it is, so that what is open along it shows (Raue et al. 2009, practical identifiability by profile
likelihood; Bates & Watts 1988, chapter 6, of regions that are no ellipsoids).
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from analysis.solve import newton
from analysis.solve.objective import sided, slope
from analysis.solve.optimum import DIFFERENT, Optimum
from analysis.trust import bootstrap
from analysis.trust.profile import spread

WALKERS = 240
MOST_WALKS = 80  # steps of each walker
MOST_WORK = 6_000_000  # rows x points that the walkers look at
FEWEST_WALKS = 6
MOST_MODES = 3  # valleys that are searched
SWEEP = 12  # points over the whole range of a parameter
SWEEP_STEPS = 40
SWEEP_TOLERANCE = 1e-4
LARGEST = 10.0  # of a parameter without a bound that is swept, in units of its longest step
SMALL_EXPONENT = 0.02  # of the range of a parameter: where a sweep in ratios begins
LOG_STEPS = np.array([-12, -6, -3, -1.6, -0.8, -0.4, -0.2, -0.1, 0.1, 0.2, 0.4, 0.8, 1.6, 3])  # from a logarithm
DIRECTIONS = 60  # in which the farthest points of a region are kept
KEPT = 500  # points of a region, beside the farthest ones

Rise = Callable[[np.ndarray], np.ndarray]  # of points [b, p]


@dataclasses.dataclass(frozen=True)
class Region:
    """Hold points of a likelihood region, of which the first is the optimum.

    coefficients [points, k]; rise [points]: of the objective over its least, in units in which that of one parameter moved
    by one standard error is 1. one, all: the rises that bound one number, and all numbers at once, at a `level`.
    """

    coefficients: np.ndarray
    rise: np.ndarray
    level: float
    one: float
    all: float
    replicates: int  # of the bootstrap, that intervals come from

    def within(self, level: float) -> np.ndarray:
        """Say which points [booleans] are not ruled out at a level, where one number is asked for."""
        from scipy.special import chdtri

        wanted = chdtri(1, 1 - level)
        mapped = chdtri(1, 1 - self.level)
        limit = wanted / mapped * self.one
        least = float(self.rise.min())  # a level so low that it rules out every point still leaves the best one
        return self.rise <= max(limit, least)

    def of(self, law: Any, name: str) -> np.ndarray:
        """Return one coefficient at every point [points]."""
        at = law.names().index(name)
        return self.coefficients[:, at]


def explore(
    found: Optimum,
    refits: np.ndarray,
    run: np.ndarray | None,
    freedom: int,
    level: float,
    seed: int = 0,
    translate: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Region | None:
    """Explore the region of a fit, from its optima, its bootstrap refits [replicates, p], and sweeps of each parameter.

    run: names those of the rows, where they have some; freedom: independent units that are left over the parameters;
    translate: makes coefficients of parameters, where there are others than the problem's own. None where nothing is left:
    nothing measures the scatter.
    """
    from scipy.stats import f

    problem = found.problem
    parameters = problem.size
    if freedom < 1:
        return None
    worth, errors = spread(found)
    unit = 0.5 * worth * max(1.0, clustering(found, run))
    one = float(f.ppf(level, 1, freedom))
    joint = parameters * float(f.ppf(level, parameters, freedom))

    delta = found.deltas[-1]
    least = float(newton.values_at(problem, found.theta[None], found.weight, delta)[0])

    def rise(points: np.ndarray) -> np.ndarray:
        """Return how far the objective lies above its least at points [b]."""
        with np.errstate(all="ignore"):
            values = newton.values_at(problem, points, found.weight, delta)
        risen = (values - least) / max(unit, 1e-300)
        return np.where(np.isfinite(risen), risen, np.inf)

    modes = _modes(found, rise, joint)
    swept = _sweeps(found, modes)
    seeds = np.concatenate([modes, refits, swept])
    is_inside = rise(seeds) <= joint
    stream = np.random.default_rng(seed)
    walked = _walk(seeds[is_inside], rise, joint, found, errors, stream)
    nearer = _drawn_in(found.theta, walked, rise, one, joint)
    points = np.concatenate([found.theta[None], walked, nearer])
    risen = rise(points)
    kept = _thin(points, risen, one, stream)
    points = points[kept]
    risen = risen[kept]
    translate = translate or problem.coefficients
    return Region(
        coefficients=translate(points),
        rise=np.maximum(risen, 0.0),
        level=level,
        one=one,
        all=joint,
        replicates=len(refits),
    )


def clustering(found: Optimum, run: np.ndarray | None) -> float:
    """Return how many times more the rows scatter together than alone: 1 where rows are independent.

    The mean eigenvalue of the scores' variance by runs over that by rows (the correction of Rao & Scott 1984).
    """
    if run is None:
        return 1.0
    scores = _scores(found)
    member = bootstrap.units(len(found.weight), run)
    runs = int(member.max()) + 1
    by_run = np.stack([np.bincount(member, score, runs) for score in scores])
    alone = scores @ scores.T
    together = by_run @ by_run.T
    # Both in units of what rows alone make: scores of different parameters differ by many orders of magnitude.
    variance = np.diag(alone)
    size = np.sqrt(np.maximum(variance, 1e-300))
    alone = alone / size[:, None] / size
    together = together / size[:, None] / size
    inverse = np.linalg.pinv(alone, rcond=1e-10)
    times_more = float(np.trace(inverse @ together))
    rank = int(np.linalg.matrix_rank(alone, tol=1e-10))
    return times_more / max(rank, 1)


def _scores(found: Optimum) -> np.ndarray:
    """Return how each row pulls at each parameter at the optimum [p, rows]."""
    problem = found.problem
    point = found.theta[None]
    residual = problem.residuals(point)[0]
    jacobian = problem.jacobian(point)[0]
    used = sided(found.weight, residual, problem.above)
    pull = slope(residual, found.deltas[-1])
    return jacobian * used * pull


def _modes(found: Optimum, rise: Rise, joint: float) -> np.ndarray:
    """Return the optimum and the other minima [modes, p] that the rows do not rule out."""
    modes = [found.theta]
    others = found.minima
    order = np.argsort(rise(others), kind="stable") if len(others) else []
    for at in order:
        if len(modes) == MOST_MODES:
            break
        other = others[at]
        is_open = rise(other[None])[0] <= joint
        distances = [float(np.abs(other - mode).max()) for mode in modes]
        if is_open and min(distances) > DIFFERENT:
            modes.append(other)
    return np.array(modes)


def _sweeps(found: Optimum, modes: np.ndarray) -> np.ndarray:
    """Return the best points [b, p] with each parameter held at values over its whole range, from every mode."""
    problem = found.problem
    delta = found.deltas[-1]
    low, high = problem.bounds()
    swept = []
    for at in range(problem.size):
        values = _range_of(found, at, low[at], high[at])
        starts = np.repeat(modes, len(values), axis=0)
        starts[:, at] = np.tile(values, len(modes))
        held = np.arange(problem.size) == at
        with np.errstate(all="ignore"):
            ends = newton.minimise(
                problem, starts, found.weight, (delta,), tolerance=SWEEP_TOLERANCE, max_steps=SWEEP_STEPS, held=held
            )
        swept.append(ends)
    return np.concatenate(swept)


def _range_of(found: Optimum, at: int, low: float, high: float) -> np.ndarray:
    """Return the values at which one parameter is held: over its range, closer together where it is small."""
    here = found.theta[at]
    if found.problem.logs[at] and here <= low:  # a term that is zero: it grows to the size of the data
        largest = float(np.median(found.problem.target))
        shares = np.linspace(0, 1, SWEEP + 2)[1:-1]
        return largest + np.log(shares)
    if found.problem.logs[at]:
        return np.clip(here + LOG_STEPS, low, high)
    reach = LARGEST * found.problem.limit[at]
    lowest = max(low, here - reach)
    highest = min(high, here + reach)
    if lowest >= 0:
        smallest = max(lowest, SMALL_EXPONENT * (highest - lowest))
        return np.r_[lowest, np.geomspace(smallest, highest, SWEEP - 1)]
    return np.linspace(lowest, highest, SWEEP)


def _walk(
    points: np.ndarray,
    rise: Rise,
    joint: float,
    found: Optimum,
    errors: np.ndarray,
    stream: np.random.Generator,
) -> np.ndarray:
    """Spread points over the region, along differences of its points and along the axes (ter Braak 2006): [points, p]."""
    low, high = found.problem.bounds()
    parameters = len(low)
    affordable = MOST_WORK // (WALKERS * len(found.weight))
    walks = int(np.clip(affordable, FEWEST_WALKS, MOST_WALKS))
    first_places = stream.integers(0, len(points), WALKERS)
    here = points[first_places]
    kept = [points]
    shake_size = np.minimum(errors, 1.0)
    long_steps = (1.0, 2.4 / np.sqrt(2 * parameters), 0.3)
    for _ in range(walks):
        first, second = stream.integers(0, WALKERS, (2, WALKERS))
        length = stream.choice(long_steps, WALKERS)[:, None]
        jump = length * (here[first] - here[second])
        loudness = 0.3 * stream.random((WALKERS, 1))
        shake = loudness * stream.standard_normal(here.shape)
        tried = here + jump + shake * shake_size
        tried = np.clip(tried, low, high)
        is_inside = rise(tried) <= joint
        here = np.where(is_inside[:, None], tried, here)
        kept.append(tried[is_inside])
    return np.concatenate(kept)


def _drawn_in(best: np.ndarray, points: np.ndarray, rise: Rise, one: float, joint: float) -> np.ndarray:
    """Draw points of the region in towards the optimum, to where one number alone is bounded: [points, p]."""
    every = max(1, len(points) // KEPT)
    few = points[::every]
    shrink = np.sqrt(one / joint)  # the rise grows with the square of the distance
    nearer = best + (few - best) * shrink
    is_inside = rise(nearer) <= one
    return nearer[is_inside]


def _thin(points: np.ndarray, rises: np.ndarray, one: float, stream: np.random.Generator) -> np.ndarray:
    """Choose which points of a region to keep: the optimum, those farthest out in many directions, and some of the rest."""
    parameters = points.shape[1]
    scale = np.maximum(points.std(axis=0), 1e-300)
    centred = (points - points[0]) / scale
    axes = np.eye(parameters)
    oblique = stream.standard_normal((DIRECTIONS, parameters))
    directions = np.concatenate([axes, oblique])
    everywhere = np.arange(len(points))
    near = np.flatnonzero(rises <= one)
    optimum = np.zeros(1, int)
    some_near = stream.permutation(near)[:KEPT]
    some = stream.permutation(len(points))[:KEPT]
    chosen = [optimum, some_near, some]
    for among in (everywhere, near):
        along = centred[among] @ directions.T
        farthest = along.argmax(axis=0)
        farthest_back = along.argmin(axis=0)
        chosen.append(among[farthest])
        chosen.append(among[farthest_back])
    return np.unique(np.concatenate(chosen))
