"""Eight simulated CPU devices, annotation checks, tiny configs of every family, and a tiny corpus."""

import os
import pathlib
import subprocess
import sys

# Tests compile far more than they compute: level 0 halves the compile time.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS} --xla_llvm_disable_expensive_passes=true"
os.environ["JAX_PLATFORMS"] = "cpu"
# Many tests and the processes that they start compile the same small programs.
_CACHE = pathlib.Path(__file__).resolve().parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

from jaxtyping import install_import_hook  # noqa: E402

# Shapes in annotations are checked as jax traces; the suffix of a name cannot stay wrong past a function boundary.
install_import_hook(
    ["models", "experiments.training.step", "experiments.training.loss", "experiments.training.optimizer"],
    "beartype.beartype",
)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.devices()  # all eight, before a command that a test calls would ask for one per core
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
GRIDS = REPOSITORY.parent / "shared" / "grids"
GOLDEN = pathlib.Path(__file__).parent / "golden"

# One tiny config a family: `model` options by name. A new family adds its line here.
TINY = {
    "dense": {"width": 32, "depth": 3, "heads": 4, "kv_heads": 2},
    "matmul_free": {"width": 32, "depth": 3, "ff": 48},
    "min_gru": {"width": 32, "depth": 3},
    "moe": {"width": 32, "depth": 3, "heads": 4, "kv_heads": 2, "experts": 4},
    "tokenformer": {"width": 32, "depth": 3, "heads": 4},
}
# Sizes at which matmuls outweigh element-wise work, where the default of all families will not do.
LARGE = {
    "tokenformer": {"width": 512, "attention_tokens": 512},
}
# Options for tests that two programs give one number: a family that rounds turns an error of 1e-7 into a whole step.
SMOOTH = {
    "matmul_free": {"act_bits": 16},
}
# Option sets that the family tests cover besides the defaults.
VARIANTS = {
    "dense": {
        "llama": {},
        "gpt2": {"norm": "layer", "bias": True, "activation": "gelu", "position": "learned", "tied": True},
        "qwen3": {"qk_norm": True, "tied": True, "head_size": 16},
        "fan_in": {"init": "fan_in", "kv_heads": 1, "ff": 40},
        "post": {"norm_placement": "post", "position": "none"},
        "sandwich": {"norm_placement": "sandwich", "norm": "layer", "bias": True},
        "deepnorm": {"norm_placement": "deepnorm"},
        "mix": {"norm_placement": "mix", "mix_share": 0.4},
        "lns": {"norm_placement": "lns", "window": 7},
        "layerwise": {"layerwise": True, "layerwise_divisor": 16, "qk_norm": True, "tied": True},
        "linear": {"attention": "linear", "chunk": 8, "position": "none"},
        "mup": {"parametrization": "mup", "base_width": 16, "base_head_size": 4, "tied": True, "embed_multiplier": 2.0},
        "completep": {"parametrization": "completep", "base_width": 16, "norm_placement": "sandwich", "bias": True},
    },
    "matmul_free": {
        "code": {},
        "paper": {"gate_form": "paper", "lower_bounds": False},
        "act16": {"act_bits": 16, "norm_eps": 1e-5, "bit_eps": 1e-8},
    },
    "min_gru": {
        "default": {},
        "completep": {"parametrization": "completep", "base_width": 16},
    },
    "moe": {
        "olmoe": {"renormalise": False, "qk_norm": True, "qk_norm_over": "all"},
        "mixtral": {"score": "softmax_after", "bias": True, "activation": "gelu", "shared_experts": 1},
        "deepseek": {
            "experts": 8,
            "score": "sigmoid",
            "routed_scaling": 2.5,
            "bias_rate": 1e-3,
            "n_group": 4,
            "topk_group": 2,
            "shared_experts": 1,
            "dense_first": 1,
        },
        "rmoe": {"router": "recurrent", "router_width": 8},
        "switch": {"mode": "capacity", "top_k": 1, "renormalise": False},
        "gshard": {"mode": "capacity", "priority": "slot", "capacity_factor": 0.5},
        "expert_choice": {"mode": "expert_choice"},
        "mix": {"norm_placement": "mix", "mix_share": 0.7, "dense_first": 1, "attention": "linear", "bias": True},
        "completep": {"parametrization": "completep", "base_width": 16, "dense_first": 1, "shared_experts": 1},
    },
    "tokenformer": {
        "published": {},
        "gelu_l2": {"score": "gelu_l2", "tied": False, "rope_share": 1.0, "norm": "rms"},
        "softmax": {"score": "softmax", "attention_tokens": 24},
    },
}


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
    """Writes a study file of a text with %(corpus)r, %(root)r and %(cache)r; its programs are compiled once for all tests."""

    def write(text: str) -> pathlib.Path:
        folder = tmp_path_factory.mktemp("study")
        values = {"corpus": str(corpus), "root": str(data_root), "cache": str(folder / "xla")}
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


def launched(study: str, workdir: pathlib.Path, data_root: pathlib.Path, timeout: float = 900):
    """The grid of a study (FILE or FILE:ARG) that is launched and collected as a user does it."""
    import pandas as pd

    flags = (f"--study={study}", f"--workdir={workdir}", f"--data_root={data_root}")
    done = run_command("sweeps.launch", *flags, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run_command("sweeps.collect", f"--workdir={workdir}", f"--out={workdir / 'grid.csv'}")
    assert done.returncode == 0, done.stderr
    return pd.read_csv(workdir / "grid.csv")


def run_command(*arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` from the repository as a user would, on one simulated device."""
    env = os.environ | {"XLA_FLAGS": ""} | environment
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=timeout)
