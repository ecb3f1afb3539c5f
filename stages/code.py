"""Executors' code of maths rows, run again in the sandbox and held against its observations (for `verify`).

The paper verifies calls and does not speak of code. Ours refuses a row whose code is empty, has to be
stopped, fails, or gives another output than stands there; an error that was observed is none, as it is learnt
from.
"""

import math
import re
from collections.abc import Callable

from cli import cut
from sources.record import raised
from tools.sandbox import EMPTY, Sandbox, code_of

COLOURS = re.compile("\x1b\\[[0-9;]*m")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
LOST = "; the state was lost]"  # the end of an observation on code that the sandbox had to stop


def code_faults(record: dict, python: Callable[[], Sandbox] | None) -> list[dict]:
    """The first fault of the code: a block is empty or, run after those before it, gives another output."""
    turns = record["trajectory"]
    blocks = {i: code_of(turn["content"]) for i, turn in enumerate(turns) if turn["role"] == "executor"}
    for i, code in blocks.items():
        if not code.strip():
            return [{"path": f"trajectory.{i}.content", "kind": "empty code", "detail": ""}]
    if not python or not blocks:
        return []
    with python() as box:
        for i, code in blocks.items():
            got, observed = box.run(code), None
            if i + 1 < len(turns) and turns[i + 1]["role"] == "observation":
                observed = cut(turns[i + 1]["content"], box.output)
            if kind := code_fault(got, observed):
                detail = f"got {got!r:.200}, observed {observed!r:.200}"
                return [{"path": f"trajectory.{i}.content", "kind": kind, "detail": detail}]
    return []


def code_fault(got: str, observed: str | None) -> str | None:
    """What is wrong, for counting, with a block that gives `got` where `observed`, or nothing, stands."""
    if got.endswith(LOST):
        return "code that has to be stopped"
    if observed is not None and same_output(got, observed):
        return None
    if raised(got) == "ModuleNotFoundError":
        module = re.search(r"'([A-Za-z_]\w{0,39})[\w.]*'\s*\Z", got)
        return f"code that needs a module not installed here: {module[1] if module else '?'}"
    if raised(got):
        return "code that fails"
    if observed is not None:
        return "code that gives another output"
    return None


def same_output(got: str, observed: str) -> bool:
    """The same exception; or the same text but for space, its numbers equal but for their last digits.

    Not evaluation.maths.equal, which is made to judge answers of models and takes 5 for 0.05.
    """
    got, observed = bare(got), bare(observed)
    if raised(got) or raised(observed):
        return raised(got) == raised(observed)
    numbers, others = NUMBER.findall(got), NUMBER.findall(observed)
    if without_numbers(got) != without_numbers(observed) or len(numbers) != len(others):
        return False
    return all(map(same_number, numbers, others))


def bare(text: str) -> str:
    """The text without colours and space around it; of none, the word for it."""
    return COLOURS.sub("", text).strip() or EMPTY


def without_numbers(text: str) -> str:
    """The text without space, and with one mark for each number."""
    return "".join(NUMBER.sub("#", text).split())


def same_number(one: str, other: str) -> bool:
    """Whole numbers have to be the same, others but for their last digits."""
    if one == other:
        return True
    return "." in one + other and math.isclose(float(one), float(other), rel_tol=1e-9, abs_tol=1e-12)
