"""Studies in sweeps/studies that are launched as a user launches them."""

from collections.abc import Iterator
import itertools
import pathlib
import re
from typing import Any
import warnings

import numpy as np
import pytest

from experiments.cli import InputError
from experiments.data.options import Data
from experiments.prepare import prepare
from experiments.run import config_file, freeze, identity
from experiments.store import record
from experiments.training import evaluate
import models
from sweeps.cost.signature_plan import by_signature
from sweeps.study import common, file, rules
from sweeps.study.cells import cost as grid_cost
from sweeps.study.cells import freeze_points
from sweeps.study.grid import Grid, cases, derive, product, tags_over
from tests.support.commands import launched
from tests.support.paths import REPOSITORY

STUDIES = sorted(path for path in (REPOSITORY / "sweeps" / "studies").glob("*.py") if path.stem != "__init__")
COST = re.compile(r"^Cost(?: of :([\w,]+))?: (\d+) runs, ([\d.e+]+) FLOPs\.$", re.MULTILINE)
# A tiny variant of each study.
TINY_VARIANTS = {
    **{path.stem: ("smoke",) for path in STUDIES},
    "scaling": (*(f"smoke,{family}" for family in models.family_names()), "smoke,nxd"),
    "wsd": ("smoke", "smoke,check,min_gru"),
    "mixtures": ("smoke", "ending,smoke"),
    "precision": ("smoke", "kumar,smoke"),
    "transfer": ("width,smoke", "depth,smoke"),
    "lr_by_width": (),  # the example of a study file, with full-sized models only
    "sizes": (),  # models of billions, to be planned
    "quickstart": (),  # the tests of the report train it
    "families": (),  # below
}
FAMILIES = REPOSITORY / "sweeps" / "studies" / "families.py"


def unigram_entropy(manifest) -> float:
    """Nats per token of the training stream for a model that knows how often each occurs, and no more."""
    count = np.bincount(manifest.open("train.npy"))
    share = count[count > 0] / count.sum()
    return float(-(share * np.log(share)).sum())


def test_the_study_of_families_has_all_of_them():
    cells = file.load(f"{FAMILIES}:smoke").cells
    assert {cell.run.family for cell in cells} == set(models.family_names())
    assert len(cells) == 3 * len(models.family_names())
    by_family = {cell.run.family: cell.run for cell in cells}
    assert by_family["moe"].model.experts == 4 and by_family["dense"].model.ff == 128


@pytest.mark.slow
def test_every_family_learns_more_than_how_often_bytes_occur(tmp_path: pathlib.Path, data_root: pathlib.Path):
    """Trained on the embedded corpus through launch and collect; compared with the corpus's own unigram entropy."""
    grid = launched(f"{FAMILIES}:smoke", tmp_path, data_root, timeout=580)
    cells = file.load(f"{FAMILIES}:smoke", str(data_root)).cells
    (manifest,) = prepare(cells[0].run.data, cells[0].execution.data_root, progress=False)
    entropy = unigram_entropy(manifest)
    assert entropy == pytest.approx(manifest.unigram_entropy_nats, rel=1e-6)
    assert set(grid["status"]) == {"complete"} and set(grid["family"]) == set(models.family_names())
    best = grid.groupby("family")["loss_nats"].min()
    assert (best < entropy - 0.2).all(), f"{best.to_dict()} beside {entropy}"


# --- every study


def grid_of(path: pathlib.Path, argument: str | None) -> Grid:
    """What the file's get_study returns."""
    get_study = config_file.load_module(str(path), "get_study", "--study")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_study() if argument is None else get_study(argument)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_says_what_it_asks_and_what_it_costs(path: pathlib.Path):
    """The first line is a question. Runs and FLOPs are those of the ledger, also as sweeps.plan counts them."""
    doc = file.load(str(path)).doc
    assert "?" in doc.splitlines()[0] and f"sweeps/studies/{path.name}" in doc
    stated = {found[1]: (int(found[2]), float(found[3])) for found in COST.finditer(doc)}
    assert None in stated, "the docstring has a line `Cost: N runs, X FLOPs.`"
    for argument, (runs, flops) in stated.items():
        cost = grid_cost(grid_of(path, argument))
        assert (cost.runs, cost.flops) == (runs, pytest.approx(flops, rel=6e-3)), argument
        cells = file.load(f"{path}:{argument}" if argument else str(path)).cells
        groups = by_signature(cells)
        assert sum(map(len, groups)) == runs
        counted = sum(record.ledger(cell.run)["flops_total"] for group in groups for cell in group)
        assert counted == pytest.approx(cost.flops)


