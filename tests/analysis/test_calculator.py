"""The report's calculator in a real browser: its numbers are those of analysis.predict, and none that the runs do not support."""

import dataclasses
import math

import numpy as np
import pytest

from analysis import laws
from analysis.fitting.result import FitResult
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.written import law_of
from analysis.questions import fit, predict
from analysis.reporting import page
from analysis.reporting.survey import survey
from analysis.trust.certificate import Certificate
from analysis.trust.design_check import lay_out
from analysis.trust.verdict import Verdict
from tests.support import browser as browser_support
from tests.support import planted, planted_laws
from tests.support.browser import DESK, PHONE

pytestmark = browser_support.needs_chromium


def written(folder, name: str, frame, spec: FitSpec):
    """A survey of a grid, and its report without figures."""
    grid = planted.grid(frame)
    found = survey(grid, spec, None, None)
    path = folder / f"{name}.html"
    path.write_text(page.render(found, grid, "command", {}))
    return found, path


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """IsoFLOP runs, which support everything."""
    return written(
        tmp_path_factory.mktemp("good"),
        "good",
        planted.isoflop_frame(noise=0.003, seed=5),
        FitSpec(bootstrap=60, starts=32),
    )


@pytest.fixture(scope="module")
def ladder(good, tmp_path_factory):
    """The report of a law that was fitted to runs with exactly 20 tokens a parameter: how to share is not in them."""
    frame = planted.isoflop_frame()
    N = frame["params"].to_numpy()
    noise = np.exp(0.002 * np.random.default_rng(7).normal(size=len(N)))
    columns = planted.columns(N, 20 * N, planted.TRUTH.predict(N, 20 * N) * noise)
    fitted = fit.fit(columns, Chinchilla, FitSpec(bootstrap=20, starts=16, thorough=False))
    found = dataclasses.replace(good[0], results=good[0].results | {"chinchilla": fitted})
    path = tmp_path_factory.mktemp("ladder") / "ladder.html"
    path.write_text(page.render(found, planted.grid(frame), "command", {}))
    return path


@pytest.fixture(scope="module")
def browser():
    with browser_support.started() as started:
        yield started


@pytest.fixture
def visit(browser):
    with browser_support.visits(browser) as visits:
        yield visits


def ask(tab, C: float, served: float = 0.0, N: float | None = None) -> dict:
    return tab.evaluate("ask => lossgrid.answer(ask)", {"C": C, "served": served, "N": N})


FORMULAS = (
    "mine: L = E + A/N^alpha + B/D^beta",
    "turning: L = E + max(A/N^alpha, B/D^beta) + g*abs(log(N)/20 - 1)",
    "rates: L = E + A/N^alpha + B/D^beta + g*(log(lr) - m)^2",
)
OF_FORMULAS = ((1.7, 400, 0.34, 410, 0.28), (1.7, 400, 0.34, 410, 0.28, 0.01), (1.7, 400, 0.34, 410, 0.28, 0.01, -6.5))


def of_law(law: type, coefficients: tuple[float, ...], inputs: dict[str, np.ndarray]) -> FitResult:
    """A fit as the page needs it, with refits around planted coefficients."""
    truth = law(*coefficients)
    rows = len(next(iter(inputs.values())))
    values = {**inputs, law.TARGET: np.asarray(truth.target_at(inputs))}
    columns = Columns(values, np.arange(rows), {role: role for role in values}, ())
    near = np.random.default_rng(2).normal(1, 0.01, (60, len(coefficients)))
    return FitResult(
        law=truth,
        spec=FitSpec(law.OBJECTIVE),
        columns=columns,
        objective=1.0,
        residual=np.full(rows, 0.01),
        certificate=Certificate(None, None, None),
        draws=near[:40] * np.array(coefficients),
        left_out=(1 + (near[40:] - 1) / 4) * np.array(coefficients),
        freedom=20,
        verdict=Verdict(lay_out(columns, [role for role in inputs if values[role].ndim == 1], law.TARGET)),
    )


