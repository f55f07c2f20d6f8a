"""Studies in sweeps/studies that are launched as a user launches them."""

from collections.abc import Iterator
import pathlib
import re
from typing import Any
import warnings

import numpy as np
import pytest

from experiments.cli import InputError
from experiments.data.batches import records_of_parts
from experiments.prepare import prepare
from experiments.run import config_file, identity
from experiments.store import record
import models
from sweeps.cost.signature_plan import by_signature
from sweeps.study import file
from sweeps.study.cells import Cost, cost
from sweeps.study.grid import Grid
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
    "shapes": ("smoke", "smoke,equal_size"),
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
    """But the one whose loss is that of targets alone."""
    cells = file.load(f"{FAMILIES}:smoke").cells
    expected = set(models.family_names()) - {"encoder_decoder"}
    assert {cell.run.family for cell in cells} == expected
    assert len(cells) == 3 * len(expected)
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


def cost_of(path: pathlib.Path, argument: str | None) -> Cost:
    """What training a study takes."""
    return cost(grid_of(path, argument))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_says_what_it_asks_and_what_it_costs(path: pathlib.Path):
    """The first line is a question. Runs and FLOPs are those of the ledger, also as sweeps.plan counts them."""
    doc = file.load(str(path)).doc
    assert "?" in doc.splitlines()[0] and f"sweeps/studies/{path.name}" in doc
    stated = {found[1]: (int(found[2]), float(found[3])) for found in COST.finditer(doc)}
    assert None in stated, "the docstring has a line `Cost: N runs, X FLOPs.`"
    for argument, (runs, flops) in stated.items():
        found = cost_of(path, argument)
        assert found.runs == runs, argument
        assert found.flops == pytest.approx(flops, rel=6e-3), argument
        study = file.load(f"{path}:{argument}" if argument else str(path))
        planned = [cell for group in by_signature(study.cells) for cell in group]
        assert len(planned) == runs
        counted = sum(record.ledger(cell.run)["flops_total"] for cell in planned)
        assert counted == pytest.approx(found.flops)


def tiny_variants() -> list[tuple[pathlib.Path, str]]:
    return [(path, argument) for path in STUDIES for argument in TINY_VARIANTS.get(path.stem, ())]


@pytest.mark.parametrize(("path", "argument"), tiny_variants(), ids=lambda value: getattr(value, "stem", value))
def test_a_tiny_variant_is_tiny(path: pathlib.Path, argument: str):
    assert cost_of(path, argument).flops < 6e10


def quick_or_slow() -> Iterator[Any]:
    """Seeds, one program, are trained in the default tests too."""
    for path, argument in tiny_variants():
        yield pytest.param(path, argument, marks=() if path.stem == "seeds" else pytest.mark.slow)


@pytest.mark.parametrize(("path", "argument"), quick_or_slow(), ids=lambda value: getattr(value, "stem", value))
def test_a_tiny_variant_trains(path: pathlib.Path, argument: str, tmp_path: pathlib.Path, data_root: pathlib.Path):
    """Launched and collected as a user does it: every run complete, with a loss."""
    grid = launched(f"{path}:{argument}", tmp_path, data_root, timeout=580)
    assert len(grid) == cost_of(path, argument).runs
    assert set(grid["status"]) == {"complete"} and grid["loss_nats"].between(1, 7).all()


@pytest.mark.slow
def test_a_tree_of_cooldowns_is_paid_for_once(tmp_path: pathlib.Path, data_root: pathlib.Path):
    """Cooldowns end at the tokens and FLOPs of runs from scratch, and the note says what the shared trunk has saved."""
    path = f"{REPOSITORY / 'sweeps' / 'studies' / 'wsd.py'}:smoke,check"
    (note,) = file.load(path).notes
    grid = launched(path, tmp_path, data_root)
    parts = {name: part.sort_values("lineage_tokens") for name, part in grid.groupby("group")}
    cooled = parts["cooldown"]
    scratch = parts["scratch"]
    assert cooled["lineage_tokens"].tolist() == scratch["tokens"].tolist() == [256 * 20, 256 * 40]
    np.testing.assert_allclose(cooled["flops_lineage"], scratch["flops_total"], rtol=1e-12)
    paid = parts["trunk"]["flops_total"].sum() + cooled["flops_total"].sum()
    saved = 1 - paid / scratch["flops_total"].sum()
    assert saved > 0.2 and f"{saved:.0%} saved" in note
    assert (np.abs(cooled["loss_nats"].to_numpy() - scratch["loss_nats"].to_numpy()) < 1e-3).all(), "the same training"
    assert parts["trunk"]["parent"].notna().sum() == 1, "the second piece goes on where the first one ends"


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


