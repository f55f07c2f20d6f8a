"""Numbers that carry derivatives, against jax's in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.solve import jet
from analysis.solve.jet import Jet, variable

X = np.array([0.3, 0.9, 2.0, 7.0])
AT = np.array([0.7, -0.4, 1.3])

# Each of numpy or of jax.numpy as `xp`, of coefficients a, b and c.
FORMULAS: dict[str, Callable[..., Any]] = {
    "sum": lambda xp, a, b, c: a + 2 - b + (3 - c) - 1,
    "product": lambda xp, a, b, c: a * b * X * c * a,
    "quotient": lambda xp, a, b, c: a / (1 + X * c**2) + X / a + b / 3 + 2 / c,
    "negative": lambda xp, a, b, c: -a * +b + xp.conjugate(c),
    "powers": lambda xp, a, b, c: X**b + a**c + a**2 + a**-1.5 + 2**b + X**-c + xp.float_power(a, 2.5),
    "exp": lambda xp, a, b, c: xp.exp(a * b * X) + xp.exp2(c) + xp.expm1(b * X),
    "log": lambda xp, a, b, c: xp.log(a * X + c) + xp.log2(a) + xp.log10(c) * b + xp.log1p(a * X),
    "roots": lambda xp, a, b, c: xp.sqrt(a * X) * b + xp.square(c * X) + xp.reciprocal(a),
    "waves": lambda xp, a, b, c: xp.tanh(a * X) + xp.arctan(b * X) * a + xp.sin(b * X) * xp.cos(c),
    "choice": lambda xp, a, b, c: xp.where(X > 1, a * b, c * X) + xp.where(a * X > 1, X, b),
    "least": lambda xp, a, b, c: xp.minimum(a * X, c) + xp.maximum(b * X, -1.0) * a,
    "bounded": lambda xp, a, b, c: xp.clip(a * X, 0.5, 2.0) * c + xp.abs(b * X + a),
    "sums of rows": lambda xp, a, b, c: X * xp.sum(a * X * b) + c,
    "a law": lambda xp, a, b, c: c + xp.exp(a - b * xp.log(X)) + (X / a) ** (-b * c),
}


def coefficients(second: bool) -> list[Jet]:
    return [variable(name, np.array(value), 1.0, None, second) for name, value in zip("abc", AT, strict=True)]


@pytest.mark.parametrize("name", FORMULAS)
def test_value_slopes_and_bends_are_those_of_jax(name: str):
    formula = FORMULAS[name]

    def of_jax(at: jax.Array) -> jax.Array:
        return jnp.broadcast_to(formula(jnp, *at), X.shape)

    with jax.enable_x64(True):
        value, slopes, bends = (
            np.asarray(f(jnp.asarray(AT))) for f in (of_jax, jax.jacfwd(of_jax), jax.hessian(of_jax))
        )
    found = formula(np, *coefficients(second=True)).spread(X.shape)
    assert found.value == pytest.approx(value, rel=1e-13)
    for i, one in enumerate("abc"):
        assert found.slopes.get(one, 0 * X) == pytest.approx(slopes[:, i], rel=1e-12, abs=1e-13), one
        for j, other in enumerate("abc"[i:], start=i):
            assert found.bends.get((one, other), 0 * X) == pytest.approx(bends[:, i, j], rel=1e-11, abs=1e-12), (
                one + other
            )
    only_slopes = formula(np, *coefficients(second=False))
    assert only_slopes.bends is None
    assert only_slopes.spread(X.shape).slopes.keys() == found.slopes.keys()


@pytest.mark.filterwarnings("error")
def test_derivatives_that_do_not_exist_are_no_warning():
    """Each search goes too far now and then; a reader of its result would not know what to do with a line about it."""
    far = variable("a", np.array([0.0, 1e-300, -1.0, 1e300]), 1.0, None, True)
    for function in (np.log, np.log1p, np.sqrt, np.reciprocal, np.exp, lambda x: x**-2.5):
        assert not np.isfinite(function(far).bends["a", "a"]).all()


@pytest.mark.filterwarnings("error")
def test_a_power_of_zero_has_finite_derivatives():
    _, b, c = coefficients(second=True)
    hinge = np.maximum(b, 0.0)
    for found in (np.zeros(1) ** c, (0 * b) ** c, hinge**1.5, hinge**0.5, hinge**1, (0 * b) ** 2):
        derivatives = [*found.slopes.values(), *found.bends.values()]
        assert found.value == 0 and all(np.isfinite(one).all() for one in derivatives)


def test_what_has_no_value_is_chosen_as_numpy_does():
    """So that the objective of a search is that of what it finds."""
    nothing = variable("a", np.array([np.nan, 2.0]), 1.0, None, True)
    for function in (np.minimum, np.maximum):
        assert np.isnan(function(nothing, 0.0).value).tolist() == [True, False]
        assert np.isnan(function(0.0, nothing).value).tolist() == [True, False]


def test_rows_of_a_jet_and_their_sum():
    a, b, _ = coefficients(second=True)
    found = (a * X * b)[1:].sum()
    assert found.value == pytest.approx((AT[0] * AT[1] * X[1:]).sum())
    assert found.slopes["a"] == pytest.approx((AT[1] * X[1:]).sum())
    assert found.bends["a", "b"] == pytest.approx(X[1:].sum())


@pytest.mark.parametrize(
    "formula", [np.sinc, np.cumsum, np.sort, lambda x: np.add.reduce(x), float, np.arcsin, np.asarray, np.fmin.reduce]
)
def test_what_a_jet_does_not_know_is_refused(formula: Callable[[Any], Any]):
    with pytest.raises(TypeError):
        formula(coefficients(second=True)[0])


def test_every_function_of_the_tables_is_compared():
    """As the formulas call them; whether a number is finite, and which of two is less, has no slope."""
    called: set[np.ufunc] = set()

    class Noting(Jet):
        def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
            called.add(ufunc)
            found = super().__array_ufunc__(ufunc, method, *inputs, **options)
            return Noting(found.value, found.slopes, found.bends) if isinstance(found, Jet) else found

    for formula in FORMULAS.values():
        formula(np, *(Noting(one.value, one.slopes, one.bends) for one in coefficients(second=True)))
    assert {*jet.ONE_ARGUMENT, *jet.TWO_ARGUMENTS} <= called
