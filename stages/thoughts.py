"""What a reasoner thinks before the executor acts, by templates; and the words that all templates share.

Thoughts before calls say which functions serve and why. The values of the arguments stand in fewer than half
of the wordings: where a thought spells them out, the executor learns to copy and nothing else. Plans for code
follow Fig. 7, likewise: in half of the wordings without the formulas. rules.py has the other texts, chooses
among the wordings and checks them.
"""

import ast
import json
import re

from sources.record import is_error

LONGEST_PURPOSE, LONGEST_VALUE = 140, 60  # characters


# ---- words for parts of a record ----


def listed(words: list[str]) -> str:
    """a, b and c"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def called(calls: list[dict]) -> list[str]:
    """The names of the functions, each once, in their order."""
    return list(dict.fromkeys(call["name"] for call in calls))


def purpose(name: str, record: dict) -> str:
    """What a function is for: the first sentence of its description, in brackets; "" if that is no use."""
    tool = next((tool for tool in record.get("tools", []) if tool["name"] == name), {})
    text = re.split(r"(?<=\w\w)[.;]\s|\n|\s\(|。", tool.get("description", "").strip())[0].strip(" .,:")
    if not text or len(text) > LONGEST_PURPOSE or text.lower() == in_words(name):
        return ""
    if text[:2].istitle() and text[1:2].islower():
        text = text[0].lower() + text[1:]
    return f" ({text})"


def in_words(name: str) -> str:
    """DepartureTime, departure_time -> departure time"""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\W_]+", spaced)).strip().lower()


def inputs(calls: list[dict]) -> str:
    """The arguments that calls have, by name alone."""
    names = dict.fromkeys(name for call in calls for name in call["arguments"])
    return listed([f"the {in_words(name)}" for name in names])


def values(call: dict) -> str | None:
    """The arguments of a call with their values; None where one is too long to be said."""
    said = []
    for name, value in call["arguments"].items():
        said.append(f"{in_words(name)} {json.dumps(value, ensure_ascii=False)}")
    if any(len(text) > LONGEST_VALUE for text in said):
        return None
    return listed(said) or "no arguments"


# ---- thoughts before calls ----


def before_calls(record: dict, i: int) -> str:
    """What is known by then: how a thought behind an observation begins."""
    last = record["trajectory"][i - 1]
    if last["role"] != "observation":
        return ""
    names = listed(called(record["trajectory"][i - 2].get("calls", [])))
    if is_error(last["content"]):
        return f"{names} reported an error, so another attempt is due. "
    return f"There is an answer from {names}, but the request is not finished. "


def thoughts(record: dict, calls: list[dict]) -> list[str]:
    """What serves and why; some with the values."""
    names = called(calls)
    if len(calls) == 1:
        return of_one_call(record, calls[0])
    if len(names) == 1:
        return of_one_function(record, calls)
    return of_several(record, calls)


def of_one_call(record: dict, call: dict) -> list[str]:
    name, what, needed = call["name"], purpose(call["name"], record), inputs([call])
    needs = f"It needs {needed}, which the conversation gives." if needed else "It needs no arguments."
    texts = [
        f"What the user wants is a case for {name}{what}. {needs}",
        f"This cannot be answered without a call. The function that serves is {name}{what}.",
        f"{name} is the right function here{what}. {needs}",
        f"Looking at the request, I should call {name}{what}, because that is what it asks for.",
        f"Among the functions on offer, {name} comes closest to the request{what}. {needs}",
        f"The next step is {name}{what}. All that it needs is known.",
    ]
    if said := values(call):
        texts += [
            f"I need to call {name} with {said}.",
            f"{name} does what is asked{what}. To be passed: {said}.",
            f"The request leads to {name}, with {said} as the user gives them.",
        ]
    return texts


def of_one_function(record: dict, calls: list[dict]) -> list[str]:
    name, count = calls[0]["name"], len(calls)
    what, needed = purpose(name, record), inputs(calls)
    texts = [
        f"The request names {count} cases of the same kind, so {name}{what} is called once for each.",
        f"{name}{what} is needed {count} times, since one call covers only one part of the request.",
        f"Only {name} serves here{what}. It takes {needed or 'no arguments'}, in {count} calls.",
        f"One call of {name} is not enough{what}: what is asked takes {count} of them.",
    ]
    said = [values(call) for call in calls]
    if all(said):
        each = "; ".join(said)
        texts += [
            f"I need to call {name} {count} times: {each}.",
            f"{name} does what is asked{what}, once with each of these: {each}.",
        ]
    return texts


def of_several(record: dict, calls: list[dict]) -> list[str]:
    names = called(calls)
    reasons = listed([f"{name}{purpose(name, record)}" for name in names])
    texts = [
        f"The request has several parts. They take {reasons}.",
        f"One function alone does not do it. What is needed: {reasons}.",
        f"The user asks for more than one thing, so I should call {reasons}.",
        f"To cover all that is asked, {reasons} are to be called; the conversation gives what they need.",
    ]
    said = [values(call) for call in calls]
    if all(said):
        each = "; ".join(f"{call['name']} with {text}" for call, text in zip(calls, said, strict=True))
        texts += [f"I need {each}.", f"The parts of the request lead to these calls: {each}."]
    return texts


# ---- plans of code (Fig. 7) ----

OPERATIONS = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
    ast.FloorDiv: "divide",
    ast.Mod: "take a remainder",
    ast.Pow: "raise to a power",
}
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?!\w)")


def before_code(record: dict, i: int) -> str:
    """How a plan behind an observation begins."""
    observed = record["trajectory"][i - 1]
    if observed["role"] != "observation":
        return ""
    if is_error(observed["content"]):
        return "The code failed and has to be mended. "
    return "The output so far is not the answer yet. "


def plans(record: dict, code: str) -> list[str]:
    """How the code reaches the answer: half of the wordings name the operations, half give the formulas."""
    steps = steps_of(code)
    queries = [turn["content"] for turn in record["trajectory"] if turn["role"] == "user"]
    found = list(dict.fromkeys(NUMBER.findall(queries[-1])))
    given = f"The problem gives {listed(found)}. " if 0 < len(found) < 9 else ""
    acts = without_echo([act for _, value in steps if (act := operations(value))])
    if not 0 < len(acts) < 9:
        return [given + text for text in whole_plans(code)]
    ways = [f"{word} {act}" for word, act in zip(transitions(len(acts)), acts, strict=True)]
    formulas = []
    for name, value in steps:
        formulas.append(f"{in_words(name)} is ({in_words_of_code(value)})")
    order = [f"{word}, {text}" for word, text in zip(transitions(len(formulas)), formulas, strict=True)]
    asked = in_words(steps[-1][0])
    return [
        f"{given}{listed(ways).capitalize()}; the value that comes out last is what is asked for.",
        f"{given}The way to the answer: {listed(ways)}. Python does it and prints the last value.",
        f"{given}This is arithmetic, so let Python {listed(ways)} and print the last value.",
        f"{given}{'. '.join(order)}. That {asked} is the answer.",
        f"{'. '.join(order)}. What is asked for is {asked}.",
    ]


def whole_plans(code: str) -> list[str]:
    """Plans for code that is more than a few formulas."""
    if "sympy" in code:
        return [
            "Set up the unknowns as symbols in sympy, turn what is known into equations, let it solve them.",
            "This can be left to sympy: symbols for the unknowns, then the conditions, then solve.",
            "Write the problem down in sympy, have it worked out exactly, and print what is asked for.",
        ]
    return [
        "Put the given values into variables, work out what follows from them, and print the result.",
        "A few lines of Python can work this out: start from what is given and print what is asked for.",
        "Translate the problem into Python step by step, and print the value that answers it.",
    ]


def steps_of(code: str) -> list[tuple[str, ast.expr]]:
    """The assignments of code that is nothing but these and a print; else none."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    steps = []
    for statement in body[:-1]:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            return []
        steps.append((statement.targets[0].id, statement.value))
    return steps


def operations(value: ast.expr) -> str:
    """What arithmetic an expression does, in words."""
    found = [OPERATIONS.get(type(node.op)) for node in ast.walk(value) if isinstance(node, ast.BinOp)]
    words = dict.fromkeys(word for word in reversed(found) if word)
    return listed(list(words))


def without_echo(acts: list[str]) -> list[str]:
    """multiply, multiply -> multiply, multiply again"""
    pairs = zip(["", *acts], acts, strict=False)
    return [f"{act} again" if act == before else act for before, act in pairs]


def in_words_of_code(value: ast.expr) -> str:
    """An expression with the names of its variables in words."""
    text = ast.unparse(value)
    return re.sub(r"[A-Za-z_]\w*", lambda name: in_words(name[0]), text)


def transitions(count: int) -> list[str]:
    """First, Next, Finally, as Fig. 7 asks; small where they stand within a sentence."""
    return ["first", *["next"] * (count - 2), "finally"][:count] if count > 1 else ["first"]
