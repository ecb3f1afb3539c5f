"""How near rows are to what test sets ask and offer (for `unify`).

    questions = Questions(["What is the hypotenuse of 3 and 4?"])
    questions.nearest("Question: what's the hypotenuse of 3 and 4. Think first!")  # (0.83, "What is ...")

The paper is silent on it. A question counts as asked by the share of its runs of three words that a text
holds. Words are compared without case, accents, punctuation, HTML and what nobody sees; letters that
look like Latin ones are Latin. Neither a full stop nor words in front or behind hide a question. From LEAK on
it is the question, from NEAR on a near miss, which is told to the reader. A score is of words: `1 + 2` and
`1 - 2` are the same.

A function is one of a test set by its name; or by the last part of its name (`FindRestaurants` of
`Restaurants_2_FindRestaurants`, `hypot` of `math.hypot`) and half of the parameters of both, or all of them
where the part is one word.
"""

import html
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

LEAK, NEAR = 0.9, 0.5  # shares of a question's runs of words
RUN = 3  # words
SHORTEST = 16  # letters of a question that is worth comparing: `Yes, please.` is everybody's
ALIKE = 0.5  # share of the parameters of two functions that both have

# ---- questions ----

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # Thai, Han ...
WORD = re.compile(f"[{UNSPACED}]|\\d+|[^\\W\\d_{UNSPACED}]+")  # 3km and 3 km are the same
FILLERS = "\u115f\u1160\u3164\uffa0"  # nobody sees these letters
UNSEEN = ("Mn", "Me", "Cf", "Cc", "Co", "Cn")  # categories of accents and of what shows nothing
PLAIN = re.compile(r"[ -%'-;=-\[\]-~\s]*", re.ASCII)  # without all that the next three are for
TAG = re.compile(r"</?(?:[abiup]|br|em|strong|div|span|li|[uo]l|pre|su[bp]|t[dr])(?:\s[^<>]*)?/?>")  # of HTML
ESCAPED = re.compile(r"\\(?:[nrt]|d(?=frac))")  # a new line that was encoded twice; \dfrac is \frac
LATIN = str.maketrans("аеіјорсѕухһԁԛԝαιορυκν", "aeijopcsyxhdqwaiopukv")  # Cyrillic, Greek
JOINED = re.compile(r"[\"'`‘’“”]|(?<=\d),(?=\d{3})")  # what's, 10,000


def words(text: str) -> list[str]:
    """The words of a text for comparison; in scripts without spaces the letters."""
    if not PLAIN.fullmatch(text):
        text = html.unescape(ESCAPED.sub(" ", text))
        text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not is_unseen(letter))
        text = TAG.sub(" ", text.casefold()).translate(LATIN)
    return WORD.findall(JOINED.sub("", text.casefold()))


@lru_cache(1 << 12)
def is_unseen(letter: str) -> bool:
    """An accent, or what takes no room: zero-width characters, directions, fillers, bells."""
    return letter in FILLERS or (unicodedata.category(letter) in UNSEEN and not letter.isspace())


def runs(of_text: list[str]) -> set[str]:
    """Each RUN of words in a row; of fewer words the one run that there is."""
    count = max(1, len(of_text) - RUN + 1)
    return {" ".join(of_text[start : start + RUN]) for start in range(count)}


def runs_of(text: str) -> set[str]:
    """The runs of a text, whether what nobody sees in it stands within a word or between two."""
    found = runs(words(text))
    if not PLAIN.fullmatch(text):
        found |= runs(words("".join(" " if is_unseen(letter) else letter for letter in html.unescape(text))))
    return found


def least(count: int) -> int:
    """How many of a question's runs make a near miss: the share NEAR, and three, as far as there are."""
    return max(math.ceil(NEAR * count), min(3, count))


def is_worth(of_text: list[str]) -> bool:
    """Whether a question is long enough to be somebody's own."""
    return sum(map(len, of_text)) >= SHORTEST


class Questions:
    """Questions, found by their runs of words.

    A text that holds at least k of a question's n runs holds one of any n - k + 1 of them: so each question
    stands under that many only, the rarest, and few are compared with a text.
    """

    def __init__(self, texts: Iterable[str]):
        by_words = {}
        for text in sorted(texts):
            of_text = words(text)
            if is_worth(of_text):
                by_words.setdefault(" ".join(of_text), (text, runs(of_text)))
        self.questions = [*by_words.values()]
        counts = Counter(run for _, of_question in self.questions for run in of_question)
        self.under: dict[str, list[int]] = {}
        for i, (_, of_question) in enumerate(self.questions):
            rarest = sorted(of_question, key=lambda run: (counts[run], run))
            for run in rarest[: len(rarest) - least(len(rarest)) + 1]:
                self.under.setdefault(run, []).append(i)

    def nearest(self, text: str) -> tuple[float, str]:
        """The share of the question of which most stands in a text, and the question; (0, "") under NEAR."""
        found = runs_of(text)
        best, nearest = 0.0, ""
        for i in sorted({i for run in found for i in self.under.get(run, ())}):
            question, of_question = self.questions[i]
            shared = len(of_question & found)
            if shared >= least(len(of_question)) and shared / len(of_question) > best:
                best, nearest = shared / len(of_question), question
        return best, nearest


# ---- functions ----

WORDS = 20  # of a name; what stands further in front is left out
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
SPACE = re.compile(r".*(?:[^\w\s-]|__|_\d+_)", re.DOTALL)  # up to the last part: math. or Restaurants_2_


def name_words(name: str) -> list[str]:
    """`Restaurants_2_FindRestaurants` -> restaurants, 2, find, restaurants"""
    return words(HUMP.sub("_", name))


def endings(name: str) -> tuple[list[str], set[str]]:
    """The ends of a name from each of its words on; those of them that are the name or its last part."""
    space = SPACE.match(name)
    of_name, of_part = name_words(name)[-WORDS:], name_words(name[space.end() :] if space else name)[-WORDS:]
    parts = {"".join(of_name), "".join(of_part)}
    return ["".join(of_name[start:]) for start in range(len(of_name))], parts


def parameter_names(tool: dict) -> frozenset[str]:
    """The names of a function's parameters, for comparison; none where the schema is not one."""
    parameters = tool.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return frozenset("".join(name_words(name)) for name in properties or () if isinstance(name, str))


class Functions:
    """Functions of test sets, found by the ends of their names."""

    def __init__(self):
        self.under: dict[str, list[tuple[str, frozenset[str], bool]]] = {}
        self.known: dict[tuple[str, frozenset[str]], frozenset[str]] = {}  # what `alike` found

    def add(self, key: str, tool: dict) -> None:
        """Add a function under the key that `alike` shall give."""
        ends, parts = endings(str(tool.get("name")))
        for end in ends:
            self.under.setdefault(end, []).append((key, parameter_names(tool), end in parts))

    def alike(self, tool: dict) -> frozenset[str]:
        """The keys of functions that have the last part and the parameters, or half of them, of this one."""
        if not self.under:
            return frozenset()
        name, parameters = tool["name"], parameter_names(tool)
        if (name, parameters) not in self.known:
            ends, parts = endings(name)
            found = set()
            for end in ends:
                least = 1 if end == ends[-1] else ALIKE  # one word is little: get, search
                for key, others, is_part in self.under.get(end, ()):
                    shared = len(parameters & others)
                    if (is_part or end in parts) and 0 < shared >= least * len(parameters | others):
                        found.add(key)
            self.known[name, parameters] = frozenset(found)
        return self.known[name, parameters]
