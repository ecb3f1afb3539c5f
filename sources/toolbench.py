"""ToolBench (paper, 3.3: the 120k trajectories for StableToolBench): its three forms -> records, by rules.

The forms are answer trees, the conversations made of them, and the later messages; `tree`, `conversation` and
`messages` say what they look like. The paper does not say which of them it took.

Each form is first turned into one list of messages, as ToolBench's own log has them:

    {"role": "user", "content": query}                     once; the tree search says more as the user
    {"role": "assistant", "content": thought or None, "function_call": {"name", "arguments": text} or None}
    {"role": "function", "name", "content": result}

One voice speaks there, with the roles implicit, as the paper has it; in the record its parts go to the roles:

    assistant content -> reasoner; messages without a call are joined to the next one that has a call
    function_call     -> executor; Finish is no tool but the end: its final_answer -> summarizer; where it
                         gives up, the summarizer says GIVE_UP
    function          -> observation as it is, cut and failed ones too: they teach recovery (source.errors)

Decisions. Dropped and counted: system prompts; the search's prompts, which speak as the user ("This is not
the first time you try this task"); thoughts that speak of Finish or of the search, as they would teach a tool
that is not on the list. Refused: answers that do, runs that gave up (unless they are to be kept: what "cannot
be solved after enough attempts" goes to the summarizer, section 3.1), calls outside the list (the search had
tried them, nobody should learn them), arguments that are no object. A call without a thought keeps a reasoner
turn with empty content, listed as missing: who acts next is known, only the words are not.

Left as they are: names whose front was cut off, names pasted into descriptions, parameters called is_id.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cli import UserError
from formats.calls import JSON
from sources.record import outside, reason, record_of, said, summarize, tool_of, unlike, unwrapped
from sources.rows import Refused, field, literal, read_rows
from sources.schemas import fits, parameters_of

FINISH = "Finish"
GIVE_UP = "I give up and restart."  # the words of ToolBench's own instruction; a search goes back there
SEARCH_PROMPT = "This is not the first time you try this task"
SCAFFOLDING = re.compile(
    SEARCH_PROMPT + r"|all previous trails failed|give[_ ]up[_ ]and[_ ]restart|mento-carlo-action-value"
    r"|[\"'`]Finish[\"'`]|\bFinish (?:function|tool|API|action)\b|\bcall(?:ing)? (?:the )?Finish\b"
)

# ---- messages -> turns, for all forms ----


def record(query: str, tools: list[dict], messages: Any, missing: list[str], dropped: Counter) -> dict:
    """The record of a run that answered or gave up. `missing` and `dropped` are filled. Raises Refused."""
    query = spoken(query)
    turns: list[dict] = [{"role": "user", "content": query}]
    thoughts: list[str] = []
    waiting = None  # the function whose result must come next
    for message in messages:
        role = field(message, "role", str)
        text = field(message, "content", str) if message.get("content") is not None else ""
        if turns[-1]["role"] == "summarizer":
            raise Refused("goes on after the final answer", f"with {role}")
        if waiting and role != "function":
            raise Refused("call without a result", waiting)
        if role == "system":
            dropped["system prompt"] += 1
        elif role == "user" and text.strip().startswith(SEARCH_PROMPT):
            dropped["search prompt"] += 1
        elif role == "user":
            if len(turns) > 1 or bare_query(text) != query:
                raise Refused("user message that is not the query", text)
        elif role == "function":
            if waiting is None or field(message, "name", str) != waiting:
                raise Refused("result of no call", str(message.get("name")))
            turns.append({"role": "observation", "content": text})
            waiting = None
        elif role == "assistant":
            if text.strip():
                thoughts.append(text.strip())
            if message.get("function_call") is not None:
                call = field(message, "function_call", dict)
                waiting = act(call, "\n".join(thoughts), turns, tools, missing, dropped)
                thoughts = []
        else:
            raise Refused("unknown role", role)
    if turns[-1]["role"] != "summarizer":
        raise Refused("no final answer", f"ends in {turns[-1]['role']}")
    return record_of("toolbench", tools, turns, missing, dropped)


def act(
    call: dict, thought: str, turns: list[dict], tools: list[dict], missing: list[str], dropped: Counter
) -> str | None:
    """Append the turns of a thought and a call; the function whose result must come, None for Finish."""
    name, arguments = field(call, "name", str), field(call, "arguments", str)
    if SCAFFOLDING.search(thought):
        dropped["thought that speaks of the search"] += 1
        thought = ""
    if name == FINISH:
        reason(turns, missing, said(thought), "summarizer")
        summarize(turns, missing, final_answer(read_arguments(arguments)))
        return None
    reason(turns, missing, said(thought), "executor")
    if all(tool["name"] != name for tool in tools):
        raise outside(name, tools)
    turns.append({"role": "executor", "calls": [{"name": name, "arguments": read_arguments(arguments)}]})
    return name


def spoken(text: str) -> str:
    """The text as `said`, refused where it speaks of the search."""
    if found := SCAFFOLDING.search(text):
        raise Refused("search scaffolding in a text", found[0])
    return said(text)


def bare_query(text: str) -> str:
    """The query without the word that ends the prompt."""
    return text.strip().removesuffix("Begin!").strip()


def read_arguments(text: str) -> dict:
    """The object that the text is: JSON or, with single quotes, a Python literal; nothing behind it."""
    try:
        value, end = JSON.raw_decode(text.strip())
    except (ValueError, RecursionError):
        try:
            value, end = literal(text), len(text)
        except ValueError:
            raise Refused("arguments that are no JSON object", text) from None
    if not isinstance(value, dict):
        raise Refused("arguments that are no JSON object", text)
    if end < len(text.strip()):
        raise Refused("text after the arguments", text)
    return value


def final_answer(arguments: dict) -> str:
    """What Finish's arguments tell the user. Raises Refused."""
    if arguments.get("return_type") == "give_up_and_restart":
        return GIVE_UP
    answer = arguments.get("final_answer")
    if not isinstance(answer, str) or not answer.strip():
        raise Refused("no final answer", f"Finish has {', '.join(arguments) or 'no arguments'}")
    return spoken(answer)


