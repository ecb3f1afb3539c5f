"""asking.py: JSON that no text can leave. How models are asked again: see complete, judge, verify."""

import json

import pytest
from test_complete import INJECTION

from stages.asking import Fault, quoted, read_object, unfenced


def test_quoted_is_the_same_json():
    for text in (INJECTION, "a < b <3 <b>", "é\U0001f600巴", "\u200d\u200c"):
        assert json.loads(quoted({"x": text})) == {"x": text}
    assert quoted("a < b") == '"a < b"'


def test_a_fence_of_any_language_is_taken_off():
    for language in ("", "json", "py", "Python"):
        assert unfenced(f"```{language}\n[1]\n```") == "[1]"
    assert unfenced("Here:\n```\n[1]\n```").startswith("Here")


WORDS_ROUND = [
    "{}",
    "<think>Perhaps [1] or\n{2}?</think>{}",
    "<thinking>\n{'x'}\n[3]</thinking>\n\n```json\n{}\n```",
    "As in [1], my answer is: {}",
    "Here it is:\n{}\nIt follows [2], as asked.",
    "```json\n{}\n```\nSee [the rules].",
]


@pytest.mark.parametrize("words", WORDS_ROUND)
def test_words_round_an_object_do_no_harm(words):
    assert read_object(words.replace("{}", '{"a": {"b": [1]}}'), ["a"]) == {"a": {"b": [1]}}


@pytest.mark.parametrize("answer", ['Say {"a": 1} or {"a": 2}', 'I say {"a": 1} [so] {', "[1]", "{a}", ""])
def test_what_is_not_one_object_is_a_fault(answer):
    with pytest.raises(Fault, match="answer is not|it is not|it is a"):
        read_object(answer, ["a"])
