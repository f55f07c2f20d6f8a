"""Texts of the form `key=value,key=value`: wherever one is typed, the same is refused, in one line of one form."""

from collections.abc import Callable
import dataclasses
import re

from hypothesis import given, strategies
import pytest

from analysis.command_line import options as fit_options
from analysis.grid.resolve import parse_roles
from analysis.laws import load as load_law
from analysis.questions.best_mixture import parse_prior
from analysis.questions.predict import parse_at
from analysis.questions.target import Target
from experiments.cli import InputError
from experiments.key_values import read_pairs, split_at_commas, write_pairs
from sweeps.executors.slurm import Options
from sweeps.executors.support.options import options_text, parse_options
from sweeps.study import common
from sweeps.work import retries


def law_at(text: str) -> dict[str, float]:
    law = load_law("chinchilla")
    return parse_at(text, law(1.7, 400.0, 0.34, 410.0, 0.28))


@dataclasses.dataclass(frozen=True)
class Reader:
    """One of the places where such a text is typed: two good pairs, and how they are read."""

    flag: str
    read: Callable[[str], object]
    good: tuple[str, str]
    wrong_value: str | None = None


READERS = {
    "executor": Reader(
        "--executor=slurm",
        lambda text: parse_options(Options, text, "--executor=slurm"),
        ("gpus=1", "slots=8"),
        "gpus=many",
    ),
    "retries": Reader("--retries", retries.parse_budgets, ("node=1", "disk=2"), "node=1.5"),
    "study": Reader(
        common.ARGUMENT,
        lambda text: common.arguments(text, scale=("full", "smoke"), family="dense"),
        ("scale=smoke", "family=moe"),
        "scale=huge",
    ),
    "columns": Reader("--columns", parse_roles, ("N=params", "D=C/(6*N)")),
    "fix": Reader("--fix", fit_options.fixed, ("E=1.69", "alpha=0.34"), "E=nan"),
    "prior": Reader("--prior", parse_prior, ("web=0.6", "code=0.4"), "web=inf"),
    "at": Reader("--at", law_at, ("N=1e9", "D=2e10"), "N=many"),
    "target": Reader("--target", lambda text: Target.parse(f"loss@{text}"), ("N=1e9", "D=2e10"), "N=-1"),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Reader:
    return READERS[request.param]


def refused(reader: Reader, text: str) -> str:
    """The line by which a text is refused; it names the flag, says what is wrong, and what was expected."""
    with pytest.raises(InputError) as caught:
        reader.read(text)
    line = str(caught.value)
    assert re.fullmatch(re.escape(reader.flag) + r": '.*' .+; expected .+", line), line
    return line


def test_spaces_and_empty_parts_say_nothing(reader: Reader):
    assert reader.read(",".join(reader.good)) == reader.read(f" {' , '.join(reader.good)} ,,")


def test_a_key_that_is_given_twice_is_refused(reader: Reader):
    first, second = reader.good
    key = first.partition("=")[0]
    for again in (first, f"{key} = 2"):
        assert f"gives {key} a second time; expected it once" in refused(reader, f"{first},{second},{again}")


def test_what_has_no_key_or_no_value_is_refused(reader: Reader):
    first, second = reader.good
    key, _, value = first.partition("=")
    for word in (f"{key}=", f"={value}", "=", f'{key}=""', f"{key}= "):
        assert repr(word.strip()) in refused(reader, f"{second},{word}")
    if reader.flag != common.ARGUMENT:  # whose words may stand alone
        assert repr(key) in refused(reader, f"{second},{key}")


def test_an_unknown_key_is_refused():
    for name in ("executor", "retries", "study", "columns", "at"):
        assert "'nosuch=1'" in refused(READERS[name], "nosuch=1") or "'nosuch'" in refused(READERS[name], "nosuch=1")


def test_a_wrong_value_is_refused_with_its_key(reader: Reader):
    if reader.wrong_value is not None:
        value = reader.wrong_value.partition("=")[2]
        assert value in refused(reader, reader.wrong_value)


@pytest.mark.parametrize(
    "text", ["gpus=(1", "gpus=1)", "nodelist=n[1,2", 'sbatch="--x', "partition=`a", "nodelist=n]1["]
)
def test_a_bracket_without_its_other_end_is_refused(text: str):
    assert "without its other end" in refused(READERS["executor"], text)


def test_commas_and_equals_of_a_value():
    """In brackets and quotes commas belong to a value; what follows the first equals sign always does."""
    text = 'nodelist=n[1,3-5],sbatch="--mail-type=END,FAIL --wckey=a",partition=a'
    found = parse_options(Options, text, "--executor=slurm")
    assert found.nodelist == "n[1,3-5]" and found.partition == "a"
    assert found.sbatch == "--mail-type=END,FAIL --wckey=a"
    assert parse_roles("N=max(a,b),C=`total, FLOPs`*1e9,loss=`a=b`") == {
        "N": "max(a,b)",
        "C": "`total, FLOPs`*1e9",
        "loss": "a=b",
    }


VALUES = strategies.text(strategies.sampled_from("ab=,()[]`'; -"), min_size=1).filter(lambda text: text == text.strip())


@given(strategies.dictionaries(strategies.sampled_from("abc"), VALUES))
def test_pairs_that_are_written_are_read_as_they_were(pairs: dict[str, str]):
    assert read_pairs(write_pairs(pairs), "--x", "A=B", "a=b") == pairs


@given(VALUES, VALUES)
def test_options_that_are_written_are_read_as_they_were(partition: str, sbatch: str):
    options = Options(partition=partition, sbatch=sbatch, gpus=3)
    assert parse_options(Options, options_text(options), "--x") == options


@given(strategies.text(strategies.sampled_from('ab=,()[]`"'), max_size=12))
def test_any_text_is_split_or_refused(text: str):
    try:
        words = split_at_commas(text, "--x")
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert all(words) and sum(map(len, words)) <= len(text)
