"""Say which data to train on: the loss as a function of the shares of the parts of a mixture.

Shares add up to 1, so that a constant may move between the coefficients of the parts and the one before them without
changing the law. That freedom is used up by giving the average mixture of the grid the weight zero: sum_j t_j r_j = 0
there. The procedures are in analysis/procedures/mixture.py.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, ClassVar, Self

import numpy as np

from analysis.grid.roles import Role
from analysis.laws.base import (
    FLOPS_PER_PARAM_TOKEN,
    Coefficient,
    FormulaLaw,
    Inputs,
    Law,
    Number,
    SumLaw,
    Term,
    free,
    gather,
    prefactor,
)
from analysis.solve import exponential
from analysis.solve.objective import Objective
from analysis.solve.problem import Problem
from experiments.cli import InputError, nearest


class OfShares:
    """Stand for a law of the role `share`; `of` gives it the names of the parts, and a coefficient LETTER_part for each."""

    LETTER: ClassVar[str] = ""
    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @classmethod
    def of(cls, parts: Mapping[str, tuple[str, ...]]) -> type[Self]:
        """Return the law with one coefficient for each part of `share`."""
        if "share" not in parts or cls.PARTS:
            return cls
        return _with_parts(cls, tuple(parts["share"]))

    def weighted(self, share: Any) -> Any:
        """Return sum_j t_j r_j of shares [..., parts]."""
        share = np.asarray(share)
        total: Any = 0
        for at, part in enumerate(self.PARTS["share"]):
            total = total + getattr(self, f"{self.LETTER}_{part}") * share[..., at]
        return total


@functools.lru_cache(maxsize=256)
def _with_parts(law: Any, parts: tuple[str, ...]) -> Any:
    """Make the class of a law for these parts; the same class each time, so that results can be compared."""
    names = [f"{law.LETTER}_{part}" for part in parts] if law.LETTER else []
    body: dict[str, Any] = {"PARTS": {"share": parts}, "__module__": law.__module__, "__doc__": law.__doc__}
    if hasattr(law, "COEFFICIENTS"):
        body["COEFFICIENTS"] = law.COEFFICIENTS | dict.fromkeys(names, free(0.0))
    else:
        body["INPUTS"] = (tuple(f"share_{part}" for part in parts),)
    return dataclasses.make_dataclass(
        law.__name__, [(name, Any) for name in names], bases=(law,), namespace=body, frozen=True
    )


@dataclasses.dataclass(frozen=True)
class Mixing(OfShares, FormulaLaw):
    """L = c + k exp(sum_j t_j r_j), nats per token on one domain, for a mixture with shares r_j of its parts.

    (k, t) and (k e^-u, t + u) are one law. Here the average mixture of the grid has sum_j t_j r_j = 0, and k is its
    loss above c.
    """

    c: Number
    k: Number

    NAME: ClassVar[str] = "mixing"
    FORMULA: ClassVar[str] = "L = c + k exp(sum_j t_j r_j)"
    SOURCE: ClassVar[str] = "Ye et al. 2024 (arXiv 2403.16952), data mixing laws"
    ROLES: ClassVar[tuple[str, ...]] = ("share", "loss")
    LETTER: ClassVar[str] = "t"
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {"c": prefactor(), "k": prefactor()}

    @classmethod
    def problem(cls, columns: Any, raw: bool, above: Any, fixed: Mapping[str, float]) -> Problem | None:
        """Pose the fit as two terms whose logarithms are linear in (ln c, ln k, t); as a formula with some of them held."""
        if fixed:
            return None
        return exponential.exponential(columns, raw, above)

    def predict(self, share: Any) -> Any:
        """Predict the loss in nats per token for shares [..., parts]."""
        return self.c + self.k * np.exp(self.weighted(share))


@dataclasses.dataclass(frozen=True)
class LinearMixing(OfShares, FormulaLaw):
    """L = b + sum_j w_j r_j by ordinary least squares, nats per token on a domain; b is the average mixture's loss."""

    b: Number

    NAME: ClassVar[str] = "mixing_linear"
    FORMULA: ClassVar[str] = "L = b + sum_j w_j r_j"
    SOURCE: ClassVar[str] = "Liu et al. 2024 (RegMix; arXiv 2407.01492), the linear regression"
    ROLES: ClassVar[tuple[str, ...]] = ("share", "loss")
    OPTIONAL: ClassVar[tuple[str, ...]] = ("weight", "run")
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")
    LETTER: ClassVar[str] = "w"
    COEFFICIENTS: ClassVar[dict[str, Coefficient]] = {"b": free()}

    def predict(self, share: Any) -> Any:
        """Predict the loss in nats per token for shares [..., parts]."""
        return self.b + self.weighted(share)


