"""evaluation/bfcl_check.py: each rule of the leaderboard by a tiny case of our own; the published data.

The published checker is the other half of a twin: its stored verdicts in the vectors, and itself where the
package bfcl-eval is installed (its data and its checker; its model clients are not needed).
"""

import importlib.util
import inspect
import json
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace

import pytest
from bfcl_cases import PUBLISHED, array, call, function, published, question

from evaluation.bfcl_check import agrees, check, not_run
from evaluation.bfcl_functions import FUNCTIONS, WEB
from evaluation.bfcl_questions import EXEC, LIVE, NON_LIVE, RELEVANCE, Question, language_of
from evaluation.bfcl_source import parse_call

# ---- the AST check: values ----

VALUES = [
    # types are identical, not subclasses
    ("integer", [5], 5, True),
    ("integer", [5], 5.0, False),
    ("integer", [1], True, False),
    ("boolean", [True], 1, False),
    ("boolean", [True], True, True),
    ("boolean", [True], False, False),
    ("integer", [5, 6], 6, True),
    ("string", ["5"], 5, False),
    # an int for a float, at the top level alone
    ("float", [5.0], 5, True),
    ("float", [5], 5.0, True),
    ("float", [1.0], True, False),
    ("float", [1.5], 10**400, False),
    (array("float"), [[1.0, 2.0]], [1, 2], False),
    (array("float"), [[1.0, 2.0]], [1.0, 2.0], True),
    (array("integer"), [[1, 2]], [1.0, 2.0], False),
    # text is made plain
    ("string", ["New York, NY"], "new york ny", True),
    ("string", ["it's"], 'IT"S', True),
    ("string", ["15"], "1.5", True),
    ("string", ["a b"], "a/b_c", False),
    ("string", ["April 1, 2024"], "April-1 2024", True),
    ("string", ["a", ""], "", True),
    ("string", ["a", ""], " .,", True),
    ("string", ["a"], "", False),
    ("string", [""], " .,", True),
    # lists: length, order, plain text; "" is an empty list
    (array("string"), [["a b", "c"]], ["AB", "c."], True),
    (array("string"), [["a", "c"]], ["c", "a"], False),
    (array("string"), [["a"], ["a", "b"]], ["a", "b"], True),
    (array("string"), [["a"], ""], [], True),
    (array("string"), [["a"]], [], False),
    (array("integer", "tuple"), [[1, 2]], (1, 2), True),
    (array("integer", "tuple"), [[1, 2]], [1, 2], True),
    (array("integer"), [[1, 2]], (1, 2), False),
    # one level deep: lists in lists are not checked, so 1 and 1.0 mix; elements may have the answer's type
    (array("array"), [[[1, 2], [3, 4]]], [[1.0, 2], [3, 4.0]], True),
    (array("array"), [[[1, 2]]], [[2, 1]], False),
    (array("string"), [[1, 2]], [1, 2], True),
    (array("float"), [[1.0], ""], [1], True),  # an option that is no list asks nothing of the elements
    # a variable: the answer is of another type than declared
    ("any", [5], 5, True),
    ("any", [5], "5", False),
    ("any", ["five"], "FIVE", True),
    ("integer", ["n"], "n", True),
    ("integer", ["n"], "N", False),
    ("integer", ["n"], 5, False),
    ("dict", ["config"], "config", True),
    (array("integer"), ["numbers"], "numbers", True),
    (array("integer"), ["numbers"], "Numbers", False),
    # None
    ("string", [None, "a"], None, True),
    ("string", ["", None], None, True),
    ("string", ["a", None], None, False),
    ("integer", [5], None, False),
    # dicts
    ("dict", [{"a": ["X y"], "b": [1, ""]}], {"a": "xy"}, True),
    ("dict", [{"a": ["X y"], "b": [1, ""]}], {"a": "xy", "b": 1.0}, True),
    ("dict", [{"a": ["X y"], "b": [1, ""]}], {"b": 1}, False),
    ("dict", [{"a": ["X"]}], {"a": "X", "c": 1}, False),
    ("dict", [{"a": ["X"]}, {"a": ["Y"], "c": [1]}], {"a": "Y", "c": 1}, True),
    ("dict", [{"a": [{"b": "C"}]}], {"a": {"b": "c"}}, False),
    ("dict", ["", {}], {}, True),
    ("dict", [""], {}, False),
    # lists of dicts
    (array("dict"), [[{"a": [1]}, {"a": [2]}]], [{"a": 1}, {"a": 2}], True),
    (array("dict"), [[{"a": [1]}, {"a": [2]}]], [{"a": 2}, {"a": 1}], False),
    (array("dict"), [[{"a": [1]}, {"a": [2]}]], [{"a": 1}], False),
    (array("dict"), [[{"a": [1]}], ""], [], True),
    (array("dict"), [[{"a": [1]}], ""], [3], False),
    # what the published data does not have must not stop a run either
    ("number", [5], 5, True),
    ({"type": "array"}, [[1]], [1], True),
    ("float", [], 5, False),
]


