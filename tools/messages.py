"""A request for a chat completion, checked field by field, and the turns of a record (data.py) in it.

    messages of a request              turns
    system, developer                  the record's system text; several are joined
    user                               user
    assistant with tool_calls          reasoner, whose words are reasoning_content or reasoning; executor
    assistant without                  reasoner; summarizer
    tool, one for each call            one observation, in the order of the calls

tools/replies.py has the way back, from turns to a response.

ToolBench's clients end by a call of the function Finish. The model is not shown it: Finish is what the
summarizer says.
"""

import secrets
from dataclasses import dataclass

from cli import MOST, UserError, parse_object
from formats import calls
from formats.calls import JSON, check_plain, check_value
from tools.mock import observation_of

# ---- what is refused ----


class Refusal(Exception):
    """A request that gets no answer. param: the field at fault. after: seconds until another try."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        after: int | None = None,
    ):
        super().__init__(message)
        self.param, self.code, self.status, self.after = param, code, status, after

    def body(self) -> dict:
        """OpenAI's shape."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refuse(at: str, got: str) -> None:
    """Raise the refusal of a field, which the message names, too."""
    raise Refusal(f"{at}: {got}", at)


def check(value: object, schema: dict, at: str) -> None:
    """calls.check_value, as a Refusal of the field at fault."""
    try:
        check_value(value, schema, at)
    except ValueError as fault:
        raise Refusal(str(fault), str(fault).partition(": ")[0]) from None


# ---- a request ----

GIVE_UP = "I give up and restart."  # what the summarizer says then: sources/toolbench.py
FINISH = "Finish"
TEXT, FLAG, OBJECT = {"type": ["string", "null"]}, {"type": ["boolean", "null"]}, {"type": "object"}
FIELDS = {  # further ones are ignored
    "model": TEXT,
    "messages": {"type": "array", "items": OBJECT},
    "tools": {"type": ["array", "null"], "items": OBJECT},
    "tool_choice": {"type": ["string", "object", "null"]},
    "parallel_tool_calls": FLAG,
    "stop": {"type": ["string", "array", "null"], "items": {"type": "string"}},
    "stream": FLAG,
    "stream_options": {
        "type": ["object", "null"],
        "properties": {"include_usage": FLAG},
        "additionalProperties": True,
    },
}
NUMBERS = {  # name -> kind, lowest, highest
    "max_tokens": ("integer", 1, MOST),
    "max_completion_tokens": ("integer", 1, MOST),
    "temperature": ("number", 0, 2),
    "top_p": ("number", 0, 1),
    "seed": ("integer", -(2**63), 2**63 - 1),
}
PLAIN = {"n": 1, "logprobs": False, "top_logprobs": 0, "audio": None, "modalities": ["text"]}  # all we can do
GREEDY = 0.01  # a temperature below it is meant as 0


@dataclass
class Request:
    """What a body asks for. turns: the last one is the user's or an observation."""

    model: str | None
    tools: list[dict]
    system: str | None
    turns: list[dict]
    without_thoughts: int  # turns of the assistant that came back without the reasoner's words
    then: str | None  # the role that follows the reasoner, whomever it names
    finish: bool  # the summarizer's words are a call of Finish
    one_call: bool
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int
    stop: list[str]
    stream: bool
    include_usage: bool


def read_request(data: bytes, domain: str = "bfcl", thoughts: str = "reasoning") -> Request:
    """Read a body. thoughts: where the reasoner's words travel, beside the fields for them: "content".

    Raises Refusal, which names the field.
    """
    body = read_body(data)
    tools = read_tools(body.get("tools") or [])
    offered = [tool for tool in tools if not is_finish(tool)]
    then, named = read_choice(body.get("tool_choice"), tools)
    finish = len(offered) < len(tools)
    if domain == "math":
        if tools:
            refuse("tools", "got some, wanted none: this server runs the code that it writes")
    system, turns, lost = read_messages(body["messages"], finish, thoughts)
    if domain == "math":
        turns, lost = without_work(turns), 0
    options = body.get("stream_options") or {}
    seed = body.get("seed")
    return Request(
        model=body.get("model"),
        tools=[tool for tool in offered if named in (None, tool["name"])],
        system=system,
        turns=turns,
        without_thoughts=lost,
        then=then,
        finish=finish,
        one_call=body.get("parallel_tool_calls") is False,
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        temperature=warmth(body.get("temperature") or 0),
        top_p=1.0 if body.get("top_p") is None else body["top_p"],
        seed=secrets.randbelow(2**63) if seed is None else seed,
        stop=read_stop(body.get("stop")),
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
    )


