"""Runs of one signature as populations: split only where that pays, parents first."""

import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from experiments.cli import InputError
from experiments.run import identity
from experiments.store.record import ledger
from sweeps.study.grid import cases, chain, over, product
from sweeps.work import populations, workdir
from tests.support.studies import nodes_of

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


def test_no_population_is_larger_than_planned_or_than_memory_holds():
    """Five runs, two at a time by the plan: three populations; by memory, as many as their states need."""
    nodes = nodes_of(product(cases({**small, "model.width": 16}), over("seed", *range(5))))
    signature = identity.signature(nodes[0].run)
    parts = populations.arrange(nodes, 1, lambda _: False, together={signature: 2})
    assert sorted(len(part.nodes) for part in parts) == [1, 2, 2]
    counts = 8  # of steps: the run's, and Adam's
    state_bytes = 16 * ledger(nodes[0].run)["params_total"] + counts  # weights, two moments, a gradient
    enough_for_two = math.ceil(2 * state_bytes / populations.STATE_SHARE)
    for memory, most in ((enough_for_two, 2), (enough_for_two - 100, 1), (1, 1)):
        parts = populations.arrange(nodes, 1, lambda _: False, memory=memory)
        assert max(len(part.nodes) for part in parts) == most


def test_what_a_study_sets_is_not_replaced_by_the_executor():
    (node,) = nodes_of(cases({**small, "model.width": 16, "execution.keep_checkpoints": 3}))
    population = populations.Population((node,))
    execution = populations.worker_input(population, cpu_devices=5, keep_checkpoints=9)["execution"]
    assert isinstance(execution, dict) and (execution["cpu_devices"], execution["keep_checkpoints"]) == (5, 3)


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
