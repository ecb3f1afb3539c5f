"""MathGenie (paper, 3.3: the 80k trajectories for GSM8K and MATH): code-interleaved solutions -> records.

The forms are that in which MathCoder and MathGenie train, and that of their runs; `mathcoder` says what they
look like. All are texts, code blocks and executions in turn:

    text before code -> reasoner      code -> executor      execution -> observation
    text after the last execution -> summarizer, behind a reasoner turn without words

Decisions. A text that is not there is a reasoner turn with empty content, listed as missing. Blocks stay
apart, as the agent keeps one interpreter per problem. Refused: runs without a final text, code that is none,
solutions that their authors judged wrong.

MathCoder's code ran in a notebook, where the value of the last expression is shown. Executors are asked for
code that prints the result, so that expression becomes the argument of a print. Of a traceback (IPython's, in
terminal colours) its last line stays, which is what the sandbox shows.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

from sources.record import reason, record_of, said, summarize
from sources.rows import Refused, field

EMPTY = "<empty_execution>"  # an execution that showed nothing; the sandbox's word too

# ---- blocks -> turns ----


def solution(query: str, blocks: list[tuple[str, str]], dropped: Counter) -> dict:
    """The record of a problem and its ("text" | "code" | "execution", content) blocks. Raises Refused."""
    turns: list[dict] = [{"role": "user", "content": said(query)}]
    missing: list[str] = []
    texts: list[str] = []
    last = "text"
    for kind, content in blocks:
        if (kind == "execution") != (last == "code"):
            raise Refused("code and executions do not alternate", f"{kind} after {last}")
        if kind == "text":
            if content.strip():
                texts.append(said(content))
        elif kind == "code":
            reason(turns, missing, "\n\n".join(texts), "executor")
            turns.append({"role": "executor", "content": content})
            texts = []
        elif kind == "execution":
            turns.append({"role": "observation", "content": content})
        else:
            raise Refused("unknown block", kind)
        last = kind
    if not texts:
        raise Refused("no final text", f"ends in {last}")
    reason(turns, missing, "", "summarizer")
    summarize(turns, missing, "\n\n".join(texts))
    return record_of("math", [], turns, missing, dropped)


# ---- rows -> blocks ----


def mathcoder(row: dict) -> dict:
    """A row of the training form, or a run with or without its verdict -> a record. Raises Refused.

        {"messages": [{"role": "system" | "user" | "assistant", "content": [block, ...]}]}
        block: {"type": "text" | "code" | "execution", "content"}

        {"messages": system and user, "completion": bare answer,
         "debug_result": [{"role": "system" | "user" | "text" | "code" | "execution", "content"}]}

    A run may stand inside {"authors_verdict": "correct" | "wrong" | null, "record": run}. Behind its last
    text it has one more with the bare answer, the completion.
    """
    if isinstance(row.get("record"), dict):
        if row.get("authors_verdict") == "wrong":
            raise Refused("wrong by the authors' verdict")
        row = row["record"]
    if "debug_result" in row:
        parts = [(field(b, "role", str), field(b, "content", str)) for b in field(row, "debug_result", list)]
    else:
        parts = [part for message in field(row, "messages", list) for part in message_blocks(message)]
    dropped = Counter()
    dropped["system prompt"] = sum(kind == "system" for kind, _ in parts)
    parts = [part for part in parts if part[0] != "system"]
    if [i for i, (kind, _) in enumerate(parts) if kind == "user"] != [0]:
        raise Refused("not one query before the solution")
    (_, query), *blocks = parts
    if not blocks:
        raise Refused("no solution")
    ends_in_two_texts = [kind for kind, _ in blocks[-2:]] == ["text", "text"]
    if ends_in_two_texts and blocks[-1][1] == row.get("completion"):
        blocks.pop()
        dropped["bare answer behind the final text"] += 1
    out = solution(query, list(scripts(blocks)), dropped)
    if isinstance(row.get("id"), str | int):
        out["source"]["id"] = row["id"]
    return out


def message_blocks(message: Any) -> list[tuple[str, str]]:
    """A message's blocks; those of system and user named by their role."""
    role, content = field(message, "role", str), field(message, "content", list)
    kinds = [field(block, "type", str) for block in content]
    if role != "assistant" and kinds != ["text"]:
        raise Refused("prompt that is not one text", role)
    texts = [field(block, "content", str) for block in content]
    if role != "assistant":
        return [(role, text) for text in texts]
    return list(zip(kinds, texts, strict=True))


