"""asking.py: JSON that no text can leave. How models are asked again: see complete, judge, verify."""

import json

from test_complete import INJECTION

from stages.asking import quoted, unfenced


def test_quoted_is_the_same_json():
    for text in (INJECTION, "a < b <3 <b>", "é\U0001f600巴", "\u200d\u200c"):
        assert json.loads(quoted({"x": text})) == {"x": text}
    assert quoted("a < b") == '"a < b"'


def test_a_fence_of_any_language_is_taken_off():
    for language in ("", "json", "py", "Python"):
        assert unfenced(f"```{language}\n[1]\n```") == "[1]"
    assert unfenced("Here:\n```\n[1]\n```").startswith("Here")