def test_models_of_unequal_layers_are_equal_in_parameters_and_flops():
    """Of each width, and at each number of tokens; layers that grow and layers that shrink do so by the same sizes."""
    loaded = file.load(f"{REPOSITORY / 'sweeps' / 'studies' / 'layerwise.py'}")
    counts: dict[tuple[int, int], set[tuple[float, float]]] = {}
    kinds = set()
    for cell in loaded.cells:
        found = record.ledger(cell.run)
        size = (cell.run.model.width, cell.run.tokens)
        counts.setdefault(size, set()).add((found["params_total"], found["flops_total"]))
        kinds.add(cell.tags["layers"])
    assert kinds == {"uniform", "growing", "shrinking"} and len(counts) == 12
    assert all(len(found) == 1 for found in counts.values())


def test_series_that_are_evaluated_only_are_never_read():
    """Their weight, which has to be positive, does not come to a sequence in the longest run."""
    loaded = file.load(f"{REPOSITORY / 'sweeps' / 'studies' / 'series.py'}")
    for cell in loaded.cells:
        weights = [round(weight * 1e6) for weight in cell.run.data.weights]
        read = records_of_parts(weights, cell.run.steps * cell.run.batch)
        assert min(read[:3]) > 100 and read[3:] == [0, 0, 0]


def test_notes_of_a_study_say_what_rounding_moved(tmp_path: pathlib.Path):
    """A point whose tokens are not whole steps is remarked upon."""
    path = tmp_path / "s.py"
    path.write_text(
        "from sweeps.study.grid import *\nfrom sweeps.study import rules\n"
        "def get_study():\n    rules.aspect(24, 20, 16)\n    return cases({'tokens': 2900, 'batch_tokens': 2048})\n"
    )
    notes = " ".join(file.load(str(path)).notes)
    assert "depth at width 24" in notes and "tokens=2900 become 2048" in notes


def test_the_quickstart_is_an_isoflop_grid_with_a_bracket():
    """Four budgets or more of five sizes, each budget spent to 1%, few programs, and a bracket around a point of the grid."""
    loaded = file.load(f"{REPOSITORY}/sweeps/studies/quickstart.py")
    assert not loaded.notes, "nothing was rounded by more than a tenth"
    sizes_by_budget: dict[float, set[int]] = {}
    for cell in loaded.cells:
        counts = record.ledger(cell.run)
        budget = cell.tags["budget_flops"]
        assert counts["flops_total"] == pytest.approx(budget, rel=0.01)
        assert cell.run.steps >= 100
        assert cell.tags["rule_lr"].startswith("inverse_width_lr")
        if cell.tags["group"] == "isoflop":
            sizes_by_budget.setdefault(budget, set()).add(counts["params_total"])
    assert len(sizes_by_budget) >= 4
    for sizes in sizes_by_budget.values():
        assert len(sizes) >= 5
        assert max(sizes) > 4 * min(sizes)
    assert len({identity.signature(cell.run) for cell in loaded.cells}) <= 8
    runs = [cell.run for cell in loaded.cells if cell.tags["group"] == "isoflop"]
    bracket = [cell.run for cell in loaded.cells if cell.tags["group"] == "lr_bracket"]
    assert len({run.opt.lr for run in bracket}) == 5
    assert len({run.tokens for run in bracket}) == 1
    assert sum(run in runs for run in bracket) == 1, "the rule's own learning rate is a point of the grid"
    with pytest.raises(InputError, match="'huge' is not a scale"):
        file.load(f"{REPOSITORY}/sweeps/studies/quickstart.py:huge")
