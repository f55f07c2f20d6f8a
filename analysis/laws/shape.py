"""Predict the loss from the shape of a model: width and depth as quantities of their own. What width alone would give is superposition.py's.

Whether a trend turns (inverse and U-shaped scaling) is a question to data without a law: analysis/questions/trend.py.
"""

import dataclasses
from typing import ClassVar

from analysis.laws.base import Number, SumLaw, Term

GEMSTONES = "McLeish et al. 2025 (Gemstones; arXiv 2502.06857)"


@dataclasses.dataclass(frozen=True)
class WidthDepth(SumLaw):
    """L = A/width^alpha + B/depth^beta + C/D^gamma + E, nats per token, for D tokens."""

    A: Number
    B: Number
    C: Number
    E: Number
    alpha: Number
    beta: Number
    gamma: Number

    NAME: ClassVar[str] = "width_depth"
    FORMULA: ClassVar[str] = "L = A/width^alpha + B/depth^beta + C/D^gamma + E"
    SOURCE: ClassVar[str] = GEMSTONES
    ROLES: ClassVar[tuple[str, ...]] = ("width", "depth", "D", "loss")
    TERMS: ClassVar[tuple[Term, ...]] = (
        Term("A", (("width", -1.0, "alpha"),)),
        Term("B", (("depth", -1.0, "beta"),)),
        Term("C", (("D", -1.0, "gamma"),)),
        Term("E"),
    )


@dataclasses.dataclass(frozen=True)
class WidthDepthParams(SumLaw):
    """L = A/width^alpha + B/depth^beta + C/N^gamma + G/D^delta + E, nats per token: parameters beside their shape.

    N is nearly a product of powers of width and depth: only a grid with models that are wide and shallow as well as deep
    and narrow tells the terms apart.
    """

    A: Number
    B: Number
    C: Number
    G: Number
    E: Number
    alpha: Number
    beta: Number
    gamma: Number
    delta: Number

    NAME: ClassVar[str] = "width_depth_params"
    FORMULA: ClassVar[str] = "L = A/width^alpha + B/depth^beta + C/N^gamma + G/D^delta + E"
    SOURCE: ClassVar[str] = GEMSTONES
    ROLES: ClassVar[tuple[str, ...]] = ("width", "depth", "N", "D", "loss")
    TERMS: ClassVar[tuple[Term, ...]] = (
        Term("A", (("width", -1.0, "alpha"),)),
        Term("B", (("depth", -1.0, "beta"),)),
        Term("C", (("N", -1.0, "gamma"),)),
        Term("G", (("D", -1.0, "delta"),)),
        Term("E"),
    )
