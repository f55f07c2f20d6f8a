"""Grid algebra, rules, populations, claims. Whole studies are launched in test_launch.py."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from typing import Any
import warnings

from etils import epath
from hypothesis import given
from hypothesis import strategies as st
import pandas as pd
import pytest

from experiments.cli import InputError
from experiments.run import freeze, identity, schema
from experiments.store import record
from sweeps.study import file, rules
from sweeps.study import grid as axes
from sweeps.study.cells import freeze_points
from sweeps.study.grid import cases, chain, derive, over, product, tag, tags_over
from sweeps.work import claims, populations, workdir
from tests.support.paths import REPOSITORY
from tests.support.studies import nodes_of

# --- grids


def test_the_example_of_the_style_guide():
    """12 runs, tokens fixed, and the argument reaches get_study."""
    loaded = file.load(f"{REPOSITORY}/sweeps/studies/lr_by_width.py:dense")
    assert len(loaded.cells) == 12 == len({(c.run.model.width, c.run.opt.lr) for c in loaded.cells})
    assert {c.run.tokens for c in loaded.cells} == {schema.Run("dense", None).tokens}
    assert len({identity.signature(c.run) for c in loaded.cells}) == 3, (
        "one program a width, whatever the learning rate"
    )
    assert loaded.name == "lr_by_width:dense" and "learning rate" in loaded.doc
    assert loaded.cells[0].name == "width=128 lr=0.001"
    with pytest.raises(InputError, match=r"point 1 of 12 .*'dens' is not known; did you mean 'dense'"):
        file.load(f"{REPOSITORY}/sweeps/studies/lr_by_width.py:dens")


sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(sizes)
def test_product_has_every_combination_once_and_chain_keeps_order(lengths: list[int]):
    """Sizes multiply in products and add in chains; the last axis varies fastest."""
    grids = [over(f"k{i}", *range(n)) for i, n in enumerate(lengths)]
    points = [tuple(p.values.values()) for p in product(*grids)]
    assert points == sorted(set(points)) and len(points) == pd.Series(lengths).prod()
    assert [v for p in chain(*grids) for v in p.values.values()] == [v for n in lengths for v in range(n)]


def test_two_axes_that_set_one_key_raise():
    """Keys and tags are set once, whoever sets them."""
    with pytest.raises(InputError, match=r"opt\.lr"):
        product(over("opt.lr", 1e-3), cases({"opt.lr": 2e-3}))
    with pytest.raises(InputError, match="group"):
        tag(tag(over("seed", 0), group="a"), group="b")
    with pytest.raises(InputError, match="tokens"):
        derive(over("tokens", 10_000), "tokens", rules.tokens_per_parameter(20))
    with pytest.raises(InputError, match="at least one"):
        over("seed")
    with pytest.raises(InputError, match="model"):
        axes.nest({"model": 1, "model.width": 2})


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
    """Two points that differ in tags only are one run; a tag may not hide a column of the grid."""
    cells = freeze_points(chain(tag(over("seed", 1), group="a"), tag(over("seed", 1), group="b")))
    assert cells[0].run == cells[1].run and cells[0].tags != cells[1].tags
    for name in ("width", "loss_nats", "status", "params_total", "not a name"):
        with pytest.raises(InputError, match=name):
            freeze_points(tag(over("seed", 1), **{name: 1}))


def test_derived_keys_see_those_before_and_leave_their_rule_in_a_tag():
    """Budget -> tokens -> learning rate; a scaled rule says so."""
    grid = product(tags_over("budget_flops", 2e11, 8e11), over("model.width", 32, 64))
    grid = derive(grid, "tokens", rules.tokens_of_budget)
    cells = freeze_points(derive(grid, "opt.lr", rules.step_law_lr, scale=0.5))
    assert {c.tags["rule_tokens"] for c in cells} == {"tokens_of_budget"}
    assert {c.tags["rule_lr"] for c in cells} == {"step_law_lr x 0.5"}
    for cell in cells:
        counts = record.ledger(cell.run)
        assert counts["flops_total"] == pytest.approx(cell.tags["budget_flops"], rel=0.02)
        law = 1.79 * counts["params_no_embed"] ** -0.713 * cell.run.tokens**0.307
        assert cell.run.opt.lr == pytest.approx(law / 2)
    with pytest.raises(InputError, match="budget_flops"):
        derive(over("seed", 0), "tokens", rules.tokens_of_budget)
    with pytest.raises(InputError, match="not a rule"):
        derive(over("seed", 0), "tokens", lambda run, tags: 1)  # type: ignore[arg-type]


def test_published_rules_at_their_published_values():
    """Step Law and DeepSeek at a size where their papers give a number (Step Law: N=1e9, D=1e11 -> 1.63e-3, 1.108M)."""
    base = {"model.width": 2048, "model.depth": 20, "model.heads": 16, "seq_len": 2048, "tokens": 10**11}
    run, _ = freeze.freeze(axes.nest(base | {"batch_tokens": 2**20}))
    n = record.ledger(run)["params_no_embed"]
    assert n == pytest.approx(1e9, rel=0.05)
    assert rules.step_law_lr(run, {}) == pytest.approx(1.63e-3 * (n / 1e9) ** -0.713, rel=2e-3)
    assert rules.step_law_batch(run, {}) == pytest.approx(1.108e6, rel=2e-3)
    c = (72 * 20 * 2048**2 + 12 * 20 * 2048 * 2048) * 1e11
    assert rules.deepseek_lr(run, {}) == pytest.approx(0.3118 * c**-0.125)
    assert rules.deepseek_batch(run, {}) % 2048 == 0
    assert rules.deepseek_batch(run, {}) == pytest.approx(0.292 * c**0.3271, rel=2e-3)


@given(st.floats(0.51, 1e6), st.integers(1, 1000))
def test_rounding_is_to_the_nearest_multiple_and_warns_beyond_a_tenth(wanted: float, multiple: int):
    """Never zero, and never silent when it matters."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = rules.rounded("x", wanted, multiple)
    assert got % multiple == 0 and got >= multiple and abs(got - wanted) <= max(multiple / 2, multiple - wanted) + 1e-9
    assert bool(caught) == (abs(got / wanted - 1) > 0.1)


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
    sizes: dict[float, set[int]] = {}
    for cell in loaded.cells:
        counts = record.ledger(cell.run)
        assert counts["flops_total"] == pytest.approx(cell.tags["budget_flops"], rel=0.01)
        assert cell.run.steps >= 100 and cell.tags["rule_lr"].startswith("inverse_width_lr")
        if cell.tags["group"] == "isoflop":
            sizes.setdefault(cell.tags["budget_flops"], set()).add(counts["params_total"])
    assert len(sizes) >= 4 and all(len(s) >= 5 and max(s) > 4 * min(s) for s in sizes.values())
    assert len({identity.signature(c.run) for c in loaded.cells}) <= 8
    runs = [c.run for c in loaded.cells if c.tags["group"] == "isoflop"]
    bracket = [c.run for c in loaded.cells if c.tags["group"] == "lr_bracket"]
    assert len({run.opt.lr for run in bracket}) == 5 and sum(run in runs for run in bracket) == 1
    assert len({run.tokens for run in bracket}) == 1
    with pytest.raises(InputError, match="'huge' is not a scale"):
        file.load(f"{REPOSITORY}/sweeps/studies/quickstart.py:huge")


