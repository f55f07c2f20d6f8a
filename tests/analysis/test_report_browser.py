"""report.html in a real browser: every figure is drawn, every run can be asked what it is, and nothing is fetched."""

import functools
import pathlib

import numpy as np
import pytest

from analysis import figures
from analysis.fitting.spec import FitSpec
from analysis.grid.table import load
from analysis.reporting import page
from analysis.reporting.survey import survey
from tests.support import browser as browser_support
from tests.support import planted
from tests.support.browser import DESK, PHONE

pytestmark = browser_support.needs_chromium


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> pathlib.Path:
    """The report of a small grid with a learning-rate bracket and a column of markup."""
    folder = tmp_path_factory.mktemp("browser")
    frame = planted.our_frame()
    frame["name"] = [f"run {row} <img src=x onerror=alert(1)>" for row in range(len(frame))]
    frame["batch_tokens"] = np.where(np.arange(len(frame)) % 2, 4096, 8192)
    frame.to_parquet(folder / "grid.parquet")
    grid = load(folder / "grid.parquet")
    found = survey(grid, FitSpec(bootstrap=30), None, None)
    path = folder / "report.html"
    path.write_text(page.render(found, grid, "python -m analysis.report grid.parquet", figures.draw_all(found)))
    return path


@pytest.fixture(scope="module")
def browser():
    with browser_support.started() as started:
        yield started


@pytest.fixture
def visit(browser, report):
    """Opens the report in a window; at the end nothing may have gone wrong in it and nothing may have been fetched."""
    with browser_support.visits(browser) as visits:
        yield functools.partial(visits, report)


def middle(element) -> tuple[float, float]:
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def lone_run(tab, figure: str) -> str:
    """A run of a figure that no other run is near: the pointer cannot mean another."""
    return tab.eval_on_selector_all(
        f"#{figure} [data-run]",
        """marks => {
          const at = marks.map(mark => [+mark.getAttribute("x"), +mark.getAttribute("y")]);
          const gap = one => Math.min(...at.filter(other => other !== one).map(other => Math.hypot(other[0] - one[0], other[1] - one[1])));
          const gaps = at.map(gap);
          return marks[gaps.indexOf(Math.max(...gaps))].dataset.run;
        }""",
    )


def row_of(tab, run: str) -> list[str]:
    return tab.locator(f'#runs tr[data-run="{run}"] td').all_text_contents()


def test_every_figure_is_drawn_and_labelled(visit):
    tab = visit(**DESK)
    svgs = tab.locator("figure svg")
    assert svgs.count() >= 10
    for at in range(svgs.count()):
        box = svgs.nth(at).bounding_box()
        assert box["width"] > 300 and box["height"] > 100
        assert svgs.nth(at).get_attribute("role") == "img" and len(svgs.nth(at).get_attribute("aria-label")) > 20
    for name in ("isoflop", "envelope", "surface", "residuals", "observed", "learning_rate"):
        for mark in tab.locator(f"#{name} [data-run]").all()[:5]:
            assert mark.bounding_box()["width"] > 1
    assert (
        tab.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size")
        == tab.locator("[id]").count()
    )


def test_every_run_of_the_fit_is_in_the_figures_and_in_the_table(visit):
    tab = visit(**DESK)
    listed = set(tab.eval_on_selector_all("#runs tbody tr", "rows => rows.map(row => row.dataset.run)"))
    assert listed == set(map(str, range(25)))  # 20 of the fit, 5 of the bracket; the run that diverged has no loss
    for name, count in {"surface": 20, "isoflop": 20, "residuals": 60}.items():
        drawn = tab.eval_on_selector_all(f"#{name} [data-run]", "marks => marks.map(mark => mark.dataset.run)")
        assert len(drawn) == count and set(drawn) == set(map(str, range(20)))


def test_a_run_lies_where_its_numbers_say(visit, report):
    """Order of the runs along an axis of a figure is their order in the grid's column."""
    tab = visit(**DESK)
    frame = load(report.parent / "grid.parquet").frame
    marks = tab.eval_on_selector_all(
        "#surface [data-run]",
        "marks => marks.map(mark => [+mark.dataset.run, +mark.getAttribute('x'), +mark.getAttribute('y')])",
    )
    rows, x, y = np.array(marks).T
    N, D = (np.log(frame[name].to_numpy()[rows.astype(int)]) for name in ("params_total", "tokens"))
    assert np.corrcoef(N, x)[0, 1] > 0.9999 and np.corrcoef(D, y)[0, 1] < -0.9999