def gave_up(record: dict) -> bool:
    """Whether the record is that of a run that gave up."""
    return record["trajectory"][-1].get("content") == GIVE_UP


def function_tools(functions: list, dropped: Counter) -> list[dict]:
    """The functions of trees and conversations, without Finish.

    {"name", "description", "parameters": {"type": "object", "properties": {p: {"type", "description",
    "example_value"}}, "required", "optional"}}; examples that fit their type go to JSON Schema's `examples`.
    """
    tools = []
    for function in map(unwrapped, functions):
        name = field(function, "name", str)
        if name == FINISH:
            continue
        given = field(function, "parameters", dict)
        parameters = parameters_of(given, dropped)
        for parameter, schema in parameters["properties"].items():
            example = given["properties"][parameter].get("example_value")
            if example not in (None, "") and fits(example, schema):
                schema["examples"] = [example]
        tools.append(tool_of(name, function.get("description"), parameters))
    return unlike(tools, dropped)


# ---- answer trees ----


def read_trees(path: Path) -> Iterator[Any]:
    """The trees of a file or, each with its name as `file`, of all *.json files below a folder."""
    if not path.is_dir():
        yield from read_rows(path)
        return
    files = sorted(path.rglob("*.json"))
    if not files:
        raise UserError(f"{path}: holds no *.json file; wanted a folder of answer trees")
    for file in files:
        for row in read_rows(file):
            if isinstance(row, dict):
                row = row | {"file": str(file.relative_to(path))}
            yield row


