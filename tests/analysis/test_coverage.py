"""Whether printed intervals hold the truth as often as they say, and whether the count of it can be believed."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.command_line.answers import coverage as answer
from analysis.questions import coverage
from analysis.questions.coverage import NOMINAL, PROFILES, QUANTITIES, Printed, Tally
from analysis.questions.planted import AHEAD, DESIGNS
from analysis.writing.output_file import write
from experiments.cli import InputError

TRUTHS = (*QUANTITIES, *PROFILES)
ALLOWED = 1e-3  # chance with which a right interval fails the slow test, at each quantity of each design


def test_held_missed_open_and_withheld_are_told_apart():
    printed = [
        Printed(1.0, 0.5, 2.0),
        Printed(1.0, 1.1, 1.2),
        Printed(1.0, None, 3.0),  # open below: holds, with a width that has no number
        Printed(1.0, None, None, is_given=False),
    ]
    share = coverage.share_of(printed, "alpha")
    assert (share.grids, share.printed) == (4, 3)
    assert share.covered == pytest.approx(2 / 3)
    assert share.width == pytest.approx(1.5)
    assert coverage.share_of(printed, "A").width == pytest.approx(4.0)
    assert share.is_as_it_says  # of three intervals two tell nothing against 85%
    assert not coverage.share_of(printed[:2] * 20, "alpha").is_as_it_says
    assert not coverage.share_of(printed[:1] * 200, "alpha").is_as_it_says
    nothing = coverage.share_of(printed[3:], "alpha")
    assert nothing.covered is None and nothing.is_as_it_says
    assert math.isinf(coverage.share_of(printed[2:], "alpha").width)


@pytest.mark.parametrize("name", DESIGNS)
def test_a_planted_grid_is_what_its_design_says(name):
    planted = coverage.plant(name, 0, 3)
    again = coverage.plant(name, 0, 3)
    other = coverage.plant(name, 0, 4)
    columns = planted.columns
    np.testing.assert_array_equal(columns["loss"], again.columns["loss"])
    assert planted.truth != other.truth
    assert planted.budget == pytest.approx(AHEAD * 6 * (columns["N"] * columns["D"]).max(), rel=0.5)
    error = np.log(columns["loss"] / planted.truth.predict(columns["N"], columns["D"]))
    assert 0.0003 < np.median(np.abs(error)) < 0.01  # median of |normal| at 0.3% is 0.2%
    assert set(coverage.truths(planted)) == set(TRUTHS)


def test_a_ladder_is_planted_on_its_line_and_so_is_its_prediction():
    columns = coverage.plant("ladder_0", 0, 0).columns
    np.testing.assert_allclose(columns["D"], 20 * columns["N"])
    line = coverage.plant("ladder_20", 0, 0).line
    assert line["D"] == pytest.approx(20 * line["N"])
    assert coverage.plant("one_size", 0, 0).line["N"] == 1e9


def test_a_tally_goes_on_where_it_was_stopped(tmp_path):
    """One grid and then another give what both at once give; the file says so too."""
    path = tmp_path / "coverage.json"
    names = ["isoflop_20"]
    whole = Tally(seed=0, replicates=10, outcomes={})
    coverage.complete(whole, whole.missing(names, 2), lambda: None)

    part = coverage.read(str(path), 0, 10)

    def save() -> None:
        write(str(path), coverage.to_content(part), "--out")

    coverage.complete(part, part.missing(names, 1), save)
    part = coverage.read(str(path), 0, 10)
    assert part.missing(names, 2) == [("isoflop_20", 1)]
    coverage.complete(part, part.missing(names, 2), save)
    assert part == whole
    assert coverage.read(str(path), 0, 10) == whole

    with pytest.raises(InputError, match="--replicates: .* was made with replicates=10, got 20"):
        coverage.read(str(path), 0, 20)
    path.write_text("{}")
    with pytest.raises(InputError, match="--out: .* is not a tally"):
        coverage.read(str(path), 0, 10)


def test_a_design_that_is_none_is_refused():
    with pytest.raises(InputError, match="'lader_5' is not a design; .*ladder_5"):
        coverage.chosen(["lader_5"])
    assert coverage.chosen([]) == list(DESIGNS)


def test_the_table_goes_between_the_marks(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("before\n")
    with pytest.raises(InputError, match="--into: .* has no lines"):
        answer.check_marks(str(file))
    right = {name: Printed(1.0, 0.5, 2.0) for name in TRUTHS}
    wrong = right | {"alpha": Printed(1.0, 2.0, 3.0), "beta": Printed(1.0, None, None, is_given=False)}
    outcomes = {"ladder_5": dict.fromkeys(range(9), right) | {9: wrong}, "one_size": dict.fromkeys(range(5), wrong)}
    file.write_text(f"before\n{answer.BEGIN}\nold\n{answer.END}\nafter\n")
    answer.write_into(str(file), Tally(0, 10, outcomes))
    text = file.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    ladder, one_size = (line.split(" | ") for line in text.splitlines() if line.startswith(("| ladder", "| one")))
    head = next(line.split(" | ") for line in text.splitlines() if line.startswith("| design"))
    alpha = head.index("alpha")
    beta = head.index("beta")
    assert ladder[1] == "10"
    assert ladder[alpha] == "90%" and ladder[beta] == "100% of 90%"
    assert one_size[alpha] == "**0%**" and one_size[beta] == "none"


@pytest.mark.slow
@pytest.mark.parametrize("name", DESIGNS)
def test_printed_intervals_hold_the_truth_as_often_as_they_say(name):
    """A few grids of each design; what is too far from 85 to 95% for chance fails."""
    count = 10 if name == "isoflop_5000" else 40
    tally = Tally(seed=1, replicates=400, outcomes={})
    coverage.complete(tally, tally.missing([name], count), lambda: None)
    wrong = []
    for quantity, share in tally.shares(name).items():
        if share.covered is None:
            continue
        held = round(share.covered * share.printed)
        too_few = stats.binom.cdf(held, share.printed, NOMINAL[0])
        too_many = stats.binom.sf(held - 1, share.printed, NOMINAL[1])
        if min(too_few, too_many) < ALLOWED:
            wrong.append(f"{quantity}: {held} of {share.printed}")
    assert not wrong, wrong