def tiny_variants() -> list[tuple[pathlib.Path, str]]:
    return [(path, argument) for path in STUDIES for argument in TINY_VARIANTS.get(path.stem, ())]


@pytest.mark.parametrize(("path", "argument"), tiny_variants(), ids=lambda value: getattr(value, "stem", value))
def test_a_tiny_variant_is_tiny(path: pathlib.Path, argument: str):
    assert grid_cost(grid_of(path, argument)).flops < 6e10


def quick_or_slow() -> Iterator[Any]:
    """Seeds, one program, are trained in the default tests too."""
    for path, argument in tiny_variants():
        yield pytest.param(path, argument, marks=() if path.stem == "seeds" else pytest.mark.slow)


@pytest.mark.parametrize(("path", "argument"), quick_or_slow(), ids=lambda value: getattr(value, "stem", value))
def test_a_tiny_variant_trains(path: pathlib.Path, argument: str, tmp_path: pathlib.Path, data_root: pathlib.Path):
    """Launched and collected as a user does it: every run complete, with a loss."""
    grid = launched(f"{path}:{argument}", tmp_path, data_root, timeout=580)
    assert len(grid) == grid_cost(grid_of(path, argument)).runs
    assert set(grid["status"]) == {"complete"} and grid["loss_nats"].between(1, 7).all()


@pytest.mark.slow
def test_a_tree_of_cooldowns_is_paid_for_once(tmp_path: pathlib.Path, data_root: pathlib.Path):
    """Cooldowns end at the tokens and FLOPs of runs from scratch, and the note says what the shared trunk has saved."""
    path = f"{REPOSITORY / 'sweeps' / 'studies' / 'wsd.py'}:smoke,check"
    (note,) = file.load(path).notes
    grid = launched(path, tmp_path, data_root)
    parts = {name: part.sort_values("lineage_tokens") for name, part in grid.groupby("group")}
    cooled, scratch = parts["cooldown"], parts["scratch"]
    assert cooled["lineage_tokens"].tolist() == scratch["tokens"].tolist() == [256 * 20, 256 * 40]
    np.testing.assert_allclose(cooled["flops_lineage"], scratch["flops_total"], rtol=1e-12)
    paid = parts["trunk"]["flops_total"].sum() + cooled["flops_total"].sum()
    saved = 1 - paid / scratch["flops_total"].sum()
    assert saved > 0.2 and f"{saved:.0%} saved" in note
    assert (np.abs(cooled["loss_nats"].to_numpy() - scratch["loss_nats"].to_numpy()) < 1e-3).all(), "the same training"
    assert parts["trunk"]["parent"].notna().sum() == 1, "the second piece goes on where the first one ends"


def test_arguments_are_found_by_name_or_by_choice():
    known = {"scale": ("full", "smoke"), "family": "dense", "part": ("a", "b")}
    assert vars(common.arguments("", **known)) == {"scale": "full", "family": "dense", "part": "a"}
    expected = {"scale": "smoke", "family": "moe", "part": "b"}
    for text in itertools.permutations(("b", "smoke", "moe")):
        assert vars(common.arguments(",".join(text), **known)) == expected
    assert vars(common.arguments("family=smoke,part=b", **known)) == {"scale": "full", "family": "smoke", "part": "b"}
    for text, named in (("a,b,c", "'c'"), ("size=3", "size=3"), ("scale=huge", "'huge' is not a scale")):
        with pytest.raises(ValueError, match=named):
            common.arguments(text, **known)


def test_a_ladder_for_a_pod_follows_its_rules():
    """Every budget is spent, sizes are what was asked for to a tenth, batches divide over a slice, rates are the law's."""
    for family in ("dense", "moe", "matmul_free"):
        loaded = file.load(f"{REPOSITORY / 'sweeps' / 'studies' / 'scaling.py'}:pod,{family}")
        assert len(loaded.cells) == 24
        for cell in loaded.cells:
            counts = record.ledger(cell.run)
            assert counts["flops_total"] == pytest.approx(cell.tags["budget_flops"], rel=1e-3)
            assert cell.run.batch % 16 == 0 and cell.run.steps > 5_000
            law = 1.79 * counts["params_no_embed"] ** -0.713 * cell.run.tokens**0.307
            assert cell.run.opt.lr == pytest.approx(law) and 1e-4 < law < 2e-2


# --- rules and data that studies ask for


