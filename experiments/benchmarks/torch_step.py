"""Measure our train step beside a lean PyTorch one, eager and compiled: a part of experiments/benchmark.py.

The same shapes as our dense family, the library's own kernels (attention, RMSNorm, cross-entropy, fused AdamW), float32
and all cores on both sides. It starts from our own first parameters, so that the losses of both can be compared.
torch is not among the requirements: the part says so where it is missing.
"""

from collections.abc import Callable, Mapping
import importlib.util
from typing import Any

import numpy as np

from experiments.benchmarks.families import Row, stepper, take_turns
from experiments.run.schema import Execution, Run

Weights = Mapping[str, Any]  # tensors by the paths of the dense family's parameters


def missing() -> str | None:
    """Say why there is nothing to compare with; None where torch is installed."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed; pip install -r requirements-hf.txt"
    return None


def _torch() -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    return torch


def bench_torch(runs: Mapping[str, Run], rounds: int) -> list[Row]:
    """Measure steps of runs of the dense family, by the name of their shape, the contestants taken in turn."""
    rows = []
    for shape, run in runs.items():
        rows += _bench_shape(shape, run, rounds)
    return rows


def _bench_shape(shape: str, run: Run, rounds: int) -> list[Row]:
    """Measure one shape; `over_ours` is the median over rounds of the times over ours in the same round."""
    draw = np.random.default_rng(0)
    tokens_BT = draw.integers(0, 256, (run.batch, run.seq_len + 1))
    eager = TorchStep(run, tokens_BT)
    compiled = TorchStep(run, tokens_BT, compiled=True)
    contestants: dict[str, Callable[[], Any]] = {
        "ours": stepper(run, Execution(steps_per_dispatch=1)),
        "torch": eager,
        "torch.compile": compiled,
    }
    times = take_turns(contestants, rounds)
    ours = np.array(times["ours"])
    rows = []
    for label, seconds in times.items():
        ratios = np.array(seconds) / ours
        median = float(np.median(seconds))
        row = {
            "shape": shape,
            "step": label,
            "median_seconds": median,
            "tokens_per_second": run.batch_tokens / median,
            "over_ours": float(np.median(ratios)),
        }
        rows.append(row)
    return rows


class TorchStep:
    """One training step after the other on a fixed batch, as torch takes it."""

    def __init__(self, run: Run, tokens_BT: np.ndarray, compiled: bool = False):
        """Start from the run's first parameters. `compiled`: by torch.compile."""
        from models import functional

        torch = _torch()

        params = functional.init_params(run.family, run.model, run.seed)
        self.weights = {}
        for path, value in params.items():
            copy = np.array(value)
            self.weights[path] = torch.tensor(copy, requires_grad=True)
        self.options: Any = run.opt  # those of AdamW
        self.optimizer = self._optimizer()
        tokens = torch.tensor(tokens_BT, dtype=torch.int64)
        self.inputs_BL = tokens[:, :-1]
        self.targets_BL = tokens[:, 1:]
        objective = Objective(run)
        self.objective = torch.compile(objective) if compiled else objective

    def _optimizer(self) -> Any:
        """Return AdamW, which decays matrices and no norms."""
        torch = _torch()
        matrices = []
        norms = []
        for path, weight in self.weights.items():
            group = norms if path.endswith("scale") else matrices
            group.append(weight)
        options = self.options
        groups = [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": norms, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            groups,
            lr=options.lr,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            fused=True,
        )

    def __call__(self) -> float:
        """Take one step; return the loss before it."""
        torch = _torch()
        loss = self.objective(self.weights, self.inputs_BL, self.targets_BL)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.options.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class Objective:
    """The mean nats of a batch as a function of weights, inputs and targets: the dense family with default options."""

    def __init__(self, run: Run):
        self.cfg = run.model
        self.angles = _angles(run.seq_len, run.model.head_size, run.model.rope_theta)

    def __call__(self, weights: Weights, inputs_BL: Any, targets_BL: Any) -> Any:
        functional = _torch().nn.functional
        x_BLD = functional.embedding(inputs_BL, weights["embed"])
        for layer in range(self.cfg.depth):
            own = _of_layer(weights, layer)
            normal = self._norm(x_BLD, own["attention_norm/scale"])
            x_BLD = x_BLD + self._attention(normal, own)
            normal = self._norm(x_BLD, own["mlp_norm/scale"])
            x_BLD = x_BLD + self._feed_forward(normal, own)
        normal = self._norm(x_BLD, weights["norm/scale"])
        logits_BLV = normal @ weights["head/kernel"]
        logits_NV = logits_BLV.flatten(0, 1)
        return functional.cross_entropy(logits_NV, targets_BL.flatten())

    def _norm(self, x_BLD: Any, scale_D: Any) -> Any:
        functional = _torch().nn.functional
        return functional.rms_norm(x_BLD, (self.cfg.width,), scale_D, self.cfg.norm_eps)

    def _attention(self, x_BLD: Any, weights: Weights) -> Any:
        functional = _torch().nn.functional

        def heads(name: str) -> Any:
            y_BLD = x_BLD @ weights[f"attention/{name}/kernel"]
            y_BLHK = y_BLD.unflatten(-1, (self.cfg.heads, self.cfg.head_size))
            return y_BLHK.transpose(1, 2)

        q_BHLK = _turned(heads("query"), *self.angles)
        k_BHLK = _turned(heads("key"), *self.angles)
        v_BHLK = heads("value")
        o_BHLK = functional.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=True)
        o_BLHK = o_BHLK.transpose(1, 2)
        return o_BLHK.flatten(2) @ weights["attention/out/kernel"]

    def _feed_forward(self, x_BLD: Any, weights: Weights) -> Any:
        functional = _torch().nn.functional
        gate_BLF = x_BLD @ weights["mlp/gate/kernel"]
        up_BLF = x_BLD @ weights["mlp/up/kernel"]
        h_BLF = functional.silu(gate_BLF) * up_BLF
        return h_BLF @ weights["mlp/down/kernel"]


def _of_layer(weights: Weights, layer: int) -> dict[str, Any]:
    """Return one layer's weights, by their path within it."""
    own = {}
    for path, stacked in weights.items():
        if path.startswith("blocks/"):
            own[path.removeprefix("blocks/")] = stacked[layer]
    return own


def _angles(length: int, size: int, theta: float) -> tuple[Any, Any]:
    """Return cosines and sines of the rotary angles, for both halves of a head."""
    torch = _torch()
    dimension_K = torch.arange(0, size, 2)
    frequency_K = theta ** (-dimension_K / size)
    position_L = torch.arange(length)
    angle_LK = torch.outer(position_L, frequency_K)
    both_LK = torch.cat([angle_LK, angle_LK], dim=-1)
    return both_LK.cos(), both_LK.sin()


def _turned(x: Any, cos_LK: Any, sin_LK: Any) -> Any:
    """Turn heads by their rotary positions, in the rotate-half layout."""
    torch = _torch()
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([-second, first], dim=-1)
    return x * cos_LK + rotated * sin_LK
