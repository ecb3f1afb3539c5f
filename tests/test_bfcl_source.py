"""evaluation/bfcl_source.py: what is read as calls and values, and what is refused without being run."""

import time

import pytest

from evaluation.bfcl_source import parse_call, parse_lambda, source_value

# ---- Python ----

CALLS = [
    ("f(p=1/6)", ("f", [], {"p": 1 / 6})),
    ("f()", ("f", [], {})),
    ("f(x=(1 + 2) * 3 - 4)", ("f", [], {"x": 5})),
    (
        "a.b.f(2**-1, -3, x=[1, (2.5, 'a')], y={'k': None, 1: True})",
        ("a.b.f", [0.5, -3], {"x": [1, (2.5, "a")], "y": {"k": None, 1: True}}),
    ),
]


@pytest.mark.parametrize("text, wanted", CALLS)
def test_parse_call(text, wanted):
    assert parse_call(text) == wanted


REFUSED = [
    "",
    "f",
    "f(",
    "f(a=b)",
    "f(a=g())",
    "f(*[1])",
    "f(**{'a': 1})",
    "f(a=[x for x in 'ab'])",
    "f(a='b'*9)",
    "f(a=().__class__)",
    "f(a=1 if 1 else 2)",
    "f(a=f'{1}')",
    "f(a=9**9**9)",
    "f(a=1/0)",
    "f(a=lambda: 1)",
    "f(a=-'b')",
    "f()()",
    "[f()]",
    "f(a='\0')",
    "f(a={[]: 1})",
    "f(a={**{}})",
    "f(a=" + "-" * 9999 + "1)",
    "f(a=" + "(" * 999 + ")",
    "f(a=__import__('os').getcwd())",
    "f(a=1)\ng(b=2)",
    "f(a=not 1)",
    "a." * 1900 + "f()",
]


@pytest.mark.parametrize("text", REFUSED)
def test_other_python_is_refused_unrun(text):
    with pytest.raises(ValueError):
        parse_call(text)


@pytest.mark.parametrize(
    "text", ["x**2", "lambda: 1", "lambda x, y: x", "lambda *x: x", "lambda x=1: x", "math.sin"]
)
def test_what_is_no_lambda_of_one_argument(text):
    with pytest.raises(ValueError, match="wanted a lambda"):
        parse_lambda(text)


# ---- Java and JavaScript ----

SOURCES = [
    ("java", "integer", None, "-5", -5),
    ("java", "integer", None, "5.0", "5.0"),
    ("java", "long", None, "5L", 5),
    ("java", "long", None, "5", "5"),
    ("java", "float", None, "1.5f", 1.5),
    ("java", "float", None, "1.5", "1.5"),
    ("java", "double", None, "1e3", 1000.0),
    ("java", "boolean", None, "true", True),
    ("java", "boolean", None, "True", "True"),
    ("java", "char", None, "'a'", "'a'"),
    ("java", "String", None, "5", "5"),
    ("java", "any", None, "true", "true"),
    ("java", "Array", "integer", "new int[]{1, 2}", [1, 2]),
    ("java", "Array", "integer", "new int[] { }", []),
    ("java", "Array", "String", 'new String[]{"a"}', ['"a"']),  # quotes stay: such an answer is out of reach
    ("java", "Array", "long", "new long[]{1L, 2}", [1, "2"]),
    ("java", "ArrayList", "integer", "new ArrayList<>(Arrays.asList(1, 2))", [1, 2]),
    ("java", "ArrayList", "String", 'new ArrayList<String>(Arrays.asList("a", "b"))', ["a", "b"]),
    ("java", "ArrayList", "float", "new ArrayList<>() {{ add(1.5f); add(2f); }}", [1.5, 2.0]),
    (
        "java",
        "ArrayList",
        None,
        'new ArrayList<>(Arrays.asList("a", 1, true, 2L, 3f, x))',
        ["a", 1, True, 2, 3.0, "x"],
    ),
    ("java", "ArrayList", "integer", "new ArrayList<>()", []),
    ("java", "ArrayList", "integer", "list", "list"),
    (
        "java",
        "HashMap",
        None,
        'new HashMap<String, Object>() {{ put("a", 1); put("b", "c"); }}',
        {"a": 1, "b": "c"},
    ),
    ("java", "HashMap", None, "new HashMap<>()", {}),
    ("java", "HashMap", None, "map", "map"),
    ("java", "Queue", None, "new Queue()", "new Queue()"),
    ("javascript", "String", None, "'a'", "a"),
    ("javascript", "String", None, "a", "a"),
    ("javascript", "integer", None, "5", 5),
    ("javascript", "float", None, "5", 5.0),
    ("javascript", "float", None, "1e3", "1e3"),
    ("javascript", "Bigint", None, "5n", 5),
    ("javascript", "Boolean", None, "false", False),
    ("javascript", "any", None, "5", "5"),
    ("javascript", "array", "integer", "[1, 2]", [1, 2]),
    ("javascript", "array", "String", "new Array('a', \"b\")", ["a", "b"]),
    ("javascript", "array", "array", "[[1, 'a'], [true]]", [[1, "a"], [True]]),
    ("javascript", "array", "array", "new Array([1, 2], [3])", [[1, 2], [3]]),
    ("javascript", "array", "integer", "[]", []),
    ("javascript", "array", "dict", '[{"a": 1}, {"b": 2}]', [{"a": 1}, {"b": 2}]),
    (
        "javascript",
        "dict",
        None,
        "{a: 1, 'b': [1, 2], \"c\": 'x', d: y}",
        {"a": 1, "b": [1, 2], "c": "x", "d": "y"},
    ),
    ("javascript", "dict", None, "{}", {}),
    ("javascript", "dict", None, "options", "options"),
]


@pytest.mark.parametrize("language, kind, inner, text, value", SOURCES)
def test_source_text(language, kind, inner, text, value):
    found = source_value(text, kind, inner, language)
    assert repr(found) == repr(value)  # unlike ==, tells True from 1 and 3 from 3.0


def test_runaway_source_text_is_soon_read():
    pieces = ("[[1],", "[1],", "a,b:", "new HashMap<>() {", 'put("a",', "add(", "new  ", "new Array([1],")
    pieces += ("x" * 50,)
    kinds = [("java", "Array"), ("java", "ArrayList"), ("java", "HashMap")]
    begun = time.monotonic()
    for head in ("", "[[", "{", "new ArrayList<>() {{", "new HashMap<>() {"):
        for text in (head + piece * 20_000 for piece in pieces):
            for language, kind in [*kinds, ("javascript", "array"), ("javascript", "dict")]:
                source_value(text, kind, "String", language)
                source_value(text[:1500], kind, "String", language)
    assert time.monotonic() - begun < 20
