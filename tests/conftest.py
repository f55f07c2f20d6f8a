"""Eight simulated CPU devices, annotation checks, tiny configs of every family, and a tiny corpus."""

from collections.abc import Iterator
import os
import pathlib
import signal

# Tests compile far more than they compute, and so do the processes that they start. Plain code from the older emitters
# takes a third of the time to compile.
_PLAIN_CODE = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *_PLAIN_CODE))
os.environ["JAX_PLATFORMS"] = "cpu"
# Many tests and the processes that they start compile the same small programs, each of them once.
_CACHE = pathlib.Path(__file__).resolve().parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

from jaxtyping import install_import_hook  # noqa: E402

# Options hold no arrays, and a study asks for them ten thousand times: they are imported before the checks are installed.
import models.option  # noqa: E402, F401

# Shapes in annotations are checked as jax traces; the suffix of a name cannot stay wrong past a function boundary.
install_import_hook(
    ["models", *(f"experiments.training.{name}" for name in ("step", "loss", "optimizer", "transformations"))],
    "beartype.beartype",
)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# What is imported here and is a fixture can be asked for by every test.
from tests.support.executors import (  # noqa: E402, F401
    _session_cluster,
    at_home,
    cloud,
    cluster,
    executor_study,
)
from tests.support.families import TINY  # noqa: E402
from tests.support.launching import tiny_study, undisturbed  # noqa: E402, F401
from tests.support.object_store import bucket, emulator, store_folder  # noqa: E402, F401
from tests.support.slurm import accounting_cluster, slurm, slurm_cluster, slurm_with_limits  # noqa: E402, F401
from tests.support.training import small_disk  # noqa: E402, F401

# Under nohup, or in a shell's background, signals are ignored, and so they would be by all that a test starts and stops.
if "PYTEST_XDIST_WORKER" in os.environ:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Eight for the tests alone: a process that they start has what its user would have.
jax.config.update("jax_num_cpu_devices", 8)
jax.devices()  # before a command that a test calls would ask for one per core
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


@pytest.fixture(autouse=True, scope="module")
def _few_programs() -> Iterator[None]:
    """Forget compiled programs between files before their memory maps reach the system's limit (65,530 on Linux): XLA crashes there."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a small text of words that follow each other by rules, so that there is something to learn."""
    folder, draw = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    words = ["".join(draw.choice(list("etaoinshr"), draw.integers(2, 8))) for _ in range(200)]
    follow = draw.integers(0, 200, (200, 4))
    for number in range(40):
        at, out = int(draw.integers(200)), []
        for _ in range(1_500):
            at = int(follow[at, draw.integers(4)])
            out.append(words[at])
        (folder / f"{number}.txt").write_text(" ".join(out))
    return folder


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where tests keep prepared corpora."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def write_study(tmp_path_factory: pytest.TempPathFactory, corpus: pathlib.Path, data_root: pathlib.Path):
    """Writes a study file of a text with %(corpus)r, %(root)r and %(cache)r: the compiled programs of all tests."""

    def write(text: str) -> pathlib.Path:
        folder = tmp_path_factory.mktemp("study")
        values = {"corpus": str(corpus), "root": str(data_root), "cache": os.environ["JAX_COMPILATION_CACHE_DIR"]}
        (folder / "tiny.py").write_text(text % values)
        return folder / "tiny.py"

    return write


@pytest.fixture
def tiny(corpus: pathlib.Path, data_root: pathlib.Path):
    """A maker of tiny configs: tiny(family="dense", **{"opt.lr": 1e-2}) -> locked ConfigDict."""
    from experiments.configs import default

    def make(family: str = "dense", **options):
        config = default.get_config(family)
        values = {f"model.{name}": value for name, value in TINY[family].items()}
        values |= {"data.corpus": (str(corpus),), "execution.data_root": str(data_root)}
        values |= {"seq_len": 32, "batch_tokens": 256, "tokens": 256 * 50, "evaluation.tokens": 2_048, "opt.lr": 1e-2}
        values |= {"execution.tensorboard": False, "execution.mesh.data": 1, "execution.compile_cache": None}
        for key, value in (values | options).items():
            section, _, name = key.rpartition(".")
            with config.ignore_type():
                (config[section] if section else config)[name] = value
        return config

    return make
