"""BFCL's verdict on calls: the published grader's rules, its oddities named where they are.

(question,) = read_questions(FOLDER, "live_multiple")[:1]
valid, reason = check(question, [{"name": "f", "arguments": {"a": 1}}])
"""

import re
from collections.abc import Callable
from typing import Any

from evaluation.bfcl_functions import FUNCTIONS, WEB, run
from evaluation.bfcl_questions import EXEC, RELEVANCE, Question, language_of, reference_fault
from evaluation.bfcl_source import parse_call, source_value

# ---- checks ----


def check(question: Question, calls: list[dict] | None) -> tuple[bool | None, str]:
    """Hold calls {"name", "arguments"} against a question -> (valid, what is wrong).

    calls: None where what the model wrote could not be read. valid: None where the question is not run.
    """
    if question.category in RELEVANCE:
        return check_relevance(question, calls or [])
    if reason := not_run(question):
        return None, reason
    if calls is None:
        return False, "no call could be read"
    return check_exec(question, calls) if question.category in EXEC else check_ast(question, calls)


def check_relevance(question: Question, calls: list[dict]) -> tuple[bool, str]:
    """Whether there is a call, or none; which one does not matter."""
    count = len(calls)
    if "irrelevance" in question.category:
        return (True, "") if not calls else (False, f"got {count} calls, wanted none")
    return (True, "") if calls else (False, "got 0 calls, wanted one or more")


def match(wanted: list, calls: list[dict], fault: Callable[[Any, dict], str | None]) -> tuple[bool, str]:
    """As many calls as wanted, in any order. fault(expected, call): why a call is not the expected one.

    Greedy: each expected one takes the first free call without a fault, for good. So a matching can be
    missed: {1 or 2}, {1} against the calls 1, 2 fails, as the first takes 1.
    """
    if len(calls) != len(wanted):
        return False, f"got {len(calls)} calls, wanted {len(wanted)}"
    free = list(calls)
    for expected in wanted:
        faults = [fault(expected, call) for call in free]
        if None not in faults:
            reason = "; ".join(faults)
            return False, f"{reason}, for {expected!r:.80}" if len(wanted) > 1 else reason
        free.pop(faults.index(None))
    return True, ""


# ---- the AST check ----

TYPES = {
    "python": {
        "string": str,
        "integer": int,
        "float": float,
        "boolean": bool,
        "array": list,
        "tuple": list,
        "dict": dict,
        "any": str,
    },
    "java": {
        "byte": int,
        "short": int,
        "integer": int,
        "long": int,
        "float": float,
        "double": float,
        "boolean": bool,
        "char": str,
        "String": str,
        "Array": list,
        "ArrayList": list,
        "Queue": list,
        "Stack": list,
        "Set": set,
        "HashMap": dict,
        "Hashtable": dict,
        "any": str,
    },
    "javascript": {
        "integer": int,
        "Bigint": int,
        "float": float,
        "Boolean": bool,
        "String": str,
        "array": list,
        "dict": dict,
        "any": str,
    },
}
TYPED_INSIDE = ("array", "tuple", "Array", "ArrayList")  # whose elements are checked


def check_ast(question: Question, calls: list[dict]) -> tuple[bool, str]:
    """One call in simple and multiple sets, several in any order in parallel ones."""
    category, language = question.category, language_of(question.category)
    parallel, several = "parallel" in category, "multiple" in category
    wanted = question.answer if parallel else question.answer[:1]

    def fault(expected: dict, call: dict) -> str | None:
        ((name, table),) = expected.items()
        offered = question.functions
        if parallel or several:
            offered = [function for function in offered if function["name"] == name]
        if not offered:
            return f"{name} is not on offer"
        return call_fault(call, offered[0], table, language)

    return match(wanted, calls, fault)


def call_fault(call: dict, function: dict, table: dict, language: str) -> str | None:
    """Why a call does not fit a function's schema and the table {parameter: [acceptable values]}."""
    arguments, schema = call["arguments"], function["parameters"]
    # 1. The names are equal, character by character, dots included.
    if call["name"] != function["name"]:
        return f"got function {call['name']!r:.60}, wanted {function['name']!r}"
    # 2. Required parameters are there.
    for name in schema.get("required", []):
        if name not in arguments:
            return f"{name}: missing"
    for name, value in arguments.items():
        # 3. No parameter is given that the schema or the table lacks, not even with its default.
        if name not in schema.get("properties", {}) or name not in table:
            return f"{name}: not expected"
        # 4. Each value is acceptable.
        if fault := value_fault(value, schema["properties"][name], table[name], language):
            return f"{name}: {fault}"
    # 5. "" among the acceptable values says that a parameter may be left out.
    for name, options in table.items():
        if name not in arguments and "" not in options:
            return f"{name}: left out, but not optional"
    return None


def value_fault(value: Any, schema: dict, options: list, language: str) -> str | None:
    """Why a value is none of the acceptable ones for a parameter of that schema."""
    got, kind = repr(value)[:60], str(schema.get("type", "any"))
    inner = schema.get("items", {}).get("type") if kind in TYPED_INSIDE else None
    if language == "python":
        value = relaxed(value, kind)
    elif type(value) is str:
        value = source_value(value, kind, inner, language)
    else:
        return f"got {got}, wanted source text"
    wanted, element = TYPES[language].get(kind), TYPES[language].get(str(inner))
    fits, variable = type_fits(value, options, wanted, element)
    if not fits:
        return f"got {got}, wanted {kind} of {inner}" if inner else f"got {got}, wanted {kind}"
    if acceptable(value, options, None if variable else wanted, element):
        return None
    return f"got {got}, wanted one of {options!r:.80}"


