"""Run a model token by token for several texts side by side: compiled once, whatever the texts.

A prompt is read by itself, in pieces of fixed sizes; its state then takes a free row of ROWS that go on together. When a
text ends, the next one takes its row. So a text depends on its prompt, its number and the seed, not on those beside it.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer
import numpy as np

from experiments.sampling.choice import Choice, choose
from experiments.store.weights import Weights
from models import functional
from models.blocks.past import MOST_AT_ONCE
from models.functional import Params, State

ROWS = 8  # texts side by side; always as many, as a matmul of another shape may round otherwise
PIECES = (MOST_AT_ONCE, 16, 1)  # of a prompt; each is compiled once
LEAST_LENGTH = 128  # positions that a state has room for, or a power of two above


Prompt = tuple[int, ...]
Take = Callable[[int, int], bool]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Texts under way: the model's state, the logits of each next token, each text's key, and how many tokens it has."""

    state: State
    logits_BV: Array
    key_B: Array
    drawn_B: Array


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A text to make: `number` of those with its prompt; `most` tokens at most."""

    prompt: Prompt
    number: int
    most: int


class Engine:
    """A model with compiled functions that read prompts and go on from them.

    `known`: how many ids the tokenizer has; those behind them are never chosen.
    """

    def __init__(self, model: Weights, known: int, choice: Choice):
        self._family = model.family
        self._cfg = dataclasses.replace(model.cfg, remat="none")
        self._params = {path: jnp.asarray(array) for path, array in model.params.items()}
        self._known = known
        self._longest = model.cfg.longest(model.length)
        self._choice = choice

    def length(self, wanted: Wanted) -> int:
        """Return for how many positions a text's state has room: what is computed is of one shape for many lengths."""
        needed = len(wanted.prompt) + wanted.most
        return self._longest or max(LEAST_LENGTH, 1 << (needed - 1).bit_length())

    def run(self, texts: Sequence[Wanted], seed: int, take: Take) -> None:
        """Make the texts; `take(index, token)` is given each next token of a text, and says whether the text goes on."""
        by_length: dict[int, list[int]] = {}
        for index, wanted in enumerate(texts):
            by_length.setdefault(self.length(wanted), []).append(index)
        for length, indices in by_length.items():
            queue = _Queue(texts, indices)
            rows = self._empty(length)
            read: tuple[Prompt, Rows] | None = None
            under_way = None
            while True:
                for row, wanted in queue.seat():
                    if read is None or read[0] != wanted.prompt:
                        read = (wanted.prompt, self._read(wanted.prompt, length))
                    rows = self._put(rows, row, read[1], _key(seed, wanted))
                before = under_way
                under_way = None
                if queue.busy:
                    token_B, rows = self._step(self._params, rows)
                    under_way = (token_B, list(queue.owners))
                if before is not None:
                    # The device computes the next tokens while these are looked at.
                    queue.hand_over(*before, take)
                elif under_way is None:
                    break

    # --- compiled

    def _empty(self, length: int) -> Rows:
        """Return rows without a text."""
        state = functional.start(self._family, self._cfg, ROWS, length)
        logits_BV = jnp.zeros((ROWS, self._cfg.vocab))
        return Rows(state, logits_BV, jax.random.split(jax.random.key(0), ROWS), jnp.zeros(ROWS, jnp.int32))

    def _read(self, prompt: Prompt, length: int) -> Rows:
        """Read a prompt: a row for itself."""
        state = functional.start(self._family, self._cfg, 1, length)
        logits_1V = jnp.zeros((1, self._cfg.vocab))
        at = 0
        while at < len(prompt):
            size = next(size for size in PIECES if size <= len(prompt) - at)
            piece = np.asarray([prompt[at : at + size]], np.int32)
            logits_1V, state = self._go_on(self._params, state, piece)
            at += size
        return Rows(state, logits_1V, jax.random.split(jax.random.key(0), 1), jnp.zeros(1, jnp.int32))

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def _go_on(self, params: Params, state: State, tokens_BL: Integer[Array, "B L"]) -> tuple[Array, State]:
        """Read tokens; return the logits behind the last."""
        logits_BLV, state = functional.decode(self._family, self._cfg, params, state, tokens_BL)
        return logits_BLV[:, -1], state

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def _step(self, params: Params, rows: Rows) -> tuple[Array, Rows]:
        """Choose the next token of each row and read it."""
        known_V = jnp.arange(self._cfg.vocab) < self._known
        logits_BV = jnp.where(known_V, rows.logits_BV, -jnp.inf)
        key_B = jax.vmap(jax.random.fold_in)(rows.key_B, rows.drawn_B)
        token_B = choose(logits_BV, key_B, self._choice)
        logits_BV, state = self._go_on(params, rows.state, token_B[:, None])
        return token_B, Rows(state, logits_BV, rows.key_B, rows.drawn_B + 1)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _put(self, rows: Rows, row: int, read: Rows, key: Array) -> Rows:
        """Give a row to a text whose prompt has been read."""
        axes = functional.batch_axes(self._family, self._cfg, rows.state)
        arrays = {}
        for path, array in rows.state.arrays.items():
            one = read.state.arrays[path]
            arrays[path] = jax.lax.dynamic_update_slice_in_dim(array, one, row, axes[path])
        return Rows(
            State(arrays, rows.state.length),
            rows.logits_BV.at[row].set(read.logits_BV[0]),
            rows.key_B.at[row].set(key),
            rows.drawn_B.at[row].set(0),
        )


class _Queue:
    """Which text has which row, and which wait for one."""

    def __init__(self, texts: Sequence[Wanted], indices: Sequence[int]):
        self._texts = texts
        self._waiting = iter(indices)
        self._left = {index: texts[index].most for index in indices}
        self.owners: list[int | None] = [None] * ROWS

    @property
    def busy(self) -> bool:
        """Whether any row has a text."""
        return any(owner is not None for owner in self.owners)

    def seat(self) -> Iterator[tuple[int, Wanted]]:
        """Give free rows to texts that wait, and yield these."""
        for row, owner in enumerate(self.owners):
            if owner is not None:
                continue
            index = next(self._waiting, None)
            if index is None:
                return
            self.owners[row] = index
            yield row, self._texts[index]

    def hand_over(self, token_B: Array, owners: Sequence[int | None], take: Take) -> None:
        """Hand the tokens of a step to those who owned the rows then, unless their text has ended since."""
        for row, token in enumerate(np.asarray(token_B)):
            index = owners[row]
            if index is None or index not in self._left:
                continue
            self._left[index] -= 1
            goes_on = take(index, int(token))
            if not goes_on or self._left[index] == 0:
                del self._left[index]
                self.owners[row] = None


def _key(seed: int, wanted: Wanted) -> Array:
    """Return the random key of a text: of the seed, its prompt and its number."""
    of_prompt = zlib.crc32(np.asarray(wanted.prompt, np.int64).tobytes())
    key = jax.random.fold_in(jax.random.key(seed), of_prompt)
    return jax.random.fold_in(key, wanted.number)
