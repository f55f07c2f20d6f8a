"""Units that cannot be right. A law fits billions of tokens as well as tokens; its constants and optima are then wrong."""

import numpy as np

from analysis.grid.table import Columns

FEWEST_PARAMETERS, FEWEST_TOKENS = 1e3, 1e5  # of the largest run of any grid
LARGEST_LOSS = 12.6  # nats: a guess among 300,000 tokens; trained models lie below
SMALLEST_LOSS = 0.7  # nats per token, median; language models of bytes reach about this
FLOPS_OFF = 8.0  # from 6 N D: attention, embeddings and recomputation are within that
NOT_NATS = ("bit", "bpb", "bpc", "ppl", "perplexity")


def doubts(columns: Columns) -> list[str]:
    """What a reader should check about the units of N, D, C and loss, in words; usually nothing."""
    found = []

    def reach(role: str) -> str:
        return f"{role} ({columns.sources.get(role, role)}) is {columns[role].min():.3g} to {columns[role].max():.3g}"

    for role, least, what in (("N", FEWEST_PARAMETERS, "parameters"), ("D", FEWEST_TOKENS, "tokens")):
        if role in columns and columns[role].max() < least:
            found.append(
                f"{reach(role)}, too few for {what}: in millions or billions? --columns={role}=1e9*"
                f"{columns.sources.get(role, role)} fits in {what}"
            )
    if all(role in columns for role in ("N", "D", "C")):
        factor = float(np.exp(np.mean(np.log(columns["C"]) - np.log(columns["N"]) - np.log(columns["D"]))))
        if not 6 / FLOPS_OFF <= factor <= 6 * FLOPS_OFF:
            found.append(
                f"C is {factor:.3g} N D on average, not about 6 N D: other units (PFLOP-days?) or another run's C?"
            )
    if "loss" in columns:
        name = columns.sources.get("loss", "loss").lower()
        if columns["loss"].max() > LARGEST_LOSS:
            found.append(f"{reach('loss')}, above the loss of a guess: perplexity, or a sum over tokens, and not nats?")
        elif np.median(columns["loss"]) < SMALLEST_LOSS:
            found.append(f"{reach('loss')}, low for nats per token: bits per byte, or of other units?")
        elif any(word in name for word in NOT_NATS):
            found.append(f"loss is {name}, which does not sound like nats per token (bits are 0.693 nats)")
    return found
