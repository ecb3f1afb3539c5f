"""APIGen (xlam-function-calling-60k; paper, 3.3: part of the 90k rows for BFCL): its rows -> records.

    {"id", "query", "answers": JSON text of [{"name", "arguments"}], "tools": JSON text of [{"name",
     "description", "parameters": {parameter: {"type", "description", "default"?}}}]}

`parameters` is flat, and a parameter may be called `type`. Types are Python's, "List[int], optional".

Decisions. A parameter is required unless its type says optional; where a call leaves out one that has a
default, that one was meant optional too. Dropped are defaults of another type than theirs, and the filler ""
of required ones. A row has no thought, no result, no answer: it becomes user, reasoner, executor, reasoner,
summarizer; without any call user, reasoner, summarizer.
"""

from collections import Counter
from typing import Any

from sources.record import dialogue, filled, reason, record_of, summarize, tool_of, unlike
from sources.rows import ROW, embedded, field
from sources.schemas import read_type, schema_of


def apigen(row: dict) -> dict:
    """A row -> its record. Raises Refused."""
    dropped = Counter()
    given = embedded(row.get("tools"), list, "tools", ROW)
    answers = embedded(row.get("answers"), list, "answers")
    calls = [{"name": field(c, "name", str), "arguments": field(c, "arguments", dict)} for c in answers]
    tools = unlike([flat_tool(tool, calls, dropped) for tool in given], dropped)
    query = field(row, "query", str)
    if calls:
        turns, missing = dialogue([("user", query), ("call", calls)], dropped)
    else:  # none of the tools is of use
        turns, missing = [{"role": "user", "content": filled(query)}], []
        reason(turns, missing, "", "summarizer")
        summarize(turns, missing, "")
    record = record_of("bfcl", tools, turns, missing, dropped)
    if isinstance(row.get("id"), str | int):
        record["source"]["id"] = row["id"]
    return record


def flat_tool(tool: Any, calls: list[dict], dropped: Counter) -> dict:
    """{"name", "description", "parameters": flat map} -> a function schema."""
    name, given = field(tool, "name", str), field(tool, "parameters", dict)
    properties = {parameter: schema_of(spec, dropped) for parameter, spec in given.items()}
    required = [p for p, spec in given.items() if not read_type(str(spec.get("type", "any")))[1]]
    for parameter in required:
        if properties[parameter].get("default") == "":
            del properties[parameter]["default"]
            dropped["defaults that are a filler"] += 1
    used = [call["arguments"] for call in calls if call["name"] == name]
    left_out = set()
    for parameter in required:
        if "default" in given[parameter] and any(parameter not in arguments for arguments in used):
            left_out.add(parameter)
    dropped["required parameters with a default that a call leaves out"] += len(left_out)
    needed = [parameter for parameter in required if parameter not in left_out]
    schema = {"type": "object", "properties": properties, "required": needed}
    return tool_of(name, tool.get("description"), schema)
