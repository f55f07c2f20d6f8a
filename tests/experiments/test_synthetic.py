"""Text whose entropy is known: each kind is what it says, the same on every machine, and learnt as far as it can be."""

import collections
import hashlib
import itertools
import json
import math
import pathlib
import re

from etils import epath
import numpy as np
import pytest
from rich.console import Console

from analysis.laws import knowledge
from experiments.cli import InputError
from experiments.data import alphabet, manifest, questions, tasks
from experiments.data.options import Data
from experiments.data.sources import synthetic
from experiments.data.sources.synthetic import chaos, facts
from experiments.data.sources.synthetic.support import entropy, table
from experiments.prepare import prepare
from tests.support.data import documents_in, python
from tests.support.training import run

# A small corpus of each kind.
SMALL = {
    "markov": "markov,order=2,symbols=8,length=50,documents=600",
    "hmm": "hmm,symbols=8,length=50,documents=600",
    "zipf": "zipf,length=20,documents=600",
    "arithmetic": "arithmetic,length=3,documents=600",
    "expressions": "expressions,length=3,documents=600",
    "copy": "copy,documents=600",
    "recall": "recall,documents=600",
    "biographies": "biographies,people=60,exposures=10",
    "facts": "facts,people=24,exposures=10",
    "cipher": "cipher,documents=600,mark=x",
    "seasonal": "seasonal,length=64,documents=600",
    "trend": "trend,bins=16,length=32,documents=600",
    "autoregressive": "autoregressive,length=50,documents=600",
    "chaos": "chaos,length=50,documents=600",
    "images": "images,side=6,documents=600",
}
DATA = {"holdout": 0.1}


def process_of(text: str):
    """The process that a corpus names."""
    module, options = synthetic.parse(f"synthetic:{text}")
    return module.Process(options)


def texts_of(text: str) -> list[str]:
    """All documents that a corpus names."""
    return list(process_of(text).texts())


def prepared(text: str, folder: pathlib.Path, **options: object):
    """The manifest of a corpus."""
    data = Data(corpus=(f"synthetic:{text}",), **DATA | options)
    (manifest,) = prepare(data, folder, progress=False)
    return manifest


# --- every kind


def test_there_is_a_small_corpus_of_every_kind():
    assert set(SMALL) == set(synthetic.kinds())


@pytest.mark.parametrize("kind", SMALL)
def test_a_kind_is_deterministic_and_fewer_documents_are_the_first_of_more(kind: str):
    texts = texts_of(SMALL[kind])
    assert len(texts) >= 600 and all(texts)
    assert texts == texts_of(SMALL[kind])
    assert texts_of(f"{SMALL[kind]},seed=1") != texts
    half = len(texts) // 2
    fewer = SMALL[kind].replace("documents=600", "documents=300").replace("exposures=10", "exposures=5")
    assert texts_of(fewer) == texts[:half]


@pytest.mark.parametrize("kind", SMALL)
def test_a_kind_is_prepared_with_its_entropy(kind: str, tmp_path: pathlib.Path):
    """Held-out documents are the process's too, and none of them is among those for training."""
    made = prepared(SMALL[kind], tmp_path)
    splits = []
    for split in ("train", "holdout"):
        stream = np.asarray(made.open(f"{split}.npy"))
        splits.append([text.decode() for text in documents_in(stream, made.separator)])
    assert sorted(splits[0] + splits[1]) == sorted(texts_of(SMALL[kind]))
    assert splits[1] and not set(splits[0]) & set(splits[1])
    stated = process_of(SMALL[kind]).entropy()
    if stated is None:
        assert made.entropy_nats is None
        return
    assert made.details["entropy"]["method"] == stated.method
    assert (made.entropy_nats_error == 0) == (stated.method == "exact")
    assert 0 < made.entropy_nats < made.unigram_entropy_nats + 4 * made.entropy_nats_error


