"""Figures and the words of a report: runs lie where their numbers say, ids and labels are safe, facts are stated."""

import dataclasses
import re
from xml.etree import ElementTree

from matplotlib.figure import Figure
import numpy as np
import pandas as pd
import pytest

from analysis import figures
from analysis.figures import families, quality, scaling, style
from analysis.fitting.spec import FitSpec
from analysis.grid.selection import select
from analysis.grid.table import Columns
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.growth import GrowthSpeedup
from analysis.procedures import envelope
from analysis.questions import compare, fit
from analysis.questions.forecast import QUANTILES, Forecast, Outcome
from analysis.reporting import page, words
from analysis.reporting.checklist import UNKNOWN, checklist
from analysis.reporting.rates import learning_rates, rate_and_batch
from analysis.reporting.runs import run_table
from analysis.reporting.survey import survey
from tests.support import planted


@pytest.fixture(scope="module")
def ours():
    """Our own columns: a grid and what a report states about it."""
    grid = planted.grid(planted.our_frame())
    return grid, survey(grid, FitSpec(bootstrap=20), None, None)


def marks(svg: bytes) -> dict[int, list[tuple[float, float]]]:
    """Row -> places of its markers."""
    found: dict[int, list[tuple[float, float]]] = {}
    for element in ElementTree.fromstring(svg).iter():
        if "data-run" in element.attrib:
            found.setdefault(int(element.get("data-run")), []).append(
                (float(element.get("x")), float(element.get("y")))
            )
    return found


# --- from a drawing to its SVG


def test_a_marker_knows_its_row_whatever_is_left_out():
    x, y = np.array([1.0, np.nan, 10.0, -5.0, 100.0, 1e9]), np.array([1.0, 1.0, 2.0, 3.0, np.inf, 4.0])
    rows = np.array([70, 71, 72, 73, 74, 75])

    def draw() -> Figure:
        figure = Figure(figsize=(4, 3))
        axis = figure.subplots()
        style.runs(axis, x, y, rows)
        style.log_axis(axis, "x")
        axis.set_xlim(0.5, 50)  # the last run is far off the page, the one at -5 not on a logarithmic axis
        return figure

    found = marks(figures.render(draw, "name")[0])
    assert sorted(found) == [70, 72]
    (left, low), (right, high) = found[70][0], found[72][0]
    assert left < right and low > high  # y grows downwards


def test_places_are_those_of_the_numbers(ours):
    _, found = ours
    svg = figures.render(lambda: scaling.surface(found["chinchilla"]), "surface")[0]
    places = marks(svg)
    rows = sorted(places)
    assert rows == list(found.columns.row)
    x, y = np.array([places[row][0] for row in rows]).T
    assert np.corrcoef(np.log(found.columns["N"]), x)[0, 1] > 0.9999
    assert np.corrcoef(np.log(found.columns["D"]), y)[0, 1] < -0.9999


def test_svgs_do_not_share_ids_and_say_the_same_twice(ours):
    _, found = ours
    drawn = {name: figures.render(lambda draw=draw: draw(found["chinchilla"]), name)[0].decode()
             for name, draw in (("residuals", quality.residuals), ("observed", quality.observed))}  # fmt: skip
    ids = {name: re.findall(r' id="([^"]*)"', svg) for name, svg in drawn.items()}
    for name, svg in drawn.items():
        assert len(ids[name]) == len(set(ids[name])) and all(one.startswith(f"{name}-") for one in ids[name])
        assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)) and "<metadata" not in svg
        assert all(
            one in ids[name] for pair in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg) for one in pair if one
        )
    assert figures.render(lambda: quality.residuals(found["chinchilla"]), "residuals")[0].decode() == drawn["residuals"]


def test_of_many_runs_the_extreme_ones_are_drawn():
    size = np.random.default_rng(0).normal(size=20_000)
    shown = style.choose(np.arange(20_000), size)
    assert len(shown) == len(set(shown)) == style.MOST_RUNS
    assert set(np.argsort(-np.abs(size))[:100]) <= set(shown)
    assert np.array_equal(style.choose(np.arange(7), size[:7]), np.arange(7))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("text", ["$a_{", "_hidden", "a" * 200, "<b>&", "\\frac", "日本"])
def test_names_from_a_grid_are_labels_and_not_commands(text):
    def draw() -> Figure:
        figure = Figure()
        axis = figure.subplots()
        axis.plot([1, 2], [1, 2], label=style.plain(text))
        axis.set_xlabel(style.plain(text))
        assert len(axis.legend().get_texts()) == 1
        return figure

    ElementTree.fromstring(figures.render(draw, "label")[0])
    assert len(style.plain(text)) <= 40


