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

from evaluation.search import MAX_QUERIES, UNKNOWN, WIDTH, Message, Node, Search
from sources.record import unwrapped
from sources.toolbench import FINISH

CHAIN, TREE = "CoT@1", "DFS_woFilter_w2"  # the methods, as the published files are called
FINISH_TOOL = {
    "name": FINISH,
    "description": "Ends the task: with the answer for the user, or by giving up to start once more.",
    "parameters": {
        "type": "object",
        "properties": {
            "return_type": {"type": "string", "enum": ["give_answer", "give_up_and_restart"]},
            "final_answer": {"type": "string", "description": "for give_answer: what the user is told"},
        },
        "required": ["return_type"],
    },
}
NO_FUNCTION = "invalid_hallucination_function_name"  # stands in the messages for a name that is on no list

# ---- a search -> a raw answer ----


def raw_answer(
    search: Search, method: str, system: str, query: str, functions: list[dict], tokens: int
) -> dict:
    """What ToolBench's code would write of a search that has ended. tokens: those that were generated.

    Where it draws one of the ends that gave up, the first one is taken.
    """
    end = search.answer or (search.gave_up[0] if search.gave_up and method == TREE else None)
    made = {
        "valid_data": end is not None,
        "query_count": search.queries,
        "total_tokens": tokens,
        "final_answer": end.text if end else "",
        "finish_type": "give_answer" if search.answer or not end else "give_up",
        "function": [*functions, FINISH_TOOL],
        "chain": [],
        "train_messages": message_lists(end, system, query) if end else [],
        "query": query,
    }
    limits = {"single_chain_max_step": search.max_depth, "answer": 1}
    raw: dict = {"win": search.answer is not None}
    if method == CHAIN:
        chain = [described(node) for node in search.root.all() if node.parent]
        raw |= {"try_count": 1, "trys": [{"chain": chain, "win": raw["win"]}]}
        limits["pass_at"] = 1
    else:
        nodes = list(search.root.all())
        depth = max(node.depth for node in nodes)
        raw["tree"] = {"size": len(nodes), "max_length": depth + 1, "tree": subtree(search.root)}
        limits |= {"tree_beam_size": WIDTH, "max_query_count": MAX_QUERIES, "with_filter": False}
    return raw | {"compare_candidates": [], "forward_args": limits, "answer_generation": made}


def described(node: Node) -> dict:
    """A node as the files have it; is_terminal is never true there."""
    row = {
        "is_terminal": False,
        "pruned": node.pruned,
        "finished": node.finished,
        "depth": node.depth,
        "node_type": node.kind,
        "description": node.text,
        "Elo": 1000.0,
        "child_count": len(node.children),
        "expand_num": node.number,
    }
    if node.call:
        row |= {"observation": node.call.observation, "observation_code": node.call.code}
    return row | ({"io_state": {}} if node.kind == "Action Input" else {})


def subtree(node: Node) -> dict:
    return described(node) | {"children": [subtree(child) for child in node.children]}


def message_lists(end: Node, system: str, query: str) -> list[list[dict]]:
    """The dialogue up to each of its assistant messages; of diversity messages each keeps the last one."""
    dialogue = [{"role": "system", "content": system}, {"role": "user", "content": query}]
    lists = []
    for node in end.path():
        if not node.message:
            continue
        if node.message.request:
            dialogue = [message for message in dialogue if "valid" not in message]
            dialogue.append({"role": "user", "content": node.message.request, "valid": False})
        for message in messages_of(node.message):
            dialogue.append(message)
            if message["role"] == "assistant":
                lists.append([*dialogue])
    return lists


def messages_of(message: Message) -> Iterator[dict]:
    """A call a message, the first with the thought, each with its result; Finish has none."""
    thought = {} if message.thought is None else {"content": message.thought}
    if not message.calls:
        yield {"role": "assistant"} | thought
    for call in message.calls:
        name = NO_FUNCTION if call.code == UNKNOWN else call.name
        yield {"role": "assistant", "function_call": {"name": name, "arguments": call.arguments}} | thought
        if name != FINISH:
            yield {"role": "function", "name": name, "content": call.observation}
        thought = {}


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
            response = "" if call["name"] == FINISH else messages[following]["content"]
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