def read_body(data: bytes) -> dict:
    """The JSON object with its fields checked one by one."""
    try:
        body = parse_object(data, "body", "a JSON object", JSON)
        check_plain(body)
    except UserError as fault:
        raise Refusal(str(fault)) from None
    except ValueError as fault:
        raise Refusal(str(fault), str(fault).partition(": ")[0]) from None
    if body.get("messages") is None:
        refuse("messages", "missing, wanted a list of messages")
    for name, schema in FIELDS.items():
        check(body.get(name), schema, name)
    for name, (kind, low, high) in NUMBERS.items():
        value = body.get(name)
        check(value, {"type": [kind, "null"]}, name)
        if value is not None and not low <= value <= high:
            refuse(name, f"got {value}, wanted {low} to {high}")
    for name, only in PLAIN.items():
        if body.get(name) not in (None, only):
            refuse(name, f"got {body[name]!r:.60}, wanted {only!r} or nothing")
    if body.get("response_format") not in (None, {"type": "text"}):
        refuse("response_format", "wanted {'type': 'text'} or nothing")
    for name in ("functions", "function_call"):
        if body.get(name) is not None:
            refuse(name, "is no longer known; give tools and tool_choice")
    if body.get("stream_options") and not body.get("stream"):
        refuse("stream_options", "wanted only with stream: true")
    return body


def warmth(temperature: float) -> float:
    """0 for what is meant as 0: drawing at random would only switch off guesses."""
    return temperature if temperature >= GREEDY else 0.0


def read_stop(stop: str | list[str] | None) -> list[str]:
    texts = [stop] if isinstance(stop, str) else stop or []
    if len(texts) > 4 or "" in texts:
        refuse("stop", "wanted up to 4 texts, none of them empty")
    return texts


# ---- tools ----

TOOL = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {"type": {"enum": ["function"]}, "function": OBJECT},
    "additionalProperties": True,
}
KEYS = ("name", "description", "parameters")


def read_tools(tools: list[dict]) -> list[dict]:
    """The schemas, bare, as a record has them; what else stands in them is dropped, and so are nulls."""
    bare = []
    for i, tool in enumerate(tools):
        at = f"tools[{i}]"
        check(tool, TOOL, at)
        function = tool["function"]
        bare.append({key: function[key] for key in function if key in KEYS and function[key] is not None})
        check(bare[-1], calls.TOOLS["items"], f"{at}.function")
    try:
        calls.check_tools(bare, "tools")
    except ValueError as fault:
        raise Refusal(str(fault), str(fault).partition(": ")[0]) from None
    return bare


def is_finish(tool: dict) -> bool:
    """Whether it is ToolBench's, and not a function that happens to have that name."""
    properties = tool.get("parameters", {}).get("properties", {})
    return tool["name"] == FINISH and {"return_type", "final_answer"} <= properties.keys()


def read_choice(choice: str | dict | None, tools: list[dict]) -> tuple[str | None, str | None]:
    """The role that must follow the reasoner, and the only function that is offered, if any."""
    roles = {None: None, "auto": None, "none": "summarizer", "required": "executor"}
    if isinstance(choice, dict):
        named = choice.get("function")
        name = named.get("name") if isinstance(named, dict) else None
        tool = next((tool for tool in tools if tool["name"] == name), None)
        if choice.get("type") != "function" or tool is None:
            names = ", ".join(tool["name"] for tool in tools) or "none, as there are no tools"
            refuse("tool_choice", f"got {choice!r:.60}, wanted a function of tools: {names}")
        return ("summarizer", None) if is_finish(tool) else ("executor", name)
    if choice not in roles:
        refuse("tool_choice", f"got {choice!r:.60}, wanted auto, none, required or a function")
    if choice == "required" and not tools:
        refuse("tool_choice", "got required, wanted tools with it")
    return roles[choice], None


# ---- messages ----

FOLLOWS = {  # who may speak next
    "nobody": ("user",),
    "user": ("assistant", "user"),  # of BFCL's questions three go on in a second message
    "calls": ("tool",),  # the assistant has made calls
    "tool": ("assistant", "user"),  # and they are answered
    "answer": ("user",),  # the assistant has answered
    "finish": ("tool", "user"),
}


def read_messages(messages: list[dict], finish: bool, thoughts: str) -> tuple[str | None, list[dict], int]:
    """System text, turns, and how many of the assistant's turns have lost the reasoner's words."""
    system, turns, lost, last = [], [], 0, "nobody"
    made: list[dict] = []  # the calls of the last assistant's message, each with its id and then its result
    for i, message in enumerate(messages):
        at, role = f"messages[{i}]", message.get("role")
        if role in ("system", "developer"):
            if last != "nobody":
                refuse(f"{at}.role", f"got {role} after the beginning, wanted {' or '.join(FOLLOWS[last])}")
            system.append(text_of(message, at))
            continue
        if role not in FOLLOWS[last]:
            refuse(f"{at}.role", f"got {role!r:.60}, wanted {wanted_next(last, made)}")
        if role == "user" and last == "user":
            turns[-1]["content"] += f"\n\n{text_of(message, at)}"
        elif role == "user":
            turns.append({"role": "user", "content": text_of(message, at)})
            last = "user"
        elif role == "assistant":
            made = read_calls(message, at)
            thought = thought_of(message, at, thoughts if made else "")
            lost += thought is None
            spoken = answer_turns(message, at, thought or "", made, finish)
            turns += spoken
            last = "answer"
            if made:
                last = "calls" if spoken[-1]["role"] == "executor" else "finish"
        elif last == "calls":
            match_result(message, at, made)
            if all("result" in call for call in made):
                content = observation_of([call["result"] for call in made])
                turns.append({"role": "observation", "content": content})
                last = "tool"
    if last not in ("user", "tool"):
        refuse("messages", f"ends after {last}, wanted {wanted_next(last, made)} next")
    return "\n\n".join(system) if system else None, turns, lost


