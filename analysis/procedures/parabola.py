"""Find the lowest point of a parabola, in one variable or in two. Knows no law."""

import dataclasses
from typing import TypeVar

import numpy as np

from analysis.laws.base import Array

Number = TypeVar("Number", float, np.ndarray)

ALMOST_DEPENDENT = 1e-10  # relative singular value below which points do not determine a paraboloid


def vertex(bend: Number, tilt: Number) -> Number:
    """Return where bend x^2 + tilt x + constant has no slope."""
    return -tilt / (2 * bend)


def refine_lowest(left: Array, middle: Array, right: Array) -> tuple[Array, Array]:
    """Refine the lowest of equally spaced values by the parabola through it and its neighbours.

    Returns how far the parabola's lowest point lies from the middle, in spacings, and its value there. Where the three
    values do not bend upwards, that is the middle itself.
    """
    curvature = left - 2 * middle + right
    bends_up = curvature > 0
    safe = np.where(bends_up, curvature, 1.0)
    fall = left - right
    shift = np.where(bends_up, 0.5 * fall / safe, 0.0)
    lowest = middle - 0.25 * fall * shift
    return shift, lowest


@dataclasses.dataclass(frozen=True)
class Paraboloid:
    """A parabola over (x, y): coefficients of 1, u, v, u^2, uv, v^2 with u and v measured from `middle`."""

    coefficients: Array
    middle: tuple[float, float]

    def value(self, x: float, y: float) -> float:
        """Return the height at one point."""
        u = x - self.middle[0]
        v = y - self.middle[1]
        return float(self.coefficients @ [1.0, u, v, u * u, u * v, v * v])

    def lowest_point(self) -> tuple[float, float] | None:
        """Return the point without slope, or None where the surface does not bend upwards in every direction."""
        _, tilt_u, tilt_v, bend_u, twist, bend_v = self.coefficients
        hessian = np.array([[2 * bend_u, twist], [twist, 2 * bend_v]])
        if np.linalg.eigvalsh(hessian)[0] <= 0:
            return None
        u, v = np.linalg.solve(hessian, [-tilt_u, -tilt_v])
        return u + self.middle[0], v + self.middle[1]


def fit_paraboloid(x: Array, y: Array, z: Array) -> Paraboloid | None:
    """Fit z(x, y) by least squares over [points]. Returns None where the points do not determine it."""
    middle = (x.mean(), y.mean())
    u = x - middle[0]
    v = y - middle[1]
    design = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    coefficients, _, rank, _ = np.linalg.lstsq(design, z, rcond=ALMOST_DEPENDENT)
    if rank < design.shape[1]:
        return None
    return Paraboloid(coefficients, middle)
