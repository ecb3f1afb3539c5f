"""APIGen (xlam-function-calling-60k; paper, 3.3: part of the 90k rows for BFCL): its rows -> records.

    {"id", "query", "answers": JSON text of [{"name", "arguments"}], "tools": JSON text of [{"name",
     "description", "parameters": {parameter: {"type", "description", "default"?}}}]}

`parameters` is flat, and a parameter may be called `type`. Types are Python's, "List[int], optional". Mirrors
also keep JSON Schema there, OpenAI's wrapper {"type": "function", "function": ...} round tools and answers,
and arguments as JSON text; all are read.

Decisions. A parameter of a flat map is required unless itself (`required`, `optional`) or its type says
otherwise; where a call leaves out one that has a
default, that one was meant optional too. Dropped are defaults of another type than theirs, and the filler ""
of required ones. A row has no thought, no result, no answer: it becomes user, reasoner, executor, reasoner,
summarizer; without any call user, reasoner, summarizer.
"""

from collections import Counter
from typing import Any

from sources.record import dialogue, filled, reason, record_of, summarize, tool_of, unlike, unwrapped
from sources.rows import ROW, embedded, field
from sources.schemas import is_schema, parameters_of, read_type, says_required, schema_of, words_of


def apigen(row: dict) -> dict:
    """A row -> its record. Raises Refused."""
    dropped = Counter()
    given = embedded(row.get("tools"), list, "tools", ROW)
    calls = [call(answer) for answer in embedded(row.get("answers"), list, "answers")]
    tools = unlike([tool(offered, calls, dropped) for offered in given], dropped)
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


def call(answer: Any) -> dict:
    """An answer, bare or as OpenAI wraps it; its arguments may be JSON text."""
    answer = unwrapped(answer)
    name, arguments = field(answer, "name", str), answer.get("arguments")
    if isinstance(arguments, str):
        return {"name": name, "arguments": embedded(arguments or "{}", dict, "arguments")}
    return {"name": name, "arguments": field(answer, "arguments", dict)}


def tool(given: Any, calls: list[dict], dropped: Counter) -> dict:
    """{"name", "description", "parameters": flat map, or a schema} -> a function schema."""
    given = unwrapped(given)
    name = field(given, "name", str)
    parameters = embedded(field(given, "parameters", object) or {}, dict, "parameters", ROW)
    if is_schema(parameters):
        schema = parameters_of(parameters, dropped, given.get("required"))
    else:
        schema = schema_of_flat(parameters, [c["arguments"] for c in calls if c["name"] == name], dropped)
        if isinstance(given.get("required"), list):  # beside the flat map
            schema["required"] = [parameter for parameter in parameters if parameter in given["required"]]
    for parameter in schema["required"]:
        if schema["properties"][parameter].get("default") == "":
            del schema["properties"][parameter]["default"]
            dropped["defaults that are a filler"] += 1
    return tool_of(name, given.get("description"), schema)


def schema_of_flat(given: dict, used: list[dict], dropped: Counter) -> dict:
    """The schema of a flat map. used: the arguments of the calls of its function."""
    properties = {parameter: schema_of(spec, dropped) for parameter, spec in given.items()}
    needed = []
    for parameter, spec in given.items():
        required = says_required(spec)
        if required is None:
            required = not read_type(words_of(spec.get("type") or "any"))[1]
        if required and "default" in spec and any(parameter not in arguments for arguments in used):
            dropped["required parameters with a default that a call leaves out"] += 1
        elif required:
            needed.append(parameter)
    return {"type": "object", "properties": properties, "required": needed}
