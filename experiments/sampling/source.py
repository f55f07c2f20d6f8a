"""Find the model to sample from, and the tokenizer that its tokens are of."""

import os
from typing import NamedTuple

from etils import epath

from experiments import files, prepare
from experiments.data import manifest, tokenizer
from experiments.data.tokenizer import Tokenizer
from experiments.store import weights
from experiments.store.weights import Weights
from models.errors import InputError

DEFAULT = 1024  # tokens of a text at most, where nothing is said


class Source(NamedTuple):
    """A model with its tokenizer."""

    weights: Weights
    codec: Tokenizer


def load(folder: str, data_root: str = "data", spec: str | None = None) -> Source:
    """Read the newest checkpoint of a run, or a folder of weights, as experiments.convert leaves it.

    A run's tokenizer lies with its prepared corpus under `data_root`. `spec` names another: "bytes", or a file as
    data.tokenizer does; weights need it. Raises InputError for what is missing or does not fit.
    """
    found = weights.load(folder)
    codec = _named(spec) if spec else _of_run(epath.Path(folder), data_root)
    if codec.vocab_size > found.cfg.vocab:
        raise InputError(
            f"--tokenizer: it has {codec.vocab_size} ids, and the model in {folder} {found.cfg.vocab}; expected its own"
        )
    return Source(found, codec)


def _named(spec: str) -> Tokenizer:
    """Return the tokenizer of a flag. Raises InputError in its words."""
    try:
        return tokenizer.load(spec)
    except InputError as error:
        raise InputError(str(error).replace("data.tokenizer", "--tokenizer")) from None


def _of_run(folder: epath.Path, data_root: str) -> Tokenizer:
    """Return the tokenizer that a run was trained with. Raises InputError where it is not to be found."""
    path = folder / "run.json"
    if not path.exists():
        raise InputError(f"--tokenizer is missing: {folder} is no run, and weights do not say theirs")
    value = weights.read_json(path, "")
    if value["run"]["data"]["tokenizer"] == "bytes":
        return tokenizer.Bytes()
    root = epath.Path(data_root).expanduser()
    for candidate in sorted(root.glob("records/*/manifest.json")):
        try:
            fingerprint = files.read_json(candidate)["fingerprint"]
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ):  # of another corpus: what is wrong with it matters nothing here
            continue
        if fingerprint in value["manifests"]:
            return prepare.codec_of(manifest.load(candidate.parent))
    raise InputError(
        f"--data_root={os.fspath(root)}: the corpus of {folder}, prepared, is not there, and its tokenizer is beside it; "
        "expected execution.data_root of that run, or --tokenizer"
    )


def room(model: Weights, prompt: int, asked: int | None) -> int:
    """Return how many tokens a text gets behind a prompt of so many, the separator included.

    None is asked: until the sequence is as long as those of the training, or DEFAULT. Raises InputError where the model has
    no room for them.
    """
    longest = model.cfg.longest(model.length)
    within = model.length or DEFAULT + prompt
    if asked is None and prompt >= within:
        raise InputError(
            f"--tokens: the prompt of {prompt} with its separator fills the {within} of a sequence of the training; expected "
            "a number of tokens, or a shorter prompt"
        )
    tokens = asked or min(within - prompt, DEFAULT)
    if longest is not None and prompt + tokens > longest:
        raise InputError(
            f"--tokens={tokens} behind a prompt of {prompt} with its separator: the model of {model.origin} has sequences "
            f"of at most {longest}; expected fewer"
        )
    return tokens
