"""Coefficients, mostly published ones, and inputs for every law that is a formula."""

import numpy as np

from analysis.grid.table import Columns
from analysis.laws.base import FormulaLaw

ROWS = 80
draw = np.random.default_rng(0)
N, D = 10 ** draw.uniform(7, 10, ROWS), 10 ** draw.uniform(9, 12, ROWS)
BITS = {f"bits_{part}": draw.integers(3, 13, ROWS) * 1.0 for part in ("weights", "activations", "cache")}
SHAPES = np.random.default_rng(2)
WIDTH, DEPTH = 2.0 ** SHAPES.integers(6, 13, ROWS), SHAPES.integers(2, 80, ROWS) * 1.0
UNIQUE = D / 10 ** draw.uniform(0, 2, ROWS)
SHARE = np.random.default_rng(4).dirichlet(np.ones(4), ROWS)
PULL = np.array([-3.0, 1.0, 0.5, 2.0])
PULL -= PULL @ SHARE.mean(axis=0)  # the average mixture has none
STUDENT = 1.22 + (3355 / N**0.408 + 18186 / D**0.431) ** 0.452
TEACHER = np.random.default_rng(6).uniform(1.8, 2.6, ROWS)
ROUNDED = np.random.default_rng(10)
OFF = np.random.default_rng(9).normal(0, 1, (2, ROWS))  # of ln lr and ln batch from their optima

