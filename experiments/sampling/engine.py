"""Run a model token by token for several texts side by side: compiled once, whatever the texts.

A prompt is read by itself, in pieces of fixed sizes; its state then takes a free row of ROWS that go on together. When a
text ends, the next one takes its row. So a text depends on its prompt, its number and the seed, not on those beside it.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array
import numpy as np

from experiments.sampling import steps
from experiments.sampling.choice import Choice
from experiments.sampling.queue import ROWS, Owners, Prompt, Queue, Take, Wanted
from experiments.sampling.steps import Model, Rows
from experiments.store.weights import Weights
from models.blocks.past import MOST_AT_ONCE

PIECES = (MOST_AT_ONCE, 16, 1)  # of a prompt; each is compiled once
LEAST_LENGTH = 128  # positions that a state has room for; else a power of two


class Engine:
    """A model that reads prompts and goes on from them. `known`: how many ids its tokenizer has; others are never chosen."""

    def __init__(self, source: Weights, known: int, choice: Choice):
        cfg = dataclasses.replace(source.cfg, remat="none")
        if getattr(cfg, "document_mask", False):
            # A text is one document: there is no other that it could see, and its positions are those of the sequence.
            cfg = dataclasses.replace(cfg, document_mask=False, separator=None)
        self._model = Model(source.family, cfg, known, choice)
        self._longest = cfg.longest(source.length)
        self._params = {}
        for path, array in source.params.items():
            self._params[path] = jnp.asarray(array)

    def run(self, texts: Sequence[Wanted], seed: int, take: Take) -> None:
        """Make the texts; `take(index, token)` is given each next token of a text, and says whether the text goes on."""
        by_length: dict[int, list[int]] = {}
        for index, wanted in enumerate(texts):
            same = by_length.setdefault(self._length(wanted), [])
            same.append(index)
        for length, indices in by_length.items():
            queue = Queue(texts, indices)
            self._run(queue, length, seed, take)

    def _length(self, wanted: Wanted) -> int:
        """Return for how many positions a text's state has room: one number for many texts, which share what is compiled."""
        if self._longest is not None:
            return self._longest
        needed = len(wanted.prompt) + wanted.most
        power = (needed - 1).bit_length()
        return max(LEAST_LENGTH, 1 << power)

    def _run(self, queue: Queue, length: int, seed: int, take: Take) -> None:
        """Make the texts of a queue, whose states have room for `length` positions."""
        rows = steps.empty(self._model, ROWS, length)
        read: Rows | None = None
        prompt: Prompt | None = None
        under_way: tuple[Array, Owners] | None = None
        while True:
            for row, wanted in queue.seat():
                if read is None or prompt != wanted.prompt:
                    prompt = wanted.prompt
                    read = self._read(prompt, length)
                key = _key(seed, wanted)
                rows = steps.put(self._model, rows, row, read, key)
            before = under_way
            under_way = None
            if queue.busy:
                token_B, rows = steps.step(self._model, self._params, rows)
                under_way = (token_B, tuple(queue.owners))
            if before is not None:
                # The device computes the next tokens while these are looked at.
                queue.hand_over(*before, take)
            elif under_way is None:
                return

    def _read(self, prompt: Prompt, length: int) -> Rows:
        """Read a prompt, in a row by itself."""
        rows = steps.empty(self._model, 1, length)
        for piece in _pieces(prompt):
            tokens_1L = np.asarray([piece], np.int32)
            rows = steps.read(self._model, self._params, rows, tokens_1L)
        return rows


def _pieces(prompt: Prompt) -> Iterator[Prompt]:
    """Cut a prompt into pieces of the sizes that are compiled, the largest first."""
    left = prompt
    for size in PIECES:
        while len(left) >= size:
            yield left[:size]
            left = left[size:]


def _key(seed: int, wanted: Wanted) -> Array:
    """Return the random key of a text: of the seed, its prompt and its number."""
    tokens = np.asarray(wanted.prompt, np.int64)
    of_prompt = zlib.crc32(tokens.tobytes())
    key = jax.random.key(seed)
    key = jax.random.fold_in(key, of_prompt)
    return jax.random.fold_in(key, wanted.number)
