"""Laws of learning rate and batch size: planted optima, choices of near-optimal rows, gaps, and what cannot be told."""

import json

import numpy as np
import pytest

from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws import load as load_law
from analysis.laws.lr_batch import ComputeLaw, JointLaw, StepLaw, law_on
from analysis.procedures import loss_gap, lr_batch, sweep_cells
from analysis.questions import fit as fitting
from analysis.solve.objective import Objective
from experiments.cli import InputError
from tests.support.commands import command

TRUTH = StepLaw(c=1.79, p=-0.713, q=0.307, k=0.58, r=0.571)
PLAIN = FitSpec(bootstrap=0)


def sweep(law=TRUTH, noise=0.0, steps=9, width=0.5, jitter=0.0, seed=0) -> Columns:
    """Six cells, each a grid of rates and batches around the law's optimum, with a parabola of loss in their logarithms."""
    draw = np.random.default_rng(seed)
    rows = []
    for N in (1e8, 4e8, 1.6e9):
        for D in (5e9, 4e10):
            at = {"N": N, "D": D, "C": 6 * N * D}
            lr, batch = law.predict(**{role: at[role] for role in {**law.LR, **law.BATCH}})
            for u in np.linspace(-width, width, steps):
                for v in np.linspace(-width, width, steps):
                    # Grids are not centred on the optimum.
                    x, y = u + 0.1 * np.sin(N / 1e8), v + 0.1 * np.cos(D / 1e9)
                    loss = (2 + 100 / N**0.3 + 300 / D**0.3) * (1 + 0.02 * (x * x + 0.5 * y * y + 0.3 * x * y))
                    loss *= 1 + noise * draw.standard_normal()
                    wiggle = 1 + jitter * draw.uniform(-1, 1)
                    rows.append((N * wiggle, D, lr * np.exp(x), batch * np.exp(y), loss))
    N, D, lr, batch, loss = np.array(rows).T
    values = {"N": N, "D": D, "lr": lr, "batch": batch, "loss": loss}
    return Columns(values, np.arange(len(N)), {}, ())


@pytest.mark.parametrize("choice", ["near", "best", "vertex"])
def test_a_planted_law_is_recovered(choice):
    found = lr_batch.fit_lr_batch(sweep(), StepLaw, PLAIN, choice, excess=1e-3)
    for name in ("p", "q", "r"):
        tolerance = 1e-9 if choice == "vertex" else 0.03
        assert getattr(found.law, name) == pytest.approx(getattr(TRUTH, name), abs=tolerance)
    assert found.law.predict(N=4e8, D=4e10)[0] == pytest.approx(TRUTH.predict(N=4e8, D=4e10)[0], rel=0.06)
    assert found.details["cells"] == 6 and found.details["choice"] == choice


def test_standard_errors_and_r_squared_are_those_of_scipy():
    from scipy import stats

    columns = sweep(noise=1e-3)
    found = lr_batch.fit_lr_batch(columns, StepLaw, PLAIN, resample="points")
    points = sweep_cells.optima(columns, ("N", "D"))
    line = stats.linregress(np.log(points.inputs["D"]), points.log_batch)
    assert found.law.r == pytest.approx(line.slope, rel=1e-9)
    assert np.log(found.law.k) == pytest.approx(line.intercept, rel=1e-9)
    assert found.details["standard_errors"]["r"] == pytest.approx(line.stderr, rel=1e-9)
    assert found.details["standard_errors"]["k"] == pytest.approx(line.intercept_stderr, rel=1e-9)
    assert found.details["r_squared"]["batch"] == pytest.approx(line.rvalue**2, rel=1e-9)


def test_the_bootstrap_spreads_as_the_standard_errors_say():
    spec = FitSpec(bootstrap=1000)
    found = lr_batch.fit_lr_batch(sweep(noise=2e-3, steps=13), StepLaw, spec, excess=2e-3, resample="points")
    errors, spreads = found.details["standard_errors"], found.details["bootstrap_sd"]
    for name in ("p", "q", "r"):
        assert spreads[name] == pytest.approx(errors[name], rel=0.4)
    assert found.intervals()["r"].low < TRUTH.r < found.intervals()["r"].high
    lr, batch = lr_batch.interval_of(found, N=1e10, D=1e12)
    assert lr.low < TRUTH.predict(N=1e10, D=1e12)[0] < lr.high and batch.low < batch.high


