"""Tasks by likelihood: rows, masks and columns against a table model worked by hand, and against the model by itself."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import tasks, tokenizer
from experiments.data.sources import synthetic
from experiments.run import freeze, identity
from experiments.store import record, segments, weights
from experiments.training.tasks import TaskRows
from models import functional
from models.errors import InputError
from tests.support.training import run

CAPITALS = [
    {"prompt": "France: ", "answer": "Paris", "choices": ["Rome", "Paris", "Oslo town"]},
    {"prompt": "Türkei → ", "answer": "Ankara …", "choices": ["Ankara …", "İzmir"]},
    {"prompt": "", "answer": "é"},
    {
        "prompt": "a prompt that is far too long for one window of so few tokens, and is cut at its front: ",
        "answer": "it",
    },
]


def write(path: pathlib.Path, items: list[dict]) -> str:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def merges() -> tokenizer.Json:
    """A BPE in which tokens of several letters, and spaces with them, span the ends of prompts."""
    text = "France: Paris France: Paris Rome Oslo town Türkei → Ankara … İzmir it is cut at its front: it is " * 20
    return tokenizer.train_bpe([text], 310)


class Table:
    """A model whose next token depends on the last one alone: nats [previous, next]."""

    def __init__(self, vocab: int):
        logits = np.random.default_rng(1).normal(size=(vocab, vocab))
        self.nats = np.log(np.exp(logits).sum(axis=1, keepdims=True)) - logits

    def of_rows(self, tokens: np.ndarray) -> np.ndarray:
        return self.nats[tokens[..., :-1], tokens[..., 1:]]

    def of_answer(self, prompt: str, answer: str, codec: tokenizer.Tokenizer) -> float:
        """By hand: from the first token that reaches past the prompt on, each behind the one before it."""
        ((ids, sizes),) = codec.encode([prompt + answer])
        known, total, before = len(prompt.encode()), 0.0, codec.separator
        for token, end in zip(ids, np.cumsum(sizes), strict=True):
            if end > known:
                total += self.nats[before, token]
            before = token
        return total


@pytest.mark.parametrize("kind", ["bytes", "merges"])
def test_columns_are_those_of_a_table_worked_by_hand(kind, tiny, tmp_path, merges):
    codec = tokenizer.Bytes() if kind == "bytes" else merges
    path = write(tmp_path / "capitals.jsonl", CAPITALS)
    options = {"evaluation.tasks": (path,), "evaluation.coverage": (1, 7), "model.vocab": codec.vocab_size}
    frozen, _ = freeze.freeze(tiny(**options))
    rows = TaskRows(frozen, codec)
    assert rows.tokens.shape == (1, 8, 33), "seven answers in batches of eight rows"
    if kind == "merges":
        ((_, sizes),) = codec.encode(["France: Paris"])
        assert len("France: ") not in np.cumsum(sizes), "a token spans the end of the prompt"

    table = Table(codec.vocab_size)
    found = rows.columns(table.of_rows(rows.tokens))
    nats = np.array([table.of_answer(item["prompt"], item["answer"], codec) for item in CAPITALS])
    right = []
    for item in CAPITALS[:2]:
        of_choices = [table.of_answer(item["prompt"], choice, codec) for choice in item["choices"]]
        right.append(item["choices"][int(np.argmin(of_choices))] == item["answer"])
    rates = np.exp(-nats)
    by_item = {
        "loss": nats,
        "pass_rate": rates,
        "coverage_1": rates,
        "coverage_7": 1 - (1 - rates) ** 7,
        "accuracy": np.array(right, float),
    }
    assert found.keys() == {f"task_capitals_{name}{end}" for name in by_item for end in ("", "_sem")}
    for name, values in by_item.items():
        assert found[f"task_capitals_{name}"] == pytest.approx(values.mean(), rel=1e-9)
        sem = values.std(ddof=1) / math.sqrt(len(values))
        assert found[f"task_capitals_{name}_sem"] == pytest.approx(sem, rel=1e-9)


def test_small_rates_are_not_lost_beside_one(tiny, tmp_path):
    """A whole answer of 1e-30: coverage of K is K times that. A certain one is 1, and equal choices share."""
    items = [
        {"prompt": "", "answer": "ab", "choices": ["ab", "cd"]},
        {"prompt": "x", "answer": "y", "choices": ["y", "z"]},
    ]
    path = write(tmp_path / "t.jsonl", items)
    frozen, _ = freeze.freeze(tiny(**{"evaluation.tasks": (f"rare={path}",), "evaluation.coverage": (100,)}))
    rows = TaskRows(frozen, tokenizer.Bytes())
    nats = np.full((1, 8, 32), 30 * math.log(10) / 2)
    found = rows.columns(nats)
    assert found["task_rare_accuracy"] == 0.5, "equal choices share"
    assert found["task_rare_coverage_100"] == pytest.approx((100 * 1e-30 + 100 * 1e-15) / 2, rel=1e-6)
    assert rows.columns(np.zeros((1, 8, 32)))["task_rare_coverage_100"] == 1


@pytest.mark.parametrize(
    ("family", "how"),
    [
        ("dense", {"execution.mesh.sequence": 2}),
        ("min_gru", {"execution.mesh.data": 2, "execution.microbatches": 2}),
    ],
)
def test_a_run_is_scored_along_the_way_as_the_model_says(family, how, tiny, tmp_path):
    """Against the model's own logits on each answer alone, unpacked and without filling; on the way and at the end."""
    path = write(tmp_path / "capitals.jsonl", CAPITALS)
    options = {"evaluation.tasks": (path,), "execution.eval_every_tokens": 256 * 3, **how}
    config = tiny(family, tokens=256 * 6, **options)
    made = run(config, tmp_path / "run")
    logged = [row for row in segments.read(tmp_path / "run") if "eval_loss" in row]
    names = [name for name in made["columns"] if name.startswith("task_")]
    assert len(names) == 10 and [row["step"] for row in logged] == [3, 6]
    assert {f"eval_{name}" for name in names} <= logged[0].keys()
    assert [logged[1][f"eval_{name}"] for name in names] == [made["columns"][name] for name in names]
    assert logged[0]["eval_task_capitals_loss"] != logged[1]["eval_task_capitals_loss"]

    frozen, _ = freeze.freeze(config)
    params = {name: jnp.asarray(value) for name, value in weights.load(tmp_path / "run").params.items()}
    nats = []
    for item in CAPITALS:
        answer = list(item["answer"].encode())
        ids = [256, *item["prompt"].encode(), *answer][-33:]
        output = functional.apply(frozen.family, frozen.model, params, jnp.array([ids[:-1]]))
        log_p = jax.nn.log_softmax(output.logits_BLV[0])
        nats.append(-sum(float(log_p[-len(answer) + i, token]) for i, token in enumerate(answer)))
    assert made["columns"]["task_capitals_loss"] == pytest.approx(np.mean(nats), rel=1e-4)
    assert made["columns"]["task_capitals_pass_rate"] == pytest.approx(np.exp(-np.array(nats)).mean(), rel=1e-3)