def test_shapes_of_a_size():
    """Whole heads, and the size that was asked for wherever no warning says otherwise."""
    for params in (1e7, 1e8, 1e9):
        for ratio in (64, 128):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                shape = rules.shape_of_size(params, ratio, 64)
            assert shape["model.width"] == 64 * shape["model.heads"]
            size = 12 * shape["model.depth"] * shape["model.width"] ** 2
            assert caught or abs(size / params - 1) < 0.1
    with pytest.warns(rules.RoundingWarning, match=r"width of 100 parameters"):
        rules.shape_of_size(100, 1, 64)


def test_published_rules_of_studies():
    """At sizes where their sources give a number."""
    grid = product(tags_over("budget_flops", 1e20), cases({"model.width": 1024, "model.heads": 16, "model.depth": 24}))
    (cell,) = freeze_points(derive(grid, "tokens", rules.deepseek_tokens))
    assert cell.run.tokens == pytest.approx(5.8316 * 1e20**0.4757, rel=1e-3)
    for params, rate in ((370e6, 4e-3), (1.3e9, 2.5e-3), (2.7e9, 1.5e-3)):
        assert 4e-3 * (params / 370e6) ** -0.45 == pytest.approx(rate, rel=0.1)
    run = cell.run
    size = record.ledger(run)["params_total"]
    assert rules.matmul_free_lr(run, {}) == pytest.approx(4e-3 * (size / 370e6) ** -0.45)
    # 33 M parameters besides the tables at width 512: Tao's anchor, a table of 3,145,728 entries, 6,144 rows.
    (cell,) = freeze_points(cases({"model.width": 512, "model.heads": 8, "model.depth": 10, "model.ff": 1442}))
    besides = record.ledger(cell.run)["params_no_embed"]
    assert besides == pytest.approx(33e6, rel=0.02)
    name, _, size = rules.tao_tokenizer(cell.run, {}).partition(":")
    assert name == "bpe" and int(size) == pytest.approx(6144 * (besides / 33e6) ** 0.8354, rel=2e-3)
    assert rules.small_lr(freeze.freeze({"family": "matmul_free"})[0], {}) == pytest.approx(4 * 0.14 / 256)


@pytest.fixture
def two(tmp_path: pathlib.Path) -> tuple[str, ...]:
    """Two texts with letters of their own."""
    for name, word in (("a", "abc"), ("b", "xyz")):
        for number in range(60):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number}.txt").write_text(f"{word} {number} " * 200)
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_a_mixture_is_judged_on_a_text_of_its_own(two: tuple[str, ...], tmp_path: pathlib.Path):
    """With evaluation.weights, runs of any mixture share their held-out text, and each part has its own loss."""
    held = []
    for weights in ((0.9, 0.1), (0.1, 0.9)):
        values = {"data": {"corpus": two, "holdout": 0.2, "weights": weights}, "seq_len": 32, "batch_tokens": 256}
        run, _ = freeze.freeze(values | {"evaluation": {"weights": (1.0, 1.0), "tokens": 2_048}})
        manifests = prepare(run.data, tmp_path / "root", progress=False)
        held.append(evaluate.Sequences(run, manifests))
        nats = np.zeros(held[-1].batches * run.batch)
        nats[: held[-1].rows] = np.where(held[-1].corpus == 0, 32.0, 64.0)
        result = held[-1].result(nats.reshape(-1, run.batch))
        assert result.parts == (1.0, 2.0) and result.columns["loss_part_2"] == 2.0
        assert result.loss_nats == pytest.approx(1.5, abs=0.02) and "parts" not in result.columns
    np.testing.assert_array_equal(held[0].tokens, held[1].tokens)
    with pytest.raises(InputError, match="evaluation.weights="):
        freeze.freeze({"evaluation": {"weights": (1.0, 2.0)}})
    alone, _ = freeze.freeze({})
    assert identity.fingerprint(alone, ("m",)) == "88642c69fb5f2f95", "the name of a run of before has not changed"


def test_a_package_of_the_embedded_corpus(tmp_path: pathlib.Path):
    """Its text only; the whole corpus keeps its identity."""
    (manifest,) = prepare(Data(corpus=("embedded/absl-py:1",), holdout=0.1), tmp_path, progress=False)
    assert 50_000 < manifest.train.bytes < 1_000_000 and set(manifest.details["packages"]) == {"absl-py"}
    with pytest.raises(InputError, match=r"embedded/numpyy.*did you mean 'numpy'"):
        prepare(Data(corpus=("embedded/numpyy",)), tmp_path, progress=False)