# Law -> coefficients, mostly the published ones, and inputs.
PLANTED: dict[str, tuple[tuple[float, ...], dict[str, np.ndarray]]] = {
    "chinchilla": ((1.8172, 482.01, 2085.43, 0.3478, 0.3658), {"N": N, "D": D}),
    "kaplan_n": ((8.8e13**0.076, 0.076), {"N": N}),
    "kaplan_d": ((5.4e13**0.095, 0.095), {"D": D}),
    "kaplan_c": ((3.1e8**0.05, 0.05), {"C": 6 * N * D}),
    "kaplan": ((6.4e13, 1.8e13, 0.076, 0.103), {"N": N, "D": D}),
    "kaplan_steps": ((6.5e13**0.077, 2.1e3**0.76, 0.077, 0.76), {"N": N, "S_min": 10 ** draw.uniform(2, 5, ROWS)}),
    "plateau": ((1.7, 400, 0.34), {"X": N}),
    "broken": ((0.5, 3.0, 0.05, 0.3, 1e8, 0.4), {"X": 10 ** draw.uniform(5, 11, ROWS)}),
    "overtraining": ((1.84, 200, 300, 0.13), {"N": N, "D": D}),
    "error_from_loss": ((0.85, 2.08, 0.76), {"loss": draw.uniform(2, 4, ROWS)}),
    "data_constrained": ((1.87, 521, 1488, 0.3527, 0.3527, 15.4, 5.3), {"N": N, "D": D, "U": UNIQUE}),
    "data_decay": ((1.87, 521, 1488, 0.3527, 0.3527, 15.4), {"N": N, "D": D, "U": UNIQUE}),
    "utility_decay": ((1.5, 30, 0.15, 3.0), {"D": D, "U": D / 10 ** draw.uniform(0, 1.5, ROWS)}),
    "clark": ((-0.082, -0.108, 0.009, 1.104, 1.847, 314.478), {"N": N, "experts": 2.0 ** draw.integers(0, 10, ROWS)}),
    "fine_grained": (
        (0.47, 2.1, 18.1, 30.8, 0.58, 0.115, 0.147),
        {"N": N, "D": D, "granularity": 2.0 ** draw.integers(0, 5, ROWS)},
    ),
    "sparsity": (
        (16612.5, 5455.67, 0.4598, 17.26, 0.94, 0.5962, 0.3954, 0.1666, 0.1603, 0.1595),
        {"N": N, "D": D, "sparsity": 1 - 2.0 ** -draw.integers(0, 6, ROWS)},
    ),
    "efficiency_leverage": (
        (1.23, -0.0761, 0.0167, -0.117, 0.0163, 5.28e16),
        {
            "C": 10 ** draw.uniform(18, 22, ROWS),
            "active_share": 2.0 ** -draw.integers(0, 7, ROWS),
            "granularity": 2.0 ** draw.integers(1, 5, ROWS),
        },
    ),
    "precision": ((1.8, 400, 2000, 0.34, 0.36, 2.0, 2.2, 1.0), {"N": N, "D": D, **BITS}),
    "floating_point": (
        (69.2343, 68973.0621, 1.9061, 11334.5197, 0.2368, 0.5162, 3.1926, 2.9543),
        {
            "N": N,
            "D": D,
            "exponent_bits": draw.integers(1, 6, ROWS) * 1.0,
            "mantissa_bits": draw.integers(1, 8, ROWS) * 1.0,
            "block": 2.0 ** draw.integers(4, 10, ROWS),
        },
    ),
    "rounding_penalty": (
        (0.017, 0.5251, 0.2261, 5.4967),
        {"N": N, "D": D, "bits_weights": draw.integers(2, 5, ROWS) * 1.0},
    ),
    "critical_batch": ((2e8, 0.21), {"loss": draw.uniform(2, 5, ROWS)}),
    "steps_examples": ((4e3, 5e9), {"batch": 10 ** draw.uniform(4, 7.5, ROWS)}),
    "batch_trajectory": (
        (6.5e13, 0.077, 2.1e3, 0.76, 2.1e8, 0.21),
        {"N": N, "S": 10 ** draw.uniform(3, 5.5, ROWS), "batch": 10 ** draw.uniform(4, 6.5, ROWS)},
    ),
    "annealing": ((2.6, 0.4, 0.5, 2.0), {"S1": 10 ** draw.uniform(-2, 0, ROWS), "S2": draw.uniform(0, 0.1, ROWS)}),
    "power_scheduler": ((0.02, 0.0022, -0.51), {"D": D, "batch": 2.0 ** draw.integers(17, 23, ROWS)}),
    "stack_timing": ((0.88, 163.27, -5.74), {"N": N, "C": 6 * N * D}),
    "stack_factor": ((0.3, -30.0, -0.6), {"N": N, "C": 6 * N * D}),
    "growth_speedup": ((1e23, 0.08), {"C": 6 * N * D}),
    "width_depth": ((8, 3, 1000, 1.7, 0.5, 1.0, 0.35), {"width": WIDTH, "depth": DEPTH, "D": D}),
    "width_depth_params": (
        (8, 3, 300, 1000, 1.7, 0.7, 1.0, 0.33, 0.35),
        {"width": WIDTH, "depth": DEPTH, "N": 12 * WIDTH**2 * DEPTH + 32000 * WIDTH, "D": D},
    ),
    "superposition": ((1.7, 100, 0.91), {"width": WIDTH}),
    "encoder_decoder": ((1.2, 30, 0.12, 0.2), {"N_e": N / 10, "N_d": 10 ** draw.uniform(6, 9, ROWS)}),
    "encoder_scaling": ((1.2, 30, 0.2), {"N_e": N}),
    "decoder_scaling": ((1.2, 30, 0.2), {"N_d": N}),
    "language_weight": (
        (40, 0.22, 0.9, 0.3, 0.5, 0.8),
        {"N": N, "proportion": np.minimum(draw.uniform(0.05, 1.2, ROWS), 1)},
    ),
    "knowledge_capacity": ((2.0, 3.0), {"N": N, "data_bits": 10 ** draw.uniform(7, 11, ROWS)}),
    "answer_loss": ((20, 300, 0.2, 0.3), {"N": N, "D": D}),
    "mixing": ((1.9, 0.4, *PULL), {"share": SHARE}),
    "bimix": ((300, 2.0, 0.05, 0.6), {"proportion": SHARE[:, 0], "S": D / 1e6}),
    "task_loss": ((0.4, 50, 300, 0.3, 0.33), {"N": N, "D": D}),
    "task_loss_compute": ((0.4, 300, 0.13), {"C": 6 * N * D}),
    "task_loss_log": ((4.5, 0.07), {"C": 6 * N * D}),
    "accuracy": ((0.7, -4.0, 1.1, 0.25), {"task_loss": 2 * SHARE[:, 0] + 0.4}),
    "pass_until": ((4000, 0.42), {"N": N}),
    "difficulty": ((0.25, 2e4, 0.22, 0.1), {"C": 6 * N * D}),
    "broken_2": ((0.5, 30.0, 0.02, 0.3, 1e7, 0.3, -0.25, 1e2, 0.5), {"X": np.geomspace(1e4, 1e12, ROWS)}),
    "broken_3": (
        (0.2, 30.0, 0.05, 0.4, 1e6, 0.3, -0.4, 1e2, 0.3, 0.3, 1e2, 0.4),
        {"X": np.geomspace(1e3, 1e13, ROWS)},
    ),
    "farseer": ((-1.15, -0.2, 0.05, 7.0, -1.1, -0.17, -0.8, -0.12, 0.13), {"N": N, "D": D}),
    "moe_joint": (
        (35.91, -0.1889, -0.2285, 0.0098, 35.98, -0.1775, 0.5529, -0.0259, 2.0732, 290.4521, 1.3637),
        {"N": N, "D": D, "experts": 2.0 ** np.random.default_rng(5).integers(0, 8, ROWS)},
    ),
    "coupled": ((1.22, 3355, 18186, 0.408, 0.431, 0.452), {"N": N, "D": D}),
    "distillation": (
        (2.549, 522.6, 522.6 * 0.09 * 1.315 ** (-1 / 0.09), 0.09, 2243, 24181, 0.321, 0.637, 0.764),
        {"N": N, "D": D, "teacher_loss": TEACHER, "supervised_loss": STUDENT},
    ),
    "parallel": (
        (0.69, 1.13e7, 0.39, 0.189),
        {"N": N, "streams": 2.0 ** np.random.default_rng(7).integers(0, 4, ROWS)},
    ),
    "coverage": ((-3.5, -0.3), {"samples": np.geomspace(1, 1e4, ROWS)}),
    "post_training": (
        (0.0598, 0.5068, 0.3439, 0.5907),
        {"N": N, "D": D, "bits_after": np.random.default_rng(8).integers(2, 9, ROWS) * 1.0},
    ),
    "rounded": (
        (1.8, 400, 2000, 0.34, 0.36, 0.0598, 0.5068, 0.3439, 0.5907),
        {"N": N, "D": D, "bits_after": np.random.default_rng(8).integers(2, 9, ROWS) * 1.0},
    ),
    "precision_joint": (
        (1.8, 400, 2000, 0.34, 0.36, 2.0, 2.2, 1.0, 0.0598, 0.5068, 0.3439, 0.5907, 0.8, 0.5, 0.3),
        {
            "N": N,
            "D": D,
            **{name: ROUNDED.integers(3, 13, ROWS) * 1.0 for name in BITS},
            "bits_after": ROUNDED.integers(1, 5, ROWS) * 1.0,
        },
    ),
    "tuning_surface": (
        (1.8, 400, 2000, 0.34, 0.36, 0.003, 0.002, 1.79, -0.713, 0.307, 0.58, 0.571),
        {
            "N": N,
            "D": D,
            "lr": 1.79 * N**-0.713 * D**0.307 * np.exp(OFF[0]),
            "batch": 0.58 * D**0.571 * np.exp(OFF[1]),
        },
    ),
    "accuracy_log": ((-0.9, 0.07), {"N": N}),
    "translation_quality": ((2e-4, 0.8, 1.4), {"D": D}),
    "vocabulary": ((5.53, 1.83, 0.2, 2.1, 0.67, 0.45), {"N_nv": N, "N_v": 10 ** draw.uniform(6, 9.5, ROWS), "D": D}),
}


def parts(inputs: dict[str, np.ndarray]) -> dict[str, tuple[str, ...]]:
    """Names for the parts of inputs that have several."""
    return {role: tuple("wxyz"[: value.shape[1]]) for role, value in inputs.items() if value.ndim == 2}


def columns(law: type[FormulaLaw], truth: FormulaLaw, inputs: dict[str, np.ndarray], noise: float = 0.0) -> Columns:
    """Make rows of a law at these inputs, with normal noise of the logarithm of its target."""
    scatter = np.random.default_rng(1).standard_normal(ROWS) * noise
    values = {**inputs, law.TARGET: truth.predict(**inputs) * np.exp(scatter)}
    return Columns(values, np.arange(ROWS), {role: role for role in values}, (), parts=parts(inputs))
