r"""Whether two formulas have the same value: read in LaTeX or Python, computed at a few random points.

    same_values(values_of(r"\frac{x+2}{7}"), values_of(r"\frac{x}{7}+\frac{2}{7}"))  # True

A formula is computed while it is read, with random complex numbers for its symbols: two that agree at a few
such points are the same function. The published grader has sympy read both and simplify their difference.
Here no text is run as code, which sympy's reader does, and no number outgrows a float: the work is bounded by
the length of the text and needs no sandbox and no clock. What exceeds 1e308 has no value.
"""

import cmath
import math
import random
import re
from collections.abc import Callable

MOST_OPEN = 40  # brackets and functions in one formula, since each may lie inside the one before
POINTS = 5  # sets of numbers that stand for the symbols


def same_values(a: list[complex] | None, b: list[complex] | None) -> bool:
    """Whether two lists of `values_of` agree: at every point, or as real numbers within 1e-3."""
    if a is None or b is None:
        return False
    if all(map(same, a, b)):
        return True
    if not is_constant(a) or not is_constant(b):
        return False  # symbols or complex numbers are in it: near is not enough
    return math.isclose(a[0].real, b[0].real, rel_tol=1e-3)


def is_constant(values: list[complex]) -> bool:
    """Whether the value is the same real number at every point."""
    return all(same(value, values[0].real) for value in values)


def same(a: complex, b: complex) -> bool:
    """Apart by no more than rounding."""
    return cmath.isclose(a, b, rel_tol=1e-9, abs_tol=1e-14)


# ---- the value of a formula ----


def values_of(text: str) -> list[complex] | None:
    """What a formula is worth at each point; None if the text is no formula or has no value."""
    try:
        return [value_at(text, point) for point in range(POINTS)]
    except (ValueError, ArithmeticError):
        return None


def value_at(text: str, point: int) -> complex:
    """Raises ValueError, and what arithmetic raises."""
    try:
        value = Formula(text, point).read()
    except Unreadable:
        value = Formula(text, point, plain=True).read()
    if not cmath.isfinite(value):
        raise OverflowError("too large")
    return value


def symbol(name: str, point: int) -> complex:
    """What stands for a symbol: always the same number, in another sector of the plane at each point."""
    numbers = random.Random(f"{name} {point}")
    return cmath.rect(numbers.uniform(0.5, 1.5), math.tau * (point + numbers.random()) / POINTS)


def unknown(function: str, arguments: list[complex], point: int) -> complex:
    """What stands for the value of a function that nobody knows."""
    terms = [z * symbol(f"{function} {i}", point) for i, z in enumerate(arguments)]
    return 1 / (symbol(function, point) + sum(terms))


def factorial(n: complex, point: int) -> complex:
    """Gamma(n + 1) of a real n; of another one, what stands for an unknown function."""
    if same(n, n.real):
        return complex(math.gamma(n.real + 1))
    return unknown("!", [n], point)


FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sqrt": cmath.sqrt,
    "exp": cmath.exp,
    "log": cmath.log,
    "ln": cmath.log,
    "lg": cmath.log10,
    "abs": lambda z: complex(abs(z)),
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "csc": lambda z: 1 / cmath.sin(z),
    "sec": lambda z: 1 / cmath.cos(z),
    "cot": lambda z: 1 / cmath.tan(z),
}
CONSTANTS = {"pi": complex(math.pi), "E": complex(math.e), "I": 1j}  # of the plain notation
CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
TIMES, OVER = ("*", r"\times"), ("/", r"\div", ":")
RELATIONS = ("=", "<", ">", r"\le", r"\leq", r"\ge", r"\geq", r"\neq")
SKIPPED = re.compile(r"\\[-,:;./]|\\q?quad(?![a-zA-Z])")
ABSOLUTE = re.compile(r"\|([^|]*)\|")
LATEX = re.compile(
    r"\d+(?:,\d{3})*(?:\.\d+|(?!\.))"  # 1,000.5 is one number, 1,00 are two, 1. is none
    r"|d(?:[a-zA-Z]|\\[a-zA-Z]+)|[a-zA-Z]'*"  # each letter is a symbol, but so is dx
    r"|\\[a-zA-Z]+'*|\\[{}]|[-+*/:^_!,=<>(){}\[\]|'.]"
)
PLAIN = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[a-zA-Z_]\w*|\*\*|[-+*/(),]")
NAME = re.compile(r"\\?[a-zA-Z]")


class Unreadable(ValueError):
    """The text does not follow the notation."""