def test_pointing_at_a_run_shows_its_row_and_its_twins(visit):
    tab = visit(**DESK)
    run = lone_run(tab, "isoflop")
    tip = tab.locator("#tip")
    assert not tip.is_visible()
    tab.mouse.move(*middle(tab.locator(f'#isoflop [data-run="{run}"]')))
    tip.wait_for(state="visible")
    shown = tip.inner_text()
    assert f"row {run}: run {run} <img src=x" in shown
    cells = row_of(tab, run)
    assert all(cell in shown for cell in cells[1:7])
    twins = tab.locator(f'svg [data-run="{run}"]').count()
    assert twins >= 7 and tab.locator(".ring").count() == twins
    assert tab.locator("tr.hot").get_attribute("data-run") == run
    tab.mouse.move(2, 2)
    assert not tip.is_visible() and tab.locator(".ring").count() == 0


def test_pointing_at_a_row_of_the_table_rings_its_runs(visit):
    tab = visit(**DESK)
    tab.mouse.move(*middle(tab.locator('#runs tr[data-run="3"] td').first))
    assert tab.locator(".ring").count() == tab.locator('svg [data-run="3"]').count() > 0
    assert tab.locator("tr.hot").get_attribute("data-run") == "3"


def test_tapping_on_a_phone(visit):
    tab = visit(**PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    wide = "() => [...document.querySelectorAll('.scroll')].filter(box => box.getBoundingClientRect().right > innerWidth).length"
    assert tab.evaluate(wide) == 0
    assert tab.evaluate(
        "() => { const box = document.getElementById('runs'); return box.scrollWidth > box.clientWidth; }"
    )
    run = lone_run(tab, "surface")
    tab.touchscreen.tap(*middle(tab.locator(f'#surface [data-run="{run}"]')))
    tip = tab.locator("#tip")
    tip.wait_for(state="visible")
    assert f"row {run}" in tip.inner_text()
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] >= 0 and box["y"] + box["height"] <= 844
    caption = tab.locator("#surface figcaption")
    caption.scroll_into_view_if_needed()
    corner = caption.bounding_box()
    tab.touchscreen.tap(corner["x"] + 10, corner["y"] + 8)  # on its words, not on a link
    assert not tip.is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_the_keyboard_walks_over_the_runs(visit):
    tab = visit(**DESK)
    for _ in range(60):
        tab.keyboard.press("Tab")
        if (
            tab.evaluate("document.activeElement.closest('figure')?.id") == "isoflop"
            and tab.evaluate("document.activeElement.tagName") == "svg"
        ):
            break
    tip = tab.locator("#tip")
    first = tip.inner_text()
    assert first.startswith("row ")
    tab.keyboard.press("ArrowRight")
    second = tip.inner_text()
    assert second.startswith("row ") and second != first
    tab.keyboard.press("ArrowLeft")
    assert tip.inner_text() == first
    tab.keyboard.press("End")
    assert tip.inner_text() not in (first, second)
    tab.keyboard.press("Escape")
    assert not tip.is_visible()
    rows = tab.locator("#runs tbody tr")
    rows.first.focus()
    assert f"row {rows.first.get_attribute('data-run')}" in tip.inner_text()
    tab.keyboard.press("ArrowDown")
    assert f"row {rows.nth(1).get_attribute('data-run')}" in tip.inner_text()


def test_the_page_follows_the_colour_scheme(visit):
    colour = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert visit(**DESK, color_scheme="light").evaluate(colour) > 200
    dark = visit(**DESK, color_scheme="dark")
    assert dark.evaluate(colour) < 50
    assert "invert" in dark.evaluate("getComputedStyle(document.querySelector('figure svg')).filter")


def numbers_of(svg) -> list[float]:
    return [float(one) for one in svg.get_attribute("viewBox").split()]