@pytest.mark.parametrize("schema, options, value, valid", VALUES)
def test_a_value(schema, options, value, valid):
    asked = question("simple_python", [function("f", p=schema)], [{"f": {"p": options}}])
    found, reason = check(asked, [call("f", p=value)])
    assert found is valid and (reason == "") is valid, reason


@pytest.mark.parametrize(
    "language, kind, every",
    [("java", "ArrayList", "new ArrayList<>(Arrays.asList(1))"), ("javascript", "array", "[1]")],
)
def test_java_and_javascript_values_arrive_as_text(language, kind, every):
    offered = function("a.f", n="integer", who="any", all=array("integer", kind))
    asked = question(f"simple_{language}", [offered], [{"a.f": {"n": [5], "who": ["me"], "all": [[1]]}}])
    assert check(asked, [call("a.f", n="5", who="me", all=every)])[0]
    assert not check(asked, [call("a.f", n=5, who="me", all=every)])[0]
    assert not check(asked, [call("a.f", n="five", who="me", all=every)])[0]
    assert not check(asked, [call("a.f", n="5", who="me", all=[1])])[0]


# ---- the AST check: calls. Written in the form of the published vectors, with functions of our own ----

AREA = function("geo.area", required=("a",), a="integer", b="integer", unit="string")
NAME = function("name", required=("of",), of="string")
ONE = [{"geo.area": {"a": [1, 2], "unit": ["m", ""]}}]
TWO = [{"geo.area": {"a": [1, 2], "unit": ["m", ""]}}, {"geo.area": {"a": [1], "unit": ["m", ""]}}]
VECTORS = """
{"category": "simple_python", "prediction": [{"geo.area": {"a": 1}}], "valid": true}
{"category": "simple_python", "prediction": [{"geo.area": {"a": 1, "unit": "M"}}], "valid": true}
{"category": "simple_python", "prediction": [{"geo_area": {"a": 1}}], "valid": false}
{"category": "simple_python", "prediction": [{"Geo.area": {"a": 1}}], "valid": false}
{"category": "simple_python", "prediction": [{"geo.area": {"unit": "m"}}], "valid": false}
{"category": "simple_python", "prediction": [{"geo.area": {"a": 1, "b": 0}}], "valid": false}
{"category": "simple_python", "prediction": [{"geo.area": {"a": 1, "c": 0}}], "valid": false}
{"category": "simple_python", "prediction": [{"geo.area": {"a": 3}}], "valid": false}
{"category": "simple_python", "prediction": [], "valid": false}
{"category": "simple_python", "prediction": [{"geo.area": {"a": 1}}, {"geo.area": {"a": 1}}], "valid": false}
{"category": "live_simple", "prediction": [{"geo.area": {"a": 1}}], "valid": true}
{"category": "multiple", "prediction": [{"geo.area": {"a": 2}}], "valid": true}
{"category": "live_multiple", "prediction": [{"name": {"of": "x"}}], "valid": false}
{"category": "multiple", "prediction": [{"geo.area": {"a": 2}}, {"name": {"of": "x"}}], "valid": false}
{"category": "parallel", "prediction": [{"geo.area": {"a": 2}}, {"geo.area": {"a": 1}}], "valid": true}
{"category": "parallel", "prediction": [{"geo.area": {"a": 1}}, {"geo.area": {"a": 1}}], "valid": true}
{"category": "parallel", "prediction": [{"geo.area": {"a": 1}}, {"geo.area": {"a": 2}}], "valid": false}
{"category": "parallel", "prediction": [{"geo.area": {"a": 1}}], "valid": false}
{"category": "live_parallel", "prediction": [{"geo.area": {"a": 2}}, {"geo.area": {"a": 2}}], "valid": false}
{"category": "live_relevance", "prediction": [{"anything": {}}], "valid": true}
{"category": "live_relevance", "prediction": [], "valid": false}
{"category": "live_relevance", "prediction": null, "valid": false}
{"category": "irrelevance", "prediction": [], "valid": true}
{"category": "live_irrelevance", "prediction": null, "valid": true}
{"category": "irrelevance", "prediction": [{"name": {"of": "x"}}], "valid": false}
{"category": "simple_python", "prediction": null, "valid": false}
""".strip().splitlines()


