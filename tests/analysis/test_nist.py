"""NIST's certified nonlinear regressions (StRD): each model, given as a law of one's own, ends at the certified values."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw, free
from analysis.questions import fit as fitting
from analysis.solve.objective import Objective

SETS = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "nist_strd.json").read_text())["sets"]
LONG = ("Eckerle4", "Hahn1", "Lanczos1", "MGH10", "Thurber")  # seconds each
SPEC = FitSpec(objective=Objective("least_squares", "raw"), bootstrap=0, thorough=False, starts=8)


def ratio(x, above, below):
    """A quotient of polynomials, constant terms first."""
    return sum(b * x**at for at, b in enumerate(above)) / sum(b * x**at for at, b in enumerate(below))


def waves(b, x):
    def wave(cosine, sine, period):
        angle = 2 * np.pi * x / period
        return cosine * np.cos(angle) + sine * np.sin(angle)

    return b[0] + wave(b[1], b[2], 12) + wave(b[4], b[5], b[3]) + wave(b[7], b[8], b[6])


def two_peaks(b, x):
    first = b[2] * np.exp(-(((x - b[3]) / b[4]) ** 2))
    second = b[5] * np.exp(-(((x - b[6]) / b[7]) ** 2))
    return b[0] * np.exp(-b[1] * x) + first + second


def three_decays(b, x):
    return b[0] * np.exp(-b[1] * x) + b[2] * np.exp(-b[3] * x) + b[4] * np.exp(-b[5] * x)


MODELS = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": lambda b, x: b[0] * (1 - np.exp(-b[1] * x)),
    "Chwirut": lambda b, x: np.exp(-b[0] * x) / (b[1] + b[2] * x),
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": waves,
    "Eckerle4": lambda b, x: b[0] / b[1] * np.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Gauss": two_peaks,
    "Hahn1": lambda b, x: ratio(x, b[:4], (1, *b[4:])),
    "Kirby2": lambda b, x: ratio(x, b[:3], (1, *b[3:])),
    "Lanczos": three_decays,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * np.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * np.exp(-x * b[3]) + b[2] * np.exp(-x * b[4]),
    "Misra1a": lambda b, x: b[0] * (1 - np.exp(-b[1] * x)),
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda b, x, z: b[0] - b[1] * x * np.exp(-b[2] * z),
    "Rat42": lambda b, x: b[0] / (1 + np.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + np.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - np.arctan(b[2] / (x - b[3])) / np.pi,
    "Thurber": lambda b, x: ratio(x, b[:4], (1, *b[4:])),
}


def law_of(name: str, starts: list[list[float]], inputs: tuple[str, ...]) -> type[FormulaLaw]:
    """A law with the coefficients of one model, started where NIST says."""
    model = MODELS[name]
    names = [f"b{at + 1}" for at in range(len(starts))]

    def predict(self, **x):
        return model([getattr(self, name) for name in names], *x.values())

    body = {
        "NAME": name,
        "FORMULA": name,
        "SOURCE": "NIST StRD",
        "ROLES": (*inputs, "y"),
        "TARGET": "y",
        "COEFFICIENTS": {name: free(*values) for name, values in zip(names, starts, strict=True)},
        "predict": predict,
    }
    return dataclasses.make_dataclass(name, names, bases=(FormulaLaw,), namespace=body, frozen=True)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in SETS])
def test_a_certified_regression_is_reproduced_to_six_digits(name):
    given = SETS[name]
    y = np.array(given["y"])
    inputs = tuple("XZ"[: len(given["x"])])
    family = name if name in MODELS else name.rstrip("0123456789")
    law = law_of(family, given["starts"], inputs)
    columns = dict(zip(inputs, map(np.array, given["x"]), strict=True))
    observed = np.log(y) if name == "Nelson" else y
    found = fitting.fit(Columns({**columns, "y": observed}, np.arange(len(y)), {}, ()), law, SPEC)
    assert list(found.law.coefficients().values()) == pytest.approx(given["certified"], rel=1e-6)
    assert 2 * found.objective == pytest.approx(given["sum_of_squares"], rel=1e-6)
