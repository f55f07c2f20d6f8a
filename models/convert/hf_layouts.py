"""Say for each architecture of Hugging Face which key of its config is which option, and which tensor which parameter.

Only tables, which experiments/convert.py applies to files. A new architecture is one more `Layout` at the end of LAYOUTS.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from typing import Any

import numpy as np

REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of config.json: what transformers takes where it is missing, and its values in our words (none: the same)."""

    name: str
    missing: Any = REQUIRED
    values: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Tensors that hold a parameter; each `{}` of the name counts one of its leading axes (layers, experts).

    `transpose`: stored [out, in]. `parts`: several parameters lie side by side in the last axis, this one is `part`.
    """

    name: str
    transpose: bool = False
    part: int = 0
    parts: int = 1

    def pieces(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str, tuple[int, ...]]]:
        """Yield (index into the parameter, name, shape of the whole tensor) for each tensor."""
        stacked = self.name.count("{}")
        inner = shape[stacked:][::-1] if self.transpose else shape[stacked:]
        for index in np.ndindex(shape[:stacked]):
            yield index, self.name.format(*index), (*inner[:-1], inner[-1] * self.parts)


@dataclasses.dataclass(frozen=True)
class Layout:
    """One architecture of transformers."""

    architecture: str
    model_type: str
    family: str
    prefix: str  # of the body's tensors; checkpoints saved without a head lack it
    implied: Mapping[str, Any]  # options that the architecture does not leave open
    keys: Mapping[str, Key]  # option -> key of config.json
    tensors: Mapping[str, Tensor]  # parameter -> tensors
    fixed: Mapping[str, Any]  # keys that have no option here: the only value that means what the family computes
    written: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # keys that an export sets besides
    length: str = "max_position_embeddings"  # key of the sequence length
    inert: str = r"\.rotary_emb\.inv_freq$"  # tensors of old checkpoints that are no parameters
    idle: tuple[str, ...] = ()  # options that nothing is computed with as long as the implied ones hold
    canonical: Callable[[Any], Any] = lambda cfg: cfg  # another Config that computes the same, where several do


def _linear(ours: str, theirs: str) -> dict[str, Tensor]:
    """Say where the matrix of a layer is stored, which transformers has as [out, in]."""
    return {f"blocks/{ours}/kernel": Tensor(f"model.layers.{{}}.{theirs}.weight", transpose=True)}


def _scale(ours: str, theirs: str) -> dict[str, Tensor]:
    """Say where the scale of a layer's norm is stored."""
    return {f"blocks/{ours}/scale": Tensor(f"model.layers.{{}}.{theirs}.weight")}


