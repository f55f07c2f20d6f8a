"""Predict the loss from parameters and tokens where the pull of the data depends on the size."""

import dataclasses
import itertools
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Array, Coefficient, FormulaLaw, Inputs, Number, free
from analysis.solve import best_size

N_0 = 1e9  # parameters: the size at which the coefficients say what there is
DECAYS = (0.1, 0.17, 0.25, 0.35, 0.5)  # of the loss over tokens, at sizes in the middle of the rows: starts
CHANGES = (-0.3, -0.15, -0.05, 0.05)  # d ln(decay) / d ln N there: starts
ENDS = (0.02, 0.98)  # quantiles of ln N between which the functions are drawn: starts
STRAIGHT = 1e-4  # a power below which it is a straight line in ln N, to rounding
LEAST = 0.02  # of the least loss: the smallest floor and scale to start from
WIDE = 12.0  # e-foldings of N on either side of N = D where an optimum is looked for


@dataclasses.dataclass(frozen=True)
class Farseer(FormulaLaw):
    """L(N, D) = exp(F3) + exp(F2) D^(-exp(F1)) with Fi = u_i + v_i ((N/1e9)^p_i - 1)/p_i and p = alpha, beta, gamma.

    Chinchilla's B, beta and floor become functions of the size. The source writes Fi = a_i N^p_i + b_i (Li et al. 2025,
    equation 3), where a_i and b_i cannot be told apart: they are 1e9^p_i apart in size. Here u_i is Fi at a billion
    parameters, v_i its slope in ln N there; `published` gives theirs. Nats or bits as in the grid;
    parameters are counted one by one, not in millions or billions.
    """

    u1: Number
    v1: Number
    alpha: Number
    u2: Number
    v2: Number
    beta: Number
    u3: Number
    v3: Number
    gamma: Number

    NAME: ClassVar[str] = "farseer"
    FORMULA: ClassVar[str] = (
        "L = exp(u3 + v3 g(gamma)) + exp(u2 + v2 g(beta)) D^-exp(u1 + v1 g(alpha)), g(p) = ((N/1e9)^p - 1)/p"
    )
    SOURCE: ClassVar[str] = "Li et al. 2025 (Farseer; arXiv 2506.10972), equation 3"
    ROLES: ClassVar[tuple[str, ...]] = ("N", "D", "loss")
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("N", "D"), ("C",))
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {
        **dict.fromkeys(("u1", "u2", "u3"), free(1.0)),
        **dict.fromkeys(("v1", "v2", "v3"), free(0.3)),
        **dict.fromkeys(("alpha", "beta", "gamma"), free(0.3, low=-2.0, high=2.0)),
    }

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Return points at which the three functions of N go through what the rows say of them [points, 9]."""
        log_N = np.log(inputs["N"])
        first, last = np.quantile(log_N, ENDS)
        nodes = np.linspace(first, last, 3)
        from_middle = nodes - nodes[1]
        points = []
        for decay, change in itertools.product(DECAYS, CHANGES):
            log_decay = np.log(decay) + change * from_middle
            log_scale, log_floor = _terms_at(nodes, log_decay, inputs, target)
            point = [
                *through(nodes, log_decay),
                *through(nodes, log_scale),
                *through(nodes, log_floor),
            ]
            points.append(point)
        return np.array(points)

    def predict(self, N: Any, D: Any) -> Any:
        """Predict the loss for N parameters and D tokens."""
        log_size = np.log(N / N_0)
        log_decay = self.u1 + self.v1 * bent(log_size, self.alpha)
        log_scale = self.u2 + self.v2 * bent(log_size, self.beta)
        log_floor = self.u3 + self.v3 * bent(log_size, self.gamma)
        of_data = log_scale - np.exp(log_decay) * np.log(D)
        return np.exp(log_floor) + np.exp(of_data)

    def published(self) -> dict[str, Any]:
        """Return the coefficients of the source: a_i N^p_i + b_i for the three functions of N."""
        found = {}
        for i, power in enumerate((self.alpha, self.beta, self.gamma), 1):
            u = getattr(self, f"u{i}")
            v = getattr(self, f"v{i}")
            size = v / power
            found[f"a{i}"] = size * N_0**-power
            found[f"b{i}"] = u - size
        return found

    def optimum(self, C: Any, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> tuple[Any, Any]:
        """Return (N, D) of least loss: where the slope along the budget is zero, for there is no closed form."""
        product = C / flops_per_param_token
        largest = np.sqrt(product) * np.exp(WIDE)
        return best_size.within_budget(self.predict, largest, C, flops_per_param_token, reach=2 * WIDE)

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        N, D = (at["N"], at["D"]) if "N" in at else self.optimum(at["C"], flops_per_param_token)
        return self.predict(N, D)


def bent(x: Any, power: Any) -> Any:
    """Return (e^(p x) - 1)/p, which is x at p = 0 (Box & Cox 1964)."""
    is_straight = np.abs(power) < STRAIGHT
    p = np.where(is_straight, 1.0, power)
    line = x + power * x**2 / 2
    curve = (np.exp(p * x) - 1) / p
    return np.where(is_straight, line, curve)


def _terms_at(nodes: Array, log_decay: Array, inputs: Inputs, loss: Array) -> tuple[Array, Array]:
    """Return ln scale and ln floor at three nodes of ln N, for decays that go through `log_decay` there.

    Both are straight lines between the nodes; that makes the loss linear in their six values.
    """
    from scipy.optimize import nnls

    log_N = np.log(inputs["N"])
    log_D = np.log(inputs["D"])
    middle = log_D.mean()
    near = [np.interp(log_N, nodes, row) for row in np.eye(3)]
    weight = np.stack(near, axis=1)
    log_decays = np.interp(log_N, nodes, log_decay)
    decay = np.exp(log_decays)
    of_data = np.exp(-decay * (log_D - middle))
    basis = np.hstack([weight, weight * of_data[:, None]])
    relative = basis / loss[:, None]
    answer, _ = nnls(relative, np.ones_like(loss))
    least = LEAST * loss.min()
    log_floor, log_effect = np.log(np.maximum(answer, least)).reshape(2, 3)
    log_scale = log_effect + np.exp(log_decay) * middle
    return log_scale, log_floor


def through(nodes: Array, values: Array) -> Array:
    """Return (u, v, p) of a function that goes near three equally spaced nodes of ln N; through them where it can."""
    first, second = np.diff(values)
    step = nodes[1] - nodes[0]
    p = 0.1
    if first * second > 0:
        bend = np.log(second / first) / step
        p = float(np.clip(bend, -1.0, 1.0))
    from_reference = nodes - np.log(N_0)
    curve = bent(from_reference, p)
    rise = values[2] - values[0]
    v = rise / (curve[2] - curve[0])
    u = values[1] - v * curve[1]
    return np.array([u, v, p])
