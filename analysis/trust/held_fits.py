"""Refit a law with one parameter held at given values, and keep every fit: what a profile is drawn through.

A fit that was found may be a start for any other, so that a single search that went astray is put right by its
neighbours. Axes: held values v, starts s, free parameters p.
"""

import numpy as np

from analysis.solve import newton
from analysis.solve.optimum import Optimum

ROUGH = 1e-4  # of the threshold: a step that promises less ends a first refit
ENOUGH = 1e-6  # the same of the last ones
RIDGE = 1e-9  # keeps directions that the rows leave open from running away
RACE_STEPS = 12  # a fit whose term has vanished is at its end at once, and one that is better may need more
MOST_STEPS = 80  # of a refit; what has not come to its end goes on when fits are tried again
RUNNERS = 2
CANDIDATES = 4
SEEDS = 64  # of the starts of the search, that each refit chooses from
JUMP = 0.2  # of the root of the rise over the threshold, between two fits: mirrored valleys of a ladder lie so close
WATCHED = 1.5  # root of the rise over the threshold up to which jumps matter
SHORT_STEPS = 8
MOST_ROUNDS = 30  # of trying each fit again from those beside it
GAIN = 1e-4  # of the threshold: less is no better fit
FAR = 10.0  # of the threshold: a fit that rises higher is far from both ends of a profile
FAR_GAIN = 0.1  # of such a rise: by less a round it does not come down to the threshold in all rounds that there are
CLOSE = 1e-13  # held values of which one would do, of their size