# --- populations


small = {"model.depth": 1, "model.heads": 1, "tokens": 100_000}


@given(st.integers(1, 5), st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_populations_hold_every_run_once_in_one_signature(slots: int, runs: list[int]):
    """Whatever is split, nothing is lost or mixed, and the end is not later than unsplit."""
    grid = chain(
        *(product(cases({**small, "model.width": 16 * (i + 1)}), over("seed", *range(n))) for i, n in enumerate(runs))
    )
    nodes = nodes_of(grid)
    parts = populations.arrange(nodes, slots, known=lambda _: False)
    assert sorted(n.fingerprint for p in parts for n in p.nodes) == sorted(n.fingerprint for n in nodes)
    assert all(len({identity.signature(n.run) for n in p.nodes}) == 1 for p in parts)
    whole: dict[str, list[workdir.Node]] = {}
    for node in nodes:
        whole.setdefault(identity.signature(node.run), []).append(node)
    unsplit = [populations.Population(tuple(members)) for members in whole.values()]
    assert populations.makespan(parts, slots) <= populations.makespan(unsplit, slots) + 1e-9
    assert [p.seconds for p in parts] == sorted((p.seconds for p in parts), reverse=True)


def test_a_signature_is_split_only_when_that_pays():
    """Long runs are shared out among all workers; short ones are not worth a process start."""
    long = nodes_of(product(cases({**small, "model.width": 128, "tokens": 50_000_000}), over("seed", *range(8))))
    assert [len(p.nodes) for p in populations.arrange(long, 4, lambda _: False)] == [2, 2, 2, 2]
    assert len(populations.arrange(long, 1, lambda _: False)) == 1
    assert len(populations.arrange(long, 1, lambda _: False, memory=30_000_000)) == 4, "not all states fit"
    short = nodes_of(product(cases({**small, "model.width": 16, "tokens": 2_048}), over("seed", *range(8))))
    assert len(populations.arrange(short, 4, lambda _: False)) == 1


def test_parents_come_first_and_must_exist():
    """A branch waits for its trunk; a missing trunk and a circle are named."""
    short = {**small, "model.width": 16, "tokens": 2_048}
    trunk = nodes_of(cases({**short, "seed": 3}))[0]
    branches = nodes_of(product(cases({**short, "parent": trunk.fingerprint}), over("seed", 1, 2)))
    parts = populations.arrange([*branches, trunk], 2, lambda _: False)
    assert [p.level for p in parts] == [0, 1] and len(parts[1].nodes) == 2
    with pytest.raises(InputError, match=f"parent={trunk.fingerprint}"):
        populations.arrange(branches, 2, lambda _: False)
    assert [p.level for p in populations.arrange(branches, 2, known=lambda name: name == trunk.fingerprint)] == [0]
    circle = dataclasses.replace(trunk, run=dataclasses.replace(trunk.run, parent=branches[0].fingerprint))
    with pytest.raises(InputError, match="circle"):
        populations.arrange([*branches, circle], 2, lambda _: False)


# --- claims


RACER = """
import os, sys, time
from etils import epath
from sweeps.work import claims
mine, taken = claims.Claims(epath.Path(sys.argv[1])), []
sys.stdin.readline()
for name in sys.argv[2:]:
    with mine.lock():
        if not mine.by_other(name):
            mine.take([name], os.getpid(), "p")
            taken.append(name)
print(*taken, flush=True)
sys.stdin.readline()  # alive until all have looked
"""


def test_racing_launchers_never_claim_a_run_twice(tmp_path: pathlib.Path):
    """Four processes go for the same twenty runs, as launchers do."""
    names = [f"{i:016x}" for i in range(20)]
    command = [sys.executable, "-c", RACER, str(tmp_path), *names]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    racers = [subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) for _ in range(4)]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    taken = [name for racer in racers for name in racer.stdout.readline().split()]
    assert sorted(taken) == names
    for racer in racers:
        racer.communicate()
    dead = claims.Claims(epath.Path(tmp_path))
    assert all(dead.read(name) and not dead.by_other(name) for name in names), "claims of ended processes are dead"


