"""Every law that is a formula is recovered from rows that it made, and says so when the rows cannot tell."""

import dataclasses
import math
import pathlib

import numpy as np
import pandas as pd
import pytest

from analysis import laws
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw
from analysis.laws.distillation import Distillation, Supervised
from analysis.laws.farseer import Farseer
from analysis.laws.moe_joint import JointMoE
from analysis.laws.one_quantity import Broken
from analysis.laws.parallel import ParallelStreams
from analysis.laws.rounding import RoundedLoss
from analysis.laws.several_breaks import Broken2
from analysis.procedures.registry import procedure_of
from analysis.questions import fit as fitting
from analysis.solve.objective import Objective
from experiments.cli import InputError
from tests.support.planted_laws import BITS, PLANTED, STUDENT, TEACHER, D, N, columns, parts

STARTS = 32
PEERS = pathlib.Path(__file__).parents[3] / "shared" / "peers"
MANY = {
    "broken_3",
    "precision_joint",
    "moe_joint",
    "tuning_surface",
    "distillation",
    "farseer",
}  # so many coefficients that Huber takes long
SLOW = {"broken_2", "broken_3", "distillation", "moe_joint", "precision_joint", "tuning_surface"}
SORTED = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in sorted(PLANTED)]
SQUARES = Objective("least_squares", "log")
UNSEEN = {"efficiency_leverage": {"A_max"}}  # so large that no row feels it


def test_every_formula_is_planted_here():
    formulas = {name for name, law in laws.LAWS.items() if issubclass(law, FormulaLaw) and not procedure_of(law)}
    assert formulas == set(PLANTED)


@pytest.mark.parametrize("name", SORTED)
def test_a_planted_law_is_recovered(name):
    coefficients, inputs = PLANTED[name]
    law = laws.load(name).of(parts(inputs))
    truth = law(*coefficients)
    objective = SQUARES if name in MANY else None
    found = fitting.fit(columns(law, truth, inputs), law, FitSpec(bootstrap=0, starts=STARTS, objective=objective))
    assert np.abs(found.residual).max() < 1e-8
    for coefficient, value in truth.coefficients().items():
        if coefficient not in UNSEEN.get(name, ()):
            assert getattr(found.law, coefficient) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_coefficient_that_is_zero_raises_nothing(name):
    """A fit may drop a term, so that a prefactor or an exponent is zero: what is made of it is then NaN or infinite."""
    coefficients, inputs = PLANTED[name]
    law = laws.load(name).of(parts(inputs))
    may_vanish = [one for one in law.names() if law.COEFFICIENTS[one].low <= 0 <= law.COEFFICIENTS[one].high]
    truth = dict(zip(law.names(), map(float, coefficients), strict=True))
    of_roles = {"N": 1e9, "D": 2e10, "U": 1e10, "C": 1e21}
    for gone in (*([one] for one in may_vanish), may_vanish):
        one = law(**(truth | dict.fromkeys(gone, 0.0)))
        with np.errstate(all="ignore"):
            one.optimum_exponents()
            for names in law.INPUTS:
                at = {role: of_roles.get(role, 2.0) for role in names}
                one.target_at(at)
                one.derived(at)


def test_farseer_is_the_function_of_its_source():
    """Their coefficients for English, of their repository; the loss there by their equation 3."""
    a = {1: -1.665630816, 2: 230.73437075885855, 3: -0.062465473}
    b = {1: 3.133347198805445, 2: -1.544209554, 3: 0.1284880679442551}
    powers = {1: 0.0459, 2: -0.1729, 3: 0.13}
    coefficients = []
    for i, power in powers.items():
        v = a[i] * power * 1e9**power
        coefficients += [b[i] + v / power, v, power]
    law = Farseer(*coefficients)
    for name, value in law.published().items():
        assert value == pytest.approx({"a": a, "b": b}[name[0]][int(name[1])], rel=1e-9)
    F = {i: a[i] * N ** powers[i] + b[i] for i in powers}
    theirs = np.exp(F[3]) + np.exp(F[2]) * D ** -np.exp(F[1])
    assert law.predict(N, D) == pytest.approx(theirs, rel=1e-9)
    size, tokens = law.optimum(1e22)
    best = law.predict(size, tokens)
    assert all(law.predict(size * s, tokens / s) > best for s in (0.5, 0.99, 1.01, 2.0))


