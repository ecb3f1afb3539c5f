"""Executors' code of maths rows, run again in the sandbox and held against its observations."""

import math
import re
from collections.abc import Callable
from functools import partial

from cli import cut
from sources.record import raised
from tools.sandbox import EMPTY, Sandbox

# ---- code ----

COLOURS = re.compile("\x1b\\[[0-9;]*m")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
LOST = "; the state was lost]"  # the end of an observation on code that the sandbox had to stop


def code_faults(record: dict, python: Callable[[], Sandbox] | None) -> list[dict]:
    """The first fault of the code: a block is empty or, run after those before it, gives another output."""
    turns = record["trajectory"]
    blocks = {i: turn["content"] for i, turn in enumerate(turns) if turn["role"] == "executor"}
    if empty := [f"trajectory.{i}.content" for i, code in blocks.items() if not code.strip()]:
        return [{"path": empty[0], "kind": "empty code", "detail": ""}]
    if not python or not blocks:
        return []
    with python() as box:
        for i, code in blocks.items():
            got, following = box.run(code), turns[i + 1 : i + 2]
            seen = [cut(turn["content"], box.output) for turn in following if turn["role"] == "observation"]
            observed = seen[0] if seen else None
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
    return None if observed is None else "code that gives another output"


def same_output(got: str, observed: str) -> bool:
    """The same exception; or the same text but for space, its numbers equal but for their last digits.

    Not answers.equal, which is made to judge answers of models and takes 5 for 0.05.
    """
    got, observed = (COLOURS.sub("", text).strip() or EMPTY for text in (got, observed))
    if raised(got) or raised(observed):
        return raised(got) == raised(observed)
    texts = {"".join(NUMBER.sub("#", text).split()) for text in (got, observed)}
    close = partial(math.isclose, rel_tol=1e-9, abs_tol=1e-12)
    a, b = NUMBER.findall(got), NUMBER.findall(observed)
    same = (x == y or ("." in x + y and close(float(x), float(y))) for x, y in zip(a, b, strict=False))
    return len(texts) == 1 and len(a) == len(b) and all(same)
