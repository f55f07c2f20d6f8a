"""Held-out loss with its standard error, token count and bits per byte."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from types import MappingProxyType
from typing import Any

import numpy as np

from experiments.data.holdout import Holdout
from experiments.data.manifest import Manifest
from experiments.run.schema import Run
from experiments.training.loss import bits_per_byte
from experiments.training.tasks import TaskRows, standard_error


@dataclasses.dataclass(frozen=True)
class Result:
    """Mean nats per held-out token. The standard error takes sequences, not tokens, as independent.

    corpus_losses: mean nats of each corpus by itself, where there are several; nan where none of it was sampled.
    position_losses: mean nats of each stretch of the sequences, from their beginnings on, where there are several.
    length_losses: other lengths of sequences, with the mean nats at each.
    loss_unigram_normalised: loss_nats minus the unigram entropy of the training tokens, by which losses of different
    tokenizers compare (Tao et al. 2024, arXiv 2407.13623, equation 4); None where there are several corpora.
    tasks: columns of the tasks (experiments/training/tasks.py).
    of_averages: by name, the same of means of the parameters (experiments/training/averages.py).
    """

    loss_nats: float
    loss_nats_sem: float
    bits_per_byte: float
    eval_tokens: int
    corpus_losses: tuple[float, ...] = ()
    position_losses: tuple[float, ...] = ()
    length_losses: tuple[tuple[int, float], ...] = ()
    loss_unigram_normalised: float | None = None
    tasks: Mapping[str, float] = dataclasses.field(default_factory=dict)
    of_averages: Mapping[str, "Result"] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Any]:
        """Return grid columns; those of the corpora are loss_part_1, loss_part_2, …; of a mean, loss_ema_nats."""
        columns = dataclasses.asdict(self)
        for several in ("corpus_losses", "position_losses", "length_losses", "tasks", "of_averages"):
            del columns[several]
        for name, of_mean in self.of_averages.items():
            columns[f"loss_{name}_nats"] = of_mean.loss_nats
            columns[f"loss_{name}_nats_sem"] = of_mean.loss_nats_sem
        for number, loss in enumerate(self.corpus_losses, start=1):
            columns[f"loss_part_{number}"] = loss
        for number, loss in enumerate(self.position_losses, start=1):
            columns[f"loss_position_{number}"] = loss
        for seq_len, loss in self.length_losses:
            columns[f"loss_len_{seq_len}"] = loss
        return columns | dict(self.tasks)

    @property
    def row(self) -> dict[str, Any]:
        """Return what a row of metrics has of it: the columns of a grid, behind `eval_`."""
        row = {
            "eval_loss": self.loss_nats,
            "eval_loss_sem": self.loss_nats_sem,
        }
        for name, value in self.columns.items():
            if name not in ("loss_nats", "loss_nats_sem", "eval_tokens"):
                row[f"eval_{name}"] = value
        return row


def other_lengths(run: Run, manifests: Sequence[Manifest]) -> dict[int, "HeldOut"]:
    """Return the held-out sequences of the other lengths that a run is evaluated at, by their length."""
    wanted = [seq_len for seq_len in run.evaluation.seq_lens if seq_len != run.seq_len]
    # Tasks are scored at its own length.
    without_tasks = dataclasses.replace(run, evaluation=dataclasses.replace(run.evaluation, tasks=()))
    return {seq_len: HeldOut(without_tasks, manifests, seq_len) for seq_len in wanted}


class HeldOut:
    """The held-out sequences of one run.

    tokens: in whole batches [S, B, seq_len + 1]; behind the last sequence they begin anew, and do not count.
    batches: S, how many there are.
    corpus: number of the corpus that each sequence is from.
    tasks: the rows of the run's tasks, at its own length.
    """

    def __init__(self, run: Run, manifests: Sequence[Manifest], seq_len: int | None = None):
        """Take those of the run's length, or of another one."""
        seq_len = seq_len or run.seq_len
        holdout = Holdout(manifests, run.data, seq_len, run.evaluation.weights)
        wanted = max(1, run.evaluation.tokens // seq_len)
        self.sequence_count = min(len(holdout), wanted)
        self.corpus = holdout.corpus[: self.sequence_count]
        self._corpora = len(manifests)
        self._unigram_nats = manifests[0].unigram_entropy_nats if len(manifests) == 1 else None
        self._seq_len = seq_len
        tokens, text_bytes = holdout[: self.sequence_count]
        is_counted = run.model.is_counted(tokens[:, :-1])
        if is_counted is None:
            is_counted = np.ones(text_bytes.shape, bool)
        else:
            self._unigram_nats = None  # that of all tokens is none of those that are predicted
        self._counted = is_counted.sum(axis=1)
        self._bytes = int(text_bytes[is_counted].sum())
        self.batches = -(-self.sequence_count // run.batch)
        # Text, and not zeros: experts that choose among the tokens of a batch would choose from those as well.
        filled = np.resize(tokens, (self.batches * run.batch, seq_len + 1))
        self.tokens = filled.reshape(self.batches, run.batch, seq_len + 1)
        self.tasks = TaskRows.of(run, manifests)

    def result(
        self,
        nats_SBP: np.ndarray,
        answers_SBL: np.ndarray | None = None,
        other_lengths: Sequence[tuple[int, float]] = (),
        of_means: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Result:
        """Return the result, from the summed nats of each stretch of each sequence, in the order of `tokens`.

        answers_SBL: nats of every token of the tasks' rows, where there are any. other_lengths: with the loss at each.
        of_means: as `nats_SBP` of means of the parameters, by name.
        """
        of_averages = {}
        for name, averaged_SBP in of_means.items():
            of_averages[name] = self.result(averaged_SBP)
        stretches = nats_SBP.shape[2]
        nats_NP = nats_SBP.astype(np.float64).reshape(-1, stretches)
        nats_NP = nats_NP[: self.sequence_count]
        nats = nats_NP.sum(axis=1)
        tokens = int(self._counted.sum())
        loss = float(nats.sum() / tokens)
        # Of sequences that count differently many tokens, the error of the mean is that of a ratio.
        weight = self._counted / self._counted.mean()
        per_token = nats / self._counted.mean()
        return Result(
            loss_nats=loss,
            loss_nats_sem=standard_error(per_token - loss * (weight - 1)),
            bits_per_byte=bits_per_byte(loss, tokens, self._bytes),
            eval_tokens=tokens,
            corpus_losses=self._corpus_losses(per_token, weight),
            tasks={} if answers_SBL is None else self.tasks.columns(answers_SBL),
            length_losses=((self._seq_len, loss), *other_lengths) if other_lengths else (),
            position_losses=self._position_losses(nats_NP),
            loss_unigram_normalised=None if self._unigram_nats is None else loss - self._unigram_nats,
            of_averages=of_averages,
        )

    def _position_losses(self, nats_NP: np.ndarray) -> tuple[float, ...]:
        """Return the loss of each stretch of the sequences; none where there is only one."""
        stretches = nats_NP.shape[1]
        if stretches == 1:
            return ()
        return tuple((nats_NP.mean(axis=0) * stretches / self._seq_len).tolist())

    def _corpus_losses(self, per_token: np.ndarray, weight: np.ndarray) -> tuple[float, ...]:
        """Return the loss of each corpus; none where there is only one. `weight`: of the sequences in the whole loss."""
        if self._corpora == 1:
            return ()
        losses = []
        for corpus in range(self._corpora):
            own = self.corpus == corpus
            losses.append(float(per_token[own].mean() / weight[own].mean()) if own.any() else math.nan)
        return tuple(losses)
