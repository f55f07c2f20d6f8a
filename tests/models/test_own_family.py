"""A family is one file, and an option its field: a toy from outside the package trains, is split, and is counted."""

import sys

import jax
import numpy as np
import pytest

from experiments.cli import InputError
from experiments.run import freeze, options_table
from experiments.store import record
import models
from models import families, functional
from tests.support import families as tiny_families
from tests.support.sharding import losses

# A model without memory: each token sees itself, or the mean of all tokens up to it.
TOY = '''
"""Feed-forward layers over the token itself, or over the mean of what came before."""

import dataclasses

import jax.numpy as jnp

from models.accounting import Accounting
from models.blocks import decoder
from models.blocks.layers import Mlp, Norm
from models.blocks.options import Options, untraced
from models.option import AT_LEAST_ONE, POSITIVE, option, when
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options besides those of every family."""

    ff: int = option(64, valid=AT_LEAST_ONE, growth="size", help="hidden size")
    memory: str = option("none", choices=("none", "mean"), help="what a token sees of those before it")
    strength: float = option(1.0, valid=POSITIVE, when=when("memory", "mean"), help="weight of the mean")


class Block(nnx.Module):
    """One layer."""

    def __init__(self, rngs, cfg):
        std, out_std = cfg.init_stds(cfg.init_std)
        self.cfg = untraced(cfg)  # a traced number would outlive its trace
        self.norm = Norm(rngs, {"norm": cfg.width}, cfg.norm, cfg.norm_eps)
        self.mlp = Mlp(rngs, cfg.width, cfg.ff, "gelu", False, std, out_std, cfg.quant)

    def __call__(self, x_BLD):
        y_BLD = self.norm(x_BLD)
        if self.cfg.memory == "mean":
            count_L1 = jnp.arange(1, y_BLD.shape[1] + 1)[:, None]
            y_BLD = y_BLD + self.cfg.strength * jnp.cumsum(y_BLD, axis=1) / count_L1
        return x_BLD + self.mlp(y_BLD)


class Model(decoder.Decoder):
    """Token ids [B, L] to logits [B, L, V]."""

    def __init__(self, cfg, rngs):
        super().__init__(cfg, rngs, lambda rngs: Block(rngs, cfg))


def account(cfg, seq_len):
    """Count a resolved config."""
    mlp = cfg.depth * 2 * cfg.width * cfg.ff
    params, matmul = decoder.outside(cfg)
    params |= {"mlp": mlp, "norm": params["norm"] + cfg.depth * cfg.width}
    matmul |= {"mlp": 2.0 * mlp}
    return Accounting(params, params, matmul, {}, {}, {})
'''


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    """The toy's file in a folder of its own, which families are found in as well, and its tiny config."""
    folder = tmp_path / "more families"
    folder.mkdir()
    (folder / "toy_echo.py").write_text(TOY)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(folder)])
    monkeypatch.setitem(tiny_families.TINY, "toy_echo", {"width": 32, "depth": 2})
    yield
    sys.modules.pop("models.families.toy_echo", None)
    vars(families).pop("toy_echo", None)


def test_it_is_found_by_its_file_with_its_options(tiny):
    assert "toy_echo" in models.family_names()
    frozen, _ = freeze.freeze(tiny("toy_echo", **{"model.memory": "mean", "model.strength": 0.5}))
    assert (frozen.family, frozen.model.strength) == ("toy_echo", 0.5)
    assert {"family": "toy_echo", "memory": "mean", "strength": 0.5}.items() <= record.columns(frozen).items()
    listed = str(list(options_table.rows("toy_echo")))
    assert "model.strength" in listed and "weight of the mean" in listed


def test_an_option_says_where_it_has_an_effect(tiny):
    with pytest.raises(InputError, match="model.strength=0.5 has an effect only where model.memory='mean'"):
        freeze.freeze(tiny("toy_echo", **{"model.strength": 0.5}))
    with pytest.raises(InputError, match="model.memory='maen' is not known; did you mean 'mean'"):
        freeze.freeze(tiny("toy_echo", **{"model.memory": "maen"}))


def test_it_is_counted_and_trains_alike_on_one_device_and_on_a_mesh(tiny):
    options = {"model.memory": "mean", "model.vocab": 264}
    frozen, _ = freeze.freeze(tiny("toy_echo", **options))
    shapes = functional.param_shapes(frozen.family, frozen.model)
    arrays = sum(int(np.prod(shape)) for shape in shapes.values())
    assert record.ledger(frozen)["params_total"] == arrays
    one, _, _ = losses([tiny("toy_echo", **options)], devices=jax.devices()[:1])
    split = {"execution.mesh.data": 2, "execution.mesh.fsdp": 2, "execution.mesh.tensor": 2}
    many, _, _ = losses([tiny("toy_echo", **options, **split)])
    assert one[0, -1] < one[0, 0]
    np.testing.assert_allclose(many, one, rtol=1e-5)
