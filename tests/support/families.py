"""Give tiny configs of every family, and models made of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run import schema
import models
from models import functional

# One tiny config a family: `model` options by name. A new family adds its line here.
TINY = {
    "dense": {"width": 32, "depth": 3, "heads": 4, "kv_heads": 2},
    "encoder_decoder": {"width": 32, "depth": 3, "heads": 4, "kv_heads": 2},
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
    "encoder_decoder": {
        "default": {},
        "t5": {"activation": "gelu", "tied": True, "encoder_depth": 2, "source": 9, "position": "none"},
        "biases": {"norm": "layer", "bias": True, "norm_placement": "sandwich", "qk_norm": True, "separator": 3},
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


# The default family, and the others with the slow tests.
SOME = [pytest.param(f, marks=() if f == "dense" else pytest.mark.slow) for f in models.family_names()]


VOCAB, LENGTH = 61, 24


def configure(family: str, variant: str = "", **options):
    """A run of the tiny config."""
    values = TINY[family] | VARIANTS.get(family, {}).get(variant, {}) | {"unroll": False} | options
    cfg = models.load(family).Config(**values).resolve(VOCAB, LENGTH)
    cfg.check(LENGTH)
    return schema.Run(family, cfg, seq_len=LENGTH, batch_tokens=4 * LENGTH, tokens=400 * LENGTH)


@functools.cache
def _made(family, variant, options):
    run = configure(family, variant, **dict(options))
    return run, jax.jit(lambda: functional.init_params(run.family, run.model, run.seed))()


@functools.cache
def forward(run):
    return jax.jit(lambda p, x: functional.apply(run.family, run.model, p, x).logits_BLV)


def make(family: str, variant: str = "", **options):
    """A run of the tiny config and its parameters: drawn once a process, as its forward pass is compiled once."""
    run, params = _made(family, variant, tuple(options.items()))
    return run, dict(params)


def logits(run, params, x):
    return forward(run)(params, x)


def tokens(rows: int = 4, length: int = LENGTH, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCAB, (rows, length)))