class Formula:
    r"""Reads a formula and computes it on the way. Raises Unreadable, and what arithmetic raises.

        sum      product + product - product ...
        product  factors * factors / factors ...
        factors  -power power power ...         side by side, closer than *: 1/2x is 1/(2x)
        power    primary ^ argument ^ argument ... !

    LaTeX is read as sympy reads it. Every name that is no function is a symbol, \pi, e and i too, and before
    a parenthesis an unknown function: x(x+1) is no product. Where the text stops making sense, what was read
    so far counts: 4_9 is 4, and so is 4,5. Plain notation is Python's: 2*x**2, sqrt(3); pi, E, I are numbers.
    """

    def __init__(self, text: str, point: int, plain: bool = False):
        if not plain:
            text = ABSOLUTE.sub(r"\\abs(\1)", SKIPPED.sub("", text))
        self.tokens = (PLAIN if plain else LATEX).findall(text)
        if "".join(self.tokens) != text:
            raise Unreadable("a character that no formula has")
        deeper = (*CLOSING, "_", "**")
        if sum(token in deeper or token[1:] in FUNCTIONS for token in self.tokens) > MOST_OPEN:
            raise Unreadable("nested too deeply")
        self.tokens += ["", ""]  # the end, and a token to look ahead to
        self.at, self.point, self.plain = 0, point, plain

    def read(self) -> complex:
        """The value of the whole formula."""
        value = self.sum()
        if self.here in RELATIONS or (self.plain and self.here):
            raise ValueError("a relation, or no formula")
        return value

    @property
    def here(self) -> str:
        """The token to be read next."""
        return self.tokens[self.at]

    def take(self, *wanted: str) -> str:
        """Step over the token that stands here, if it is wanted, and return it; else ""."""
        token = self.here
        if token not in wanted:
            return ""
        self.at += 1
        return token

    def expect(self, token: str) -> None:
        """Step over a token that has to stand here."""
        if not self.take(token):
            raise Unreadable(f"got {self.here!r}, wanted {token!r}")

    def attempt(self, operand: Callable[[], complex], *operators: str) -> tuple[str, complex] | None:
        """One of the operators and its operand; None, with nothing read, if they do not stand here."""
        start = self.at
        operator = self.take(*operators)
        if operators and not operator:
            return None
        try:
            return operator, operand()
        except Unreadable:
            self.at = start
            return None

    def sum(self) -> complex:
        """Products with + and - between them."""
        value = self.product()
        while found := self.attempt(self.product, "+", "-"):
            operator, product = found
            value = value + product if operator == "+" else value - product
        return value

    def product(self, functions: bool = True) -> complex:
        """`functions` False: the argument of a function, which ends where the next one begins."""
        value = self.factors(functions)
        while found := self.attempt(lambda: self.factors(functions), *TIMES, *OVER):
            operator, factors = found
            value = value / factors if operator in OVER else value * factors
        return value

    def factors(self, functions: bool = True) -> complex:
        """Powers side by side, with a sign before them."""
        sign = 1
        while token := self.take("+", "-"):
            if token == "-":
                sign = -sign
        value = self.power()
        while not self.plain:
            if self.here == "x" and all(self.tokens[self.at + side].isdecimal() for side in (-1, 1)):
                self.at += 1  # 3x4 is 12
            found = self.attempt(lambda: self.power(functions))
            if not found:
                break
            _, power = found
            value *= power
        return sign * value

    def power(self, functions: bool = True) -> complex:
        """A primary with exponents and factorials."""
        value = self.primary(functions)
        exponent, sign = (self.factors, "**") if self.plain else (self.argument, "^")
        while found := self.attempt(exponent, sign):
            _, power = found
            value = (value + 0j) ** power  # + 0j: the sign of a zero must not choose the root
        while self.take("!"):
            value = factorial(value, self.point)
        return value

    def primary(self, functions: bool) -> complex:
        """Brackets, a root, a function or an atom."""
        name = self.here if self.plain else self.here[1:]
        if self.here in CLOSING:
            return self.group(self.here)
        if functions and self.take(r"\sqrt"):
            degree = self.group("[") if self.here == "[" else 2
            return (self.group("{") + 0j) ** (1 / degree)
        if functions and name in FUNCTIONS:
            return self.function(name)
        return self.atom(functions)

    def group(self, opening: str) -> complex:
        """A sum in brackets."""
        self.expect(opening)
        value = self.sum()
        self.expect(CLOSING[opening])
        return value

    def argument(self) -> complex:
        """What stands in braces, or one number or symbol."""
        return self.group("{") if self.here == "{" else self.atom()

    def split(self, length: int) -> None:
        """Make two tokens of a number that has no braces around it and is meant as two."""
        if len(self.here) > 1 and self.here.isdecimal():
            self.tokens[self.at : self.at + 1] = [self.here[:length], self.here[length:]]

    def atom(self, functions: bool = False) -> complex:
        r"""A number, a \frac, a \binom, a constant or a symbol; with `functions` also an unknown function."""
        token = self.here
        self.at += 1
        if re.match(r"\.?\d", token):
            return complex(float(token.replace(",", "")))
        if token == r"\frac":
            above = self.group("{")
            self.split(1)  # the end of \frac{1}23 is 3
            return above / self.argument()
        if token in (r"\binom", r"\dbinom", r"\tbinom"):
            n, k = self.group("{"), self.group("{")
            return factorial(n, self.point) / (factorial(k, self.point) * factorial(n - k, self.point))
        if not NAME.match(token) or token[1:] in FUNCTIONS or token in (*TIMES, *OVER, *RELATIONS):
            raise Unreadable(f"got {token!r}, wanted a number or a symbol")
        if self.plain and token in CONSTANTS:
            return CONSTANTS[token]
        name = f"{token}_{self.argument()}" if self.take("_") else token
        if functions and self.here == "(":
            return unknown(name, self.in_parentheses(), self.point)
        return symbol(name, self.point)

    def in_parentheses(self) -> list[complex]:
        """The arguments of a function, with commas between them."""
        self.expect("(")
        values = [self.sum()]
        while self.take(","):
            values.append(self.sum())
        self.expect(")")
        return values

    def function(self, name: str) -> complex:
        """A function with its marks, as in \\log_2 x and \\sin^2 x, and its argument."""
        self.at += 1
        marks = {}
        while mark := self.take("_", "^"):
            if not re.match(r"[\w({[+-]|\\[a-zA-Z]", self.tokens[self.at + 1]):
                self.split(-1)  # \log_23 is the logarithm of 3
            marks[mark] = self.argument()
        z = self.in_parentheses()[0] if self.here == "(" else self.product(functions=False)
        z = z + 0j
        exponent = marks.get("^", 1)
        if exponent == -1 and f"arc{name}" in FUNCTIONS:
            return FUNCTIONS[f"arc{name}"](z)
        value = FUNCTIONS[name](z)
        if "_" in marks:
            value = value / cmath.log(marks["_"])
        return value**exponent