def test_the_content_is_the_identity_and_not_the_path(tiny, tmp_path):
    """Another folder, the same run; another line, another run. A run without tasks has the name that it had."""
    first = write(tmp_path / "capitals.jsonl", CAPITALS)
    (tmp_path / "elsewhere").mkdir()
    same = write(tmp_path / "elsewhere" / "moved.jsonl", CAPITALS)
    other = write(tmp_path / "other.jsonl", CAPITALS[:2])

    def name(*given: str) -> str:
        frozen, _ = freeze.freeze(tiny(**{"evaluation.tasks": given}))
        again, _ = freeze.freeze(identity.to_dict(frozen))
        assert again == frozen, "as a worker reads it from the population's file"
        return identity.fingerprint(frozen, ("m",))

    assert name(first) == name(f"capitals={same}") == name(f"capitals={first}")
    assert len({name(), name(first), name(f"towns={first}"), name(f"capitals={other}")}) == 4
    assert name(first, f"b={other}") == name(f"b={other}", first)

    frozen, _ = freeze.freeze(tiny(**{"evaluation.tasks": (first,)}))
    write(tmp_path / "capitals.jsonl", CAPITALS[1:])
    with pytest.raises(InputError, match=r"capitals.jsonl: its content has changed since the run was planned"):
        TaskRows(frozen, tokenizer.Bytes())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "line 1: expected an object"),
        ('{"answer": "a"}', "line 1: prompt=None; expected a text"),
        ('{"prompt": "a", "answer": ""}', "line 1: answer=''; expected a text that is not empty"),
        ('{"prompt": "a", "answer": "b", "choices": ["c", "d"]}', "expected the answer 'b' among others"),
        ('{"prompt": "a", "answer": "b", "choices": ["b"]}', "expected the answer 'b' among others"),
        ('{"prompt": "a", "answer": "b", "choices": ["b", "c", "c"]}', "each once and none empty"),
        ("", "no line"),
    ],
)
def test_a_file_that_is_none_of_tasks_is_refused(line, said, tiny, tmp_path):
    (tmp_path / "t.jsonl").write_text(line)
    with pytest.raises(InputError, match=said):
        freeze.freeze(tiny(**{"evaluation.tasks": (str(tmp_path / "t.jsonl"),)}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("facts.csv",), r"evaluation.tasks='facts.csv': expected FILE.jsonl"),
        (("embedded:1@capitals",), r"embedded:1@capitals: no such questions; expected one of none: its texts have no"),
        (("a-b.jsonl",), r"'a-b' cannot be part of a column's name"),
        (("a.jsonl", "x/a.jsonl"), r"another task is named 'a'"),
        (("nowhere/a.jsonl",), r"nowhere/a.jsonl: cannot be read"),
    ],
)
def test_an_option_that_names_no_task_is_refused(given, said, tiny):
    with pytest.raises(InputError, match=said):
        freeze.freeze(tiny(**{"evaluation.tasks": given}))


