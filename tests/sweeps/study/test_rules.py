"""Rules from size to shape, batch, tokens and learning rate, at values where their sources give a number."""

from typing import Any
import warnings

from hypothesis import given
from hypothesis import strategies as st
import pytest

from experiments.cli import InputError
from experiments.run.freeze import freeze
from experiments.run.schema import Run
from experiments.store.record import ledger
from experiments.training import optimizers
from sweeps.study import common, rules
from sweeps.study.cells import freeze_points
from sweeps.study.grid import cases, derive, nest, over, product, tags_over


def run_of(values: dict[str, Any]) -> Run:
    """A run from dotted keys."""
    return freeze(nest(values))[0]


# --- rounding


@given(st.floats(0.51, 1e6), st.integers(1, 1000))
def test_rounding_is_to_the_nearest_multiple_and_warns_beyond_a_tenth(wanted: float, multiple: int):
    """Never zero, and never silent when it matters."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = rules.rounded("x", wanted, multiple)
    assert got % multiple == 0
    assert got >= multiple
    assert abs(got - wanted) <= max(multiple / 2, multiple - wanted) + 1e-9
    assert bool(caught) == (abs(got / wanted - 1) > 0.1)


@pytest.mark.parametrize("params", [1e7, 1e8, 1e9])
@pytest.mark.parametrize("ratio", [64, 128])
def test_shapes_of_a_size(params: float, ratio: int):
    """Whole heads, and the size that was asked for wherever no warning says otherwise."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shape = rules.shape_of_size(params, ratio, 64)
    assert shape["model.width"] == 64 * shape["model.heads"]
    size = 12 * shape["model.depth"] * shape["model.width"] ** 2
    assert caught or abs(size / params - 1) < 0.1


def test_a_size_that_no_shape_has_warns():
    with (
        pytest.warns(rules.RoundingWarning, match=r"width of 100 parameters"),
        pytest.warns(rules.RoundingWarning, match=r"depth of 100 parameters"),
    ):
        rules.shape_of_size(100, 1, 64)


# --- published values


@pytest.fixture
def billion() -> Run:
    """A billion parameters and 1e11 tokens."""
    shape = {"model.width": 2048, "model.depth": 20, "model.heads": 16, "seq_len": 2048}
    return run_of(shape | {"tokens": 10**11, "batch_tokens": 2**20})


def test_step_law(billion: Run):
    """N=1e9, D=1e11: 1.63e-3 and 1.108M."""
    params = ledger(billion)["params_no_embed"]
    assert params == pytest.approx(1e9, rel=0.05)
    assert rules.step_law_lr(billion, {}) == pytest.approx(1.63e-3 * (params / 1e9) ** -0.713, rel=2e-3)
    assert rules.step_law_batch(billion, {}) == pytest.approx(1.108e6, rel=2e-3)


def test_deepseek(billion: Run):
    flops = (72 * 20 * 2048**2 + 12 * 20 * 2048 * 2048) * 1e11
    assert rules.deepseek_lr(billion, {}) == pytest.approx(0.3118 * flops**-0.125)
    batch = rules.deepseek_batch(billion, {})
    assert batch % 2048 == 0
    assert batch == pytest.approx(0.292 * flops**0.3271, rel=2e-3)


def test_deepseek_tokens():
    sizes = cases({"model.width": 1024, "model.heads": 16, "model.depth": 24})
    grid = derive(product(tags_over("budget_flops", 1e20), sizes), "tokens", rules.deepseek_tokens)
    (cell,) = freeze_points(grid)
    assert cell.run.tokens == pytest.approx(5.8316 * 1e20**0.4757, rel=1e-3)


def test_matmul_free_learning_rate():
    """A line through the three sizes of the paper."""
    for params, rate in ((370e6, 4e-3), (1.3e9, 2.5e-3), (2.7e9, 1.5e-3)):
        assert 4e-3 * (params / 370e6) ** -0.45 == pytest.approx(rate, rel=0.1)
    run = run_of({"model.width": 1024, "model.heads": 16, "model.depth": 24})
    params = ledger(run)["params_total"]
    assert rules.matmul_free_lr(run, {}) == pytest.approx(4e-3 * (params / 370e6) ** -0.45)


def test_small_learning_rate():
    run = run_of({"family": "matmul_free"})
    assert rules.small_lr(run, {}) == pytest.approx(4 * 0.14 / 256)


def test_batches_of_few_tokens_are_small_and_their_rates_are_low():
    """Four times the tokens: twice the batch, in whole sequences, and root two of the learning rate."""
    sizes = cases({"model.width": 16, "model.heads": 2, "seq_len": 64})
    grid = common.with_small_batch(product(sizes, over("tokens", 2**15, 2**17, 2**19, 2**21)))
    runs = [cell.run for cell in freeze_points(grid)]
    assert [run.batch_tokens for run in runs] == [64, 128, 256, 512]
    ratios = [run.opt.lr / (0.14 / 16) for run in runs]
    assert ratios == pytest.approx([0.5**0.5, 1, 2**0.5, 2])


def test_tao_tokenizer():
    """33 M parameters besides the tables at width 512: the anchor, a table of 3,145,728 entries, 6,144 rows."""
    run = run_of({"model.width": 512, "model.heads": 8, "model.depth": 10, "model.ff": 1442})
    besides = ledger(run)["params_no_embed"]
    assert besides == pytest.approx(33e6, rel=0.02)
    name, _, size = rules.tao_tokenizer(run, {}).partition(":")
    assert name == "bpe"
    assert int(size) == pytest.approx(6144 * (besides / 33e6) ** 0.8354, rel=2e-3)


def test_learning_rates_are_of_an_optimizer():
    """Published rules are of AdamW, and of Muon with its size of updates; those measured here have a factor for each."""
    shape = {"model.width": 256, "opt.name": "lion"}
    lion = run_of(shape)
    adamw = run_of({"model.width": 256})
    factor = rules.SMALL_RATES["lion"]
    for rule in (rules.inverse_width_lr, rules.small_lr, rules.constant_lr):
        assert rule(lion, {}) == pytest.approx(factor * rule(adamw, {}))
    for rule in (rules.step_law_lr, rules.deepseek_lr, rules.matmul_free_lr):
        with pytest.raises(
            InputError, match=rf"{rule.name} gives no learning rate for opt.name='lion'; expected adamw"
        ):
            rule(lion, {})
        assert rule(run_of(shape | {"opt.name": "muon"}), {}) == rule(adamw, {})
    with pytest.raises(InputError, match="small_lr gives no learning rate for opt.name='sgd'"):
        rules.small_lr(run_of({"opt.name": "sgd"}), {})
    assert rules.SMALL_RATES.keys() | {"sgd"} == set(optimizers.optimizer_names()), "a rule or a refusal of every one"