@pytest.mark.parametrize(
    ("lr", "batch"), [(("N", "C"), ("C",)), (("D",), ("N", "D")), (("C",), ("C",)), (("N",), ("D",))]
)
def test_any_roles_may_enter(lr, batch):
    law = law_on(lr, batch)
    exponents = np.linspace(-0.3, 0.4, len(law.names()) - 2)
    names = [name for name in law.names() if name not in "ck"]
    truth = law(**{"c": 0.3, "k": 0.2} | dict(zip(names, exponents, strict=True)))
    found = lr_batch.fit_lr_batch(sweep(truth), law, PLAIN, "vertex").law
    assert found.coefficients() == pytest.approx(truth.coefficients(), rel=1e-6)


def test_deepseeks_form():
    truth = ComputeLaw(a=0.3118, p=-0.125, b=0.2920, q=0.3271)
    found = fitting.fit(sweep(truth), load_law("lr_batch_compute"), PLAIN).law
    assert (found.p, found.q) == pytest.approx((truth.p, truth.q), abs=0.02)
    assert found.target_at({"N": 1e9, "D": 2e10}) == found.target_at({"C": 1.2e20})


def test_held_coefficients_keep_their_value():
    free = lr_batch.fit_lr_batch(sweep(), StepLaw, PLAIN).law
    held = lr_batch.fit_lr_batch(sweep(), JointLaw, FitSpec(bootstrap=0, fixed={"s": 0.0})).law
    assert held.s == 0 and held.r == pytest.approx(free.r, rel=1e-12) and held.k == pytest.approx(free.k, rel=1e-9)
    scale = lr_batch.fit_lr_batch(sweep(), StepLaw, FitSpec(bootstrap=0, fixed={"k": 0.58}), "vertex").law
    assert scale.k == pytest.approx(0.58) and scale.r == pytest.approx(0.571, rel=1e-9)
    with pytest.raises(InputError, match="'t' is not a coefficient"):
        lr_batch.fit_lr_batch(sweep(), StepLaw, FitSpec(fixed={"t": 0.0}))


def test_cells_of_sizes_that_jitter():
    assert len(sweep_cells.cells(sweep(jitter=1e-4))) == 6
    columns = sweep(jitter=0.05)
    columns.values["group"] = np.repeat([f"cell {at}" for at in range(6)], 81)
    assert [len(rows) for rows in sweep_cells.cells(columns)] == [81] * 6


@pytest.mark.parametrize(("interpolation", "most"), [("nearest", 2e-3), ("linear", 1e-3), ("quadratic", 1e-9)])
def test_following_the_truth_costs_nothing(interpolation, most):
    columns = sweep()
    gap = loss_gap.loss_gap(TRUTH, columns, interpolation)
    assert not gap.outside.any()
    away = StepLaw(c=1.79 * np.exp(0.4), p=-0.713, q=0.307, k=0.58, r=0.571)
    floors = np.array([columns["loss"][rows].min() for rows in sweep_cells.cells(columns)])
    tops = np.array([(2 + 100 / N**0.3 + 300 / D**0.3) for N in (1e8, 4e8, 1.6e9) for D in (5e9, 4e10)])
    assert gap.excess == pytest.approx(tops / floors - 1, abs=most)
    expected = tops * (1 + 0.02 * 0.4**2) / floors - 1
    assert loss_gap.loss_gap(away, columns, interpolation).excess == pytest.approx(expected, abs=most)


def test_a_law_beyond_the_sweep_is_marked():
    far = StepLaw(c=179.0, p=-0.713, q=0.307, k=0.58, r=0.571)
    gap = loss_gap.loss_gap(far, sweep())
    assert gap.outside.all() and gap.mean > 0.002


def test_one_size_left_out():
    gaps = loss_gap.leave_one_out(sweep(noise=2e-4), StepLaw, PLAIN)
    assert sorted(gaps) == [1e8, 4e8, 1.6e9]
    assert max(gap.largest for gap in gaps.values()) < 3e-3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (sweep().take(sweep()["N"] == 1e8), "do not determine c, p, q"),
        (sweep().take(np.arange(len(sweep())) < 1), "1 near-optimal points"),
    ],
)
def test_rows_that_cannot_tell(columns, message):
    with pytest.raises(InputError, match=message):
        lr_batch.fit_lr_batch(columns, StepLaw, PLAIN)


def test_bad_choices_name_the_nearest():
    with pytest.raises(InputError, match="did you mean 'vertex'"):
        sweep_cells.optima(sweep(), ("N",), "vertx")
    with pytest.raises(InputError, match="did you mean 'linear'"):
        loss_gap.loss_gap(TRUTH, sweep(), "liner")
    with pytest.raises(InputError, match="no column for U"):
        lr_batch.fit_lr_batch(sweep(), law_on(("U",), ("D",)), PLAIN)


