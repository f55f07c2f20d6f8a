"""The size that is cheapest over its life, where training and serving are paid from one budget."""

import dataclasses
import functools

import numpy as np
import pytest

import analysis
from analysis.fitting.spec import FitSpec
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.kaplan import KaplanND
from analysis.laws.overtraining import OverTraining
from analysis.questions import fit as fitting
from analysis.questions import lifetime, predict
from experiments.cli import InputError
from tests.support import planted

LAWS = {
    "chinchilla": Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283),
    "kaplan": KaplanND(6.4e13, 1.8e13, 0.076, 0.103),
    "overtraining": OverTraining(E=1.84, a=200, b=300, eta=0.13),
}


@functools.cache
def any_fit() -> predict.Fitted:
    result = analysis.fit(planted.isoflop_frame(noise=0.002, seed=1), "chinchilla", bootstrap=0, starts=16)
    return predict.of_result(result)


def fitted(law, factor=6.0) -> predict.Fitted:
    """A fit that found this law."""
    return dataclasses.replace(any_fit(), law=law, flops_per_param_token=factor)


def served(law, tokens, at, factor=6.0):
    of_life = lifetime.serving(fitted(law, factor), tokens)
    return lifetime.predict(of_life, at)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("factor", [6.0, 7.3])
def test_no_served_tokens_give_the_number_of_training_alone_to_all_digits(law, factor):
    alone = predict.predict(fitted(law, factor), {"C": 1e23})
    found = served(law, 0, {"C": 1e23}, factor)
    assert found.loss == alone.loss and found.extrapolation == alone.extrapolation
    assert {name: found.optimum[name] for name in alone.optimum} == alone.optimum
    barely = served(law, 1.0, {"C": 1e23}, factor)
    assert barely.optimum["N"] == pytest.approx(alone.optimum["N"], rel=1e-7)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("tokens", [1e9, 1e12, 1e15])
def test_no_other_size_is_better_for_the_budget_or_cheaper_for_the_loss(law, tokens):
    budget = 1e24
    found = served(law, tokens, {"C": budget}).optimum
    assert found["training_flops"] + found["serving_flops"] == pytest.approx(budget, rel=1e-12)
    assert found["serving_flops"] == pytest.approx(2 * found["N"] * tokens)
    least = law.predict(found["N"], found["D"])
    for N in found["N"] * np.array([0.5, 0.9, 0.999, 1.001, 1.1]):
        D = (budget / N - 2 * tokens) / 6
        assert D <= 0 or law.predict(N, D) > least
    back = served(law, tokens, {"loss": float(least)})
    assert back.optimum["total_flops"] == pytest.approx(budget, rel=1e-6)
    assert back.optimum["N"] == pytest.approx(found["N"], rel=1e-6) and back.interval is None


def test_the_example_of_the_source():
    """Sardana et al. 2024: a 13B model's quality and 2T served tokens take 7B on 2.1 times the data, 17% cheaper."""
    law = LAWS["chinchilla"]
    N = 13e9
    C = 6e22
    for _ in range(200):
        C *= (N / law.optimum(C)[0]) ** 1.0
    D = law.optimum(C)[1]
    found = served(law, 2e12, {"loss": float(law.predict(N, D))}).optimum
    plain = C + 2 * N * 2e12
    assert found["N"] == pytest.approx(7e9, rel=0.1)
    assert found["D"] / D == pytest.approx(2.1, rel=0.1)
    assert 1 - found["total_flops"] / plain == pytest.approx(0.17, abs=0.02)


def test_intervals_and_what_cannot_be_asked(tmp_path):
    frame = planted.isoflop_frame(noise=0.002, seed=1)
    columns = planted.columns(*(frame[name].to_numpy() for name in ("params", "tokens", "loss")))
    result = fitting.fit(columns, Chinchilla, FitSpec(bootstrap=40, starts=16))
    of_fit = predict.of_result(result)
    of_life = lifetime.serving(of_fit, 1e12)
    for at in ({"C": 1e23}, {"loss": 2.1}):
        found = lifetime.predict(of_life, at)
        for name in ("N", "D", "tokens_per_param", "total_flops"):
            interval = found.optimum_intervals[name]
            if name == "total_flops" and "C" in at:  # it is what was asked for
                assert interval is None and found.optimum[name] == at["C"]
                continue
            assert interval is not None and interval.low <= found.optimum[name] <= interval.high
        predict.to_json(found)
    with pytest.raises(InputError, match=r"--at: loss=1 is not reached"):
        lifetime.predict(of_life, {"loss": 1.0})
    with pytest.raises(InputError, match="--serve_tokens: -1"):
        lifetime.serving(of_fit, -1.0)
    for text in ("", "N=1e9,D=1e10"):
        with pytest.raises(InputError, match=r"expected C=\.\. or loss=\.\."):
            lifetime.parse_at(text, of_life.law)


def test_python_asks_the_same():
    frame = planted.isoflop_frame(noise=0.002, seed=1)
    fit = analysis.fit(frame, "chinchilla", bootstrap=0, starts=16)
    found = fit.predict(C=1e23, serve_tokens=1e12)
    assert found.optimum["total_flops"] == pytest.approx(1e23) and found.optimum["N"] < fit.predict(C=1e23).optimum["N"]
    assert fit.predict(C=1e23, serve_tokens=0).optimum["N"] == fit.predict(C=1e23).optimum["N"]
    of_training = repr(fit.predict(C=1e23)).splitlines()
    of_life = repr(found).splitlines()
    for label in ("optimal N", "optimal D", "optimal tokens per param"):
        assert sum(line.startswith(f"{label} = ") for line in (*of_training, *of_life)) == 2
    assert any(line.startswith("serving FLOPs = ") for line in of_life) and "total" not in repr(found)
    assert of_life[1].startswith("C = 1e+23, 1e+12 tokens served: loss ")