@dataclasses.dataclass(frozen=True)
class BoostedMixing(OfShares, Law):
    """Gradient-boosted regression trees of the shares; the trees, as text, are its only coefficient."""

    trees: str

    NAME: ClassVar[str] = "mixing_lightgbm"
    FORMULA: ClassVar[str] = "L = sum of regression trees of (r_1, ..., r_m)"
    SOURCE: ClassVar[str] = "Liu et al. 2024 (RegMix; arXiv 2407.01492)"
    ROLES: ClassVar[tuple[str, ...]] = ("share", "loss")
    OWN_ROLES: ClassVar[Mapping[str, Role]] = {
        "validation": Role("1 in rows that only decide when boosting stops", ("validation",), positive=False),
    }
    OPTIONAL: ClassVar[tuple[str, ...]] = ("validation",)
    INPUTS: ClassVar[tuple[tuple[str, ...], ...]] = (("share",),)
    OBJECTIVE: ClassVar[Objective] = Objective("least_squares", "raw")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return ()

    @classmethod
    def restore(cls, coefficients: Mapping[str, Any], details: Mapping[str, Any]) -> Self:
        del coefficients
        return cls(str(details["trees"]))

    def predict(self, share: Any) -> Any:
        """Predict the loss in nats per token for shares [..., parts]."""
        share = np.asarray(share, dtype=np.float64)
        booster = _booster(self.trees)
        found = booster.predict(np.atleast_2d(share), num_threads=1)
        return found.reshape(share.shape[:-1])

    def target_at(self, at: Inputs, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN) -> Any:
        del flops_per_param_token
        return self.predict(gather("share", self.PARTS, at))


def import_lightgbm() -> Any:
    """Return the library of boosted trees. Raises InputError where it is not installed."""
    try:
        import lightgbm
    except ModuleNotFoundError:
        raise InputError(
            "--law=mixing_lightgbm: lightgbm is not installed; pip install -r requirements-lab.txt"
        ) from None
    return lightgbm


@functools.lru_cache(maxsize=16)
def _booster(trees: str) -> Any:
    return import_lightgbm().Booster(model_str=trees)


@dataclasses.dataclass(frozen=True)
class BiMix(SumLaw):
    """L = r^-a (B s^-b + C), nats per token on one domain that has the share r of the data, after s steps.

    The source's factor A before the bracket cannot be told from B and C; it is part of them here.
    """

    B: Number
    C: Number
    a: Number
    b: Number

    NAME: ClassVar[str] = "bimix"
    FORMULA: ClassVar[str] = "L = (B/s^b + C)/r^a"
    SOURCE: ClassVar[str] = "Ge et al. 2024 (BiMix; arXiv 2405.14908)"
    ROLES: ClassVar[tuple[str, ...]] = ("proportion", "S", "loss")
    TERMS: ClassVar[tuple[Term, ...]] = (
        Term("B", (("proportion", -1.0, "a"), ("S", -1.0, "b"))),
        Term("C", (("proportion", -1.0, "a"),)),
    )


def spearman(law: Any, table: Any) -> float:
    """Return the rank correlation of predicted and measured losses over the rows of a table with `share` and `loss`."""
    from scipy import stats

    predicted = np.asarray(law.predict(table["share"]))
    correlation, _ = np.array(stats.spearmanr(predicted, np.asarray(table["loss"])), dtype=np.float64)
    return float(correlation)


def best_mixture(
    law: Any, prior: Mapping[str, float] | Sequence[float], draws: int = 100_000, top: int = 128, seed: int = 42
) -> np.ndarray:
    """Find the shares [parts] that make a law's loss least: the mean of the `top` best of mixtures drawn around a prior.

    Mixtures are drawn from Dirichlet(prior) by numpy's RandomState(seed), as RegMix does. The prior is the share of
    each part in the data that there is, in the order of the law's parts or by name. Raises InputError for a prior that
    is not positive or names other parts.
    """
    parts = law.PARTS["share"]
    in_order = _in_order(prior, parts) if isinstance(prior, Mapping) else prior
    weights = np.asarray(in_order, dtype=np.float64)
    if weights.shape != (len(parts),) or not (np.isfinite(weights) & (weights > 0)).all():
        raise InputError(
            f"prior: {list(map(float, weights))} is not one positive number for each of {len(parts)} parts"
        )
    if not 0 < top <= draws:
        raise InputError(f"top: {top} is not between 1 and the {draws} draws")
    share = np.random.RandomState(seed).dirichlet(weights, draws)
    best = np.argsort(law.predict(share), kind="stable")[:top]
    return share[best].mean(axis=0)


def _in_order(prior: Mapping[str, float], parts: Sequence[str]) -> list[float]:
    """Return the shares of a prior in the order of the parts; InputError for one too many or too few."""
    for name in prior:
        if name not in parts:
            raise InputError(f"prior: {name!r} is not a part of the mixture; {nearest(name, parts, 'part')}")
    missing = [part for part in parts if part not in prior]
    if missing:
        raise InputError(f"prior: no share for {', '.join(missing)}; expected one for each part")
    return [prior[part] for part in parts]
