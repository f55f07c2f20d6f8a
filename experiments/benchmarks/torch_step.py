"""A lean decoder step in PyTorch, eager and compiled, for comparison: a part of experiments/benchmark.py.

The same shapes as our dense family, the library's own kernels (attention, RMSNorm, cross-entropy, fused AdamW), float32
and all cores on both sides. It starts from our own first parameters, so that the losses of both can be compared.
torch is not among the requirements: the part says so where it is missing.
"""

from collections.abc import Callable, Mapping
import importlib.util
from typing import Any

import numpy as np

from experiments.run.schema import Run

EPSILON = 1e-5


def missing() -> str | None:
    """Say why there is nothing to compare with; None where torch is installed."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install -r requirements-hf.txt"
    return None


class TorchStep:
    """One training step at a time, on a fixed batch. `compiled`: by torch.compile."""

    def __init__(self, run: Run, params: Mapping[str, np.ndarray], tokens_BT: np.ndarray, compiled: bool):
        """Start from `params` by path, those of the dense family."""
        import torch

        self.weights = {path: torch.tensor(np.array(value)).requires_grad_() for path, value in params.items()}
        self.optimizer = self._optimizer(run)
        self.inputs_BL = torch.tensor(tokens_BT[:, :-1].astype(np.int64))
        self.targets_BL = torch.tensor(tokens_BT[:, 1:].astype(np.int64))
        self.objective = loss_function(run)
        if compiled:
            self.objective = torch.compile(self.objective)
        self.clip_norm = run.opt.clip_norm

    def _optimizer(self, run: Run) -> Any:
        """Return AdamW, which decays matrices and no norms."""
        import torch

        norms = [value for path, value in self.weights.items() if path.endswith("scale")]
        matrices = [value for path, value in self.weights.items() if not path.endswith("scale")]
        groups = [
            {"params": matrices, "weight_decay": run.opt.weight_decay},
            {"params": norms, "weight_decay": 0.0},
        ]
        betas = (run.opt.beta1, run.opt.beta2)
        return torch.optim.AdamW(groups, lr=run.opt.lr, betas=betas, eps=run.opt.eps, fused=True)

    def __call__(self) -> float:
        """Take one step; return the loss before it."""
        import torch

        loss = self.objective(self.weights, self.inputs_BL, self.targets_BL)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def loss_function(run: Run) -> Callable[..., Any]:
    """Return the mean nats of a batch as a function of weights by path, inputs and targets."""
    from torch.nn import functional

    cfg = run.model
    size = cfg.width // cfg.heads
    cos_LK, sin_LK = _angles(run.seq_len, size, cfg.rope_theta)

    def attention(x_BLD: Any, weights: Mapping[str, Any], layer: int) -> Any:
        def heads(name: str) -> Any:
            y_BLD = x_BLD @ weights[f"blocks/attention/{name}/kernel"][layer]
            return y_BLD.unflatten(-1, (cfg.heads, size)).transpose(1, 2)

        q_BHLK = _turn(heads("query"), cos_LK, sin_LK)
        k_BHLK = _turn(heads("key"), cos_LK, sin_LK)
        o_BHLK = functional.scaled_dot_product_attention(q_BHLK, k_BHLK, heads("value"), is_causal=True)
        o_BLD = o_BHLK.transpose(1, 2).flatten(2)
        return o_BLD @ weights["blocks/attention/out/kernel"][layer]

    def feed_forward(x_BLD: Any, weights: Mapping[str, Any], layer: int) -> Any:
        gate_BLF = x_BLD @ weights["blocks/mlp/gate/kernel"][layer]
        up_BLF = x_BLD @ weights["blocks/mlp/up/kernel"][layer]
        return (functional.silu(gate_BLF) * up_BLF) @ weights["blocks/mlp/down/kernel"][layer]

    def norm(x_BLD: Any, scale_D: Any) -> Any:
        return functional.rms_norm(x_BLD, (cfg.width,), scale_D, EPSILON)

    def loss(weights: Mapping[str, Any], inputs_BL: Any, targets_BL: Any) -> Any:
        x_BLD = functional.embedding(inputs_BL, weights["embed"])
        for layer in range(cfg.depth):
            x_BLD = x_BLD + attention(norm(x_BLD, weights["blocks/attention_norm/scale"][layer]), weights, layer)
            x_BLD = x_BLD + feed_forward(norm(x_BLD, weights["blocks/mlp_norm/scale"][layer]), weights, layer)
        logits_BLV = norm(x_BLD, weights["norm/scale"]) @ weights["head/kernel"]
        return functional.cross_entropy(logits_BLV.flatten(0, 1), targets_BL.flatten())

    return loss


def _angles(length: int, size: int, theta: float) -> tuple[Any, Any]:
    """Return cosines and sines of the rotary angles, for both halves of a head."""
    import torch

    frequency_K = theta ** (-torch.arange(0, size, 2) / size)
    angle_LK = torch.outer(torch.arange(length), frequency_K)
    both_LK = torch.cat([angle_LK, angle_LK], dim=-1)
    return both_LK.cos(), both_LK.sin()


def _turn(x: Any, cos_LK: Any, sin_LK: Any) -> Any:
    """Turn heads by their rotary positions, in the rotate-half layout."""
    import torch

    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([-second, first], dim=-1)
    return x * cos_LK + rotated * sin_LK
