"""evaluation/bfcl_questions.py: files of our own, faults in them, the published files."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from bfcl_cases import array, call, function, published

from cli import UserError
from evaluation.bfcl_check import check
from evaluation.bfcl_questions import Question, read_questions, tool_of

# ---- reading ----

ROW = {
    "id": "simple_python_0",
    "question": [[{"role": "user", "content": "Add."}]],
    "function": [function("add", required=("a",), a="integer", b={"type": "float", "optional": True})],
}
ANSWER = {"id": "simple_python_0", "ground_truth": [{"add": {"a": [1], "b": [2.0, ""]}}]}
EXEC_ROW = ROW | {"id": "exec_simple_0"}
EXEC_ANSWER = {
    "id": "exec_simple_0",
    "ground_truth": ["math_gcd(a=1, b=1/6)"],
    "execution_result_type": ["exact_match", "exact_match"],  # one too many, as in the published file
}


def write(path: Path, *rows: dict | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    write(tmp_path / "BFCL_v4_simple_python.json", ROW)
    write(tmp_path / "possible_answer/BFCL_v4_simple_python.json", ANSWER)
    write(tmp_path / "BFCL_v4_irrelevance.json", ROW | {"id": "irrelevance_0"})
    write(tmp_path / "unused_datasets/question/BFCL_v4_exec_simple.json", EXEC_ROW)
    write(tmp_path / "unused_datasets/possible_answer/BFCL_v4_exec_simple.json", EXEC_ANSWER)
    return tmp_path


def test_read_a_question(folder):
    (read,) = read_questions(folder, "simple_python")
    properties = {"a": {"type": "integer"}, "b": {"type": "number"}}
    parameters = {"type": "object", "properties": properties, "required": ["a"]}
    assert read.tools == [{"name": "add", "description": "", "parameters": parameters}]
    assert read.functions == ROW["function"] and read.answer == ANSWER["ground_truth"]
    assert check(read, [call("add", a=1, b=2)]) == (True, "")
    (read,) = read_questions(folder, "exec_simple")
    assert read.answer == [{"call": "math_gcd(a=1, b=1/6)", "match": "exact_match"}]
    assert read_questions(str(folder), "irrelevance")[0].answer is None


def test_older_versions(tmp_path):
    """Version 3: other names, two lines of one id, and executable answers in the file of the questions."""
    write(tmp_path / "BFCL_v3_simple.json", ROW, ROW | {"id": "simple_1"})
    write(tmp_path / "possible_answer/BFCL_v3_simple.json", ANSWER, ANSWER | {"id": "other spelling"})
    write(tmp_path / "BFCL_v3_live_relevance.json", ROW, ROW)
    write(tmp_path / "BFCL_v3_exec_simple.json", EXEC_ROW | EXEC_ANSWER)
    assert [q.answer for q in read_questions(tmp_path, "simple_python")] == [ANSWER["ground_truth"]] * 2
    assert len(read_questions(tmp_path, "live_relevance")) == 2
    assert read_questions(tmp_path, "exec_simple")[0].answer[0]["match"] == "exact_match"


def test_the_installed_package_is_found_without_importing_it(folder, tmp_path_factory, monkeypatch):
    site = tmp_path_factory.mktemp("site")
    write(site / "bfcl_eval/__init__.py", "raise RuntimeError('imported')")
    (site / "bfcl_eval/data").symlink_to(folder)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "bfcl_eval", raising=False)
    assert read_questions("bfcl-eval", "simple_python")[0].id == "simple_python_0"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        read_questions("bfcl-eval", "simple_python")


TWICE = ROW["function"][0] | {"description": "second"}


def test_a_name_offered_twice_counts_once(folder):
    write(folder / "BFCL_v4_irrelevance.json", ROW | {"function": [ROW["function"][0], TWICE]})
    (read,) = read_questions(folder, "irrelevance")
    assert read.functions == ROW["function"] and len(read.tools) == 1


COUNTS = {
    "simple_python": 134,
    "simple_java": 34,
    "simple_javascript": 17,
    "multiple": 67,
    "parallel": 67,
    "parallel_multiple": 67,
    "live_simple": 86,
    "live_multiple": 351,
    "live_parallel": 6,
    "live_parallel_multiple": 8,
    "live_relevance": 6,
    "irrelevance": 80,
    "live_irrelevance": 295,
    "exec_simple": 34,
    "exec_multiple": 17,
    "exec_parallel": 17,
    "exec_parallel_multiple": 14,
    "rest": 24,
}


def test_every_published_file_is_read():
    assert {category: len(read) for category, read in published().items()} == COUNTS
    offered = Counter(len(asked.tools) for asked in published()["live_irrelevance"])
    assert min(offered) == 0 and max(offered) == 37


# ---- faults ----

FAULTS = [
    (["{"], None, "simple_python.json:1: .*not|Expecting"),
    ([[]], None, r"simple_python.json:1: got \[\]; wanted one JSON object"),
    ([ROW, {}], None, "simple_python.json:2: line.id: missing"),
    ([ROW | {"question": "Add."}], None, "json:1: line.question: got"),
    (
        [ROW | {"question": [[{"role": "tool", "content": ""}]]}],
        None,
        r"json:1: line.question\[0\]\[0\].role",
    ),
    ([ROW | {"question": [[], []]}], None, "json:1: question: got 2 turns"),
    ([ROW | {"function": [{"name": "f"}]}], None, r"json:1: line.function\[0\].parameters: missing"),
    ([ROW | {"function": [function(" f")]}], None, "json:1: function"),
    ([ROW | {"id": "\ud83d"}], None, "json:1: id: got half a character"),
    ([ROW, "[" * 9999], None, "simple_python.json:2: not JSON"),
    ([ROW], [ANSWER, ANSWER], "got 2 answers, wanted one per line"),
    ([ROW], ["["], "possible_answer.*json:1:"),
    ([ROW, ROW | {"id": "b"}], [ANSWER | {"id": "b"}, ANSWER], "possible_answer.*json:1: id: got 'b'"),
    ([], None, "is empty"),
]


@pytest.mark.parametrize("rows, answers, fault", FAULTS)
def test_faults_name_file_and_line(folder, rows, answers, fault):
    write(folder / "BFCL_v4_simple_python.json", *rows)
    if answers:
        write(folder / "possible_answer/BFCL_v4_simple_python.json", *answers)
    with pytest.raises(UserError, match=fault) as error:
        read_questions(folder, "simple_python")
    assert "\n" not in str(error.value)


def not_run(question: Question, *calls: dict) -> str:
    """Why a question is not run, whatever the calls."""
    assert check(question, [*calls]) == check(question, None) and check(question, None)[0] is None
    return check(question, None)[1]


OPTIONS = {"type": "dict", "properties": {"unit": {"type": "string"}}}
AST_FAULTS = [
    [{"add": {"a": 1}}],
    [{"add": [1]}],
    [{}],
    [{"add": {}, "sum": {}}],
    [],
    "add(a=1)",
    None,
    *([{"add": {"a": [1], "o": [{"unit": value}]}}] for value in (1, None, True, {"kg": 1})),
    [{"add": {"a": [1], "l": [[{"unit": 1}]]}}],
    [{"add": {"a": [float("nan")]}}],
    [{"add": {"a": ["\ud83d"]}}],
]


@pytest.mark.parametrize("truth", AST_FAULTS)
def test_a_malformed_reference_concerns_its_question_alone(folder, truth):
    offered = function("add", a="integer", o=OPTIONS, l=array("dict"))
    rows = [ROW | {"id": name, "function": [offered]} for name in ("a", "b", "c")]
    good = {"add": {"a": [1], "o": [{"unit": ["kg", ""]}, ""], "l": [""]}}
    answers = [{"id": name, "ground_truth": [good]} for name in ("a", "b", "c")]
    answers[1]["ground_truth"] = truth
    write(folder / "BFCL_v4_simple_python.json", *rows)
    write(folder / "possible_answer/BFCL_v4_simple_python.json", *answers)
    first, second, third = read_questions(folder, "simple_python")
    asked = call("add", a=1, o={"unit": "kg"})
    assert check(first, [asked]) == check(third, [asked]) == (True, "")
    assert not_run(second, asked).startswith("not run: b: malformed reference (")


def test_a_bare_text_is_its_letters_as_for_the_published_grader(folder):
    write(folder / "BFCL_v4_simple_python.json", ROW | {"function": [function("add", o=OPTIONS)]})
    answer = ANSWER | {"ground_truth": [{"add": {"o": [{"unit": "kg"}]}}]}
    write(folder / "possible_answer/BFCL_v4_simple_python.json", answer)
    (question,) = read_questions(folder, "simple_python")
    assert [check(question, [call("add", o={"unit": unit})])[0] for unit in ("kg", "k")] == [False, True]


EXEC_FAULTS = [
    {"ground_truth": ["open('x')()"]},
    {"ground_truth": ["f(a=b)"]},
    {"ground_truth": "f()"},
    {"ground_truth": [3]},
    {"ground_truth": []},
    {"execution_result_type": []},
    {"execution_result_type": None},
    {"execution_result_type": ["close_match"]},
]


@pytest.mark.parametrize("change", EXEC_FAULTS)
def test_faults_in_executable_answers(folder, change):
    write(folder / "unused_datasets/possible_answer/BFCL_v4_exec_simple.json", EXEC_ANSWER | change)
    (question,) = read_questions(folder, "exec_simple")
    assert "exec_simple_0: malformed reference" in not_run(question)


def test_what_is_not_there(folder):
    with pytest.raises(UserError, match="holds no BFCL_v4_multiple.json"):
        read_questions(folder, "multiple")
    with pytest.raises(UserError, match="unknown, wanted one of"):
        read_questions(folder, "multi_turn")
    (folder / "possible_answer/BFCL_v4_simple_python.json").unlink()
    with pytest.raises(UserError, match="possible_answer.*cannot be read"):
        read_questions(folder, "simple_python")


# ---- questions for the agent ----


def test_types_in_the_words_of_json_schema():
    inner = {"x": {"type": "tuple", "items": {"type": "any"}}, "y": {"type": "dict", "properties": {}}}
    published = function(
        "f", p={"type": "dict", "properties": inner, "description": "P"}, type="string", q="any"
    )
    parameters = tool_of(published, "python")["parameters"]
    objects = {"x": {"type": "array", "items": {}}, "y": {"type": "object", "properties": {}}}
    p = {"type": "object", "properties": objects, "description": "P"}
    assert parameters["properties"] == {"p": p, "type": {"type": "string"}, "q": {}}


def test_java_types_become_text_and_are_told():
    published = function("f", all=array("integer", "ArrayList") | {"description": "Ids."}, name="String")
    properties = tool_of(published, "java")["parameters"]["properties"]
    told = "Ids. (Java source text of type ArrayList of integer)"
    assert properties["all"] == {"type": "string", "description": told}
    assert properties["name"]["description"] == "(Java source text of type String, without quotes)"


def test_javascript_types_become_text_and_are_told():
    options = {"type": "dict", "properties": {"url": {"type": "String"}, "n": {"type": "integer"}}}
    properties = tool_of(function("f", o=options), "javascript")["parameters"]["properties"]
    told = "(JavaScript source text of type dict with url: String, n: integer)"
    assert properties["o"]["description"] == told
