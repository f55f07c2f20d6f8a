"""What the tests of the data path share: a small corpus and what is made of it."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from experiments.data.manifest import Manifest
from experiments.data.options import Data
from experiments.prepare import prepare

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
L = 32  # sequence length of most tests
FINGERPRINT = (
    "import json, sys; from experiments.data.options import Data; from experiments.prepare import prepare\n"
    "data = Data(corpus=(sys.argv[2],), holdout=0.1, tokenizer=sys.argv[3])\n"
    "print(prepare(data, sys.argv[1], progress=False)[0].fingerprint)"
)  # a program: ROOT CORPUS TOKENIZER


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def write_corpus(path: pathlib.Path, documents: int, seed: int = 0, words: int = 60) -> pathlib.Path:
    """JSON lines of random words, some of them not ASCII; the same on every machine."""
    draw = np.random.default_rng(seed)
    known = ["".join(chr(97 + c) for c in draw.integers(0, 26, draw.integers(2, 9))) for _ in range(300)]
    known += ["naïve", "Ærø", "日本語", "🎉🎉", "e\u0301tude", "<|doc|>", "  indented\n", "\ttab"]
    with path.open("w") as file:
        for _ in range(documents):
            text = " ".join(known[k] for k in draw.integers(0, len(known), words))
            file.write(json.dumps({"text": text}) + "\n")
    return path


def make_corpora(folder: pathlib.Path) -> pathlib.Path:
    """A folder with two corpora, a.jsonl (400 documents) and b.jsonl (150); `ready` prepares them under its `root`."""
    write_corpus(folder / "a.jsonl", 400, 0)
    write_corpus(folder / "b.jsonl", 150, 1)
    return folder


def data_of(here: pathlib.Path, *names: str, **options: object) -> Data:
    return Data(**{"corpus": tuple(str(here / name) for name in names or ("a.jsonl",)), "holdout": 0.1, **options})


def ready(here: pathlib.Path, *names: str, **options: object) -> tuple[tuple[Manifest, ...], Data]:
    data = data_of(here, *names, **options)
    return prepare(data, here / "root", progress=False), data


def texts_of(path: pathlib.Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def documents_in(stream: np.ndarray, separator: int) -> list[bytes]:
    assert stream[0] == separator
    return [part[1:].astype(np.uint8).tobytes() for part in np.split(stream, np.flatnonzero(stream == separator)[1:])]