@pytest.mark.parametrize("text", ["0.001", "best", "vertex"])
def test_the_choice_of_optima_may_come_with_the_spec(text):
    found = fitting.fit(sweep(), StepLaw, FitSpec(bootstrap=0, near_optimum=text))
    direct = lr_batch.fit_lr_batch(sweep(), StepLaw, PLAIN, *sweep_cells.choice_of(text))
    assert found.law == direct.law and found.details["choice"] == direct.details["choice"]


@pytest.mark.parametrize("text", ["-1", "0", "many", "nan", "inf", ""])
def test_a_choice_that_cannot_be_right(text):
    with pytest.raises(InputError, match="near_optimum: .* is not a positive number"):
        fitting.fit(sweep(), StepLaw, FitSpec(near_optimum=text))


@pytest.mark.parametrize("option", ["loss", "above"])
def test_another_objective_is_refused(option):
    other = {"loss": Objective("huber"), "above": Objective("least_squares", above=0.1)}[option]
    with pytest.raises(InputError, match=f"--{option}: lr_batch has no use for it"):
        fitting.fit(sweep(), StepLaw, FitSpec(other))


def wobbling(cells: int, seed: int = 0) -> Columns:
    """One optimum a cell, each off the law by some luck of its cell."""
    stream = np.random.default_rng(seed)
    rows = []
    lattice = [(N, D) for N in np.geomspace(1e8, 1e10, 4) for D in np.geomspace(2e9, 2e11, 5)]
    places = np.random.default_rng(3).permutation(len(lattice))[:cells]
    for N, D in (lattice[place] for place in places):
        lr, batch = TRUTH.predict(N=N, D=D)
        lr, batch = lr * np.exp(0.2 * stream.normal()), batch * np.exp(0.2 * stream.normal())
        rows += [
            (N, D, lr * np.exp(u), batch * np.exp(v), 2 + u * u + v * v) for u in (-0.5, 0, 0.5) for v in (-0.5, 0, 0.5)
        ]
    N, D, lr, batch, loss = np.array(rows).T
    return Columns({"N": N, "D": D, "lr": lr, "batch": batch, "loss": loss}, np.arange(len(N)), {}, ())


def test_few_cells_have_no_interval_and_say_why():
    for cells in (4, 6):
        found = fitting.fit(wobbling(cells), StepLaw, FitSpec(bootstrap=200))
        assert found.intervals() == {}
        assert f"{cells} cells for 3 coefficients" in found.verdict.line
    some = fitting.fit(wobbling(8), StepLaw, FitSpec(bootstrap=200))
    assert set(some.intervals()) >= {"r"}
    assert any("8 cells carry the law" in text for text in some.certificate.warnings)
    many = fitting.fit(wobbling(16), StepLaw, FitSpec(bootstrap=200))
    assert not any("carry the law" in text for text in many.certificate.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("cells", [7, 10, 16])
def test_intervals_of_few_cells_hold_the_truth(cells):
    """Those that are printed, of 60 planted sweeps: at least 80% of a nominal 90%."""
    held = []
    for seed in range(60):
        found = fitting.fit(wobbling(cells, seed), StepLaw, FitSpec(bootstrap=300))
        for name, interval in found.intervals().items():
            held.append(interval.low <= getattr(TRUTH, name) <= interval.high)
    assert np.mean(held) >= 0.8


def test_a_sweep_with_its_best_on_the_edge_says_so():
    columns = sweep()
    low = columns["lr"] < 0.9 * TRUTH.predict(N=columns["N"], D=columns["D"])[0]
    found = lr_batch.fit_lr_batch(columns.take(low), StepLaw, PLAIN)
    assert any("edge of their cell's sweep" in text for text in found.certificate.warnings)


def test_from_the_command_line(tmp_path):
    import pandas as pd

    columns = sweep(noise=1e-4)
    names = {"N": "params_non_embedding", "D": "tokens", "lr": "learning_rate", "batch": "batch_tokens", "loss": "loss"}
    pd.DataFrame({names[role]: columns[role] for role in names}).to_csv(tmp_path / "grid.csv", index=False)
    out = tmp_path / "fit.json"
    done = command("analysis.fit", tmp_path / "grid.csv", "--law=lr_batch", f"--out={out}", "--bootstrap=50")
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["coefficients"]["r"] == pytest.approx(0.571, abs=0.05)
    done = command("analysis.predict", out, "--at=N=7e9,D=1.4e12", f"--json={tmp_path / 'at.json'}")
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "at.json").read_text())
    lr, batch = TRUTH.predict(N=7e9, D=1.4e12)
    assert data["prediction"] == pytest.approx(lr, rel=0.15)
    assert data["optimum"]["batch"] == pytest.approx(batch, rel=0.15)
    assert "lr" in done.stdout and "nats" not in done.stdout