@pytest.mark.parametrize(
    ("experts", "m", "mu", "n", "nu"),
    [
        (1, 30.3640, -0.1817, 53.9838, -0.1965),
        (4, 24.8462, -0.1731, 87.7022, -0.2192),
        (32, 16.5424, -0.1557, 234.6726, -0.2652),
    ],
)
def test_the_joint_law_of_experts_reduces_as_in_its_source(experts, m, mu, n, nu):
    """Ludziejewski et al. 2025: table 3 gives table 4, m N^mu + n D^nu + c for one number of experts."""
    coefficients, _ = PLANTED["moe_joint"]
    one = JointMoE(*coefficients).of_experts(experts)
    assert (one.A, -one.alpha, one.B, -one.beta) == pytest.approx((m, mu, n, nu), rel=4e-3)
    assert one.E == 1.3637


def test_more_breaks_are_products_of_one_break():
    """Caballero et al. 2022, equation 1, written out; and with the second break out of reach it is the law of one."""
    X = np.geomspace(1e2, 1e14, 60)
    law = Broken2(0.5, 30.0, 0.05, 0.3, 1e6, 0.4, -0.2, 1e3, 0.7)
    one = (1 + (X / 1e6) ** (1 / 0.4)) ** (-0.3 * 0.4)
    other = (1 + (X / 1e9) ** (1 / 0.7)) ** (0.2 * 0.7)
    assert law.predict(X) == pytest.approx(0.5 + 30.0 * X**-0.05 * one * other, rel=1e-12)
    assert law.derived({}) == pytest.approx({"x1": 1e6, "x2": 1e9})
    far = Broken2(0.5, 30.0, 0.05, 0.3, 1e6, 0.4, -0.2, 1e25, 0.7)
    assert far.predict(X) == pytest.approx(Broken(0.5, 30.0, 0.05, 0.3, 1e6, 0.4).predict(X), rel=1e-9)
    assert laws.load("broken_5").names()[-3:] == ("c5", "r5", "f5") and laws.load("broken_2") is Broken2
    with pytest.raises(InputError, match="'broken_10' is not a law"):
        laws.load("broken_10")


@pytest.mark.skipif(not PEERS.exists(), reason="shared/peers is not there")
def test_streams_are_worth_what_the_source_says():
    """Chen et al. 2025: k is 0.39 on code and 0.33 on the Pile, fitted to 24 runs each; R^2 above 0.99 on larger runs."""
    train = pd.read_csv(PEERS / "parallel_train.csv")
    test = pd.read_csv(PEERS / "parallel_test.csv")
    for group, k in (("stack", 0.39), ("pile", 0.33)):
        rows = train[train["group"] == group]
        names = {"N": "num_params", "streams": "parallel_size", "loss": "loss"}
        values = {role: rows[name].to_numpy(float) for role, name in names.items()}
        found = fitting.fit(Columns(values, np.arange(len(rows)), {}, ()), ParallelStreams, FitSpec(bootstrap=0))
        assert found.law.k == pytest.approx(k, abs=0.06)
        held = test[test["group"] == group]
        predicted = found.law.predict(held["num_params"].to_numpy(float), held["parallel_size"].to_numpy(float))
        assert predicted == pytest.approx(held["loss"].to_numpy(), rel=0.01)


def test_rounding_makes_more_tokens_harmful_beyond_a_number_of_them():
    """Kumar et al. 2024, appendix E: at the critical tokens the loss after rounding is least."""
    coefficients, _ = PLANTED["rounded"]
    law = RoundedLoss(*coefficients)
    tokens = law.derived({"N": 1e8, "bits_after": 4.0})["critical_D"]
    least = law.predict(1e8, tokens, 4.0)
    assert law.predict(1e8, tokens * 1.05, 4.0) > least < law.predict(1e8, tokens / 1.05, 4.0)


def test_distillation_is_the_law_of_its_source():
    """Busbridge et al. 2025, equation 8 with the coefficients of table 6."""
    coefficients, inputs = PLANTED["distillation"]
    law = Distillation(*coefficients)
    assert law.d1 == pytest.approx(1.315, rel=1e-12)
    bend = (1 + (TEACHER / (STUDENT * 1.315)) ** (1 / 0.09)) ** (-522.6 * 0.09)
    own = (2243 / N**0.321 + 24181 / D**0.637) ** 0.764
    assert law.predict(**inputs) == pytest.approx(TEACHER + TEACHER**-2.549 * bend * own, rel=1e-12)


