"""State what a run's data are: the options of the section `data`."""

import dataclasses
import math
import re

from experiments.data import alphabet, sources
from experiments.data.fields import parts
from models.errors import InputError
from models.option import AT_LEAST_ONE, Valid, When, check_options, option

SHARE = Valid("a share above 0 and below 1, such as 0.02", lambda value: 0 < value < 1)
FIELD = Valid(
    "the name of a field, such as 'text', 'content.text' or 'title+text'",
    lambda spec: all(name for path in parts(spec) for name in path.split(".")),
)
FILES = When(
    "corpus",
    "corpus names files",
    lambda corpus: any(sources.deduplicates(name) for name in corpus),
    {"corpus": ("texts.jsonl",)},
)
TOKENIZER_FILE = When(
    "tokenizer",
    "tokenizer is a file",
    lambda spec: spec != "bytes" and not spec.startswith(("bpe:", "symbols:")),
    {"tokenizer": "tokenizer.json"},
)
SEVERAL_TEXTS = When("corpus", "corpus names several texts", lambda corpus: len(corpus) > 1)
PAIR = Valid(
    "two numbers of tokens: at least 2 of a source, at least 3 of its target",
    lambda sizes: not sizes or (len(sizes) == 2 and sizes[0] >= 2 and sizes[1] >= 3),
)
PAIRED = When("pairs", "pairs are given", bool, {"pairs": (16, 16)})
WEIGHTED = When("weights", "weights are given", bool, {"corpus": ("a.txt", "b.txt"), "weights": (1.0, 1.0)})


@dataclasses.dataclass(frozen=True)
class Data:
    """The text of a run and how it becomes tokens."""

    corpus: tuple[str, ...] = option(
        ("embedded",),
        help='each: "embedded" (or "embedded:MB", "embedded/PACKAGE"), "tfds:NAME[/CONFIG]", "messages:LANGUAGE", '
        '"synthetic:KIND[,OPTION=VALUE]" (text of known entropy), or the path of a '
        ".txt .md .jsonl .json .csv .tsv .parquet or .arrow file (texts also .gz or .zst), a folder or a glob",
    )
    weights: tuple[float, ...] = option(
        (),
        when=SEVERAL_TEXTS,
        help="share of each corpus in the training records, any positive numbers; empty: by size",
    )
    tokenizer: str = option(
        "bytes",
        help='"bytes", "bpe:4096" (trained on the corpus), "symbols:64" (a token for each of the symbols that synthetic text '
        "consists of), or the path of a `tokenizers` JSON or SentencePiece .model",
    )
    lossy: bool = option(
        False,
        numerics=False,
        when=TOKENIZER_FILE,
        help="take a tokenizer that loses text (see `lossless` of the manifest); its bits per byte compare with no other",
    )
    text_field: str = option(
        "text",
        valid=FIELD,
        help='field of a row that holds the text; "content.text": inside another; "title+text": joined by a blank line',
    )
    pairs: tuple[int, ...] = option(
        (),
        valid=PAIR,
        help="documents are a source and its target, each a row of seq_len tokens: so many for the source, so many for the "
        "target, filled up with separators; pairs that do not fit are left out",
    )
    between: str = option(
        "\n\n",
        when=PAIRED,
        help="what stands between source and target in a document, once; by default as text_field='source+target' joins",
    )
    deduplicate: bool = option(
        False,
        when=FILES,
        help="leave out documents that are mostly known from those before them, as in the embedded corpus",
    )
    holdout: float = option(
        0.02, valid=SHARE, help="share of the documents, chosen by the hash of their text, that is held out"
    )
    unique_tokens: int | None = option(
        None,
        valid=AT_LEAST_ONE,
        help="train on the first so many tokens only and repeat them; less is a prefix of more",
    )
    unique: tuple[int | None, ...] = option(
        (),
        when=WEIGHTED,
        help="the same for each corpus by itself: its first so many tokens, repeated as its weight asks; "
        "None: as much as there is, read once at most",
    )

    def check(self) -> None:
        """Raise InputError, naming the field, when a value cannot be right. Looks at no file."""
        self._check_corpora()
        self._check_weights()
        self._check_unique()
        if not self.between:
            raise InputError("data.between='': expected the text between source and target, such as ' = '")
        check_options(self, "data")
        _check_tokenizer(self.tokenizer)

    def _check_corpora(self) -> None:
        """Raise InputError for corpora that are missing, unnamed or named twice."""
        if not self.corpus or not all(isinstance(name, str) and name for name in self.corpus):
            raise InputError(f"data.corpus={self.corpus!r}: expected one or more names or paths")
        if len(set(self.corpus)) < len(self.corpus):
            raise InputError(
                f"data.corpus={self.corpus!r}: a corpus is named twice; use data.weights to have more of it"
            )
        for name in self.corpus:
            sources.check(name)

    def _check_weights(self) -> None:
        """Raise InputError for weights that are not positive, or not one per corpus."""
        if self.weights and len(self.weights) != len(self.corpus):
            raise InputError(f"data.weights={self.weights!r}: expected {len(self.corpus)}, one per corpus, or none")
        if not all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in self.weights):
            raise InputError(f"data.weights={self.weights!r}: expected positive numbers")

    def _check_unique(self) -> None:
        """Raise InputError for tokens of each corpus that are not positive, not one per corpus, or said twice."""
        if not self.unique:
            return
        if len(self.unique) != len(self.corpus):
            raise InputError(
                f"data.unique={self.unique!r}: expected {len(self.corpus)} numbers or None, one per corpus, or none"
            )
        if not all(tokens is None or tokens >= 1 for tokens in self.unique):
            raise InputError(f"data.unique={self.unique!r}: expected positive numbers of tokens, or None")
        if self.unique_tokens is not None:
            raise InputError(
                f"data.unique={self.unique!r} and data.unique_tokens={self.unique_tokens} say the same thing; "
                "expected one of them"
            )


def _check_tokenizer(spec: str) -> None:
    """Raise InputError for a tokenizer that is neither known nor a file."""
    if spec == "bytes" or spec.endswith((".json", ".model")):
        return
    if re.fullmatch(r"symbols:\d+", spec):
        if not 1 <= int(spec.removeprefix("symbols:")) <= alphabet.MOST:
            raise InputError(f"data.tokenizer={spec!r}: expected from 1 to {alphabet.MOST} symbols")
        return
    size = re.fullmatch(r"bpe:(\d+)", spec)
    if size is None:
        raise InputError(
            f"data.tokenizer={spec!r}: expected 'bytes', 'bpe:SIZE', 'symbols:SIZE', or the path of a .json or .model file"
        )
    if not 257 <= int(size[1]) <= 1 << 20:
        raise InputError(f"data.tokenizer={spec!r}: expected a vocabulary of 257 (256 bytes, a separator) to 1048576")
