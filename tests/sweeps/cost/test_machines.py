"""Names of machines, and the table of what their chips can do and cost."""

import json
import pathlib
from typing import Any

import pytest

from experiments.benchmarks.chips import chip_of, load_chips
from experiments.cli import InputError
from sweeps.cost import machines

CHIPS = load_chips()


@pytest.mark.parametrize(
    ("name", "chips"),
    [("v5e-16", 16), ("v6e-256", 256), ("v5p-128", 64), ("v4-8", 4), ("v5p:4x4x4", 64), ("h100-8", 8)],
)
def test_targets_are_named_as_they_are_sold(name: str, chips: int):
    """v5p counts cores, v5e chips; topologies are in chips."""
    assert machines.target(name).chips == chips


def test_one_slice_has_several_names():
    assert machines.target("v5p-128").topology == machines.target("v5p:4x4x4").topology == "4x4x4"
    assert machines.target("v5litepod-16").topology == machines.target("v5e-16").topology == "4x4"


def test_jax_sees_two_devices_of_a_tpu7x():
    assert machines.target("tpu7x:2x2x1").devices == 8
    assert machines.target("cpu").kind == "cpu"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e-17", "no slice; expected one of v5e-1"),
        ("v5p-3", "v5p-8"),
        ("v5e16", "mean 'v5e-16'"),
        ("h100-0", "cannot be planned for"),
        ("h999-8", "cannot be planned for"),
    ],
)
def test_what_is_no_machine_is_refused(name: str, said: str):
    with pytest.raises(InputError, match=said):
        machines.target(name)


def write_prices(path: pathlib.Path, chips: Any) -> str:
    """A file like experiments/benchmarks/chips.json."""
    path.write_text(json.dumps({"chips": chips}))
    return str(path)


def test_figures_and_prices_can_be_replaced(tmp_path: pathlib.Path):
    """Part of a row, by a user's file; all other values stay."""
    path = write_prices(tmp_path / "prices.json", {"v5e": {"price_usd": 0.5, "price_date": "2026-01"}})
    chips = load_chips(path)
    assert chips["v5e"].price_usd == 0.5
    assert chips["v5e"].peak_flops == 197e12
    assert chips["v6e"] == CHIPS["v6e"]


@pytest.mark.parametrize(
    ("chips", "said"),
    [
        ({"v5e": {"price": 1}}, "unknown field 'price'; did you mean 'price_usd'"),
        ({"v5e": {"peak_flops": "fast"}}, "peak_flops='fast' must be a positive number"),
        ({"new": {"peak_flops": 1e12}}, "chip 'new' has no hbm_bytes_per_second"),
        ([], "not a table"),
    ],
)
def test_a_wrong_table_is_refused(chips: Any, said: str, tmp_path: pathlib.Path):
    """What is wrong is named with its file."""
    path = write_prices(tmp_path / "prices.json", chips)
    with pytest.raises(InputError, match=said):
        load_chips(path)


def test_every_chip_says_where_its_figures_are_from():
    assert all(chip.source and chip.date for chip in CHIPS.values())


@pytest.mark.parametrize(
    ("kind", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
    ],
)
def test_a_device_is_known_by_what_jax_calls_it(kind: str, chip: str):
    assert chip_of(kind) == CHIPS[chip]


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H1000", "", None])
def test_no_peak_is_made_up_for_a_device_that_is_not_in_the_table(kind: str | None):
    assert chip_of(kind) is None