class HeldFits:
    """Hold the known fits of one problem, in the order of the value [v] at which parameter `at` is held.

    theta [v, p]; rise [v]: how much the objective lies above its least, `least`. The first fits are the optimum itself
    and the other minima that the search found: each is the best fit near it that has its value.
    """

    def __init__(self, found: Optimum, at: int, threshold: float):
        problem, theta = found.problem.in_units(found.theta, at)
        size = problem.size
        low, high = problem.bounds()
        self.problem = problem
        self.found = found
        self.at = at
        self.threshold = threshold
        self.delta = found.deltas[-1]
        self.held = np.arange(size) == at
        self.low = float(low[at])
        self.high = float(high[at])
        least = self._objective(theta[None])
        self.least = float(least[0])
        others = self._in_units(found.minima)
        self.minima = np.vstack([theta, others])
        self.followed: set[tuple[float, float, float]] = set()
        self.is_settled = False
        self.value = np.empty(0)
        self.theta = np.empty((0, size))
        self.path = np.empty((0, size))
        self.rise = np.empty(0)
        every = len(found.starts) // SEEDS + 1
        self.starts = self._in_units(found.starts[::every])
        self.starts_path = self._paths(self.starts)
        objective = self._objective(self.minima)
        self._keep(self.minima, objective - self.least)

    def _in_units(self, points: np.ndarray) -> np.ndarray:
        """Return points [n, p] of the search with the parameter as its coefficient, or the logarithm of it."""
        problem = self.found.problem
        moved = []
        for point in points:
            _, in_units = problem.in_units(point, self.at)
            moved.append(in_units)
        return np.array(moved)

    def add(self, values: np.ndarray) -> None:
        """Refit with the parameter held at each of `values` [v], from all fits that are known to be near."""
        starts = np.stack([self._starts(value) for value in values])
        self._keep(*self._best_of(starts, ROUGH))
        self.is_settled = False

    def settle(self) -> None:
        """Try fits again from those beside them until none gets better: no fit is left behind in a wrong valley."""
        if self.is_settled:
            return
        changed = np.arange(len(self.value))
        for _ in range(MOST_ROUNDS):
            places = self._beside(changed)
            starts = np.stack([self._starts(float(self.value[place])) for place in places])
            changed = self._replace(places, *self._best_of(starts, ENOUGH))
            if not len(changed):
                changed = self._follow_jumps()
            if not len(changed):
                break
        self.is_settled = True

    def _replace(self, places: np.ndarray, theta: np.ndarray, rise: np.ndarray) -> np.ndarray:
        """Put better fits in the place of known ones; return the places where they are so much better that it matters.

        A search that creeps along the floor of a valley far above the threshold would get better in every round.
        """
        before = self.rise[places]
        better = rise < before - GAIN * self.threshold
        is_creeping = (rise > FAR * self.threshold) & (rise > (1 - FAR_GAIN) * before)
        changed = places[better]
        self.theta[changed] = theta[better]
        self.rise[changed] = rise[better]
        if len(changed):
            self.path[changed] = self._paths(theta[better])
        return places[better & ~is_creeping]

    def _follow_jumps(self) -> np.ndarray:
        """Refit where the rise jumps from one fit to the next, in short steps from the lower one: a profile has no jumps.

        Each pair of fits is tried once. Returns the places where that was better.
        """
        above = np.maximum(self.rise, 0.0)
        root = np.sqrt(above / self.threshold)
        before = root[:-1]
        after = root[1:]
        is_jump = np.abs(after - before) > JUMP
        is_watched = np.minimum(before, after) < WATCHED
        jumps = np.flatnonzero(is_jump & is_watched)
        beyond = jumps + 1
        upwards = after[jumps] > before[jumps]
        lower = np.where(upwards, jumps, beyond)
        higher = np.where(upwards, beyond, jumps)
        value = self.value
        pairs = list(zip(value[lower], self.rise[lower], value[higher], strict=True))
        unknown = [pair not in self.followed for pair in pairs]
        is_new = np.array(unknown, dtype=bool)
        self.followed.update(pairs)
        if not is_new.any():
            return np.empty(0, int)
        lower = lower[is_new]
        higher = higher[is_new]
        theta = self.theta[lower]
        enough = ENOUGH * self.threshold
        places = np.linspace(value[lower], value[higher], SHORT_STEPS + 1)
        objective = np.empty((len(lower), 1))
        for place in places[1:]:
            theta[:, self.at] = place
            starts = theta[:, None]
            ends, objective = self._minimise(starts, enough, MOST_STEPS)
            theta = ends[:, 0]
        rise = objective[:, 0] - self.least
        order = np.argsort(-rise, kind="stable")  # of two ways to one place the better is written last
        changed = self._replace(higher[order], theta[order], rise[order])
        return np.unique(changed)

    def _beside(self, places: np.ndarray) -> np.ndarray:
        """Return the places next to the given ones, and those themselves."""
        around = np.concatenate([places - 1, places, places + 1])
        inside = (around >= 0) & (around < len(self.value))
        return np.unique(around[inside])

    def _starts(self, value: float) -> np.ndarray:
        """Return starts [s, p] for a value: of all fits and starts, followed to it, those that fit best there.

        The fits beside the value, as they are and followed, and the line between them are always among them.
        """
        after = min(int(np.searchsorted(self.value, value)), len(self.value) - 1)
        before = max(after - 1, 0)
        beyond = min(after + 1, len(self.value) - 1)
        near = self.theta[[before, after, beyond]]
        followed = self._moved(near, self.path[[before, after, beyond]], value)
        still = np.where(self.held, value, near)
        line = self._line(before, beyond if self.value[after] == value else after, value)

        known = self._moved(self.theta, self.path, value)
        fresh = self._moved(self.starts, self.starts_path, value)
        candidates = np.vstack([known, fresh])
        objective = self._objective(candidates)
        order = np.argsort(objective, kind="stable")
        best = candidates[order[:CANDIDATES]]
        return np.vstack([followed, still, line, best])

    def _line(self, before: int, after: int, value: float) -> np.ndarray:
        """Return the point [1, p] at a value on the straight line through the fits at two places."""
        first = self.theta[before]
        last = self.theta[after]
        apart = self.value[after] - self.value[before]
        share = (value - self.value[before]) / apart if apart > 0 else 0.0
        line = first + share * (last - first)
        line[self.at] = value
        return line[None]

    def _moved(self, theta: np.ndarray, path: np.ndarray, value: float) -> np.ndarray:
        """Follow the paths of fits [n, p] to where the parameter has a value."""
        distance = value - theta[:, [self.at]]
        moved = np.clip(theta + distance * path, *self.problem.bounds())
        moved[:, self.at] = value
        return moved

    def _paths(self, theta: np.ndarray) -> np.ndarray:
        """Return how the best fit moves with the held parameter, to first order: d theta / d theta[at] [n, p]."""
        rows = (len(theta), len(self.found.weight))
        target = np.broadcast_to(self.problem.target, rows)
        weight = np.broadcast_to(self.found.weight, rows)
        local = self.problem.expand(theta, weight, target, self.delta)
        metric = local.metric
        squared = np.einsum("npp->np", metric)
        size = np.sqrt(np.maximum(squared, 1e-300))
        with np.errstate(invalid="ignore"):  # a fit so far off that its curvature is not finite moves nowhere
            metric = metric / size[:, :, None]
            metric = metric / size[:, None, :]

        at = self.at
        others = np.flatnonzero(~self.held)
        inner = metric[:, others[:, None], others]
        inner = inner + RIDGE * np.eye(len(others))
        outer = metric[:, others, at, None]
        answer = np.linalg.solve(inner, outer)
        follows = -answer[:, :, 0]
        path = np.ones(theta.shape)
        own_size = size[:, [at]]
        path[:, others] = follows * own_size / size[:, others]
        low, high = self.problem.bounds()
        is_bound = (theta <= low) | (theta >= high)
        return np.where(is_bound & ~self.held, 0.0, path)

    def _best_of(self, starts: np.ndarray, enough: float) -> tuple[np.ndarray, np.ndarray]:
        """Minimise from starts [v, s, p] with the parameter held: the best ends [v, p] and how far they rise [v].

        After a few steps the better starts of each value go on alone.
        """
        values, count, _ = starts.shape
        each = np.arange(values)
        little = enough * self.threshold
        if count > RUNNERS:
            starts, objective = self._minimise(starts, little, RACE_STEPS)
            order = np.argsort(objective, axis=1)
            runners = order[:, :RUNNERS]
            starts = starts[each[:, None], runners]
        ends, objective = self._minimise(starts, little, MOST_STEPS)
        best = np.argmin(objective, axis=1)
        lowest = objective[each, best]
        return ends[each, best], lowest - self.least

    def _minimise(self, starts: np.ndarray, enough: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Minimise from starts [v, s, p] with the parameter held: ends [v, s, p] and their objective [v, s]."""
        flat = starts.reshape(-1, self.problem.size)
        ends = newton.minimise(
            self.problem, flat, self.found.weight, (self.delta,), held=self.held, enough=enough, max_steps=steps
        )
        return ends.reshape(starts.shape), self._objective(ends).reshape(starts.shape[:2])

    def _objective(self, theta: np.ndarray) -> np.ndarray:
        value = newton.values_at(self.problem, theta, self.found.weight, self.delta)
        return np.where(np.isfinite(value), value, np.inf)

    def _keep(self, theta: np.ndarray, rise: np.ndarray) -> None:
        """Add fits to those that are known, in order; of several at one value the best stays."""
        path = np.vstack([self.path, self._paths(theta)])
        theta = np.vstack([self.theta, theta])
        rise = np.r_[self.rise, rise]
        value = theta[:, self.at]
        order = np.lexsort((rise, value))
        value = value[order]
        is_new = np.r_[True, np.diff(value) > CLOSE * np.maximum(1.0, np.abs(value[1:]))]
        chosen = order[is_new]
        self.value = theta[chosen, self.at]
        self.theta = theta[chosen]
        self.path = path[chosen]
        self.rise = rise[chosen]
