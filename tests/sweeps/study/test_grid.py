"""The algebra of grids, and how their points are frozen and named."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from experiments.cli import InputError
from experiments.run.schema import Run
from experiments.store import record
from sweeps.study import file, rules
from sweeps.study.cells import freeze_points
from sweeps.study.grid import branch, cases, chain, derive, nest, over, product, tag, tags_over
from sweeps.study.labels import point_labels
from tests.support.paths import REPOSITORY

LR_BY_WIDTH = REPOSITORY / "sweeps" / "studies" / "lr_by_width.py"


def test_the_example_of_the_style_guide():
    """12 runs, tokens fixed, and the argument reaches get_study."""
    study = file.load(f"{LR_BY_WIDTH}:dense")
    runs = [cell.run for cell in study.cells]
    assert len(runs) == 12
    assert len({(run.model.width, run.opt.lr) for run in runs}) == 12
    assert {run.tokens for run in runs} == {Run("dense", None).tokens}
    assert study.name == "lr_by_width:dense"
    assert "learning rate" in study.doc
    assert study.cells[0].name == "width=128 lr=0.001"
    with pytest.raises(InputError, match=r"point 1 of 12 .*'dens' is not known; did you mean 'dense'"):
        file.load(f"{LR_BY_WIDTH}:dens")


# --- the algebra


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_product_has_every_combination_once_and_chain_keeps_order(lengths: list[int]):
    """Sizes multiply in products and add in chains; the last axis varies fastest."""
    grids = [over(f"k{axis}", *range(length)) for axis, length in enumerate(lengths)]
    points = [tuple(point.values.values()) for point in product(*grids)]
    assert points == sorted(set(points))
    count = 1
    for length in lengths:
        count *= length
    assert len(points) == count
    chained = [value for point in chain(*grids) for value in point.values.values()]
    assert chained == [value for length in lengths for value in range(length)]


def test_two_axes_that_set_one_key_raise():
    """Keys and tags are set once, whoever sets them."""
    with pytest.raises(InputError, match=r"opt\.lr"):
        product(over("opt.lr", 1e-3), cases({"opt.lr": 2e-3}))
    with pytest.raises(InputError, match="group"):
        tag(tag(over("seed", 0), group="a"), group="b")
    with pytest.raises(InputError, match="tokens"):
        derive(over("tokens", 10_000), "tokens", rules.tokens_per_parameter(20))
    with pytest.raises(InputError, match="model"):
        nest({"model": 1, "model.width": 2})


@pytest.mark.parametrize("empty", [lambda: over("seed"), lambda: tags_over("budget_flops"), cases])
def test_an_axis_without_values_raises(empty: Any):
    with pytest.raises(InputError, match="at least one"):
        empty()


def test_a_child_has_its_parents_keys_but_neither_its_growth_nor_its_tags():
    trunk = tag(cases({"seed": 1, "tokens": 5_120, "growth.noise": 0.1}), group="trunk")
    (child,) = branch(trunk, over("tokens", 10_240))
    assert child.values == {"seed": 1, "tokens": 10_240, "parent": trunk[0]}
    assert not child.tags


def test_derived_keys_see_those_before_and_leave_their_rule_in_a_tag():
    """Budget -> tokens -> learning rate; a scaled rule says so."""
    grid = product(tags_over("budget_flops", 2e11, 8e11), over("model.width", 32, 64))
    grid = derive(grid, "tokens", rules.tokens_of_budget)
    grid = derive(grid, "opt.lr", rules.step_law_lr, scale=0.5)
    for cell in freeze_points(grid):
        assert cell.tags["rule_tokens"] == "tokens_of_budget"
        assert cell.tags["rule_lr"] == "step_law_lr x 0.5"
        counts = record.ledger(cell.run)
        assert counts["flops_total"] == pytest.approx(cell.tags["budget_flops"], rel=0.02)
        law = 1.79 * counts["params_no_embed"] ** -0.713 * cell.run.tokens**0.307
        assert cell.run.opt.lr == pytest.approx(law / 2)


def test_what_is_no_rule_or_lacks_its_tag_is_refused():
    with pytest.raises(InputError, match="budget_flops"):
        derive(over("seed", 0), "tokens", rules.tokens_of_budget)
    with pytest.raises(InputError, match="not a rule"):
        derive(over("seed", 0), "tokens", lambda run, tags: 1)  # type: ignore[arg-type]


def test_a_section_may_be_given_whole_and_is_not_changed():
    """Beside dotted keys of the same section; a key that is set twice is named."""
    section = {"width": 32, "depth": 2}
    point = {"model": section, "model.heads": 4, "opt": {"lr": 1e-3}}
    for _ in range(2):
        assert nest(point) == {"model": {"width": 32, "depth": 2, "heads": 4}, "opt": {"lr": 1e-3}}
    assert section == {"width": 32, "depth": 2}
    (cell,) = freeze_points(product(over("model", section), over("model.heads", 4)))
    assert (cell.run.model.width, cell.run.model.heads) == (32, 4)
    with pytest.raises(InputError, match=r"model\.depth.*twice"):
        freeze_points(product(over("model", section), over("model.depth", 3)))


def test_a_scaled_rule_keeps_the_kind_of_its_value():
    """Whole numbers stay whole; what is no number is refused, with the point."""
    base = cases({"model.width": 32, "model.depth": 1, "model.heads": 1})
    (point,) = derive(base, "tokens", rules.tokens_per_parameter(20), scale=0.3)
    (whole,) = derive(base, "tokens", rules.tokens_per_parameter(20))
    assert point.values["tokens"] == round(0.3 * whole.values["tokens"])
    assert freeze_points((point,))[0].tags["rule_tokens"].endswith(" x 0.3")
    text = rules.Rule("words", "this test", lambda run, tags: "bpe:456")
    with pytest.raises(InputError, match=r"words x 2 at point .*'bpe:456' cannot be scaled"):
        derive(base, "data.tokenizer", text, scale=2)


def test_rules_of_keys_with_one_last_word_do_not_meet():
    """Each has the column of its key; a ruled `tokens` does not hide an axis `evaluation.tokens` from names."""
    share = rules.Rule("share", "this test", lambda run, tags: run.tokens // 10)
    grid = derive(cases({"model.width": 32, "seed": 1}), "tokens", rules.tokens_per_parameter(20))
    both = derive(grid, "evaluation.tokens", share)
    assert both[0].tags.keys() == {"rule_tokens", "rule_evaluation_tokens"}
    assert point_labels(product(grid, over("evaluation.tokens", 4096, 8192))) == ["tokens=4096", "tokens=8192"]


# --- freezing


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model.widht": 32}, r"model\.widht.*'width'"),
        ({"model.width": 30, "model.heads": 4}, r"model\.width=30.*model\.heads=4"),
        ({"opt.lr": "fast"}, r"opt\.lr='fast'.*float"),
        ({"tokens": -5}, "tokens=-5"),
    ],
)
def test_a_bad_point_is_named_before_anything_starts(values: dict[str, Any], named: str):
    """The message has the number of the point, its own keys, and what is wrong with it."""
    with pytest.raises(InputError, match=rf"point 2 of 2 \(.*\): .*{named}"):
        freeze_points(chain(over("seed", 1), cases(values)))


def test_tags_are_not_part_of_a_run():
    first, second = freeze_points(chain(tag(over("seed", 1), group="a"), tag(over("seed", 1), group="b")))
    assert first.run == second.run
    assert first.tags != second.tags


RESULTS = [
    "loss_nats",
    "loss_part_2",
    "left_out",
    "rewinds",
    "batches_left_out",
    "lossless",
    "text_bytes",
    "loss_unigram_normalised",
    "unique_tokens",
    "epochs_part_1",
    "entropy_nats",
    "seconds_step",
    "censored",
]


@pytest.mark.parametrize("name", ["width", "status", "params_total", "not a name", "group_all", *RESULTS])
def test_a_tag_may_not_hide_a_column_of_the_grid(name: str):
    with pytest.raises(InputError, match=name):
        freeze_points(tag(over("seed", 1), **{name: 1}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, [1]])
def test_a_tag_is_what_a_table_holds(value: Any):
    with pytest.raises(InputError, match="tag note="):
        freeze_points(tag(over("seed", 1), note=value))


# --- names


def test_points_are_named_by_what_sets_them_apart():
    """Not by what they have in common, nor by what a rule has set."""
    grid = product(cases({"model.depth": 2}), over("model.width", 16, 32))
    grid = derive(grid, "opt.lr", rules.inverse_width_lr)
    assert point_labels(tag(grid, group="a")) == ["a width=16", "a width=32"]


def test_a_scaled_rule_is_an_axis():
    rates = [derive(over("model.width", 280), "opt.lr", rules.inverse_width_lr, scale=scale) for scale in (1, 2)]
    assert point_labels(chain(*rates)) == ["run", "lr=0.001"]


def test_names_that_are_alike_get_a_number():
    assert point_labels(chain(over("seed", 1), over("seed", 1))) == ["run", "run (2)"]