DIGESTS = (
    "import hashlib, sys\nfrom experiments.data.sources import synthetic\n"
    "for name in sys.argv[1:]:\n"
    "    module, options = synthetic.parse(name)\n"
    "    print(hashlib.sha256('|'.join(module.Process(options).texts()).encode()).hexdigest())"
)  # a program: CORPUS ...


def test_another_process_makes_the_same_texts():
    """In an interpreter of its own, with other hashes of strings."""
    made = python(DIGESTS, *(f"synthetic:{text}" for text in SMALL.values()), PYTHONHASHSEED="7")
    here = [hashlib.sha256("|".join(texts_of(text)).encode()).hexdigest() for text in SMALL.values()]
    assert made.stdout.split() == here, made.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("markow", "'markow' is no kind of synthetic text; expected one of .*markov"),
        ("", "'' is no kind of synthetic text; expected one of .*markov"),
        ("markov,oder=2", "'oder' is no option of it; expected one of documents, seed, order, symbols"),
        ("markov,order", "'order' is not OPTION=VALUE"),
        ("markov,order=two", "'order=two' is not a whole number"),
        ("markov,order=1,order=2", "'order=2' gives order a second time"),
        ("markov,symbols=1", "symbols=1 must be from 2 to 2048"),
        ("markov,order=5,symbols=64", "order=5 with symbols=64: expected symbols"),
        ("markov,concentration=nan", "'concentration=nan' is not a number"),
        ("markov,documents=0", "documents=0 must be at least 1"),
        ("biographies,documents=9", "documents=9 cannot be: there are people times exposures"),
        ("arithmetic,operators=+/", "operators='\\+/': expected some of"),
        ("recall,pairs=40", "pairs=40: expected at most keys=32"),
        ("seasonal,shortest=30", "shortest=30: expected at most longest=24"),
        ("zipf,words=100000,topics=200", "words=100000, topics=200: expected a product of at most 4194304"),
        ("trend,bins=1024", "bins=1024 with length=256: expected bins"),
        ("zipf,topics=1,share=0.2", "share=0.2 has an effect only where topics is above 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, said: str):
    with pytest.raises(InputError, match=f"^data.corpus='synthetic:{re.escape(text)}': {said}") as error:
        Data(corpus=(f"synthetic:{text}",)).check()
    assert "\n" not in str(error.value)


# --- Markov chains


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_entropy_of_a_chain_is_that_of_its_n_grams(order: int):
    """Counted: how often each symbol follows each context. Of order 0 it is that of single symbols."""
    process = process_of(f"markov,order={order},symbols=4,length=500,documents=1000,concentration=0.5")
    counts = np.zeros((4**order, 4))
    for text in process.texts():
        symbols = alphabet.read(text)
        whole = max(len(symbols) - order, 0)  # symbols with a whole context
        context = np.zeros(whole, np.int64)
        for place in range(order):
            context = context * 4 + symbols[place : place + whole]
        np.add.at(counts, (context, symbols[order:]), 1)
    share = counts / counts.sum()
    given = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    counted = -(share * np.log(np.where(given > 0, given, 1))).sum()
    assert counted == pytest.approx(process.chain.rate, abs=0.005)
    np.testing.assert_allclose(share.sum(1), process.chain.stationary, atol=0.01)


def test_the_entropy_of_documents_is_their_mean_log_probability():
    """With their first symbols, their length, and the token between them, also where they are short."""
    process = process_of("markov,order=2,symbols=4,length=3,documents=40000")
    contexts = process.chain.stationary.reshape(4, 4)
    first = contexts.sum(1)
    nats = 0.0
    characters = 0
    for text in process.texts():
        symbols = alphabet.read(text)
        characters += len(symbols) + 1
        nats -= (len(symbols) - 1) * math.log(2 / 3) + math.log(1 / 3) + math.log(first[symbols[0]])
        if len(symbols) > 1:
            nats -= math.log(contexts[symbols[0], symbols[1]] / first[symbols[0]])
        context = symbols[:-2] * 4 + symbols[1:-1]
        nats -= np.log(process.chain.transitions[context, symbols[2:]]).sum()
    assert nats / characters == pytest.approx(process.entropy().nats, rel=0.01)


# --- the other kinds


def test_the_forward_algorithm_gives_probabilities():
    """Those of all documents of a length add up to that of the length."""
    process = process_of("hmm,states=3,symbols=3,length=4")
    every = np.array(list(itertools.product(range(3), repeat=4)))
    probabilities = np.exp(-process.nats(every, np.full(len(every), 4)))
    assert probabilities.sum() == pytest.approx(0.75**3 * 0.25, rel=1e-9)


def test_the_entropy_of_a_hidden_chain_lies_between_its_bounds():
    """Above that of a symbol when the state is known, below that of a symbol alone; n-grams come down to it."""
    process = process_of("hmm,states=4,symbols=4,length=1000")
    stated = process.entropy()
    of_end = entropy.of_coin(1 / 1000)
    bound = process.chain.stationary @ entropy.of(process.chain.transitions @ process.emissions)
    alone = entropy.of(process.chain.stationary @ process.emissions)
    assert bound < stated.nats < alone + of_end
    assert 0 < stated.error < 0.01
    symbols, _ = process._draw(256, np.random.default_rng(0))
    tallies = [np.unique(windows(symbols[:, :3000], n), return_counts=True)[1] for n in (6, 7)]
    blocks = [entropy.of(tally / tally.sum()) for tally in tallies]
    assert blocks[1] - blocks[0] == pytest.approx(stated.nats - of_end, abs=0.03)


def windows(symbols: np.ndarray, length: int) -> np.ndarray:
    """Every window of symbols, as a number to the base of 4."""
    found = np.lib.stride_tricks.sliding_window_view(symbols, length, axis=1)
    return found.reshape(-1, length) @ 4 ** np.arange(length)


def test_zipf_with_one_topic_is_exact_and_topics_make_words_likelier():
    """The estimate by a sum over topics agrees with the exact entropy where there is one topic to sum over."""
    one = process_of("zipf,topics=1,words=50,length=30")
    assert one.entropy().method == "exact"
    counts = collections.Counter(word for text in one.texts() for word in text.split())
    share = np.array([counts[word] for word in one.words]) / counts.total()
    np.testing.assert_allclose(share, one.frequencies[0], atol=0.003)
    several = process_of("zipf,topics=2,share=0,words=50,length=30")  # both topics are as one
    assert several.entropy().nats == pytest.approx(one.entropy().nats, abs=4 * several.entropy().error)
    assert process_of("zipf,topics=8,words=50,length=30").entropy().error > 0


@pytest.mark.parametrize("options", ["digits=2", "digits=3,terms=3,operators=+-", "digits=1,terms=4,operators=+-*"])
def test_answers_of_arithmetic_are_right(options: str):
    texts = texts_of(f"arithmetic,{options},documents=300")
    problems = [problem for text in texts for problem in text.split("\n")]
    assert len({len(problem) for problem in problems}) == 1, "all are equally long"
    for problem in problems:
        question, answer = problem.split("=")
        terms = re.sub(r"\b0+(?=\d)", "", question)
        assert int(answer) == eval(terms), problem


def test_values_of_expressions_are_right_and_their_length_is_the_grammars():
    process = process_of("expressions,documents=2000")
    lengths = []
    for text in process.texts():
        for line in text.split("\n"):
            expression, value = line.split("=")
            assert int(value) == eval(expression) % 10, line
            lengths.append(len(expression))
    expected = (1 + 2 * 0.35) / (1 - 2 * 0.35)
    assert np.mean(lengths) == pytest.approx(expected, abs=5 * np.std(lengths) / len(lengths) ** 0.5)


def test_the_entropy_of_expressions_is_their_mean_log_probability():
    process = process_of("expressions,branching=0.3,documents=4000,length=5")
    nats = 0.0
    characters = 0
    for text in process.texts():
        lines = text.split("\n")
        nats -= len(lines) * math.log(1 / 5) + (len(lines) - 1) * (math.log(4 / 5) - math.log(1 / 5))
        characters += len(text) + 1
        for line in lines:
            expression = line.split("=")[0]
            operations = expression.count("(")
            nats -= operations * math.log(0.3 / 3) + (operations + 1) * math.log(0.7 / 10)
    assert nats / characters == pytest.approx(process.entropy().nats, rel=0.01)


def test_what_is_copied_and_recalled_is_what_was_there():
    for text in texts_of("copy,length=7,symbols=100,documents=100"):
        first, mark, second = text.partition("!")
        assert mark and first == second and len(first) == 7
    for text in texts_of("recall,keys=9,values=5,pairs=6,queries=4,documents=100"):
        before, _, behind = text.partition("!")
        pairs = dict(zip(before[::2], before[1::2], strict=True))
        assert len(pairs) == 6 and len(behind) == 8 and len(set(behind[::2])) == 4
        assert [pairs[key] for key in behind[::2]] == list(behind[1::2])


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("copy,length=7,symbols=100", 7 * math.log(100)),
        ("recall,keys=9,values=5,pairs=6,queries=4", math.log(9 * 8 * 7 * 6 * 5 * 4 * 5**6 * 6 * 5 * 4 * 3)),
    ],
)
def test_the_entropy_is_that_of_what_is_not_determined(text: str, free: float):
    process = process_of(f"{text},documents=1")
    (made,) = process.texts()
    assert process.entropy().nats * (len(made) + 1) == pytest.approx(free, rel=1e-12)