@pytest.mark.parametrize("values", [[0.0, 0.0], [-1.0, 2.0], [*np.linspace(-1, 1, 50), 300.0], [1e-3, 1e7]])
def test_an_axis_around_zero_shows_every_value(values):
    figure = Figure()
    axis = figure.subplots()
    axis.plot(values, "o")
    style.symmetric(axis, np.array(values))
    low, high = axis.get_ylim()
    assert low <= min(values) and max(values) <= high
    ticks = [tick for tick in axis.get_yticks() if low <= tick <= high]
    assert 0 in np.round(ticks, 12) and 2 <= len(ticks) <= 13


# --- each figure with little, with much and with odd data


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_only_asked_for_what_there_is(ours, name):
    figure = figures.FIGURES[name]
    bare = dataclasses.replace(
        ours[1], results={"isoflop": ours[1]["isoflop"]}, headline="isoflop", rolling=None, rates=[]
    )
    if figure.applies(bare):
        ElementTree.fromstring(figures.render(lambda: figure.draw(bare), name)[0])
    assert figure.caption.endswith(".")


def test_the_envelope_counts_one_run_a_budget():
    C = np.array([1.0, 1.0004, 1.0008, 30.0, 30.01])
    loss = np.array([2.5, 2.3, 2.2, 1.9, 1.8])
    assert envelope.lower_hull(np.log(C), np.log(loss)).tolist() == [2, 4]


def test_bands_are_the_intervals_of_the_optima(ours):
    _, found = ours
    result, C = found["chinchilla"], np.array([1e20, 1e22])
    edges = scaling.band(result, C)
    for at, one in enumerate(C):
        interval = result.interval_of(lambda law, one=one: law.optimum(one, result.flops_per_param_token)[0])
        assert edges[0][at] == pytest.approx([interval.low, interval.high])


def test_exchange_rates_of_families_with_odd_names():
    other = Chinchilla(E=1.65, A=500.0, B=2400.0, alpha=0.34, beta=0.37)
    frames = [planted.isoflop_frame(noise=0.003, seed=1).assign(family="$dense_"),
              planted.isoflop_frame(other, noise=0.003, seed=2).assign(family="<moe>")]  # fmt: skip
    grid = planted.grid(pd.concat(frames))
    columns = select(grid, ("N", "D", "loss", "family"), optional=("C",))
    found = compare.compare(columns, Chinchilla, FitSpec(bootstrap=20))
    figure = families.exchange(found)
    drawn = [line for line in figure.axes[0].lines if line.get_label().startswith(("<moe>", r"\$dense"))]
    rate = next(iter(found.rates.values()))
    np.testing.assert_allclose(drawn[0].get_ydata()[~rate.extrapolated], rate.multiplier[~rate.extrapolated])
    assert b"data-run" not in figures.render(lambda: families.exchange(found), "exchange")[0]


@pytest.mark.parametrize("even", [5e20, 1e30])
def test_growth_shows_where_it_breaks_even(even):
    C = np.geomspace(1e18, 1e20, 8)
    noise = 0.01 * np.random.default_rng(0).normal(size=8)
    columns = Columns({"C": C, "speedup": GrowthSpeedup(even, 0.1).predict(C) + noise}, np.arange(8), {}, ())
    result = fit.fit(columns, GrowthSpeedup, FitSpec(bootstrap=20))
    figure = families.growth(result)
    low, high = figure.axes[0].get_xlim()
    assert (low < result.law.C_even < high) == (even == 5e20)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert any("break-even" in label for label in labels)
    assert sorted(marks(figures.render(lambda: families.growth(result), "growth")[0])) == list(range(8))


@pytest.mark.parametrize("count", [1, 3, 60])
def test_calibration_counts_what_the_intervals_held(count):
    from scipy.stats import norm

    stream, outcomes = np.random.default_rng(1), []
    for at in range(count):
        quantiles = 2 * np.exp(0.01 * norm.ppf(QUANTILES))
        seen = float(2 * np.exp(0.01 * stream.normal()))
        forecast = Forecast(
            "chinchilla", {"N": 1e9, "D": 1e10}, "loss", 2.0, tuple(quantiles), f"{at:03d}", "0", "", {}
        )
        rank = float(np.interp(seen, quantiles, QUANTILES, left=0.005, right=0.995))
        outcomes.append(Outcome(forecast, at, seen, 2 / seen - 1, rank))
    figure = families.calibration(outcomes)
    line = next(line for line in figure.axes[0].lines if line.get_label() == "these forecasts")
    at = {round(float(x), 2): y for x, y in line.get_xydata()}
    ranks = np.array([outcome.rank for outcome in outcomes])
    for level in (0.2, 0.5, 0.9):
        assert at[level] == pytest.approx(np.mean(np.abs(ranks - 0.5) <= level / 2 + 1e-9))
    assert sorted(marks(figures.render(lambda: families.calibration(outcomes), "calibration")[0])) == list(range(count))


def test_profiles_cross_their_limit_at_the_ends(ours):
    result = ours[1]["chinchilla"]
    panels = {axis.get_xlabel(): axis for axis in quality.profile_panels(result).axes if axis.lines}
    for name, one in result.profiles.items():
        curve = panels[name].lines[-2].get_xydata() if one.low is not None else None
        if curve is not None:
            assert np.interp(one.low, *curve.T) == pytest.approx(1, abs=0.35)


