"""Give texts rows: ROWS go on side by side, and when one ends the next takes its row."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses

from jaxtyping import Array
import numpy as np

ROWS = 8  # texts side by side; always as many, as a matmul of another shape may round otherwise

Prompt = tuple[int, ...]
Owners = tuple[int | None, ...]  # which text each row has
Take = Callable[[int, int], bool]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A text to make: `number` of those with its prompt; `most` tokens at most."""

    prompt: Prompt
    number: int
    most: int


class Queue:
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

    def hand_over(self, token_B: Array, owners: Owners, take: Take) -> None:
        """Hand the tokens of a step to those who owned the rows then, unless their text has ended since."""
        tokens = np.asarray(token_B).tolist()
        for row, index in enumerate(owners):
            if index is None or index not in self._left:
                continue
            self._left[index] -= 1
            goes_on = take(index, tokens[row])
            if goes_on and self._left[index]:
                continue
            del self._left[index]
            self.owners[row] = None
