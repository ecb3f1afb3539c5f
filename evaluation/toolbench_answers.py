"""ToolBench's raw answer files, and the form of them that ToolEval's judges read.

A raw file is OUT/<group>/<query id>_<method>.json, of one query and one search:

    {"win", "tree": {"size", "max_length", "tree": node} or, of a chain, "trys": [{"chain": [node, ...]}],
     "answer_generation": {"valid_data", "finish_type", "final_answer": the text of Finish's arguments,
                           "function": schemas, "query", "train_messages": [[message, ...], ...]}}

Of a run with an answer the judges see the messages of the last list; a thought that stands in a message with
a call is lost, as in ToolEval. Of a run without one they see nodes: the chain, or of a tree the path of first
children, where ToolEval walks at random.
"""

from collections.abc import Iterable, Iterator

from sources.record import unwrapped

CHAIN, TREE = "CoT@1", "DFS_woFilter_w2"  # the methods, as the published files are called

# ---- a raw answer -> ToolEval's answer form ----


def converted(raw: dict) -> dict:
    """{"query", "available_tools", "answer": {"method", "total_steps", "final_answer", "answer_details"}}.

    Raises KeyError, TypeError or IndexError for what is no raw answer.
    """
    made = raw["answer_generation"]
    if made["valid_data"]:
        steps = message_steps(made["train_messages"][-1][2:])  # behind system and user
    elif "trys" in raw:
        steps = node_steps(raw["trys"][0]["chain"])
    else:
        steps = node_steps(first_path(raw["tree"]["tree"]))
    steps = [step("system", ""), step("user", ""), *steps]
    return {
        "query": made["query"],
        "available_tools": [unwrapped(function) for function in made["function"]],
        "answer": {
            "method": CHAIN if "trys" in raw else TREE,
            "total_steps": len(steps),
            "final_answer": made["final_answer"],
            "answer_details": nested(steps),
        },
    }


def step(role: str, message: str | dict) -> dict:
    return {"role": role, "message": message, "next": []}


def tool_step(name: str, arguments: str, response: str) -> dict:
    return step("tool", {"name": name, "arguments": arguments, "response": response})


def nested(steps: list[dict]) -> list[dict]:
    """Each step as the only one of the step before it."""
    for before, after in zip(steps, steps[1:], strict=False):
        before["next"] = [after]
    return steps[:1]


def message_steps(messages: list[dict]) -> Iterator[dict]:
    """What was called, with the result that follows, and what was said without a call."""
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        calls = calls_of(message)
        for following, call in enumerate(calls, place + 1):
            response = "" if call["name"] == "Finish" else messages[following]["content"]
            yield tool_step(call["name"], call["arguments"], response)
        if not calls:
            yield step("assistant", message["content"])


def calls_of(message: dict) -> list[dict]:
    """The calls of a message: the one of the staged shape, or the list of the newer one."""
    if message.get("function_call"):
        return [message["function_call"]]
    return [unwrapped(call) for call in message.get("tool_calls") or ()]


def node_steps(nodes: Iterable[dict]) -> Iterator[dict]:
    """Action and Action Input as one step, a Thought as another."""
    name = ""
    for node in nodes:
        if node["node_type"] == "Thought":
            yield step("assistant", node["description"])
        elif node["node_type"] == "Action":
            name = node["description"]
        else:
            yield tool_step(name, node["description"], node["observation"])


def first_path(root: dict) -> Iterator[dict]:
    """The nodes below a root, by first children."""
    node = root
    while node["children"]:
        node = node["children"][0]
        yield node
