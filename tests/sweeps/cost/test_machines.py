"""Names of machines, and the table of what their chips can do and cost."""

import json
import pathlib
from typing import Any

import pytest

from experiments.benchmarks.chips import chip_of, load_chips, load_grid
from experiments.cli import InputError
from sweeps.cost import machines

CHIPS = load_chips()


@pytest.mark.parametrize(
    ("name", "chips"),
    [("v5e-16", 16), ("v6e-256", 256), ("v5p-128", 64), ("v4-8", 4), ("v5p:4x4x4", 64), ("h100-8", 8)]
    + [
        ("tpu7x-16", 8),
        ("tpu7x-8", 4),
        ("v5e-256x4", 1024),
        ("v5p-128x2", 128),
        ("h100-nvl-2", 2),
        ("a100-pcie-40gb-4", 4),
    ],
)
def test_targets_are_named_as_they_are_sold(name: str, chips: int):
    """v5p and tpu7x count cores, v5e chips; topologies are in chips; slices are multiplied."""
    assert machines.target(name).chips == chips


def test_one_slice_has_several_names():
    assert machines.target("v5p-128").topology == machines.target("v5p:4x4x4").topology == "4x4x4"
    assert machines.target("v5litepod-16").topology == machines.target("v5e-16").topology == "4x4"


def test_several_slices_have_the_topology_of_each():
    found = machines.target("v5e-256x4")
    assert (found.topology, found.slices, found.devices) == ("16x16", 4, 1024)
    assert machines.target("v5e-256").slices == 1


def test_jax_sees_two_devices_of_a_tpu7x():
    assert machines.target("tpu7x-16").topology == "2x2x2"
    assert machines.target("tpu7x-16").devices == 16
    assert machines.target("tpu7x:2x2x1").devices == 8
    assert machines.target("cpu").kind == "cpu"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e-17", "no slice; expected one of v5e-1"),
        ("v5p-3", "v5p-8"),
        ("v5e16", "mean 'v5e-16'"),
        ("v5e-16x0", "expected 1 slice or more"),
        ("v4-8x2", "whose data center network is known"),
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
        ({"v5e": {"torus_pod": -16}}, "torus_pod=-16 must be a positive number"),
        ([], "not a table"),
    ],
)
def test_a_wrong_table_is_refused(chips: Any, said: str, tmp_path: pathlib.Path):
    """What is wrong is named with its file."""
    path = write_prices(tmp_path / "prices.json", chips)
    with pytest.raises(InputError, match=said):
        load_chips(path)


def test_the_grid_can_be_replaced_in_part(tmp_path: pathlib.Path):
    path = tmp_path / "grid.json"
    path.write_text(json.dumps({"grid": {"kg_co2e_per_kwh": 0.05}}))
    found = load_grid(str(path))
    assert (found.kg_co2e_per_kwh, found.pue) == (0.05, load_grid().pue)
    assert load_chips(str(path)) == CHIPS
    path.write_text(json.dumps({"grid": {"pue": 0}}))
    with pytest.raises(InputError, match="grid: pue=0 must be a positive number"):
        load_grid(str(path))
    path.write_text(json.dumps({"chip": {}}))
    with pytest.raises(InputError, match="not a table like .*expected chips or grid"):
        load_chips(str(path))


def test_every_chip_says_where_its_figures_are_from():
    assert all(chip.source and chip.date for chip in CHIPS.values())


@pytest.mark.parametrize(
    ("kind", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
    ],
)
def test_a_device_is_known_by_what_jax_calls_it(kind: str, chip: str):
    assert chip_of(kind) == CHIPS[chip]


OTHERS = [
    "cpu",
    "NVIDIA H1000",
    "NVIDIA GH200 480GB",
    "NVIDIA GB200",
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    "TPU v4 lite",
]


@pytest.mark.parametrize("kind", [*OTHERS, "", None])
def test_no_peak_is_made_up_for_a_device_that_is_not_in_the_table(kind: str | None):
    assert chip_of(kind) is None