def every_law() -> dict[str, FitResult]:
    """A fit of each law of N and D, and of formulas."""
    found = {}
    rates = {"N": planted_laws.N, "D": planted_laws.D}
    known = {**planted_laws.PLANTED, "lr_batch": ((1.79, -0.713, 0.307, 0.58, 0.571), rates)}
    known["two_step"] = ((0.4, 50, 300, 0.3, 0.33, 0.7, -4.0, 1.1, 0.25), rates)
    for name, (coefficients, inputs) in known.items():
        if {"N", "D"} <= set(inputs):
            found[name] = of_law(laws.load(name), coefficients, inputs)
    lr = {"lr": np.full(planted_laws.ROWS, 1e-3)}
    for text, coefficients in zip(FORMULAS, OF_FORMULAS, strict=True):
        law = law_of(text)
        inputs = {**rates, **(lr if "lr" in law.inputs() else {})}
        found[law.NAME] = of_law(law, coefficients, inputs)
    return found


@pytest.fixture(scope="module")
def all_laws(good, tmp_path_factory):
    fits = every_law()
    found = dataclasses.replace(good[0], calculated=fits)
    path = tmp_path_factory.mktemp("laws") / "laws.html"
    path.write_text(page.render(found, planted.grid(planted.isoflop_frame()), "command", {}))
    return fits, path


def test_the_calculator_serves_every_law_of_sizes_and_tokens(visit, all_laws):
    """Each number is that of analysis.predict, for runs that are chosen and, where the law has an optimum, for budgets."""
    fits, path = all_laws
    tab = visit(path, **DESK)
    wrong = []
    for name, result in fits.items():
        fitted = predict.of_result(result)
        roles = next(names for names in result.law.INPUTS if "N" in names and "D" in names)
        others = {role: float(np.median(result.columns[role])) for role in roles if role not in ("N", "D")}
        for size, tokens in ((3e8, 6e9), (2e9, 1e11)):
            expected = predict.predict(fitted, {"N": size, "D": tokens, **others})
            budget = fitted.flops_per_param_token * size * tokens
            given = {"law": name, "C": budget, "served": 0, "N": size, "others": others}
            numbers = tab.evaluate("ask => lossgrid.answer(ask)", given)
            if not same(numbers["loss"], expected.loss, expected.interval):
                wrong.append((name, others, numbers["loss"], expected.loss, expected.interval))
        if any(set(names) == {"C"} for names in result.law.INPUTS):
            expected = predict.predict(fitted, {"C": 1e21})
            numbers = tab.evaluate("ask => lossgrid.answer(ask)", {"law": name, "C": 1e21, "served": 0, "N": None})
            of_page = {"N": "N", "D": "D", "ratio": "tokens_per_param"}
            for number, role in of_page.items():
                if not same(numbers[number], expected.optimum[role], expected.optimum_intervals[role]):
                    wrong.append((name, number, numbers[number], expected.optimum[role]))
            if not same(numbers["loss"], expected.loss, expected.interval):
                wrong.append((name, "at its optimum", numbers["loss"], expected.loss))
    assert not wrong


def test_a_law_is_chosen_and_its_own_inputs_are_set(visit, all_laws):
    _, path = all_laws
    tab = visit(path, **DESK)
    tab.get_by_label("law", exact=True).select_option("precision")
    assert "bits_weights" in tab.locator("#calculator [data-others]").inner_text()
    assert tab.get_by_label("choose the size").is_disabled()
    first = shown(tab, "loss")
    bits = tab.locator("#calculator input[type=text][name=bits_weights]")
    bits.fill("3")
    bits.press("Enter")
    assert shown(tab, "loss") != first
    tab.get_by_label("law", exact=True).select_option("rounded")
    assert shown(tab, "critical_D")[0] != "–"
    tab.get_by_label("law", exact=True).select_option("chinchilla")
    assert tab.get_by_label("choose the size").is_enabled()
    assert "bits" not in tab.locator("#calculator [data-others]").inner_text()
    assert tab.locator("#calculator tr[data-number=critical_D]").count() == 0


