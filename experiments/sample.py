"""Write text with a trained model: the newest checkpoint of a run, or an import.

    python -m experiments.sample --source=runs/a --prompt='Once upon a time'           # shown as it is written
    python -m experiments.sample --source=runs/a --documents=1000 --out=texts.jsonl    # a corpus for data.corpus
    python -m experiments.sample --source=MODEL --tokenizer=HF_FOLDER/tokenizer.json --prompt_file=question.txt

A prompt is the beginning of a document: the separator that stands before each in training stands before it. Of a
model of sources and targets it is the source. A text ends where the model writes a separator, before --stop, or after
--tokens. The same seed gives the same text for a prompt and its number, whatever else is written beside it.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import sys

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import cli, files
from experiments.cli import InputError
from experiments.sampling.choice import Choice
from experiments.sampling.text import Text

Report = Callable[[Text, str], None]
STDIN = "-"


def sample(
    source: str,
    prompts: Sequence[str] = ("",),
    documents: int = 1,
    *,
    choice: Choice = Choice(),
    tokens: int | None = None,
    stops: Sequence[str] = (),
    seed: int = 0,
    data_root: str = "data",
    tokenizer: str | None = None,
    report: Report | None = None,
) -> list[Text]:
    """Write `documents` texts behind each prompt with the model in `source`; return them in this order.

    tokens: of each text at most; None: until it is, with its prompt, as long as the sequences of the training.
    tokenizer: "bytes" or a file; None: the run's own, which lies under `data_root`.
    report: is called with a text and what is new of it, as it is written. Raises InputError before anything is computed.
    """
    from experiments.sampling import source as sources
    from experiments.sampling.engine import Engine
    from experiments.sampling.queue import Wanted

    choice.check()
    _check(prompts, documents, tokens, stops)
    if choice.temperature == 0 and documents > 1:
        raise InputError(f"--documents={documents} would be the same text; expected 1, or --temperature above 0")
    model, codec = sources.load(source, data_root, tokenizer)
    texts = []
    encoded = codec.encode(list(prompts))
    for prompt, (ids, _) in zip(prompts, encoded, strict=True):
        read_first = tuple(model.cfg.prompt([int(token) for token in ids], codec.separator))
        most = sources.room(model, len(read_first), tokens)
        for number in range(documents):
            texts.append(Text(prompt, Wanted(read_first, number, most), codec, stops))

    def take(index: int, token: int) -> bool:
        text = texts[index]
        new = text.take(token)
        if report is not None:
            report(text, new)
        return not text.end

    engine = Engine(model, codec.vocab_size, choice)
    engine.run([text.wanted for text in texts], seed, take)
    return texts


def _check(prompts: Sequence[str], documents: int, tokens: int | None, stops: Sequence[str]) -> None:
    """Raise InputError, naming the option, for one that cannot be."""
    for text in (*prompts, *stops):
        try:
            text.encode()
        except UnicodeEncodeError:  # bytes of the command line that are no UTF-8 arrive as halves of characters
            raise InputError(f"--prompt or --stop {text!r:.40} is not text; expected UTF-8") from None
    if documents < 1:
        raise InputError(f"--documents={documents}; expected at least 1")
    if tokens is not None and tokens < 1:
        raise InputError(f"--tokens={tokens}; expected at least 1")
    if "" in stops:
        raise InputError("--stop is empty; expected a text")


# --- the command


def _prompts() -> list[str]:
    """Return the prompts that the flags name; a single empty one where they name none."""
    given = flags.FLAGS
    if given.prompt is not None and given.prompt_file is not None:
        raise InputError("--prompt and --prompt_file are both given; expected one of them")
    if given.prompt_file is None:
        return [given.prompt or ""]
    name = given.prompt_file
    if name == STDIN:
        content = sys.stdin.buffer.read()
    else:
        content = files.read_if_there(name)
        if content is None:
            raise InputError(f"--prompt_file={name}: no such file")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"--prompt_file={name} is not UTF-8 text (byte {error.start})") from None
    if not name.endswith(".jsonl"):
        return [text]
    rows = list(_rows(text, name))
    if not rows:
        raise InputError(f"--prompt_file={name} has no row; expected prompts")
    return rows


def _rows(text: str, name: str) -> Iterator[str]:
    """Yield the field `prompt`, or else `text`, of JSON lines. Raises InputError naming the line that has none."""
    lines = text.removesuffix("\n").split("\n") if text else []  # a text may have other ends of lines in it
    for number, line in enumerate(lines, start=1):
        try:
            row = files.parse(line)
            prompt = row["prompt"] if "prompt" in row else row["text"]
        except (ValueError, KeyError, TypeError):
            prompt = None
        if not isinstance(prompt, str):
            raise InputError(f"{name}:{number}: no row with a text in `prompt` or `text`")
        yield prompt


def _lines(texts: Sequence[Text]) -> str:
    """Return texts as JSON lines; the first has the name of the command, which may then replace the file."""
    lines = []
    for text in texts:
        row = {"text": text.text, "end": text.end}
        if text.prompt:
            row["prompt"] = text.prompt
        lines.append(json.dumps(row if lines else cli.signed(row), ensure_ascii=False) + "\n")
    return "".join(lines)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Report]:
    """Show on a terminal how many texts have ended."""
    console = Console(stderr=True)
    columns = (TextColumn("texts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as display:
        task = display.add_task("", total=total)
        yield lambda text, new: display.advance(task, bool(text.end))


class _Screen:
    """Writes the only text to standard output as it comes."""

    def __init__(self) -> None:
        self._begun = False

    def __call__(self, text: Text, new: str) -> None:
        if not self._begun:
            sys.stdout.write(text.prompt)
            self._begun = True
        sys.stdout.write(new)
        sys.stdout.flush()


def main(_: list[str]) -> None:
    """Run the command line."""
    from experiments.run.schema import Execution
    from experiments.train import set_up_devices

    given = flags.FLAGS
    if given.out is not None and not given.out.endswith(".jsonl"):
        raise InputError(f"--out={given.out} has an unknown ending; expected .jsonl")
    prompts = _prompts()
    set_up_devices(Execution(cpu_devices=1), keep_memory=False)
    options = {
        "choice": Choice(given.temperature, given.top_k, given.top_p),
        "tokens": given.tokens,
        "stops": given.stop,
        "seed": given.seed,
        "data_root": given.data_root,
        "tokenizer": given.tokenizer,
    }
    total = len(prompts) * given.documents
    if total == 1 and given.out is None:
        sample(given.source, prompts, report=_Screen(), **options)
        sys.stdout.write("\n")
        return
    with _progress(total) as report:
        texts = sample(given.source, prompts, given.documents, report=report, **options)
    if given.out is None:
        sys.stdout.write(_lines(texts))
        return
    files.write_bytes(given.out, _lines(texts).encode())
    ends = ", ".join(f"{sum(text.end == end for text in texts)} {end}" for end in ("separator", "stop", "tokens"))
    print(f"{given.out}: {total} texts (ended by {ends})")


if __name__ == "__main__":
    cli.define_path("source", None, "folder of a run, or of weights (experiments.convert import)")
    flags.DEFINE_string("prompt", None, "the beginning of the text")
    cli.define_path(
        "prompt_file", None, "a file that is the prompt; .jsonl: a prompt a row, in `prompt` or `text`; -: stdin"
    )
    cli.define_integer("documents", 1, "texts behind each prompt", lower_bound=1)
    cli.define_integer(
        "tokens", None, "of a text at most; default: to the length of the training's sequences", lower_bound=1
    )
    flags.DEFINE_multi_string("stop", [], "a text ends before this; may be given several times")
    flags.DEFINE_float("temperature", 1.0, "divides the logits; 0: the likeliest token")
    cli.define_integer("top_k", None, "choose among so many of the likeliest tokens", lower_bound=1)
    flags.DEFINE_float("top_p", None, "choose among the likeliest tokens that have this probability together")
    cli.define_integer("seed", 0, "of the draws", lower_bound=0)
    cli.define_path("data_root", "data", "execution.data_root of the run, where its tokenizer is")
    flags.DEFINE_string(
        "tokenizer", None, 'in place of the run\'s: "bytes", or a tokenizers .json or SentencePiece .model'
    )
    cli.define_output("out", "a .jsonl file for the texts")
    cli.run(main, required=["source"])
