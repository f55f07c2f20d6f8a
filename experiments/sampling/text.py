"""Turn tokens into text as they come: never a part of a character, and nothing behind a stop."""

from collections.abc import Sequence
import itertools

from experiments.data.tokenizer import Tokenizer
from experiments.sampling.queue import Wanted

BROKEN = "\ufffd"  # what bytes that are no UTF-8 decode to


class Writer:
    """The text of a growing list of tokens. What `add` and `end` return is, joined, `text`.

    Tokens are decoded together with those before them, as some tokenizers write a token by what stands around it; what
    may be the beginning of a character or of a stop is held back.
    """

    def __init__(self, codec: Tokenizer, before: Sequence[int], stops: Sequence[str]):
        """`before`: tokens of the prompt, which are not part of the text."""
        self._codec = codec
        self._stops = tuple(stops)
        self._ids = list(before)
        self._context = 0  # where the tokens begin that are decoded
        self._decoded = len(self._ids)  # how many of all are in the text
        self._held = ""  # decoded, and perhaps the beginning of a stop
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Take a token; return the text that is certain now."""
        self._ids.append(token)
        new = self._undecoded()
        if new.endswith(BROKEN):
            return ""
        self._context = self._decoded
        self._decoded = len(self._ids)
        return self._released(new)

    def end(self, cut: bool) -> str:
        """Return what was held back. `cut`: the text ends because it is long, and the character at its end is not whole."""
        if self.stopped:
            return ""
        new = self._undecoded()
        self._decoded = len(self._ids)
        released = self._released(new.rstrip(BROKEN) if cut else new)
        if self.stopped:
            return released
        last = self._held
        self._held = ""
        self.text += last
        return released + last

    def _undecoded(self) -> str:
        """Decode the tokens that are not in the text yet, as they read behind those before them."""
        before = self._codec.decode(self._ids[self._context : self._decoded])
        return self._codec.decode(self._ids[self._context :])[len(before) :]

    def _released(self, new: str) -> str:
        """Take new text; return what is certain of it, and what was held, to the first stop."""
        self._held += new
        found = [self._held.find(stop) for stop in self._stops if stop in self._held]
        if found:
            self.stopped = True
            certain = min(found)
        else:
            certain = len(self._held) - self._begun()
        released = self._held[:certain]
        self._held = self._held[certain:]
        self.text += released
        return released

    def _begun(self) -> int:
        """Return how many of the last held characters a stop may begin with."""
        most = 0
        for stop in self._stops:
            for size in range(1, len(stop)):
                if self._held.endswith(stop[:size]):
                    most = max(most, size)
        return most


class Text:
    """A document under way: a prompt and what the model writes behind it.

    written: so far. end: why it ended: "separator", "stop", or "tokens" where there are as many as wanted; "" before.
    """

    def __init__(self, prompt: str, wanted: Wanted, codec: Tokenizer, stops: Sequence[str]):
        """`wanted`: the prompt as tokens behind a separator, and how many tokens are to follow."""
        self.prompt = prompt
        self.wanted = wanted
        self.end = ""
        self._separator = codec.separator
        behind_separator = itertools.takewhile(lambda token: token != codec.separator, reversed(wanted.prompt))
        self._writer = Writer(codec, tuple(behind_separator)[::-1], stops)
        self._left = wanted.most

    @property
    def written(self) -> str:
        """Return what is behind the prompt."""
        return self._writer.text

    @property
    def text(self) -> str:
        """Return the whole document."""
        return self.prompt + self.written

    def take(self, token: int) -> str:
        """Take the next token; return what is new of the text."""
        self._left -= 1
        if token == self._separator:
            self.end = "separator"
            return self._writer.end(cut=False)
        new = self._writer.add(token)
        if not self._writer.stopped and self._left == 0:
            self.end = "tokens"
            new += self._writer.end(cut=True)
        if self._writer.stopped:
            self.end = "stop"
        return new