# --- the words


def test_the_checklist_states_what_the_grid_knows(ours):
    grid, found = ours
    items = {item.item: item.value for item in checklist(found, grid)}
    assert items["Form"].startswith("L = E") and items["Coefficients fitted"].startswith("5: E, A, B")
    assert items["N (parameters)"].startswith("params_total: all parameters")
    assert items["Learning rate"] == "0.004 (lr)" and items["Batch"] == "4096 (batch_tokens)"
    assert items["Seeds"] == "0 (seed)" and "family dense" in items["Architecture"]
    assert items["Left out"].startswith("6 rows: 5 because group is lr_bracket")
    assert "158M parameters: rates 0.0005 to 0.016 tried" in items["How they were tuned"]
    assert items["Tokenizer"] == items["Training data"] == items["Optimiser"] == UNKNOWN
    sections = list(dict.fromkeys(item.section for item in checklist(found, grid)))
    assert sections == ["The law", "Variables", "Training runs", "Data and loss", "The fit", "Trust", "Availability"]
    assert all(item.value for item in checklist(found, grid))


def test_the_checklist_of_a_report_without_approach_3(ours):
    grid, found = ours
    results = {name: one for name, one in found.results.items() if name != "chinchilla"}
    bare = dataclasses.replace(found, results=results, headline="isoflop", failures={"chinchilla": "no"})
    items = {item.item: item.value for item in checklist(bare, grid)}
    assert "N*" in items["Form"] and "closed form" in items["Optimiser and starts"]
    html = page.render(bare, grid, "command", {})
    assert "approach 3, parametric: not fitted" in html


def test_the_table_of_runs(ours):
    grid, found = ours
    table = run_table(found, grid, [2, 0, 21, 22])
    assert table["heads"][:5] == ["row", "N", "D", "C", "loss"] and {"in the fit", "group", "lr"} <= set(table["heads"])
    by_row = {row["row"]: dict(zip(table["heads"], row["cells"], strict=True)) for row in table["rows"]}
    assert by_row[0]["in the fit"] == "yes" and by_row[21]["in the fit"] == "no"
    assert float(by_row[2]["law"]) == pytest.approx(
        float(found["chinchilla"].law.predict(found.columns["N"][2], found.columns["D"][2])), rel=1e-4
    )
    away = [abs(float(row["loss over law"].rstrip("%"))) for row in by_row.values()]
    assert away == sorted(away, reverse=True)
    assert "family" not in table["heads"]  # it does not vary


def test_a_grid_that_settles_nothing_has_no_headline_number():
    frame = planted.isoflop_frame(noise=0.003).assign(loss=2.0)
    found = survey(planted.grid(frame), FitSpec(bootstrap=10), None, None)
    top = words.headline(found)
    assert top["exponent"] == "" and "do not say" in top["title"] and found.verdict == "poor"


def test_learning_rates_and_batches_keep_their_rows():
    frame = planted.our_frame()
    grid = planted.grid(frame)
    columns = select(grid, ("N", "D", "loss", "C"))
    (rates,) = learning_rates(grid, columns)
    assert frame["lr"].to_numpy()[rates.rows] == pytest.approx(rates.rate)
    assert frame["loss_nats"].to_numpy()[rates.rows] == pytest.approx(rates.loss)
    assert rate_and_batch(grid, columns) == []  # one batch
    frame = planted.isoflop_frame(budgets=3, sizes=3).iloc[np.repeat(np.arange(9), 6)].reset_index(drop=True)
    frame["learning_rate"], frame["batch_size_tokens"] = (
        np.tile([1e-3, 2e-3, 4e-3], 18),
        np.repeat([1e5, 2e5], 3).tolist() * 9,
    )
    grid = planted.grid(frame)
    cells = rate_and_batch(grid, select(grid, ("N", "D", "loss", "C")))
    assert len(cells) == 9 and all(len(cell.rows) == 6 for cell in cells)
    for cell in cells:
        assert frame["params"].to_numpy()[cell.rows] == pytest.approx(cell.N)
    svg = figures.render(lambda: figures.tuning.rate_batch_map(cells), "rate_batch")[0]
    assert len(marks(svg)) == 6 * figures.tuning.MOST_CELLS


@pytest.mark.slow
def test_the_page_of_five_hundred_runs_is_light():
    frame = planted.isoflop_frame(budgets=20, sizes=25, noise=0.003)
    grid = planted.grid(frame)
    found = survey(grid, FitSpec(bootstrap=50), None, None)
    assert len(page.render(found, grid, "command", figures.draw_all(found))) < 2e6


def test_every_approach_of_a_report_is_drawn_in_its_own_colour_under_its_title():
    labels = {name: label for name, (_, label) in scaling.APPROACHES.items()}
    colours = [colour for colour, _ in scaling.APPROACHES.values()]
    assert labels == words.TITLES and len(set(colours)) == len(colours)
