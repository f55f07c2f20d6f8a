"""What is asked of a fit is done, or refused in one line: every option and every role, whatever the law."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import laws
from analysis.fitting.result import FitError
from analysis.fitting.spec import FitSpec
from analysis.grid.table import Columns
from analysis.laws.base import Law
from analysis.questions import fit as fitting
from analysis.questions import scoreboard
from analysis.solve.objective import Objective
from experiments.cli import InputError
from tests.support import planted
from tests.support.planted_laws import PLANTED, parts

NOISE = 0.01
ROWS = 80
STARTS = 12  # of two, some laws find no optimum
COUNT = ("weight", "run", "censored", "questions", "group")
OF_OBJECTIVE = {"loss": ("huber", "least_squares", "lad"), "residual": ("log", "raw"), "above": (0.3,)}
OF_SPEC = {
    "resample": "wild",
    "interpolation": "cubic",
    "weighted": True,
    "near_optimum": "best",
}
SAMPLE = ("chinchilla", "isoflop", "envelope", "lr_batch", "mixing_linear", "vocabulary_power")


def noisy(name: str) -> Columns:
    """Rows that a law can be fitted to, with scatter."""
    stream = np.random.default_rng(3)
    law = laws.load(name)
    if name in PLANTED:
        coefficients, inputs = PLANTED[name]
        law = law.of(parts(inputs))
        scatter = np.exp(NOISE * stream.standard_normal(ROWS))
        values = {**inputs, law.TARGET: law(*coefficients).predict(**inputs) * scatter}
        return Columns(values, np.arange(ROWS), {role: role for role in values}, (), parts=parts(inputs))
    return SWEEPS[name](stream)


def _columns(**values: np.ndarray) -> Columns:
    rows = len(values["loss"] if "loss" in values else values["density"])
    shares = {"share": tuple("wxyz")} if "share" in values else {}
    return Columns(values, np.arange(rows), {role: role for role in values}, (), parts=shares)


def _isoflop(stream: np.random.Generator) -> Columns:
    frame = planted.isoflop_frame(noise=NOISE / 5, jitter=0.02, seed=1)
    names = {"N": "params", "D": "tokens", "C": "flops", "loss": "loss"}
    return _columns(**{role: frame[name].to_numpy() for role, name in names.items()})


def _lr_batch(stream: np.random.Generator) -> Columns:
    rows = []
    for N in (1e8, 3e8, 1e9, 3e9):
        for D in (1e9, 3e9, 1e10):
            lr = 1.79 * N**-0.713 * D**0.307 * np.exp(0.1 * stream.standard_normal())
            batch = 0.58 * D**0.571 * np.exp(0.1 * stream.standard_normal())
            for x in np.linspace(-1, 1, 9):
                for y in np.linspace(-1, 1, 9):
                    loss = 2 * (1 + 0.01 * (x - 0.1) ** 2 + 0.01 * y**2 + 1e-4 * stream.standard_normal())
                    rows.append((N, D, lr * np.exp(x), batch * np.exp(y), loss))
    N, D, lr, batch, loss = np.array(rows).T
    return _columns(N=N, D=D, C=6 * N * D, lr=lr, batch=batch, loss=loss)


def _tasks(stream: np.random.Generator) -> Columns:
    inputs = PLANTED["task_loss"][1]
    N, D = inputs["N"], inputs["D"]
    task_loss = 0.4 + 50 / N**0.3 + 300 / D**0.33
    task_loss = task_loss * np.exp(NOISE * stream.standard_normal(ROWS))
    accuracy = 0.25 + 0.6 / (1 + np.exp(4 * (task_loss - 1.0))) + NOISE * stream.standard_normal(ROWS)
    values = _columns(N=N, D=D, C=6 * N * D, loss=task_loss, task_loss=task_loss, accuracy=accuracy)
    return values


def _shares(stream: np.random.Generator) -> Columns:
    share = PLANTED["mixing"][1]["share"]
    loss = 2 + share @ np.array([0.1, 0.4, 0.2, 0.9]) + NOISE * stream.standard_normal(ROWS)
    return _columns(share=share, loss=loss)


def _vocabularies(stream: np.random.Generator) -> Columns:
    rows = []
    for N_nv, H in ((3e7, 5e8), (1e8, 1e9), (3e8, 3e9)):
        for V in (4096.0, 8192.0, 16384.0, 32768.0):
            N_v = V * 512
            for step in np.linspace(0.2, 1, 5):
                tokens = H * step * 4 / np.log(V)
                C = 6 * (N_nv + N_v) * tokens
                loss = 1 + 30 / N_nv**0.2 + 200 / (H * step) ** 0.33 + 0.01 * (np.log(N_v / N_nv**0.8) ** 2)
                rows.append((N_nv, N_v, V, H * step, C, loss * np.exp(NOISE / 10 * stream.standard_normal())))
    N_nv, N_v, V, H, C, loss = np.array(rows).T
    return _columns(N_nv=N_nv, N_v=N_v, V=V, H=H, C=C, D=C / 6 / N_nv, loss=loss)


def _curves(stream: np.random.Generator) -> Columns:
    steps = np.arange(1, 401) * 25.0
    tables = []
    for run, peak in enumerate((1e-3, 2e-3, 3e-3)):
        lr = peak * np.minimum(steps / 500, 1) * (0.55 + 0.45 * np.cos(np.pi * steps / steps[-1]))
        loss = 2.6 + 0.4 * np.cumsum(lr * 25) ** -0.5 + NOISE / 5 * stream.standard_normal(len(steps))
        tables.append(np.stack([np.full(len(steps), run), steps, lr, loss]))
    run, S, lr, loss = np.hstack(tables)
    return _columns(run=run.astype(int).astype(str), S=S, lr=lr, loss=loss)


def _densities(stream: np.random.Generator) -> Columns:
    days = np.sort(stream.uniform(0, 900, 30))
    return _columns(days=days, density=np.exp(0.007 * days - 1 + 0.2 * stream.standard_normal(30)))


SWEEPS = {
    "isoflop": _isoflop,
    "envelope": _isoflop,
    "lr_batch": _lr_batch,
    "lr_batch_joint": _lr_batch,
    "lr_batch_compute": _lr_batch,
    "two_step": _tasks,
    "two_step_compute": _tasks,
    "two_step_log": _tasks,
    "mixing_linear": _shares,
    "mixing_lightgbm": _shares,
    "vocabulary_frontier": _vocabularies,
    "vocabulary_power": _vocabularies,
    "annealing_curve": _curves,
    "density_growth": _densities,
}


def test_every_law_has_rows_here():
    assert set(laws.LAWS) | {"broken_2", "broken_3"} == set(PLANTED) | set(SWEEPS)


def numbers(name: str, columns: Columns, spec: FitSpec) -> np.ndarray:
    """The coefficients and their replicates: what an option that is used changes."""
    law = laws.load(name)
    found = fitting.fit(
        columns, law, dataclasses.replace(spec, thorough=False, judge=False, starts=STARTS, bootstrap=2)
    )
    values = [value for value in found.law.__dict__.values() if isinstance(value, float)]
    trees = [float(hash(value)) for value in found.law.__dict__.values() if isinstance(value, str)]
    return np.r_[values, trees, found.objective, found.draws.ravel()]


def is_used(name: str, columns: Columns, spec: FitSpec, plain: np.ndarray) -> bool | None:
    """Whether an option or a role changes the result; None where it is refused."""
    try:
        changed = numbers(name, columns, spec)
    except InputError as error:
        assert "\n" not in str(error)
        return None
    except FitError:  # with it these few starts lead to no optimum, and without it they did
        return True
    return changed.shape != plain.shape or not np.array_equal(changed, plain)


def options(law: type[Law]) -> list[tuple[str, FitSpec]]:
    """Every option in turn, set to something else than the fit of the law does without it."""
    found = []
    for name, choices in OF_OBJECTIVE.items():
        other = next(choice for choice in choices if choice != getattr(law.OBJECTIVE, name))
        found.append((name, FitSpec(dataclasses.replace(law.OBJECTIVE, **{name: other}))))
    delta = 0.3 * NOISE if law.OBJECTIVE.loss == "huber" else 5e-3
    found.append(("huber_delta", FitSpec(dataclasses.replace(law.OBJECTIVE, huber_delta=delta))))
    found += [(name, FitSpec(**{name: value})) for name, value in OF_SPEC.items()]
    return found


def with_role(columns: Columns, role: str) -> Columns:
    rows = len(columns)
    stream = np.random.default_rng(4)
    values = {
        "weight": np.exp(stream.normal(0, 1, rows)),
        "run": (np.arange(rows) // 3).astype(str),
        "censored": (np.arange(rows) % 4 == 0) * 1.0,
        "questions": np.round(np.exp(stream.uniform(3, 8, rows))),
    }
    return dataclasses.replace(columns, values={**columns.values, role: values[role]})


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in SAMPLE else [pytest.mark.slow]) for name in sorted({*PLANTED, *SWEEPS})],
)
def test_an_option_or_a_role_is_used_or_refused(name):
    law = laws.load(name)
    columns = noisy(name)
    law = law.of(columns.parts)
    plain = numbers(name, columns, FitSpec())
    ignored = [option for option, spec in options(law) if is_used(name, columns, spec, plain) is False]
    first = next((one for one in law.names()), None)
    held = FitSpec(fixed={} if first is None else {first: 0.77})
    if held.fixed and is_used(name, columns, held, plain) is False:
        ignored.append("fix")
    for role in ("weight", "run", "censored", "questions"):
        takes = role in law.OPTIONAL
        if takes and role not in columns and is_used(name, with_role(columns, role), FitSpec(), plain) is False:
            ignored.append(role)
    assert not ignored


@pytest.mark.parametrize("role", ["weight", "run", "censored", "questions", "group", "validation"])
def test_a_named_role_that_a_law_has_no_use_for_is_refused(role):
    for name, law in laws.LAWS.items():
        frame = pd.DataFrame({one: np.linspace(1, 2, 30) for one in (*law.ROLES, "mine")})
        budgets = role == "group" and law.TARGET == "loss"
        if role in (*law.OPTIONAL, *law.WHEN_NAMED) or budgets:
            continue
        with pytest.raises(InputError, match=f"^--columns: {role}: {name} has no use for it"):
            fitting.select_for(planted.grid(frame), law, f"{role}=mine", None)
        with pytest.raises(InputError, match=f"^--columns: {role}: {name} has no use for it"):
            analysis.fit(frame, name, **{role: "mine"})


def test_a_role_that_no_law_of_a_scoreboard_uses_is_refused():
    grid = planted.grid(planted.isoflop_frame().assign(mine=2.0))
    chosen = [laws.load("chinchilla"), laws.load("kaplan")]
    assert "weight" in scoreboard.together(grid, chosen, "weight=mine", None)
    with pytest.raises(InputError, match="^--columns: questions: chinchilla, kaplan have no use for it"):
        scoreboard.together(grid, chosen, "questions=mine", None)


def test_a_role_that_a_formula_or_a_condition_names_is_used():
    frame = planted.isoflop_frame().assign(total=lambda frame: frame["flops"] / 1e9, kind="a", rate=1e-3)
    grid = planted.grid(frame)
    law = laws.load("chinchilla")
    found = fitting.select_for(grid, law, "X=total,C=X*1e9", None)
    assert found["C"] == pytest.approx(frame["flops"].to_numpy())
    fitting.select_for(grid, law, "family=kind", "family=='a'")
    with pytest.raises(InputError, match="^--columns: lr: chinchilla has no use for it"):
        fitting.select_for(grid, law, "lr=rate", None)
    read = analysis.read(frame, lr="rate", run="kind")  # for many laws
    assert analysis.fit(read, "chinchilla", bootstrap=0).law


@pytest.mark.parametrize("name", ["chinchilla", "accuracy", "lr_batch"])
def test_a_delta_that_no_loss_uses_is_refused(name):
    law = laws.load(name)
    with pytest.raises(InputError, match="^--huber_delta: "):
        fitting.fit(noisy(name), law, FitSpec(Objective("least_squares", law.OBJECTIVE.residual, huber_delta=0.1)))


def test_an_intercept_is_held_where_days_count_from():
    columns = noisy("density_growth")
    law = laws.load("density_growth")
    found = fitting.fit(columns, law, FitSpec(fixed={"B": -1.0}, bootstrap=0))
    assert found.law.B == -1.0
    assert pytest.approx(0.007, rel=0.05) == found.law.A


def test_weights_and_runs_count_in_isoflop_curves():
    """A wrong run of no weight changes nothing; runs that scatter together give wider intervals."""
    frame = planted.isoflop_frame(noise=0.001, seed=2)
    clean = analysis.fit(frame, "isoflop", bootstrap=200)
    wrong = frame.copy()
    wrong.loc[10, "loss"] *= 1.05
    weight = np.where(np.arange(len(frame)) == 10, 1e-9, 1.0)
    light = analysis.fit(wrong.assign(weight=weight), "isoflop", bootstrap=0)
    without = analysis.fit(frame.drop(index=10), "isoflop", bootstrap=0)
    assert light.law.a == pytest.approx(without.law.a, rel=1e-6)
    assert analysis.fit(wrong, "isoflop", bootstrap=0).law.a != pytest.approx(without.law.a, rel=1e-4)
    sizes = frame.assign(run=[f"size {at % 7}" for at in range(len(frame))])
    by_run = analysis.fit(sizes, "isoflop", bootstrap=200)
    assert by_run.law == clean.law
    assert not np.array_equal(by_run.draws, clean.draws)


def test_replicates_that_were_not_asked_for_are_not_missed():
    found = analysis.fit(planted.isoflop_frame(noise=0.001), "isoflop", bootstrap=0)
    assert not any("no scatter" in warning for warning in found.certificate.warnings)
