"""Doubt units that cannot be right. A law fits billions of tokens as well as tokens; its constants and optima are then wrong."""

import numpy as np

from analysis.grid.table import Columns

FEWEST_PARAMETERS = 1e3  # of the largest run of any grid
FEWEST_TOKENS = 1e5  # of the same
LARGEST_LOSS = 12.6  # nats: a guess among 300,000 tokens; trained models lie below
SMALLEST_LOSS = 0.7  # nats per token, median; language models of bytes reach about this
FLOPS_PER_PARAM_TOKEN = 6.0
FLOPS_OFF = 8.0  # from 6 N D: attention, embeddings and recomputation are within that
NOT_NATS = ("bit", "bpb", "bpc", "ppl", "perplexity")


def doubts(columns: Columns) -> list[str]:
    """Say what a reader should check about the units of N, D, C and loss, in words; usually nothing."""
    return [
        *_doubt_size(columns, "N", FEWEST_PARAMETERS, "parameters"),
        *_doubt_size(columns, "D", FEWEST_TOKENS, "tokens"),
        *_doubt_flops(columns),
        *_doubt_loss(columns),
    ]


def _source(columns: Columns, role: str) -> str:
    """The column or formula that gave a role."""
    return columns.sources.get(role, role)


def _reach(columns: Columns, role: str) -> str:
    value = columns[role]
    return f"{role} ({_source(columns, role)}) is {value.min():.3g} to {value.max():.3g}"


def _doubt_size(columns: Columns, role: str, least: float, what: str) -> list[str]:
    """Ask whether sizes or tokens are in millions or billions where the largest is small."""
    if role not in columns or columns[role].max() >= least:
        return []
    reach = _reach(columns, role)
    fixed = f"--columns={role}=1e9*{_source(columns, role)}"
    return [f"{reach}, too few for {what}: in millions or billions? {fixed} fits in {what}"]


def _doubt_flops(columns: Columns) -> list[str]:
    """Ask whether FLOPs are in another unit where they are far from 6 N D."""
    if not all(role in columns for role in ("N", "D", "C")):
        return []
    logs = np.log(columns["C"]) - np.log(columns["N"]) - np.log(columns["D"])
    factor = float(np.exp(np.mean(logs)))
    least = FLOPS_PER_PARAM_TOKEN / FLOPS_OFF
    most = FLOPS_PER_PARAM_TOKEN * FLOPS_OFF
    if least <= factor <= most:
        return []
    return [f"C is {factor:.3g} N D on average, not about 6 N D: other units (PFLOP-days?) or another run's C?"]


def _doubt_loss(columns: Columns) -> list[str]:
    """Ask whether losses are in nats per token."""
    if "loss" not in columns:
        return []
    loss = columns["loss"]
    if loss.max() > LARGEST_LOSS:
        reach = _reach(columns, "loss")
        return [f"{reach}, above the loss of a guess: perplexity, or a sum over tokens, and not nats?"]
    if np.median(loss) < SMALLEST_LOSS:
        return [f"{_reach(columns, 'loss')}, low for nats per token: bits per byte, or of other units?"]
    name = _source(columns, "loss").lower()
    if any(word in name for word in NOT_NATS):
        return [f"loss is {name}, which does not sound like nats per token (bits are 0.693 nats)"]
    return []
