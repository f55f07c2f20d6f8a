"""Score a run on tasks by the likelihood of their answers: exact, without drawing a single sample.

Each answer stands in a row of its own, behind a separator and its prompt, as a document of training does. What fills the
row behind it is seen by no token of it (a causal model), and does not count. Where prompt and answer are too long for a
row, the prompt is cut at its beginning.

A token that holds the end of the prompt and the beginning of the answer counts to the answer: text and answer are
turned into tokens together, as they would be in a document.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from experiments.data import tasks
from experiments.data.manifest import Manifest
from experiments.data.tasks import Item
from experiments.run.schema import Run
from models.errors import InputError

if TYPE_CHECKING:
    from experiments.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Row:
    """The tokens of one answer behind its prompt; `start`: the first token of the answer."""

    ids: np.ndarray
    start: int


@dataclasses.dataclass(frozen=True)
class Scored:
    """The items of one task, and where the answers of each begin among all rows of a run: the right one first."""

    name: str
    items: Sequence[Item]
    first_rows: Sequence[int]


class TaskRows:
    """The tasks of one run as rows of tokens in whole batches [S, B, seq_len + 1]; S is 0 where there are none.

    Raises InputError for an answer that is longer than a row.
    """

    def __init__(self, run: Run, tokenizer: "Tokenizer | None"):
        self._coverage = run.evaluation.coverage
        self._scored: list[Scored] = []
        rows: list[Row] = []
        for entry in tasks.entries(run.evaluation.tasks):
            assert tokenizer is not None
            items = entry.read()
            own, positions = _rows_of(items, tokenizer, run.seq_len, entry.name)
            first_rows = [len(rows) + position for position in positions]
            self._scored.append(Scored(entry.name, items, first_rows))
            rows += own

        row_tokens = run.seq_len + 1
        self.batches = -(-len(rows) // run.batch)
        self.tokens = np.zeros((self.batches, run.batch, row_tokens), np.uint32)
        self._is_answer = np.zeros((len(rows), run.seq_len), bool)  # of the targets
        flat = self.tokens.reshape(-1, row_tokens)
        # Behind the answers, and in rows without one, is text and not zeros: see HeldOut.
        for number in range(len(flat) if rows else 0):
            row = rows[number % len(rows)]
            flat[number] = np.resize(row.ids, row_tokens)
        for number, row in enumerate(rows):
            first_target = row.start - 1
            end = len(row.ids) - 1
            self._is_answer[number, first_target:end] = True

    @classmethod
    def of(cls, run: Run, manifests: Sequence[Manifest]) -> "TaskRows":
        """Make those of a run, in the tokens of its corpora."""
        if not run.evaluation.tasks:
            return cls(run, None)
        from experiments.prepare import codec_of

        return cls(run, codec_of(manifests[0]))

    def columns(self, nats_SBL: np.ndarray) -> dict[str, float]:
        """Return the columns of all tasks from the nats of every target, in the order of `tokens`."""
        if not self._scored:
            return {}
        rows, targets = self._is_answer.shape
        nats = nats_SBL.reshape(-1, targets)
        nats = nats[:rows].astype(np.float64)
        counted = np.where(self._is_answer, nats, 0.0)
        of_answers = counted.sum(axis=1)
        columns: dict[str, float] = {}
        for task in self._scored:
            columns |= _columns_of(task, of_answers, self._coverage)
        return columns


def _rows_of(items: Sequence[Item], tokenizer: "Tokenizer", seq_len: int, name: str) -> tuple[list[Row], list[int]]:
    """Return the rows of a task's answers, and where those of each item begin."""
    texts = []
    prompts = []
    first_rows = []
    for item in items:
        first_rows.append(len(texts))
        prompt_bytes = len(item.prompt.encode())
        for answer in item.answers:
            texts.append(item.prompt + answer)
            prompts.append(prompt_bytes)
    rows = []
    encoded = tokenizer.encode(texts)
    for text, prompt_bytes, (ids, sizes) in zip(texts, prompts, encoded, strict=True):
        if not np.sum(sizes) > prompt_bytes:
            raise InputError(
                f"{tasks.OPTION}: task {name!r}: no token of the tokenizer holds a byte of the answer in {text[-40:]!r}; "
                "expected a tokenizer that loses no text, or another answer"
            )
        row = _row(ids, sizes, prompt_bytes, tokenizer.separator)
        answer_tokens = len(row.ids) - row.start
        if answer_tokens > seq_len:
            raise InputError(
                f"{tasks.OPTION}: task {name!r}: the answer in {text[-40:]!r} has {answer_tokens} tokens; expected at most "
                f"seq_len={seq_len}"
            )
        surplus = max(0, len(row.ids) - seq_len - 1)
        rows.append(Row(row.ids[surplus:], row.start - surplus))
    return rows, first_rows


def _row(ids: np.ndarray, sizes: np.ndarray, prompt_bytes: int, separator: int) -> Row:
    """Return the row of an answer: its first token is the first that holds a byte behind the prompt."""
    sizes = np.asarray(sizes, np.int64)
    ends = np.cumsum(sizes)
    is_past_prompt = ends > prompt_bytes
    first = int(np.argmax(is_past_prompt))
    whole = np.concatenate([[separator], ids])
    return Row(whole.astype(np.int64), first + 1)


def _columns_of(task: Scored, of_answers: np.ndarray, coverage: Sequence[int]) -> dict[str, float]:
    """Return the columns of one task, each with its standard error over the items."""
    first_rows = np.asarray(task.first_rows)
    nats = of_answers[first_rows]
    rate = np.exp(-nats)
    values = {"loss": nats, "pass_rate": rate}
    right = []
    for item, first in zip(task.items, task.first_rows, strict=True):
        if item.choices:
            of_choices = of_answers[first : first + len(item.choices)]
            right.append(_share_right(of_choices))
    if right:
        values["accuracy"] = np.array(right)
    for samples in coverage:
        # 1 - (1-p)^K, without the loss of a small p beside 1.
        with np.errstate(divide="ignore"):
            log_missed = samples * np.log1p(-rate)
        values[f"coverage_{samples}"] = -np.expm1(log_missed)
    columns = {}
    for name, of_items in values.items():
        column = f"task_{task.name}_{name}"
        columns[column] = float(of_items.mean())
        columns[f"{column}_sem"] = standard_error(of_items)
    return columns


def _share_right(of_choices: np.ndarray) -> float:
    """Return 1 where the first choice is the likeliest, its share where several are equally so; nan for no number."""
    if not np.isfinite(of_choices).all():
        return math.nan
    best = of_choices.min()
    is_best = of_choices == best
    best_ones = is_best.sum()
    return float(is_best[0] / best_ones)


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of a mean; nan for that of one value."""
    if len(values) < 2:
        return math.nan
    deviation = np.std(values, ddof=1)
    return float(deviation / math.sqrt(len(values)))
