"""Held-out loss with its standard error, token count and bits per byte."""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from experiments.data.holdout import Holdout
from experiments.data.manifest import Manifest
from experiments.run.schema import Run
from experiments.training.loss import bits_per_byte


@dataclasses.dataclass(frozen=True)
class Result:
    """Mean nats per held-out token. The standard error takes sequences, not tokens, as independent."""

    loss_nats: float
    loss_nats_sem: float
    bits_per_byte: float
    eval_tokens: int
    parts: tuple[float, ...] = ()  # mean nats of each corpus by itself, where there are several; nan: none was sampled

    @property
    def columns(self) -> dict[str, float]:
        """As grid columns; those of the parts are loss_part_1, loss_part_2, …"""
        out = dataclasses.asdict(self)
        return out | {f"loss_part_{i}": loss for i, loss in enumerate(out.pop("parts"), start=1)}


class Sequences:
    """The held-out sequences of one run, in whole batches [S, B, seq_len + 1]; rows beyond the last are padding."""

    def __init__(self, run: Run, manifests: Sequence[Manifest]):
        weights = run.evaluation.weights or run.data.weights
        holdout = Holdout(manifests, dataclasses.replace(run.data, weights=weights), run.seq_len)
        self.rows = min(len(holdout), max(1, run.evaluation.tokens // run.seq_len))
        tokens, sizes = holdout[: self.rows]
        self.corpus, self._corpora = holdout.corpus[: self.rows], len(manifests)  # the corpus of each row
        self.bytes, self.seq_len = int(sizes.sum()), run.seq_len
        self.batches = -(-self.rows // run.batch)
        padded = np.zeros((self.batches * run.batch, run.seq_len + 1), tokens.dtype)
        padded[: self.rows] = tokens
        self.tokens = padded.reshape(self.batches, run.batch, run.seq_len + 1)

    def result(self, nats_SB: np.ndarray) -> Result:
        """From the summed nats of each sequence, in the order of `tokens`."""
        nats = nats_SB.astype(np.float64).reshape(-1)[: self.rows]
        tokens = self.rows * self.seq_len
        loss = float(nats.sum() / tokens)
        error = float(np.std(nats / self.seq_len, ddof=1) / math.sqrt(self.rows)) if self.rows > 1 else math.nan
        return Result(loss, error, bits_per_byte(loss, tokens, self.bytes), tokens, self._parts(nats / self.seq_len))

    def _parts(self, nats: np.ndarray) -> tuple[float, ...]:
        if self._corpora == 1:
            return ()
        chosen = (nats[self.corpus == i] for i in range(self._corpora))
        return tuple(float(part.mean()) if len(part) else math.nan for part in chosen)