def test_a_claim_of_this_host_lives_as_long_as_its_processes(tmp_path: pathlib.Path):
    """Whatever the clock says; a process id that another process has now does not count."""
    mine = claims.Claims(epath.Path(tmp_path))
    sleeper = subprocess.Popen(["sleep", "60"])
    gone = dataclasses.replace(claims.Process.of(sleeper.pid), pid=2**22 + 1)
    claim = claims.Claim("f", gone, claims.Process.of(sleeper.pid), "p", 0.0, "abc")
    assert mine.alive(claim), "the launcher is gone, its worker is not"
    recycled = dataclasses.replace(claim.worker, started="1")
    assert not mine.alive(dataclasses.replace(claim, worker=recycled)), "the same process id, another process"
    assert not mine.alive(dataclasses.replace(claim, worker=dataclasses.replace(claim.worker, boot="before")))
    sleeper.kill()
    sleeper.wait()
    assert not mine.alive(claim)
    mine.take(["a", "b"], os.getpid(), "p")
    mine._write(dataclasses.replace(claim, fingerprint="b", launcher=dataclasses.replace(gone, host="elsewhere")))
    assert mine.beat(["a", "b"]) == ["b"], "b was taken over by another host"
    mine.release(["a", "b"])
    assert mine.read("a") is None and mine.read("b") is not None
    mine.close()
    assert not list((tmp_path / "launchers").iterdir())


def test_a_lease_of_another_host_is_judged_by_its_counter_alone(tmp_path: pathlib.Path, monkeypatch):
    """The other's clock may say anything, files may have any date; what counts is how long we saw nothing move."""
    mine, theirs = claims.Claims(epath.Path(tmp_path)), claims.Claims(epath.Path(tmp_path))
    far = dataclasses.replace(theirs.me, host="elsewhere")
    theirs.me = far
    theirs.take(["f"], os.getpid(), "p")
    clock = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock)
    path = tmp_path / "launchers" / f"{theirs.lease}.json"
    assert mine.by_other("f"), "just seen for the first time"
    for jump in (-1e9, 1e9):  # seconds: their clock, or the file server's, is wrong by decades
        os.utime(path, (time.time() + jump, time.time() + jump))
        monkeypatch.setattr(claims.time, "time", lambda jump=jump: 1.7e9 + jump)
        theirs.beat(["f"])
        clock += claims.STALE_SECONDS - 1
        assert mine.by_other("f"), "the counter has moved"
    clock += claims.STALE_SECONDS - 1
    assert mine.by_other("f"), "not for long enough"
    clock += 2
    assert mine.by_other("f") is None, "nobody is at it any more"
    mine.take(["f"], os.getpid(), "p")
    assert theirs.beat(["f"]) == ["f"], "the other comes back from a long sleep, and learns of it"
