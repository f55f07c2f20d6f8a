"""Count what a run has read of its text, and how often."""

from typing import Any

from experiments.data.batches import Batches


def columns(batches: Batches, records: int) -> dict[str, Any]:
    """Return grid columns of a run whose line has taken so many records: unique tokens, and those of each corpus.

    A token is unique where it is the target for the first time. Epochs are records taken over records there are.
    """
    unique = []
    epochs = []
    for taken, there in zip(batches.counts(records), batches.rows_of_parts, strict=True):
        unique.append(min(taken, there) * batches.seq_len)
        epochs.append(taken / there)
    columns: dict[str, Any] = {"unique_tokens": sum(unique)}
    if len(unique) == 1:
        return columns
    for number, (tokens, times) in enumerate(zip(unique, epochs, strict=True), start=1):
        columns[f"unique_tokens_part_{number}"] = tokens
        columns[f"epochs_part_{number}"] = times
    return columns