def test_biographies_are_of_people_with_as_many_bits_as_the_law_counts():
    """Each person in as many documents as exposures, with the same values; bits are those of `knowledge_capacity`."""
    process = process_of("biographies,people=40,exposures=10")
    texts = list(process.texts())
    assert len(texts) == 400
    for number, text in enumerate(texts):
        person = process.people[number % 40]
        assert text.startswith(person.name) and text.count(".") == 6
        assert all(value in text for value in person.values)
    assert len({person.name for person in process.people}) == 40
    assert process.details()["bits"] == pytest.approx(knowledge.biography_limit(40))
    mean = np.mean([len(text) + 1 for text in texts])
    assert process.entropy().nats * mean == pytest.approx(math.log(40) + math.log(720) + 6 * math.log(3), rel=0.02)


def test_facts_that_are_said_from_one_side_are_never_said_from_the_other():
    process = process_of("facts,people=60,exposures=30,one_way=0.5,composed=0.25")
    texts = set(process.texts())
    said = dict.fromkeys(("mentor", "pupil", "both", "two hops"), 0)
    for person, mentor in process.mentors.items():
        forward = says(texts, facts.MENTOR, process.people[person], process.people[mentor])
        backward = says(texts, facts.PUPIL, process.people[mentor], process.people[person])
        said["mentor"] += forward and not backward
        said["pupil"] += backward and not forward
        said["both"] += forward and backward
        said["two hops"] += says(texts, facts.MENTORS_HOME, process.people[person], process.homes[mentor])
        assert says(texts, facts.HOME, process.people[person], process.homes[person])
    assert said == {"mentor": 15, "pupil": 15, "both": 30, "two hops": 15}
    assert process.details() == {"statements": 165, "unsaid_reversals": 30, "unsaid_two_hops": 45}
    assert len(texts) <= math.exp(process.entropy().nats * np.mean([len(text) + 1 for text in texts]) * 1.01)