def test_a_figure_is_enlarged_moved_and_shown_whole_again(visit):
    tab = visit(**DESK)
    svg = tab.locator("#surface svg")
    svg.scroll_into_view_if_needed()
    whole = svg.get_attribute("viewBox")
    tab.get_by_label("enlarge: surface").click()
    width = float(svg.get_attribute("viewBox").split()[2])
    assert width == pytest.approx(float(whole.split()[2]) / 1.5)
    x, y = middle(svg)
    tab.mouse.move(x, y)
    tab.keyboard.down("Control")
    tab.mouse.wheel(0, -300)
    tab.keyboard.up("Control")
    tab.wait_for_function(
        "width => +document.querySelector('#surface svg').getAttribute('viewBox').split(' ')[2] < width", arg=width
    )
    before = svg.get_attribute("viewBox")
    tab.mouse.down()
    tab.mouse.move(x - 40, y - 30, steps=4)
    tab.mouse.up()
    moved = [float(one) for one in svg.get_attribute("viewBox").split()]
    assert moved[0] > float(before.split()[0]) and moved[1] > float(before.split()[1])
    run = tab.evaluate(
        """() => {
          const box = document.querySelector("#surface svg").getBoundingClientRect();
          const inside = [...document.querySelectorAll("#surface [data-run]")].find(mark => {
            const { left, right, top, bottom } = mark.getBoundingClientRect();
            return left > box.left && right < box.right && top > box.top && bottom < box.bottom;
          });
          return inside?.dataset.run;
        }"""
    )
    if run is not None:
        tab.mouse.move(*middle(tab.locator(f'#surface [data-run="{run}"]')))
        assert tab.locator("#tip").is_visible()
    tab.get_by_label("show whole: surface").click()
    assert numbers_of(svg) == pytest.approx([float(one) for one in whole.split()])
    scrolled = tab.evaluate("scrollY")
    tab.mouse.move(x, y)
    tab.mouse.wheel(0, 200)  # without Ctrl the page scrolls
    tab.wait_for_function("at => scrollY > at", arg=scrolled)
    assert numbers_of(svg) == pytest.approx([float(one) for one in whole.split()])


def test_an_entry_of_a_legend_hides_and_shows_its_series(visit):
    """Every entry of every figure has something to hide; what is hidden is not drawn and cannot be pointed at."""
    tab = visit(**DESK)
    buttons = tab.locator("figure svg rect.entry")
    assert buttons.count() >= 6
    untied = tab.eval_on_selector_all(
        "figure svg rect.entry",
        'all => all.filter(one => !one.closest("svg").querySelector(`[data-series="${one.dataset.of}"]`)).length',
    )
    assert untied == 0
    entry = tab.locator("#envelope svg rect.entry, #residuals svg rect.entry").first
    figure = entry.evaluate("one => one.closest('figure').id")
    series = tab.locator(f"#{figure} svg [data-series='{entry.get_attribute('data-of')}']")
    assert series.first.is_visible()
    tab.mouse.click(*middle(entry))
    assert entry.get_attribute("aria-pressed") == "false"
    assert not any(series.nth(at).is_visible() for at in range(series.count()))
    entry.focus()
    tab.keyboard.press("Enter")
    assert entry.get_attribute("aria-pressed") == "true" and series.first.is_visible()


def test_runs_that_are_hidden_cannot_be_pointed_at(visit):
    tab = visit(**DESK)
    found = tab.eval_on_selector_all(
        "figure svg rect.entry",
        'all => all.map(one => [one.closest("figure").id, one.dataset.of]).find(([id, of]) => '
        'document.querySelector(`#${id} [data-series="${of}"] [data-run]`))',
    )
    assert found, "no legend speaks of runs"
    figure, number = found
    mark = tab.locator(f"#{figure} [data-series='{number}'] [data-run]").first
    at = middle(mark)
    tab.mouse.move(*at)
    assert tab.locator("#tip").is_visible()
    tab.locator(f"#{figure} rect.entry[data-of='{number}']").dispatch_event("click")
    tab.mouse.move(at[0] + 1, at[1])
    hidden = tab.locator(f"#{figure} [data-series='{number}'] .hot").count()
    assert hidden == 0