def predicted(vector: dict) -> list[dict] | None:
    """The calls of a vector; None where no call could be read."""
    if vector["prediction"] is None:
        return None
    return [call(name, **arguments) for one in vector["prediction"] for name, arguments in one.items()]


@pytest.mark.parametrize("line", VECTORS)
def test_a_vector_of_our_own(line):
    vector = json.loads(line)
    category = vector["category"]
    functions = [NAME, AREA] if "multiple" in category else [AREA]
    answer = TWO if "parallel" in category else ONE
    if category in RELEVANCE:
        answer = None
    valid, reason = check(question(category, functions, answer), predicted(vector))
    assert valid is vector["valid"] and (reason == "") is valid, reason


def test_parallel_multiple_takes_each_function_with_its_own_schema():
    answer = [{"geo.area": {"a": [1]}}, {"name": {"of": ["x"]}}]
    asked = question("parallel_multiple", [NAME, AREA], answer)
    assert check(asked, [call("name", of="X"), call("geo.area", a=1)]) == (True, "")
    assert not check(asked, [call("name", of="x"), call("name", of="x")])[0]
    assert "not on offer" in check(question("multiple", [NAME], ONE), [call("geo.area", a=1)])[1]


def test_a_required_parameter_must_be_there():
    """Even where the answer says that it may be left out."""
    asked = question("simple_python", [AREA], [{"geo.area": {"a": [1, ""]}}])
    assert check(asked, [call("geo.area", a=1)]) == (True, "")
    assert check(asked, [call("geo.area")]) == (False, "a: missing")


def test_a_parameter_left_out_must_be_optional():
    """Where the answers do not hold "", though the schema does not require it."""
    asked = question("simple_python", [AREA], [{"geo.area": {"a": [1], "unit": ["m"], "b": [2, ""]}}])
    assert check(asked, [call("geo.area", a=1, unit="m")]) == (True, "")
    assert check(asked, [call("geo.area", a=1, b=2)]) == (False, "unit: left out, but not optional")


# ---- the executable check ----


def executable(category: str, *answer: str, how: str = "exact_match") -> Question:
    return question(category, [], [{"call": text, "match": how} for text in answer])


def test_executable_check():
    asked = executable("exec_simple", "math_gcd(a=450, b=300)")
    assert check(asked, [call("math_gcd", a=300, b=450)]) == (True, "")  # another call, the same result
    assert check(asked, [call("calculate_final_velocity", initial_velocity=150, acceleration=0, time=0)])[0]
    assert not check(asked, [call("math_gcd", a=450, b=301)])[0]
    assert not check(asked, [call("math_gcd", a=450, b=300)] * 2)[0]
    assert not check(asked, [])[0] and not check(asked, None)[0]
    assert "TypeError" in check(asked, [call("math_gcd", a=450)])[1]
    assert "not here" in check(asked, [call("get_weather_data", coordinates=[1, 2])])[1]
    assert check(executable("exec_simple", "calc_binomial_probability(n=20, k=5, p=1/6)"),
                 [call("calc_binomial_probability", n=20, k=5, p=0.16666666666666666)])[0]  # fmt: skip


def test_executable_check_in_any_order():
    asked = executable("exec_parallel_multiple", "math_gcd(a=4, b=6)", "calculate_mean([1, 2])")
    both = [call("calculate_mean", numbers=[2, 1]), call("math_gcd", a=4, b=6)]
    assert check(asked, both) == (True, "")
    assert not check(asked, both[:1])[0] and not check(asked, [both[0]] * 2)[0]