def test_a_law_that_no_page_can_compute_says_so(visit, good, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Searching(Chinchilla):
        """A law that looks at its numbers."""

        NAME = "searching"

        def predict(self, N, D):
            return super().predict(N, D) if float(np.max(N)) > 0 else np.nan

    fits = {"searching": of_law(Searching, (1.7, 400, 2000, 0.34, 0.37), {"N": planted_laws.N, "D": planted_laws.D})}
    found = dataclasses.replace(good[0], calculated=fits)
    path = tmp_path / "none.html"
    path.write_text(page.render(found, planted.grid(planted.isoflop_frame()), "command", {}))
    tab = visit(path, **DESK)
    tab.get_by_label("law", exact=True).select_option("searching")
    assert "searching has no expression that a page can compute" in tab.locator("[data-notes]").inner_text()
    assert shown(tab, "loss")[0] == "–"


def same(number: dict, value: float, interval) -> bool:
    """Whether the page has a number and its interval: the value to rounding, ends of quantiles to a thousandth."""
    ends = [number.get("low"), number.get("high")]
    if None in ends:
        return False
    width = interval.high - interval.low
    return math.isclose(number["value"], value, rel_tol=1e-9) and ends == pytest.approx(
        [interval.low, interval.high], abs=0.02 * width
    )


@pytest.mark.parametrize("C", [3e18, 1e20, 1e23])
def test_a_budget_gives_the_numbers_of_predict(visit, good, C):
    found, path = good
    expected = predict.predict(predict.of_result(found["chinchilla"]), {"C": C})
    numbers = ask(visit(path, **DESK), C)
    for name, role in {"N": "N", "D": "D", "ratio": "tokens_per_param"}.items():
        assert same(numbers[name], expected.optimum[role], expected.optimum_intervals[role])
    assert same(numbers["loss"], expected.loss, expected.interval)


def test_a_size_of_ones_own_gives_the_loss_of_that_run(visit, good):
    found, path = good
    fitted = predict.of_result(found["chinchilla"])
    numbers = ask(visit(path, **DESK), 1e21, N=2e9)
    tokens = 1e21 / fitted.flops_per_param_token / 2e9
    expected = predict.predict(fitted, {"N": 2e9, "D": tokens})
    assert numbers["D"]["value"] == pytest.approx(tokens)
    assert same(numbers["loss"], expected.loss, expected.interval)


def test_a_served_model_is_smaller_and_pays_for_what_it_serves(visit, good):
    found, path = good
    law = found["chinchilla"].law
    k = found["chinchilla"].flops_per_param_token
    C, served = 1e21, 2e11
    numbers = ask(visit(path, **DESK), C, served=served)
    N, D = numbers["N"]["value"], numbers["D"]["value"]
    assert k * N * D + k / 3 * N * served == pytest.approx(C)
    assert law.optimum(C, k)[0] > N
    for factor in (0.97, 1.03):  # no other size that the budget pays for is better
        tokens = (C / (N * factor) - k / 3 * served) / k
        assert law.predict(N * factor, tokens) > law.predict(N, D)


def shown(tab, name: str) -> list[str]:
    return tab.locator(f'#calculator tr[data-number="{name}"] td').all_text_contents()[1:]


def test_sliders_and_fields_move_the_numbers(visit, good):
    tab = visit(good[1], **DESK)
    first = shown(tab, "N")
    assert first[0] and " to " in first[1] and " to " in shown(tab, "loss")[1]
    budget = tab.locator("#calculator input[type=text][name=C]")
    budget.fill("1e23")
    budget.press("Enter")
    second = shown(tab, "N")
    assert second != first and "times beyond the largest budget" in tab.locator("[data-notes]").inner_text()
    slider = tab.locator("#ask-C")
    slider.focus()
    slider.press("ArrowLeft")
    assert shown(tab, "N") != second and budget.input_value() != "1.00e+23"
    served = tab.locator("#calculator input[type=text][name=served]")
    served.fill("10T")
    served.press("Enter")
    assert "of the budget is serving" in tab.locator("[data-notes]").inner_text()
    tab.get_by_label("choose the size").check()
    size = tab.locator("#calculator input[type=text][name=N]")
    size.fill("7B")
    size.press("Enter")
    assert shown(tab, "N") == ["7B", "as chosen"]
    size.fill("seven")
    size.press("Enter")
    assert size.input_value() == "7B"
    assert tab.locator("#calculator polyline").count() == 1


def test_what_the_runs_do_not_support_has_no_number(visit, ladder):
    tab = visit(ladder, **DESK)
    for name in ("N", "D", "ratio"):
        assert shown(tab, name) == ["–", "not known"]
    assert "does not support" in tab.locator("[data-notes]").inner_text()
    assert tab.locator("#calculator circle").count() == 0


def test_the_calculator_fits_on_a_phone(visit, good):
    tab = visit(good[1], **PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.locator("#ask-C").scroll_into_view_if_needed()
    assert tab.locator("#ask-C").bounding_box()["width"] > 120