def test_questions_are_made_by_the_source_of_a_corpus(tiny):
    """By sort and count, the same ones each time; a sort that there is not is named with those that there are."""
    given = ("synthetic:recall,pairs=4,queries=4@values:3", "likely=synthetic:facts,people=20@mentor_said")
    frozen, _ = freeze.freeze(tiny(**{"evaluation.tasks": given}))
    values, likely = tasks.entries(frozen.evaluation.tasks)
    made = synthetic.questions("synthetic:recall,pairs=4,queries=4", 3)["values"]
    assert [(item.prompt, item.answer) for item in values.read()] == made
    assert (values.name, likely.name) == ("values", "likely") and len(likely.read()) > 5
    again, _ = freeze.freeze(tiny(**{"evaluation.tasks": given[::-1]}))
    assert identity.fingerprint(again, ("m",)) == identity.fingerprint(frozen, ("m",))
    with pytest.raises(InputError, match="synthetic:recall@keys: no such questions; expected one of values"):
        freeze.freeze(tiny(**{"evaluation.tasks": ("synthetic:recall@keys",)}))


def test_questions_of_a_source_have_choices():
    """Its own answer and those of others, each once; more than there are is refused."""
    corpus = "synthetic:arithmetic,digits=1"
    plain = tasks.Entry.parse(f"{corpus}@answers:50").read()
    chosen = tasks.Entry.parse(f"{corpus}@answers:50:4").read()
    assert [item.answer for item in chosen] == [item.answer for item in plain]
    for item in chosen:
        assert item.choices[0] == item.answer and len(set(item.choices)) == 4
    assert len({item.choices[1:] for item in chosen}) > 10
    with pytest.raises(InputError, match="200 choices; expected at most 1[0-9], the different answers"):
        tasks.Entry.parse(f"{corpus}@answers:200:200").read()


def test_an_answer_that_the_tokenizer_loses_is_refused(tiny, tmp_path):
    """It would score the prompt instead."""

    class Stripping(tokenizer.Bytes):
        def encode(self, texts):
            return super().encode([text.rstrip() for text in texts])

    path = write(tmp_path / "blank.jsonl", [{"prompt": "ab", "answer": "  "}])
    frozen, _ = freeze.freeze(tiny(**{"evaluation.tasks": (path,)}))
    with pytest.raises(InputError, match="task 'blank': no token of the tokenizer holds a byte of the answer"):
        TaskRows(frozen, Stripping())


def test_a_model_in_which_tokens_see_later_ones_scores_no_answers(tiny):
    options = {"family": "moe", "model.mode": "expert_choice", "evaluation.tasks": ("synthetic:recall@values:10",)}
    with pytest.raises(InputError, match=r"evaluation\.tasks=.*expected a causal model, or none"):
        freeze.freeze(tiny(**options))


def test_an_answer_longer_than_a_row_is_refused(tiny, tmp_path):
    """32 tokens of an answer fit behind one token of the prompt; 33 do not."""
    for count in (32, 33):
        path = write(tmp_path / f"long{count}.jsonl", [{"prompt": "ab", "answer": "x" * count}])
        frozen, _ = freeze.freeze(tiny(**{"evaluation.tasks": (path,)}))
        if count == 32:
            rows = TaskRows(frozen, tokenizer.Bytes())
            assert rows.columns(np.ones((1, 8, 32)))["task_long32_loss"] == 32
            continue
        with pytest.raises(
            InputError, match=r"task 'long33': the answer in .* has 33 tokens; expected at most seq_len=32"
        ):
            TaskRows(frozen, tokenizer.Bytes())


def test_columns_of_tasks_are_results():
    assert record.is_result("task_facts_coverage_10_sem") and not record.is_result("tasks")
    assert tasks.Entry.parse("facts=a/b.jsonl#0123456789abcdef").identity == "facts#0123456789abcdef"
