"""formats/formula.py, mostly through maths.equal: against sympy, and with texts made to hurt."""

import random
import time

import pytest
import sympy

from evaluation.maths import equal, extract


def test_formulas_are_equal_where_sympy_says_so():
    x, y = sympy.symbols("x y")
    rng = random.Random(0)
    for _ in range(30):
        a, b, c, d = (rng.choice([-3, -2, -1, 1, 2, 3]) for _ in range(4))
        product = (x + a) ** rng.randint(1, 3) * (y + b) / (c * x + d * y + 7)
        other = sympy.expand(product)
        assert other != product and sympy.simplify(product - other) == 0
        assert equal(sympy.latex(product), sympy.latex(other))
        assert not equal(sympy.latex(product), sympy.latex(other + sympy.Rational(1, 1000)))


# ---- hostile texts ----

N = 100_000
HOSTILE = [
    "9" * N,
    "9**9**9**9**9",
    "9^{9^{9^{9^{9}}}}",
    "9!!!!!!",
    "10^{10^{10}}!",
    r"\binom{10^{9}}{10^{8}}",
    "(" * N + ")" * N,
    "(" * 190 + "x" + ")" * 190,
    "(" * 39 + "x+1" * 100 + ")" * 39,
    "{" * 39 + "x" * 300,
    "((1+" * 90,
    "f(" * 100,
    "f(" * 39 + "x",
    r"\frac" * 70,
    r"\frac{" * 39,
    r"\sin" * 90 + "x",
    r"\log_" * 70,
    "x_" * 200,
    "x^" * 200,
    "2**" * 39 + "x",
    "|" * 399,
    "-" * 399,
    "a," * 199,
    "(" + "x+y," * 95 + "1)",
    "[" + "x," * N + "1]",
    "1.0" * 133,
    "1.0" * N,
    r"\text{" * 60,
    r"\mbox{" * 60,
    "}" * 300 + "{" * 90,
    "٣",
    "²",
    "\ud800",
    "\x00",
    "__import__('pathlib').Path('made').touch()",
    "(lambda: open('made','w'))()",
    "[open('made','w') for x in (1,)]",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_judged_fast_and_never_run(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    assert equal(text, text)
    assert not equal(text, "x^2+17y")
    assert not equal("x^2+17y", text)
    equal(text, text.replace("x", "z") + "+1")
    for opening in ("", r"\boxed{", "he answer is", "```output\n"):
        extract(opening + text)
    assert time.process_time() - start < 1
    assert not list(tmp_path.iterdir())