def says(texts: set[str], wordings: tuple[str, ...], who: str, what: str) -> bool:
    """Whether a statement is made in any wording."""
    return any(wording.format(who, what) in texts for wording in wordings)


def test_a_translation_has_the_words_of_its_sentence_in_another_order():
    process = process_of("cipher,window=3,documents=3000")
    dictionary = dict(zip(process.words, process.translations, strict=True))
    characters = 0
    words = 0
    for text in process.texts():
        sentence, translation = (side.split(" ") for side in text.split(" = "))
        expected = []
        for start in range(0, len(sentence), 3):
            expected += [dictionary[word] for word in sentence[start : start + 3]][::-1]
        assert translation == expected
        characters += len(text) + 1
        words += len(sentence)
    assert len(set(dictionary.values())) == 300
    per_word = entropy.of(process.frequencies) + entropy.of_coin(1 / 8)
    assert process.entropy().nats == pytest.approx(per_word * words / characters, rel=0.02)


@pytest.mark.parametrize(
    "text", ["seasonal,bins=3,shortest=2,longest=3,length=4", "trend,bins=3,length=4", "images,side=2,bins=3"]
)
def test_documents_of_curves_have_probabilities(text: str):
    """Those of all documents add up to one, and the entropy is their mean."""
    process = process_of(f"{text},noise=0.5")
    every = np.array(list(itertools.product(range(3), repeat=4)))
    nats = np.array([process.nats(symbols) for symbols in every])
    assert np.exp(-nats).sum() == pytest.approx(1, rel=1e-9)
    stated = process.entropy()
    assert stated.nats == pytest.approx((np.exp(-nats) * nats).sum() / 5, abs=4 * stated.error)
    assert process.details()["noise_nats"] * 4 / 5 < stated.nats