def tree(row: dict) -> dict:
    """One answer tree -> the record of its path to the answer, or to where it first gave up. Raises Refused.

        {"win", "answer_generation": {"valid_data", "finish_type", "final_answer": text of Finish's arguments,
         "function": schemas, "query"}, "tree": {"tree": node}}

    or, of a CoT run, "trys": [{"chain": [node, ...]}]. A node is {"node_type": "Thought" | "Action" | "Action
    Input", "description", "observation", "observation_code", "children"}. The path to Finish is the
    trajectory; thoughts stand in nodes of their own, which the conversations made of the trees mostly lost.
    """
    made = field(row, "answer_generation", dict)
    final = made.get("final_answer")
    ended = row.get("win") is True or made.get("finish_type") == "give_up"
    if not ended or made.get("valid_data") is not True or not isinstance(final, str):
        raise Refused("no final answer", f"win: {row.get('win')}, valid_data: {made.get('valid_data')}")
    if "trys" in row:
        paths = (field(attempt, "chain", list) for attempt in field(row, "trys", list))
    else:
        paths = finished_paths(field(field(row, "tree", dict), "tree", dict))
    path = path_to(final, paths)
    dropped = Counter()
    tools = function_tools(field(made, "function", list), dropped)
    out = record(field(made, "query", str), tools, node_messages(path), [], dropped)
    if "file" in row:
        out["source"]["id"] = row["file"]
    return out


def path_to(final: str, paths: Iterable[list]) -> list:
    """The first path that ends in the final answer. Raises Refused."""
    for path in paths:
        if path and is_finish(path[-1]) and path[-1].get("description") == final:
            return path
    raise Refused("no path to the final answer")


def is_finish(node: Any) -> bool:
    """Whether the search gave an answer there, observation_code 3, or gave up, 4."""
    return isinstance(node, dict) and node.get("observation_code") in (3, 4)


def finished_paths(root: dict) -> Iterator[list[dict]]:
    """The paths, without the root, that end in a Finish; in the order of the search."""
    paths = [[child] for child in reversed(field(root, "children", list))]
    while paths:
        path = paths.pop()
        if is_finish(path[-1]):
            yield path
        paths += [[*path, child] for child in reversed(field(path[-1], "children", list))]


def node_messages(path: list[dict]) -> Iterator[dict]:
    """Thought, Action and Action Input nodes as messages."""
    action = None
    for node in path:
        kind, text = field(node, "node_type", str), field(node, "description", str)
        if (action is None) == (kind == "Action Input"):
            raise Refused("action and input do not alternate", kind)
        if kind == "Thought":
            yield {"role": "assistant", "content": text}
        elif kind == "Action":
            action = text
        elif kind == "Action Input":
            yield {"role": "assistant", "function_call": {"name": action, "arguments": text}}
            if not is_finish(node):
                yield {"role": "function", "name": action, "content": field(node, "observation", str)}
            action = None
        else:
            raise Refused("unknown node", kind)


# ---- conversations (toolllama_G123_dfs_train.json) ----

APIS = "Specifically, you have access to the following APIs: "
STEP = re.compile(
    r"(?P<thought>.*?)(?:\A|\n)[^\S\n]*Action: ?(?P<name>[^\n]*)\n"
    r"(?:Action Input|Arguments): ?(?P<arguments>.*)",
    re.DOTALL,
)
HEADINGS = re.compile(r"^(?:Action|Action Input|Arguments):", re.MULTILINE)


