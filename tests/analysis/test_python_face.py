"""The laws from Python: `import analysis` gives functions, at once, and they answer as the commands do."""

import subprocess
import sys

import pytest

import analysis
from analysis.laws.chinchilla import Chinchilla
from experiments.cli import InputError
from tests.support import planted
from tests.support.planted import TRUTH

QUICK = {"bootstrap": 0, "starts": 16, "thorough": False}


def test_importing_it_loads_nothing_heavy():
    program = (
        "import sys, analysis\nprint([name for name in ('numpy', 'pandas', 'scipy', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done


@pytest.mark.parametrize("law", ["chinchilla", Chinchilla])
def test_a_frame_is_fitted_and_predicted_from(law):
    frame = planted.isoflop_frame()
    result = analysis.fit(frame, law, N="params", **QUICK)
    assert result.law.alpha == pytest.approx(TRUTH.alpha, rel=1e-5)
    N, _ = TRUTH.optimum(1e22)
    assert analysis.predict(result, C=1e22).optimum["N"] == pytest.approx(N, rel=1e-3)
    assert analysis.predict(result, N=1e9, D=2e10).loss == pytest.approx(TRUTH.predict(1e9, 2e10), rel=1e-5)


def test_a_path_a_frame_and_a_grid_are_one_grid(tmp_path):
    frame = planted.isoflop_frame()
    frame.to_csv(tmp_path / "grid.csv", index=False)
    from_path = analysis.read(tmp_path / "grid.csv")
    from_frame = analysis.read(frame)
    assert analysis.read(from_path) is from_path
    assert from_path.sha256 == from_frame.sha256
    assert analysis.fit(from_path, **QUICK).objective == analysis.fit(from_frame, **QUICK).objective


def test_families_are_compared_and_runs_are_designed():
    frame = planted.isoflop_frame(noise=0.002, seed=1)
    frame["family"] = ["dense", "moe"] * 17 + ["dense"]
    compared = analysis.compare(frame, shared=["alpha", "beta"], bootstrap=0, starts=16)
    assert compared.baseline == "dense" and set(compared.rates) == {"moe"}
    designed = analysis.design(frame, "loss@C=1e22", laws=["chinchilla"], count=1, bootstrap=20, starts=16)
    assert len(designed.steps) == 1


def test_what_is_not_known_is_refused_with_the_nearest_name():
    frame = planted.isoflop_frame()
    with pytest.raises(InputError, match="did you mean 'bootstrap'"):
        analysis.fit(frame, bootstrp=10)
    with pytest.raises(InputError, match="did you mean 'chinchilla'"):
        analysis.fit(frame, "chinchila")
    assert "chinchilla" in set(analysis.list_laws()["law"])
