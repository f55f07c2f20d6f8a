"""What studies share: the words of their argument, and sizes that every family has."""

import itertools

import pytest

from sweeps.study import common

KNOWN = {"scale": ("full", "smoke"), "family": "dense", "part": ("a", "b")}


def test_what_is_not_said_has_its_default():
    assert vars(common.arguments("", **KNOWN)) == {"scale": "full", "family": "dense", "part": "a"}


@pytest.mark.parametrize("words", itertools.permutations(("b", "smoke", "moe")))
def test_arguments_are_found_by_choice_in_any_order(words: tuple[str, ...]):
    found = common.arguments(",".join(words), **KNOWN)
    assert vars(found) == {"scale": "smoke", "family": "moe", "part": "b"}


def test_arguments_are_found_by_name():
    found = common.arguments("family=smoke,part=b", **KNOWN)
    assert vars(found) == {"scale": "full", "family": "smoke", "part": "b"}


@pytest.mark.parametrize(
    ("text", "named"), [("a,b,c", "'c'"), ("size=3", "size=3"), ("scale=huge", "'huge' is not a scale")]
)
def test_a_word_that_is_none_is_refused(text: str, named: str):
    with pytest.raises(ValueError, match=named):
        common.arguments(text, **KNOWN)


def test_a_family_has_the_sizes_that_it_knows():
    (dense,) = common.small_model("dense", 16)
    (mixture,) = common.small_model("moe", 16)
    assert "model.experts" not in dense.values
    assert mixture.values["model.experts"] == 4


def test_a_span_doubles_the_tokens_of_each_size():
    points = common.span("min_gru", {8: (1_000, 4_000), 16: (2_000, 2_000)})
    spanned = [(point.values["model.width"], point.values["tokens"]) for point in points]
    assert spanned == [(8, 1_000), (8, 2_000), (8, 4_000), (16, 2_000)]
    (dense, _) = common.span("dense", {8: (1_000, 2_000)})
    assert dense.values["model.rope_theta"] == common.SHORT_ROPE and "model.rope_theta" not in points[0].values