def relaxed(value: Any, kind: str) -> Any:
    """A tuple may stand for a list, and at the top level an int for a float."""
    if kind == "tuple" and type(value) is tuple:
        return list(value)
    if kind == "float" and type(value) is int and abs(value) < 2**1000:  # a larger one is no float
        return float(value)
    return value


def type_fits(value: Any, options: list, wanted: type | None, element: type | None) -> tuple[bool, bool]:
    """-> (whether the type is right, whether the answer is of another type than declared).

    Types are identical, not subclasses: True is no int, 1 is no float. If the answer is of another type than
    declared, the grader believes that a variable's name is wanted, and takes values of that type too. So
    `any`, which stands for text, takes the type of the answer; and None is right where it comes first.
    """
    answered = type_of(options)
    if type(value) is not wanted:
        return type(value) is answered, True
    variable = answered is not None and answered is not wanted
    if element is None:
        return True, variable
    # Elements are checked one level deep, against the declared type or that of an acceptable list's first
    # element. An option that is no list, such as "", asks nothing of them.
    return any(elements_fit(value, option, element) for option in options), variable


def elements_fit(value: list, option: Any, element: type) -> bool:
    """Each element is of the declared type or of that of the option's elements."""
    if type(option) is not list:
        return True
    allowed = (element, type_of(option))
    return all(type(item) in allowed for item in value)


def type_of(options: list) -> type | None:
    """The type of the first option that is not "", which only says that the parameter is optional."""
    return next((type(option) for option in options if option != ""), None)


def acceptable(value: Any, options: list, wanted: type | None, element: type | None) -> bool:
    """Whether a value of the right type equals an option. wanted None: by plain equality."""
    if wanted is dict:
        return any(dict_fits(value, option) for option in options)
    if wanted is list and element is dict:
        return any(dicts_fit(value, option) for option in options)
    if wanted is str:
        return plain(value) in [plain(option) for option in options if type(option) is str]
    if wanted is list:  # "" is here an empty list, which may be given
        lists = [plain_items(option) for option in options if isinstance(option, list | str)]
        return plain_items(value) in lists
    return value in options


def plain(value: Any) -> Any:
    """Text without spaces and , . / - _ * ^, in lower case, with double quotes; else the value itself."""
    if type(value) is not str:
        return value
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')


def plain_items(values: list | str) -> list:
    """`plain` of each; "" as values is an empty list."""
    return [plain(value) for value in values]


def dict_fits(value: Any, option: Any) -> bool:
    """An option is {key: [acceptable values]}. One level of text is made plain; below, 1 equals 1.0."""
    if type(option) is not dict or type(value) is not dict:
        return False
    if not value.keys() <= option.keys():
        return False
    for key, inner in value.items():
        if plain(inner) not in plain_items(option[key]):
            return False
    return all("" in options for key, options in option.items() if key not in value)


def dicts_fit(value: list, option: Any) -> bool:
    """A list of dicts against one of options, pair by pair; "" is here an empty list."""
    if not isinstance(option, list | str) or len(value) != len(option):
        return False
    return all(dict_fits(*pair) for pair in zip(value, option, strict=True))


# ---- the executable check ----


def not_run(question: Question) -> str | None:
    """Why a question is not run: REST, an answer that asks a web service or is malformed. Else None."""
    if question.category in RELEVANCE:
        return None
    if question.category == "rest":
        names = {"requests.get"}
    elif fault := reference_fault(question):
        return f"not run: {question.id}: {fault}"
    elif question.category in EXEC:
        names = {parse_call(expected["call"])[0] for expected in question.answer}
    else:
        return None
    missing = names - FUNCTIONS.keys()
    if not missing:
        return None
    reason = "asks a web service" if missing <= WEB else "is not among the functions here"
    return f"not run: {', '.join(sorted(missing))} {reason}"


def check_exec(question: Question, calls: list[dict]) -> tuple[bool | None, str]:
    """Run the reference calls, then the given ones, which may be others with the same results."""
    try:
        wanted = [(run(*parse_call(answer["call"])), answer["match"]) for answer in question.answer]
    except Exception as error:
        return None, f"not run: the reference fails ({error})"

    def fault(expected: tuple[Any, str], call: dict) -> str | None:
        reference, how = expected
        try:
            result = run(call["name"], [], call["arguments"])
        except Exception as error:  # whatever a model's call runs into, it is wrong
            return f"{call['name']} fails: {type(error).__name__}: {error}"
        if agrees(result, reference, how):
            return None
        return f"got result {result!r:.60}, wanted {reference!r:.60}"

    return match(wanted, calls, fault)


def agrees(result: Any, reference: Any, how: str) -> bool:
    """how: exact_match, real_time_match (within 5 %) or structural_match (type, keys, length)."""
    if how == "exact_match":
        return result == reference
    if how == "real_time_match":
        numbers = type(result) in (int, float) and type(reference) in (int, float)
        return numbers and abs(result - reference) <= 0.05 * abs(reference)
    if type(result) is not type(reference):
        return False
    if type(result) is dict:
        return result.keys() == reference.keys()
    if type(result) is list:
        return len(result) == len(reference)
    return True