def test_questions_that_are_not_run():
    for name in sorted(WEB - {"requests.get"}):
        asked = executable("exec_parallel", "math_gcd(a=4, b=6)", f"{name}(x='Paris')")
        assert check(asked, []) == (None, f"not run: {name} asks a web service")
    assert check(question("rest", [], None), None) == (None, "not run: requests.get asks a web service")
    reason = "not run: new_one is not among the functions here"
    assert check(executable("exec_simple", "new_one(a=1)"), []) == (None, reason)
    assert check(executable("exec_simple", "calculate_density(mass=1, volume=0)"), [call("f")])[0] is None


AGREE = [
    (1, 1.0, "exact_match", True),
    ([1], [1, 2], "exact_match", False),
    (104.9, 100, "real_time_match", True),
    (95, 100, "real_time_match", True),
    (106, 100, "real_time_match", False),
    (-104, -100, "real_time_match", True),
    ("100", 100, "real_time_match", False),
    (True, 1, "real_time_match", False),
    ({"a": 1}, {"a": 2}, "structural_match", True),
    ({"a": 1}, {"b": 1}, "structural_match", False),
    ([1, 2], [3, 4], "structural_match", True),
    ([1, 2], [3], "structural_match", False),
    (1, 1.0, "structural_match", False),
    (1.5, 7.0, "structural_match", True),
]


@pytest.mark.parametrize("result, expected, how, valid", AGREE)
def test_how_results_agree(result, expected, how, valid):
    assert agrees(result, expected, how) is valid


# ---- the published data and checker ----

WEB_COUNTS = {
    "exec_simple": 13,
    "exec_multiple": 6,
    "exec_parallel": 6,
    "exec_parallel_multiple": 10,
    "rest": 24,
}


def test_published_questions_that_need_a_web_service():
    counts = Counter()
    for category, read in published().items():
        for asked in read:
            if not_run(asked):
                counts[category] += 1
    assert counts == WEB_COUNTS


def vectors() -> list[tuple[dict, Question]]:
    """The published vectors, each with its question."""
    questions = {asked.id: asked for category in (*NON_LIVE, *LIVE) for asked in published()[category]}
    lines = (PUBLISHED / "ast_check_vectors.jsonl").read_text("utf-8").splitlines()
    return [(vector, questions[vector["id"]]) for vector in map(json.loads, lines)]


def test_the_verdicts_of_the_published_checker():
    assert len(vectors()) == 496
    for vector, asked in vectors():
        assert check(asked, predicted(vector))[0] is vector["valid"], vector


def test_published_references_pass_their_own_check():
    for asked in (asked for category in EXEC for asked in published()[category]):
        if not_run(asked):
            continue
        calls = []
        for answer in asked.answer:
            name, positional, keywords = parse_call(answer["call"])
            bound = inspect.signature(FUNCTIONS[name]).bind(*positional, **keywords)
            calls.append(call(name, **bound.arguments))
        assert check(asked, calls[::-1]) == (True, ""), asked.id
        assert check(asked, calls + calls[:1])[0] is False


@pytest.fixture
def official(monkeypatch):
    """The checker of the installed package. Its list of models, which imports every client, is left out."""
    if not importlib.util.find_spec("bfcl_eval"):
        pytest.skip("bfcl-eval is not installed")
    models = ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = {"any": SimpleNamespace(underscore_to_dot=False)}
    monkeypatch.setitem(sys.modules, models.__name__, models)
    checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker").ast_checker
    languages = importlib.import_module("bfcl_eval.constants.enums").Language

    def verdict(asked: Question, calls: list[dict]) -> bool:
        output = [{c["name"]: c["arguments"]} for c in calls]
        language = languages(language_of(asked.category))
        return checker(asked.functions, output, asked.answer, language, asked.category, "any")["valid"]

    return verdict


def test_our_check_is_the_official_one(official):
    for vector, asked in vectors():
        calls = predicted(vector)
        assert official(asked, calls) is check(asked, calls)[0], vector


def test_the_official_check_on_our_values(official):
    for schema, options, value, valid in VALUES[:-5]:  # on the last ones it raises
        if value != 10**400:
            asked = question("simple_python", [function("f", p=schema)], [{"f": {"p": options}}])
            assert official(asked, [call("f", p=value)]) is valid, (schema, options, value)
