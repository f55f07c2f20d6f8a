"""Where the published grids are from: address, commit, checksum; reading them, and downloading them when asked to.

The files themselves are not part of this project (several have no licence). Nothing is downloaded without --fetch.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import pathlib
from typing import TYPE_CHECKING

from analysis.published import convert
from experiments.cli import InputError

if TYPE_CHECKING:
    from analysis.grid.table import Grid

HOST = "https://github.com"
SECONDS = 60.0  # to wait for a download


@dataclasses.dataclass(frozen=True)
class Source:
    """A tidy table, the files that it is made of, and the sha256 of the table that our numbers were checked on.

    convert: makes the table of the original files (by path); None where it cannot be made without a person.
    """

    repository: str
    commit: str
    paths: tuple[str, ...]
    sha256: str
    convert: Callable[[Mapping[str, bytes]], bytes] | None

    @property
    def address(self) -> str:
        """Where a person finds the original."""
        return f"{HOST}/{self.repository}/blob/{self.commit}/{self.paths[0]}"

    def download_address(self, path: str) -> str:
        """Where a program finds one of the files."""
        return f"{HOST}/{self.repository}/raw/{self.commit}/{path}"


REGMIX = ("sail-sg/regmix", "b004d3a3f39846dcec6b3740da22bcd1ba95a5d0")
STEP_LAW = ("step-law/steplaw", "32a8f4c")
SOURCES = {
    "chinchilla_epoch.csv": Source(
        "Besiroglu/data",
        "02783aeb768463ef2635c061a961068ff3e93949",
        ("svg_extracted_data.csv",),
        "36e7b67040555d1ef10733a7f3a82ffd5e20233c7c95a0395ed332ecd9532e11",
        convert.chinchilla,
    ),
    "vocab_isoflop.csv": Source(
        "sail-sg/scaling-with-vocab",
        "6701cc2",
        ("exp_data.csv",),
        "b208a65adea04ebf32b536451461c41e4529fb0a0b13cc0bbf65301c12560be3",
        convert.vocabulary,
    ),
    "regmix_train_1m.csv": Source(
        *REGMIX,
        ("data/train_mixture_1m.csv", "data/train_pile_loss_1m.csv"),
        "f55b66bcadd6773fefde0fb2e20ab3e28eac07cf03d42d46bdd15a86dd049412",
        convert.mixtures,
    ),
    "regmix_test.csv": Source(
        *REGMIX,
        (
            "data/test_mixture_1m.csv",
            "data/test_pile_loss_1m.csv",
            "data/test_mixture_60m.csv",
            "data/test_pile_loss_60m.csv",
            "data/test_mixture_1B.csv",
            "data/test_pile_loss_1B.csv",
        ),
        "120fde4a375183701bc157d2beaa4c8d4c41dbf1eca4d8540aad31883853168e",
        convert.mixtures,
    ),
    "datablations_c4.csv": Source(
        "huggingface/datablations",
        "1370131",
        ("utils/parametric_fit.ipynb",),
        "111a072c7442eb877d15e9b0d5566f8a0806a14b35ba66a7f1e7f1b0d3553ed9",
        None,
    ),
    "routed_lm_clark.csv": Source(
        "google-deepmind/scaling_laws_for_routing",
        "42da0c392b127df2c01fa7b705f72396050d05e5",
        ("data/curves.csv.gz",),
        "2106cd2d1e458773e9d0bac669bbf7b662c2f20abddf12ecbaee77f99a55d573",
        convert.routed,
    ),
    "steplaw_dense.csv": Source(
        *STEP_LAW,
        ("data/dense_lr_bs_loss.csv",),
        "236e02d8d10dd6cc2889e432c12706b2dcad9160f1b5560b6ca4e324462df4e5",
        convert.step_law,
    ),
    "steplaw_published_bootstrap.csv": Source(
        *STEP_LAW,
        ("data/1004_fitted_lr_bs_scaling_model_parameters.csv",),
        "2252afbba5530e6ba6167e8101bd2b9082a018a58cb5922cc8672891a7f4336c",
        convert.step_law_bootstrap,
    ),
}


def read(folder: str, file: str) -> tuple["Grid", str]:
    """The table and a warning, empty where its checksum is the known one.

    Raises InputError, with the address of the original, when the file is not there.
    """
    from analysis.grid.table import load

    source = SOURCES[file]
    path = pathlib.Path(folder) / file
    if not path.exists():
        how = "--fetch downloads it" if source.convert else "it has to be taken from there by hand"
        raise InputError(f"--data: {folder} has no {file}; expected the table made of {source.address} ({how})")
    grid = load(path)
    if grid.sha256 == source.sha256:
        return grid, ""
    return grid, (
        f"{file} is not the table that the published numbers were checked on: its sha256 begins with {grid.sha256[:12]}, "
        f"expected {source.sha256[:12]}"
    )


def fetch(folder: str, file: str) -> str:
    """Download the original of a table and write the table into `folder`; what was done, in a line.

    Raises InputError for a table that cannot be made by a program, RuntimeError when the download fails.
    """
    source = SOURCES[file]
    path = pathlib.Path(folder) / file
    if source.convert is None:
        raise InputError(
            f"--fetch: {file} is in the cells of {source.address} and cannot be made by a program; put the table at {path}"
        )
    table = source.convert({part: _download(source.download_address(part)) for part in source.paths})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(table)
    except OSError as error:
        raise InputError(f"--data: {path} cannot be written ({error.strerror or error})") from error
    same = hashlib.sha256(table).hexdigest() == source.sha256
    return f"{path} made of {source.address}" + ("" if same else " (its checksum is not the known one)")


def _download(address: str) -> bytes:
    """Return what lies at an address. Raises RuntimeError when it cannot be had."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            return answer.read()
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise RuntimeError(f"{address} could not be downloaded ({reason})") from error