def test_the_supervised_law_of_distillation_has_the_allocation_of_its_source():
    """Busbridge et al. 2025, table 6: N* grows as C^0.513."""
    coefficients, _ = PLANTED["coupled"]
    law = Supervised(*coefficients)
    assert law.optimum_exponents()["exponent_N"] == pytest.approx(0.513, abs=1e-3)
    size, tokens = law.optimum(1e22)
    best = law.predict(size, tokens)
    assert all(law.predict(size * s, tokens / s) > best for s in (0.5, 0.99, 1.01, 2.0))


def test_the_joint_law_of_precision_is_equation_9_of_its_source():
    """Kumar et al. 2024, equations 4, 9 and 11 written out, at the constants of their table 2; its C_x are not published."""
    rates = {"weights": 0.8, "activations": 0.5, "cache": 0.3}
    reach = {"weights": 2.6745, "activations": 2.2102, "cache": 0.9578}
    law = laws.load("precision_joint")(
        E=2.7648, A=4299.0, B=18060.0, alpha=0.4965, beta=0.4965, C_T=0.0598, gamma_D=0.5068, gamma_N=0.3439,
        gamma_post=0.5907, g_w=reach["weights"], g_a=reach["activations"], g_kv=reach["cache"],
        C_w=rates["weights"], C_a=rates["activations"], C_kv=rates["cache"],
    )  # fmt: skip
    for bits in ((6, 8, 7, 4), (5, 12, 16, 3), (16, 16, 16, 5)):
        trained = dict(zip(rates, bits[:3], strict=True))
        after = bits[3]
        size = 1e9
        softened = 1.0
        for part, given in trained.items():
            size *= 1 - math.exp(-given / reach[part])
            softened *= 1 - math.exp(-rates[part] * (given - after))
        penalty = 0.0598 * math.exp(-after / 0.5907) * 26e9**0.5068 / size**0.3439 * softened
        theirs = 4299 * size**-0.4965 + 18060 * 26e9**-0.4965 + 2.7648 + penalty
        at = {f"bits_{part}": given for part, given in trained.items()}
        assert law.predict(1e9, 26e9, bits_after=after, **at) == pytest.approx(theirs, rel=1e-12)


def test_the_joint_law_of_precision_reduces_as_in_its_source():
    """Kumar et al. 2024, equation 9: without rounding it is that of training, and in full precision that of rounding."""
    coefficients, inputs = PLANTED["precision_joint"]
    joint = laws.load("precision_joint")(*coefficients)
    training = laws.load("precision")(*coefficients[:8])
    rounding = laws.load("rounded")(*coefficients[:5], *coefficients[8:12])
    bits = {name: value for name, value in inputs.items() if name.startswith("bits")}
    of_training = training.predict(N, D, *(bits[name] for name in BITS))
    kept = joint.predict(N=N, D=D, **(bits | {"bits_after": 200.0}))
    assert kept == pytest.approx(of_training, rel=1e-12)
    same = joint.predict(N=N, D=D, **(bits | {"bits_after": bits["bits_cache"]}))
    assert same == pytest.approx(of_training, rel=1e-12)
    full = dict.fromkeys(BITS, 400.0) | {"bits_after": bits["bits_after"]}
    assert joint.predict(N=N, D=D, **full) == pytest.approx(rounding.predict(N, D, bits["bits_after"]), rel=1e-12)
    # Their equation 10: of weights in few bits alone, at C_w = 1 / gamma_post.
    like = {"C_w": 1 / joint.gamma_post, "C_a": 50.0, "C_kv": 50.0}
    simple = dataclasses.replace(joint, **like)
    only_weights = dict.fromkeys(BITS, 400.0) | {"bits_weights": 8.0}
    noise = np.exp(-3.0 / joint.gamma_post) - np.exp(-8.0 / joint.gamma_post)
    effective = 1e9 * -np.expm1(-8.0 / joint.g_w)
    added = joint.C_T * noise * 1e11**joint.gamma_D / effective**joint.gamma_N
    of_training = training.predict(1e9, 1e11, **only_weights)
    found = simple.predict(1e9, 1e11, bits_after=3.0, **only_weights) - of_training
    assert found == pytest.approx(added, rel=1e-9)
    # Trained in few bits, a model is smaller and less hurt by rounding.
    few = joint.predict(N=1e9, D=1e11, bits_after=3.0, **dict.fromkeys(BITS, 4.0)) - training.predict(
        1e9, 1e11, 4, 4, 4
    )
    many = joint.predict(N=1e9, D=1e11, bits_after=3.0, **dict.fromkeys(BITS, 16.0)) - training.predict(
        1e9, 1e11, 16, 16, 16
    )
    assert few < 0.5 * many