def test_a_chaotic_series_is_the_logistic_map():
    """x -> 4 x (1 - x) between the middles of bins, and every value behind the first brings one bit."""
    rng = np.random.default_rng(0)
    bins = chaos.orbit(rng.integers(2, size=5000), bits=10)
    x = np.sin(np.pi * (bins + 0.5) / 1024 / 2) ** 2
    np.testing.assert_allclose(x[1:], 4 * x[:-1] * (1 - x[:-1]), atol=0.004)
    few = chaos.orbit(rng.integers(2, size=200_000), bits=2)
    pairs = np.unique(few[:-1] * 4 + few[1:], return_counts=True)[1] / (len(few) - 1)
    assert entropy.of(pairs) - math.log(4) == pytest.approx(math.log(2), abs=1e-3)


def test_an_autoregressive_series_remembers_as_much_as_it_says():
    texts = texts_of("autoregressive,memory=0.8,noise=3,documents=500")
    before = np.concatenate([alphabet.read(text)[:-1] for text in texts])
    after = np.concatenate([alphabet.read(text)[1:] for text in texts])
    assert np.corrcoef(before, after)[0, 1] == pytest.approx(0.8, abs=0.01)
    assert np.std(after - 31.5 - 0.8 * (before - 31.5)) == pytest.approx(3, abs=0.05)


def test_kinds_are_listed_with_their_options():
    console = Console(width=250)
    with console.capture() as printed:
        console.print(table.table())
    for kind in synthetic.kinds():
        assert re.search(rf"^\s*{kind}\s", printed.get(), re.MULTILINE)
    assert "branching" in printed.get() and "Dirichlet" in printed.get()


# --- questions


def test_questions_are_written_as_tasks_with_their_answers(tmp_path: pathlib.Path):
    """A prompt with its answer is the beginning of a document; facts that were never said are asked for apart."""
    names = ("facts,people=40,exposures=40", "biographies,people=20,exposures=400", "copy", "markov")
    corpora = tuple(f"synthetic:{name}" for name in names)
    paths = questions.write(Data(corpus=corpora), epath.Path(tmp_path / "tasks"))
    asked = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in paths}
    assert len(asked) == 6 + 6 + 1 and len(asked["copy_copies"]) == 500
    assert all(tasks.Entry.parse(str(path)).read() for path in paths)
    for name in names[:2]:
        texts = texts_of(name)
        for sort, of_sort in asked.items():
            if sort.startswith(name.partition(",")[0]):
                known = [any(text.startswith(one["prompt"] + one["answer"]) for text in texts) for one in of_sort]
                assert of_sort and set(known) == {"unsaid" not in sort}, sort
    with pytest.raises(InputError, match="nothing can be asked about it"):
        questions.write(Data(corpus=("embedded", "synthetic:markov")), epath.Path(tmp_path / "none"))