# What all rotary architectures that descend from Llama (Touvron et al. 2023) have in common.
_ROPE_IMPLIED = {"norm": "rms", "bias": False, "position": "rope"}
_ROPE_KEYS = {
    "vocab": Key("vocab_size"),
    "width": Key("hidden_size"),
    "depth": Key("num_hidden_layers"),
    "heads": Key("num_attention_heads"),
    "kv_heads": Key("num_key_value_heads", None),
    "head_size": Key("head_dim", None),
    "ff": Key("intermediate_size"),
    "activation": Key("hidden_act", "silu", {"silu": "swiglu", "swish": "swiglu"}),
    "norm_eps": Key("rms_norm_eps", 1e-6),
    "rope_theta": Key("rope_theta", 1e4),
    "tied": Key("tie_word_embeddings", False),
    "init_std": Key("initializer_range", 0.02),
}
_ROPE_FIXED = {
    "attention_bias": False,
    "rope_type": "default",
    "partial_rotary_factor": 1.0,
    "layer_types": "full_attention",
    "quantization_config": None,
}
_ROPE_WRITTEN = {"attention_dropout": 0.0, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_ROPE_TENSORS = {
    "embed": Tensor("model.embed_tokens.weight"),
    "norm/scale": Tensor("model.norm.weight"),
    "head/kernel": Tensor("lm_head.weight", transpose=True),
    **_scale("attention_norm", "input_layernorm"),
    **_scale("mlp_norm", "post_attention_layernorm"),
    **_linear("attention/query", "self_attn.q_proj"),
    **_linear("attention/key", "self_attn.k_proj"),
    **_linear("attention/value", "self_attn.v_proj"),
    **_linear("attention/out", "self_attn.o_proj"),
}
_MLP_TENSORS = {
    **_linear("mlp/gate", "mlp.gate_proj"),
    **_linear("mlp/up", "mlp.up_proj"),
    **_linear("mlp/down", "mlp.down_proj"),
}

LLAMA = Layout(
    architecture="LlamaForCausalLM",
    model_type="llama",
    family="dense",
    prefix="model.",
    implied=_ROPE_IMPLIED | {"qk_norm": False},
    keys=_ROPE_KEYS,
    tensors=_ROPE_TENSORS | _MLP_TENSORS,
    fixed=_ROPE_FIXED | {"mlp_bias": False, "sliding_window": None},
    written=_ROPE_WRITTEN,
    idle=("qk_norm_over",),
)
QWEN3 = Layout(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    family="dense",
    prefix="model.",
    implied=_ROPE_IMPLIED | {"qk_norm": True},
    keys=_ROPE_KEYS | {"kv_heads": Key("num_key_value_heads", 32), "head_size": Key("head_dim", 128)},
    tensors=_ROPE_TENSORS
    | _MLP_TENSORS
    | _scale("attention/query_norm", "self_attn.q_norm")
    | _scale("attention/key_norm", "self_attn.k_norm"),
    fixed=_ROPE_FIXED | {"use_sliding_window": False},
    written=_ROPE_WRITTEN,
)


def _gpt2(ours: str, theirs: str, leaf: str, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
    """Say where a layer's weight ([in, out]: Conv1D) and bias are stored."""
    name = f"transformer.h.{{}}.{theirs}"
    return {
        f"blocks/{ours}/{leaf}": Tensor(f"{name}.weight", part=part, parts=parts),
        f"blocks/{ours}/bias": Tensor(f"{name}.bias", part=part, parts=parts),
    }


GPT2 = Layout(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    family="dense",
    prefix="transformer.",
    implied={"norm": "layer", "bias": True, "position": "learned", "qk_norm": False},
    keys={
        "vocab": Key("vocab_size"),
        "width": Key("n_embd"),
        "depth": Key("n_layer"),
        "heads": Key("n_head"),
        "ff": Key("n_inner", None),
        "positions": Key("n_positions", 1024),
        "activation": Key(
            "activation_function",
            "gelu_new",
            {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_exact"},
        ),
        "norm_eps": Key("layer_norm_epsilon", 1e-5),
        "tied": Key("tie_word_embeddings", True),
        "init_std": Key("initializer_range", 0.02),
    },
    tensors={
        "embed": Tensor("transformer.wte.weight"),
        "position": Tensor("transformer.wpe.weight"),
        "norm/scale": Tensor("transformer.ln_f.weight"),
        "norm/bias": Tensor("transformer.ln_f.bias"),
        "head/kernel": Tensor("lm_head.weight", transpose=True),
        **_gpt2("attention_norm", "ln_1", "scale"),
        **_gpt2("mlp_norm", "ln_2", "scale"),
        **_gpt2("attention/query", "attn.c_attn", "kernel", 0, 3),
        **_gpt2("attention/key", "attn.c_attn", "kernel", 1, 3),
        **_gpt2("attention/value", "attn.c_attn", "kernel", 2, 3),
        **_gpt2("attention/out", "attn.c_proj", "kernel"),
        **_gpt2("mlp/up", "mlp.c_fc", "kernel"),
        **_gpt2("mlp/down", "mlp.c_proj", "kernel"),
    },
    fixed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "quantization_config": None,
    },
    written={"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None},
    length="n_positions",
    idle=("qk_norm_over",),
    inert=r"\.attn\.(masked_)?bias$",
)

# Mixtures of experts: every layer has the same, dropless, without shared experts. What follows is not computed with.
_MOE_IMPLIED = {"mode": "dropless", "router": "linear", "shared_experts": 0, "dense_first": 0, "bias_rate": 0.0}
_MOE_IMPLIED |= {"routed_scaling": 1.0, "n_group": 1, "topk_group": 1}
_MOE_IDLE = ("ff", "router_width", "capacity_factor", "priority", "balance_layers")
_MOE_IDLE += ("load_balance", "sequence_balance", "router_z")


def _experts(gate: str, up: str, down: str, router: str) -> dict[str, Tensor]:
    """Say where the router and the experts' matrices of a layer are stored."""
    return {
        "blocks/mlp/router/out/kernel": Tensor(f"model.layers.{{}}.{router}.weight", transpose=True),
        "blocks/mlp/gate": Tensor(f"model.layers.{{}}.{gate}.weight", transpose=True),
        "blocks/mlp/up": Tensor(f"model.layers.{{}}.{up}.weight", transpose=True),
        "blocks/mlp/down": Tensor(f"model.layers.{{}}.{down}.weight", transpose=True),
    }


def _mixtral_scores(cfg: Any) -> Any:
    """Write the scores as Mixtral does: probabilities divided by their sum over the chosen are the softmax of their logits."""
    after = cfg.score == "softmax_after" or (cfg.score == "softmax" and cfg.renormalise)
    return dataclasses.replace(cfg, score="softmax", renormalise=True) if after else cfg


_MOE_KEYS = {option: key for option, key in _ROPE_KEYS.items() if option != "ff"} | {
    "expert_ff": Key("intermediate_size"),
    "norm_eps": Key("rms_norm_eps", 1e-5),
}
MIXTRAL = Layout(
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    family="moe",
    prefix="model.",
    implied=_ROPE_IMPLIED | _MOE_IMPLIED | {"qk_norm": False, "score": "softmax", "renormalise": True},
    keys=_MOE_KEYS
    | {
        "kv_heads": Key("num_key_value_heads", 8),
        "rope_theta": Key("rope_theta", 1e6),
        "experts": Key("num_local_experts", 8),
        "top_k": Key("num_experts_per_tok", 2),
    },
    tensors=_ROPE_TENSORS
    | _experts(
        "block_sparse_moe.experts.{}.w1",
        "block_sparse_moe.experts.{}.w3",
        "block_sparse_moe.experts.{}.w2",
        "block_sparse_moe.gate",
    ),
    fixed=_ROPE_FIXED | {"sliding_window": None},
    written=_ROPE_WRITTEN,
    idle=(*_MOE_IDLE, "qk_norm_over"),
    canonical=_mixtral_scores,
)
OLMOE = Layout(
    architecture="OlmoeForCausalLM",
    model_type="olmoe",
    family="moe",
    prefix="model.",
    implied=_ROPE_IMPLIED | _MOE_IMPLIED | {"qk_norm": True, "qk_norm_over": "all", "score": "softmax"},
    keys={option: key for option, key in _MOE_KEYS.items() if option != "head_size"}
    | {
        "experts": Key("num_experts", 64),
        "top_k": Key("num_experts_per_tok", 8),
        "renormalise": Key("norm_topk_prob", False),
    },
    tensors=_ROPE_TENSORS
    | _scale("attention/query_norm", "self_attn.q_norm")
    | _scale("attention/key_norm", "self_attn.k_norm")
    | _experts("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj", "mlp.gate"),
    fixed=_ROPE_FIXED | {"clip_qkv": None},
    written=_ROPE_WRITTEN,
    idle=_MOE_IDLE,
)

LAYOUTS = (LLAMA, QWEN3, GPT2, MIXTRAL, OLMOE)
