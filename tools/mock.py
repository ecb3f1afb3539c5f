"""The functions on offer to an agent, and the mock environment that answers its calls."""

import json
from collections.abc import Callable
from typing import Any

import data
from cli import UserError, open_file, parse_object
from formats.calls import JSON, check_call, same_calls

# ---- tools: from calls to observations ----


class Tools:
    """The functions on offer and the mock environment that answers calls.

    schemas: OpenAI-style, as in a record. responses: recordings {"name", "arguments", "response"}. functions:
    Python callables by name, given the arguments as keywords. The first recording of an equal call answers;
    else, if the call fits its schema, the function of that name; else a stub that says it is one.
    """

    def __init__(
        self,
        schemas: list[dict] | None = None,
        functions: dict[str, Callable] | None = None,
        responses: list[dict] | None = None,
        max_result_chars: int = 4000,
    ):
        self.schemas = schemas or []
        self.functions = functions or {}
        self.responses = responses or []
        self.max_result_chars = max_result_chars
        for name in set(self.functions) - {schema["name"] for schema in self.schemas}:
            raise UserError(f"functions: {name!r} is in no schema; wanted a schema for every function")

    def call(self, name: str, arguments: dict) -> str:
        """The result of one call as text, cut at max_result_chars. What goes wrong is told, never raised."""
        call = {"name": name, "arguments": arguments}
        try:
            return self._cut(self._result(call))
        except Exception as fault:  # a tool that fails is news for the reasoner, not the end
            return self._cut({"error": f"{name} failed: {type(fault).__name__}: {fault}"})

    def _result(self, call: dict) -> Any:
        for recording in self.responses:
            if same_calls([recording], [call]):
                return recording["response"]
        if fault := check_call(call, self.schemas):
            return {"error": fault}
        if call["name"] in self.functions:
            return self.functions[call["name"]](**call["arguments"])
        return {"stub": True, "function": call["name"], "arguments": call["arguments"], "status": "success"}

    def _cut(self, result: Any) -> str:
        text, limit = as_text(result), self.max_result_chars
        return text if len(text) <= limit else f"{text[:limit]}... [cut: {limit} of {len(text)} characters]"


def as_text(result: Any) -> str:
    """Strings as they are, anything else as JSON; half surrogate pairs, which UTF-8 cannot hold, become ?."""
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")


def as_json(text: str) -> str:
    """`text` itself where it is JSON, else the JSON string of it."""
    try:
        json.loads(text)
        return text
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)


def observation_of(results: list[str]) -> str:
    """The observation of calls: the result of one, of several the JSON list of theirs."""
    return results[0] if len(results) == 1 else f"[{', '.join(map(as_json, results))}]"


# ---- files ----


def read_tools(path: str) -> list[dict]:
    """A list of function schemas, bare or as OpenAI's interfaces wrap them. Raises UserError."""
    tools = [data.bare_tool(tool) for tool in read_list(path)]
    unfinished = {"trajectory": [{"role": "user", "content": ""}], "exit_status": "tools only"}
    data.check_record(unfinished | {"tools": tools}, path)
    return tools


def read_responses(path: str) -> list[dict]:
    """Recordings {"name", "arguments", "response"} from a JSON list or JSON Lines. Raises UserError."""
    recordings = read_list(path)
    for index, recording in enumerate(recordings):
        if set(recording) != {"name", "arguments", "response"}:
            got = ", ".join(recording) or "nothing"
            raise UserError(f"{path}: entry {index} has {got}; wanted name, arguments and response")
        for key, kind, wanted in (("name", str, "a string"), ("arguments", dict, "an object")):
            if not isinstance(recording[key], kind):
                raise UserError(f"{path}: entry {index}: {key} is {recording[key]!r:.60}; wanted {wanted}")
    return recordings


def read_list(path: str) -> list[dict]:
    """The objects in a JSON list or in JSON Lines. Raises UserError."""
    wanted = "a JSON list of objects, or one object per line"
    try:
        with open_file(path) as file:
            text = file.read().decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted {wanted}") from None
    if text.startswith("{"):
        lines = [line.encode() for line in text.split("\n") if line.strip()]
        return [parse_object(line, f"{path}: entry {i}", wanted, JSON) for i, line in enumerate(lines)]
    try:
        entries = JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); wanted {wanted}") from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: got {entries!r:.60}; wanted {wanted}")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: entry {i} is {entry!r:.60}; wanted an object")
    return entries
