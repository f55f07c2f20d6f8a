"""Predict the loss from parameters and tokens where the pull of the data depends on the size."""

from collections.abc import Mapping
import dataclasses
import functools
import itertools
from typing import Any, ClassVar, Self, cast

import numpy as np

from analysis.laws.base import FLOPS_PER_PARAM_TOKEN, Array, Coefficient, FormulaLaw, Inputs, Number, free
from analysis.solve import best_size

FEWEST_TOKENS = 1e6  # in the middle of the rows of a grid: of less, D counts millions or billions
FEWEST_MILLIONS = 3e3  # the same of millions of tokens
DECAYS = (0.1, 0.17, 0.25, 0.35, 0.5)  # of the loss over tokens, at sizes in the middle of the rows: starts
CHANGES = (-0.3, -0.15, -0.05, 0.05)  # d ln(decay) / d ln N there: starts
ENDS = (0.02, 0.98)  # quantiles of ln N between which the functions are drawn: starts
STRAIGHT = 1e-4  # a power below which it is a straight line in ln N, to rounding
LEAST = 0.02  # of the least loss: the smallest floor and scale to start from
WIDE = 12.0  # e-foldings of N on either side of N = D where an optimum is looked for


@dataclasses.dataclass(frozen=True)
class Farseer(FormulaLaw):
    """L(N, D) = exp(F3) + exp(F2) D^(-exp(F1)) with Fi = u_i + v_i ((N/N_0)^p_i - 1)/p_i and p = alpha, beta, gamma.

    Chinchilla's B, beta and floor become functions of the size. The source writes Fi = a_i N^p_i + b_i (Li et al. 2025,
    equation 3), where a_i and b_i cannot be told apart: they are 1e9^p_i apart in size. Here u_i is Fi at N_0 parameters,
    v_i its slope in ln N there; `published` gives theirs. N_0 is a billion where the rows have such sizes, else a power of
    ten in their middle. Nats or bits as in the grid.

    In other units of D the form is another law, since D's exponent depends on N: its D are tokens, counted one by one. A
    grid that counts millions or billions is seen by its size, and the formula then says so: (1e9 D).
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

    N_0: ClassVar[float] = 1e9  # the size, as the grid counts them, at which the coefficients say what there is
    TOKENS: ClassVar[float] = 1.0  # in one unit of the grid's D

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
    def for_data(cls, values: Mapping[str, Array], raw: bool) -> type[Self]:
        """Return the law with the size and the count of tokens to which the coefficients refer."""
        del raw
        size = reference_size(values["N"])
        tokens = tokens_in_one(values["D"])
        return cast(type[Self], refer_to(size, tokens))

    @classmethod
    def of_data(cls) -> dict[str, Any]:
        """Return that size and that count."""
        return {"N_0": cls.N_0, "tokens_in_one": cls.TOKENS}

    @classmethod
    def restore(cls, coefficients: Mapping[str, Any], details: Mapping[str, Any]) -> Self:
        """Build the law from `coefficients` and from what they refer to."""
        size = details.get("N_0", cls.N_0)
        tokens = details.get("tokens_in_one", cls.TOKENS)
        law = refer_to(size, tokens)
        values = [float(coefficients[name]) for name in cls.names()]
        return cast(Self, law(*values))

    @classmethod
    def starting_points(cls, inputs: Inputs, target: Array) -> Array:
        """Return points at which the three functions of N go through what the rows say of them [points, 9]."""
        log_N = np.log(inputs["N"])
        first, last = np.quantile(log_N, ENDS)
        nodes = np.linspace(first, last, 3)
        from_middle = nodes - nodes[1]
        from_reference = nodes - np.log(cls.N_0)
        D = cls.TOKENS * inputs["D"]
        in_tokens = {**inputs, "D": D}
        points = []
        for decay, change in itertools.product(DECAYS, CHANGES):
            log_decay = np.log(decay) + change * from_middle
            log_scale, log_floor = _terms_at(nodes, log_decay, in_tokens, target)
            point = [
                *through(from_reference, log_decay),
                *through(from_reference, log_scale),
                *through(from_reference, log_floor),
            ]
            points.append(point)
        return np.array(points)

    def predict(self, N: Any, D: Any) -> Any:
        """Predict the loss for N parameters and D tokens."""
        size = N / self.N_0
        log_size = np.log(size)
        log_tokens = np.log(self.TOKENS * D)
        log_decay = self.u1 + self.v1 * bent(log_size, self.alpha)
        log_scale = self.u2 + self.v2 * bent(log_size, self.beta)
        log_floor = self.u3 + self.v3 * bent(log_size, self.gamma)
        decay = np.exp(log_decay)
        of_data = log_scale - decay * log_tokens
        return np.exp(log_floor) + np.exp(of_data)

    def published(self) -> dict[str, Any]:
        """Return the coefficients of the source: a_i N^p_i + b_i for the three functions of N."""
        found = {}
        for i, power in enumerate((self.alpha, self.beta, self.gamma), 1):
            u = getattr(self, f"u{i}")
            v = getattr(self, f"v{i}")
            size = v / power
            found[f"a{i}"] = size * self.N_0**-power
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


@functools.cache
def refer_to(N_0: float, tokens_in_one: float) -> type[Farseer]:
    """Return the law whose coefficients refer to N_0 parameters, for a grid that counts tokens by so many at once."""
    if (N_0, tokens_in_one) == (Farseer.N_0, Farseer.TOKENS):
        return Farseer
    size = f"1e{np.log10(N_0):.0f}"
    formula = Farseer.FORMULA.replace("N/1e9", f"N/{size}")
    if tokens_in_one > 1:
        tokens = f"1e{np.log10(tokens_in_one):.0f} D"
        formula = formula.replace("D^-", f"({tokens})^-")
    members = {"N_0": N_0, "TOKENS": tokens_in_one, "FORMULA": formula}
    return cast(type[Farseer], type("Farseer", (Farseer,), members))


def reference_size(N: Array) -> float:
    """Return the size that coefficients refer to: a billion where there are such, else a power of ten in their middle."""
    if N.min() <= Farseer.N_0 <= N.max():
        return Farseer.N_0
    logs = np.log10(N)
    nearest = np.round(logs.mean())
    return float(10.0**nearest)


def tokens_in_one(D: Array) -> float:
    """Return how many tokens one unit of D is: a million or a billion where the numbers are too small for tokens."""
    logs = np.log(D)
    middle = np.exp(logs.mean())
    if middle >= FEWEST_TOKENS:
        return 1.0
    return 1e6 if middle >= FEWEST_MILLIONS else 1e9


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
    """Return (u, v, p) of a function that goes near three equally spaced nodes of ln(N/N_0); through them where it can."""
    first, second = np.diff(values)
    step = nodes[1] - nodes[0]
    p = 0.1
    if first * second > 0:
        bend = np.log(second / first) / step
        p = float(np.clip(bend, -1.0, 1.0))
    curve = bent(nodes, p)
    rise = values[2] - values[0]
    v = rise / (curve[2] - curve[0])
    u = values[1] - v * curve[1]
    return np.array([u, v, p])