def conversation(row: dict) -> dict:
    r"""The last step of a query -> its record; earlier steps are refused. Raises Refused.

        {"id": "Step 7: query", "conversations": [{"from", "value"}, ...]}

    Copies on a hub keep the list as {"from": [...], "value": [...]}. from: system (the prompt and the
    functions as Python's repr), user, assistant ("\nThought: ...\nAction: name\nAction Input: {...}"),
    function.

    The file has one row for each step of a query, each with the whole history. Only the last step makes a
    record: it holds all turns of the earlier ones, and each role's turn is to be trained once. It is known by
    its Finish, so rows can be read one at a time, in any order.
    """
    said_by = pairs(row.get("conversations"))
    if not said_by or said_by[-1][0] != "assistant":
        raise Refused("not the source's shape", "conversations: no list that ends in an assistant turn")
    if step_message(said_by[-1][1])["function_call"]["name"] != FINISH:
        raise Refused("an earlier step of its query")
    if said_by[0][0] != "system" or APIS not in said_by[0][1]:
        raise Refused("not the source's shape", "no list of APIs in a system turn")
    queries = [bare_query(text) for role, text in said_by if role == "user"]
    try:
        functions = literal(said_by[0][1].partition(APIS)[2])
    except ValueError as fault:
        raise Refused("tools that cannot be read", str(fault)) from None
    if not isinstance(functions, list) or not queries:
        raise Refused("not the source's shape", "no list of APIs, or no query")
    dropped = Counter()
    out = record(queries[0], function_tools(functions, dropped), turn_messages(said_by), [], dropped)
    if isinstance(row.get("id"), str):
        out["source"]["id"] = row["id"]
    return out


def pairs(turns: Any) -> list[tuple[str, str]]:
    """(from, value) of each turn, from a list of objects or an object of lists."""
    if isinstance(turns, dict):
        roles, values = field(turns, "from", list), field(turns, "value", list)
        if len(roles) != len(values):
            raise Refused("not the source's shape", "conversations: lists of unequal length")
        turns = [{"from": role, "value": value} for role, value in zip(roles, values, strict=True)]
    if not isinstance(turns, list):
        raise Refused("not the source's shape", f"conversations: {type(turns).__name__}")
    return [(field(turn, "from", str), field(turn, "value", str)) for turn in turns]


def turn_messages(turns: list[tuple[str, str]]) -> Iterator[dict]:
    """The turns as messages; a function's has the name that was called before."""
    called = ""
    for role, text in turns:
        if role == "assistant":
            message = step_message(text)
            called = message["function_call"]["name"]
            yield message
        elif role == "function":
            yield {"role": role, "name": called, "content": text}
        else:
            yield {"role": role, "content": text}


def step_message(text: str) -> dict:
    """`Thought: ... Action: ... Action Input: ...` as a message.

    A second Action, in a thought or as a second call (of which only the last ran), leaves open which words
    were the call: refused.
    """
    found = STEP.fullmatch(text)
    if not found:
        raise Refused("step without action and input", text)
    if len(HEADINGS.findall(text)) != 2:
        raise Refused("several actions in one step", text)
    thoughts = [part.strip() for part in re.split(r"(?:\A|\n)[^\S\n]*Thought:", found["thought"])]
    call = {"name": found["name"].strip(), "arguments": found["arguments"]}
    return {"role": "assistant", "content": "\n".join(filter(None, thoughts)), "function_call": call}


# ---- the later message form ----


def messages(row: dict) -> dict:
    """One row of the later message form -> its record. Raises Refused.

        {"tools": [{"Name", "function": description, "input": {parameter: "type, description"}}],
         "instruction": query, "chains": [message, ...]}

    Which parameters are required is not said, so none is: a guess would turn right calls into wrong ones. It
    is listed as missing.
    """
    dropped = Counter()
    given = field(row, "tools", list)
    tools = unlike([short_tool(tool) for tool in given if field(tool, "Name", str) != FINISH], dropped)
    missing = ["tools.parameters.required"]
    return record(field(row, "instruction", str), tools, field(row, "chains", list), missing, dropped)


def short_tool(tool: dict) -> dict:
    """A tool of this form -> its schema. Raises Refused."""
    properties = {}
    for parameter, text in field(tool, "input", dict).items():
        kind, _, description = str(text).partition(",")
        if kind not in ("string", "integer", "number", "boolean", "array", "object"):
            raise Refused("tool parameter of no known type", f"{tool['Name']}: {parameter}: {text}")
        properties[parameter] = {"type": kind}
        if description.strip():
            properties[parameter]["description"] = description.strip()
    parameters = {"type": "object", "properties": properties, "required": []}
    return tool_of(tool["Name"], field(tool, "function", str), parameters)