def scripts(blocks: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The blocks with code that prints and executions that show what a sandbox shows."""
    for i, (kind, content) in enumerate(blocks):
        if kind == "code":
            content = unfenced(content)
            shown = blocks[i + 1][1] if i + 1 < len(blocks) else ""
            content = printing(content.replace("\r\n", "\n").replace("\r", "\n").strip("\n"), shown)
        elif kind == "execution":
            content = plain_traceback(content)
        yield kind, content


FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[^`\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.MULTILINE | re.DOTALL)


def unfenced(code: str) -> str:
    """Code without the Markdown fences round it, whatever language they name, the last one perhaps open."""
    blocks = FENCE.findall(code) if "```" in code or "~~~" in code else []
    return "".join(map(dedent, blocks)) if blocks and not is_python(code) else code


def is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


# What str and repr spell differently; unless it is in a list, where both are repr.
UNLIKE_STR = re.compile(r"b?['\"]|(?:Fraction|Decimal|array|datetime\.\w+)\(")


def printing(code: str, shown: str) -> str:
    """The code with its last expression printed, where the notebook showed its value.

    Left alone: a last expression that prints itself, and a call behind other prints, of which nobody can say
    whether it had a value to show; the sandbox shows the value of a last expression as notebooks do.
    Raises Refused for code that is none.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        if "Error" in shown:
            return code  # its fault was shown, and is to be learnt from
        raise Refused("code that is not Python", code) from None
    if not tree.body:
        raise Refused("code of comments alone", code)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr) or shown.strip() in ("", EMPTY):
        return code
    if isinstance(last.value, ast.Call) and any(map(is_print, ast.walk(tree))):
        return code
    lines = code.split("\n")
    start = offset(lines, last.lineno, last.col_offset)
    end = offset(lines, last.end_lineno, last.end_col_offset)
    argument = code[start:end]
    if not is_one_argument(argument, last.value):
        argument = f"({argument})"
    if UNLIKE_STR.match(shown):
        argument = f"repr({argument})"
    return f"{code[:start]}print({argument}){code[end:]}"


def is_print(node: ast.AST) -> bool:
    """A call of print, or of what notebooks print with."""
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return named and node.func.id in ("print", "display")


def is_one_argument(expression: str, value: ast.expr) -> bool:
    """Whether the text stands for its value between brackets of a call, too: `a, b` would be two values."""
    call = ast.parse(f"print({expression})", mode="eval").body
    return len(call.args) == 1 and not call.keywords and ast.dump(call.args[0]) == ast.dump(value)


def offset(lines: list[str], line: int, column: int) -> int:
    """The place in the text of ast's line, from 1, and column, in bytes."""
    before = lines[line - 1].encode()[:column].decode()
    return sum(len(text) + 1 for text in lines[: line - 1]) + len(before)


COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HEADER = re.compile(r"(?<![\w.])([\w.]+)\s+Traceback \(most recent call last\)")
SYNTAX = re.compile(r"\s*(?:Cell In|File )[^\n]*, line \d+\n")


def plain_traceback(text: str) -> str:
    """An execution without colours and, of a traceback, with its last line alone behind what was printed."""
    text = COLOUR.sub("", text.replace("\r\n", "\n"))
    headers = list(HEADER.finditer(text))
    if not headers and not SYNTAX.match(text):
        return text
    printed = text[: headers[0].start()].rstrip("- \n") if headers else ""
    name = re.escape(headers[-1][1]) if headers else r"[A-Za-z_]\w*"
    lines = text.rstrip().split("\n")
    starts = [i for i, line in enumerate(lines) if re.match(rf"\s*(?:\w+\.)*{name}(?::|$)", line)]
    fault = " ".join(" ".join(lines[starts[-1] if starts else -1 :]).split())
    return f"{printed}\n{fault}".lstrip("\n")