@pytest.mark.parametrize("kind", ["arithmetic", "expressions", "recall", "cipher", "copy"])
def test_questions_are_of_the_process(kind: str):
    """A prompt with its answer is as long as a document's, and made of the same characters."""
    process = process_of(f"{kind},length=1" if kind in ("arithmetic", "expressions") else kind)
    known = set("".join(itertools.islice(process.texts(), 600)))
    (questions,) = process.questions(50).values()
    assert len(questions) == 50
    for question in questions:
        assert question.answer and set(question.prompt + question.answer) <= known
        if kind == "expressions":
            assert int(question.answer) == eval(question.prompt[:-1]) % 10


# --- per token


def test_the_entropy_of_a_document_is_the_same_for_every_tokenizer(tmp_path: pathlib.Path):
    """Fewer tokens have more each: what a BPE saves in tokens it has in nats."""
    made = [prepared(SMALL["markov"], tmp_path, tokenizer=spec) for spec in ("bytes", "symbols:8", "bpe:300")]
    by_symbol = process_of(SMALL["markov"]).entropy().nats
    assert [one.entropy_nats for one in made[:2]] == [by_symbol, by_symbol]
    assert made[2].entropy_nats > by_symbol
    totals = [one.entropy_nats * (one.train.tokens + one.holdout.tokens) for one in made]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-12)
    assert made[1].vocab_size == 9 and made[1].lossless == 1


def test_a_text_with_other_characters_is_refused(tmp_path: pathlib.Path):
    with pytest.raises(InputError, match=r"'symbols:4': cannot encode the text \(it has other characters\)"):
        prepared(SMALL["markov"], tmp_path, tokenizer="symbols:4")
    with pytest.raises(InputError, match="symbols:60000': expected from 1 to 50000 symbols"):
        prepared(SMALL["markov"], tmp_path, tokenizer="symbols:60000")


def test_a_manifest_of_before_knows_no_entropy(tmp_path: pathlib.Path):
    made = prepared(SMALL["markov"], tmp_path)
    path = made.directory / "manifest.json"
    stored = json.loads(path.read_text())
    del stored["entropy_nats"], stored["entropy_nats_error"]
    path.write_text(json.dumps(stored))
    before = manifest.load(made.directory)
    assert before.entropy_nats is None and before.fingerprint == made.fingerprint


# --- a run


def test_a_run_says_how_much_there_was_to_learn(tiny, tmp_path: pathlib.Path):
    """Two chains of one symbol's memory: the columns are their entropies by their shares, and the loss comes down to them."""
    corpora = tuple(f"synthetic:markov,symbols=8,documents=300,seed={seed}" for seed in (1, 2))
    options = {"data.corpus": corpora, "data.tokenizer": "symbols:8", "evaluation.weights": (3, 1), "opt.lr": 1e-2}
    row = run(tiny(tokens=256 * 200, **options), tmp_path / "run")["columns"]
    own = [process_of(corpus.removeprefix("synthetic:")).entropy().nats for corpus in corpora]
    assert [row["entropy_part_1"], row["entropy_part_2"]] == own
    assert row["entropy_nats"] == pytest.approx(0.75 * own[0] + 0.25 * own[1], rel=0.01)
    assert row["entropy_nats_error"] == 0
    ratio = row["bits_per_byte"] / row["loss_nats"]
    assert row["entropy_bits_per_byte"] == pytest.approx(row["entropy_nats"] * ratio, rel=1e-3)
    assert 0 < row["loss_nats"] - row["entropy_nats"] < 0.1