def without_work(turns: list[dict]) -> list[dict]:
    """Of maths, whose code ran on the server, a client has questions and answers alone."""
    if any(turn["role"] == "executor" for turn in turns):
        refuse("messages", "got tool_calls, wanted none: this server runs the code that it writes")
    return [turn | {"content": ""} if turn["role"] == "reasoner" else turn for turn in turns]


def wanted_next(last: str, made: list[dict]) -> str:
    """Who should speak, in words."""
    if last != "calls":
        return " or ".join(FOLLOWS[last])
    ids = [call["id"] for call in made if "result" not in call]
    return f"tool, with the result of {', '.join(ids)}"


def text_of(message: dict, at: str, name: str = "content") -> str:
    """The text of a field: a string, nothing, or a list of parts that are texts."""
    content = message.get(name)
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        refuse(f"{at}.{name}", f"got {content!r:.60}, wanted a text or a list of texts")
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            refuse(f"{at}.{name}[{i}]", f"got {part!r:.60}, wanted {{'type': 'text', 'text': ...}}")
    return "".join(part["text"] for part in content)


def thought_of(message: dict, at: str, thoughts: str) -> str | None:
    """The reasoner's words; None where they have been lost."""
    for name in ("reasoning_content", "reasoning"):
        if message.get(name) is not None:
            return text_of(message, at, name)
    if thoughts == "content" and message.get("content") is not None:
        return text_of(message, at)
    return None


def read_calls(message: dict, at: str) -> list[dict]:
    """The calls of an assistant's message, {id, name, arguments}."""
    given = message.get("tool_calls") or []
    check(given, {"type": "array", "items": OBJECT}, f"{at}.tool_calls")
    made = []
    for i, call in enumerate(given):
        where = f"{at}.tool_calls[{i}]"
        check(call.get("id"), {"type": "string"}, f"{where}.id")
        check(call.get("function"), OBJECT, f"{where}.function")
        if call["id"] in [earlier["id"] for earlier in made]:
            refuse(f"{where}.id", f"got {call['id']!r:.60} again, wanted each id once")
        made.append({"id": call["id"], **read_call(call["function"], f"{where}.function")})
    return made


def read_call(function: dict, at: str) -> dict:
    """Name and arguments, which are JSON as text. The order of keys stays: the model sees it."""
    name, text = function.get("name"), function.get("arguments")
    check(text, {"type": "string"}, f"{at}.arguments")
    try:
        call = {"name": name, "arguments": JSON.decode(text or "{}")}
        calls.check_plain(call)
        calls.check_calls([call], at)
    except (ValueError, RecursionError) as fault:
        raise Refusal(f"{at}: wanted a name, and arguments that are a JSON object ({fault})", at) from None
    return call


def answer_turns(message: dict, at: str, thought: str, made: list[dict], finish: bool) -> list[dict]:
    """The two turns of an assistant's message."""
    said = text_of(message, at)
    if finish and [call["name"] for call in made] == [FINISH]:
        said = final_answer(made[0]["arguments"])
        made = []
    if not made:
        named = {"role": "reasoner", "content": thought, "next": "summarizer"}
        return [named, {"role": "summarizer", "content": said}]
    bare = [{"name": call["name"], "arguments": call["arguments"]} for call in made]
    named = {"role": "reasoner", "content": thought, "next": "executor"}
    return [named, {"role": "executor", "calls": bare}]


def match_result(message: dict, at: str, made: list[dict]) -> None:
    """Keep a tool message as the result of its call."""
    name = message.get("tool_call_id")
    call = next((call for call in made if call["id"] == name), None)
    if call is None or "result" in call:
        ids = ", ".join(call["id"] for call in made if "result" not in call)
        refuse(f"{at}.tool_call_id", f"got {name!r:.60}, wanted {ids}")
    call["result"] = text_of(message, at)


# ---- Finish ----


def final_answer(arguments: dict) -> str:
    """What the summarizer said, from a call of Finish."""
    if arguments.get("return_type") == "give_up_and_restart":
        return GIVE_UP
    return str(arguments.get("final_answer", ""))
