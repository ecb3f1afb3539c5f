"""StableToolBench: does the agent reach an answer with the APIs that it is given? Played here for Table 1.

    python evaluate.py stabletoolbench --data FOLDER --method dfs --responses exchanges.jsonl \\
        --server http://127.0.0.1:8080/virtual --output results/dfs.jsonl
    python evaluate.py score results/dfs.jsonl

FOLDER is the published `solvable_queries`: six sets of queries, each query with the documentation of its
APIs. One chain (--method cot) or a tree search (dfs; evaluation/search.py) takes a query to an answer, to
giving up or to its limits. Calls go to StableToolBench's virtual API server and its answers to the file of
--responses, which answers alone where there is no --server (tools/virtual.py).

This table counts answers. Whether an answer solves its query a judge has to say: that is the pass rate.
`--raw DIR` writes the files that ToolBench's own code would have written, for ToolEval itself.

Paper silent on limits and temperature. As published: 12 nodes deep, two children a node, 200 messages a
query; functions are called by their exact names, where ToolBench takes the end of a name for it.
"""

import json
import os
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import data
from agent import Episode, sampling
from cli import UserError, layout, open_file, write_whole
from engine.heldout import spread
from evaluation.results import digest
from evaluation.search import ANSWER, RESTART, UNKNOWN, Roles, Search
from evaluation.tables import share_cells
from evaluation.toolbench_answers import CHAIN, TREE, converted, raw_answer
from formats.frames import Frame
from model import Transformer
from sources.rows import Refused
from sources.toolbench import function_tools
from tools.mock import Tools
from tools.virtual import Exchanges, Server, World, error_text

GROUPS = ("G1_instruction", "G1_tool", "G1_category", "G2_instruction", "G2_category", "G3_instruction")
METHODS = {"cot": CHAIN, "dfs": TREE}
DAMAGE = (KeyError, TypeError, AttributeError, ValueError, Refused)  # what reading a row stumbles over

# ---- the queries and their functions ----


@dataclass
class Query:
    """functions: as ToolBench offers them. tools: as records have them, each name once.

    places: by a function's name, its category, tool and API at the server.
    """

    id: int
    group: str
    text: str
    functions: list[dict]
    tools: list[dict]
    places: dict[str, tuple[str, str, str]]


def read(args: Namespace) -> list[Query]:
    """Of each set of --groups --limit queries, evenly spread. Raises UserError.

    args.exchanges, for the header, becomes what answers the calls.
    """
    args.exchanges = f"filled by {args.server}" if args.server else digest_of(args.responses)
    queries = []
    for group in dict.fromkeys(args.groups):
        queries += spread(read_queries(Path(args.data), group), args.limit)
    return queries


def digest_of(path: Path) -> str:
    try:
        return digest([path])
    except OSError as error:
        raise UserError(f"--responses: {path}: {error.strerror}; name the file of exchanges") from None


def read_queries(folder: Path, group: str) -> list[Query]:
    """The queries of a set that are in its list of ids, where there is one. Raises UserError."""
    path = folder / "test_instruction" / f"{group}.json"
    wanted = "the folder solvable_queries of StableToolBench"
    rows = read_json(path, list, wanted)
    ids = {str(row.get("query_id")) for row in rows if isinstance(row, dict)}
    listed = folder / "test_query_ids" / f"{group}.json"
    if listed.exists():
        ids = set(read_json(listed, dict, wanted))
    queries = []
    for index, row in enumerate(rows):
        try:
            if str(row["query_id"]) in ids:
                queries.append(query_of(row, group))
        except DAMAGE as fault:
            raise UserError(f"{path}: query {index}: {fault!r}; wanted {wanted}") from None
    return queries


def read_json(path: Path, kind: type, wanted: str) -> list | dict:
    """The JSON value of a file. Raises UserError where it is of another kind."""
    try:
        with open_file(path) as file:
            value = json.loads(file.read().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted {wanted}") from None
    if not isinstance(value, kind):
        raise UserError(f"{path}: got {value!r:.60}; wanted {wanted}")
    return value


def query_of(row: dict, group: str) -> Query:
    """A row of a query file. Raises one of DAMAGE for what is none."""
    functions, first, places = [], {}, {}
    for api in row["api_list"]:
        function = function_of(api)
        functions.append(function)
        place = (api["category_name"], clean(api["tool_name"]), api_name(api["api_name"]))
        first.setdefault(function["name"], function)  # of two with one name the first is called
        places.setdefault(function["name"], place)
    tools = function_tools([*first.values()], Counter())
    return Query(int(row["query_id"]), group, row["query"], functions, tools, places)


RESERVED = ("from", "class", "return", "false", "true", "id", "and")
TYPES = {"NUMBER": "integer", "STRING": "string", "BOOLEAN": "boolean"}  # anything else: string
LONGEST_NAME, LONGEST_TEXT = 64, 256  # characters; of a name the last ones


def clean(name: str) -> str:
    """A name with letters, digits and single underscores; ^ and Chinese characters stay, as published."""
    name = re.sub(r"[^\u4e00-\u9fa5^a-zA-Z0-9_]", "_", name)
    name = re.sub("_+", "_", name).lower().strip("_")
    return f"get_{name}" if name[:1].isdigit() else name


def api_name(name: str) -> str:
    """As `clean`, and no reserved word."""
    name = clean(name)
    return f"is_{name}" if name in RESERVED else name


def function_of(api: dict) -> dict:
    """An API's documentation -> the function that ToolBench offers.

    Its optional parameters are lost where it has no required one, as published.
    """
    name = f"{api_name(api['api_name'])}_for_{clean(api['tool_name'])}"[-LONGEST_NAME:]
    text = f'This is the subfunction for tool "{clean(api["tool_name"])}", you can use this tool.'
    if about := api["api_description"].strip():
        about = about.replace(api["api_name"], name)[:LONGEST_TEXT]
        text += f'The description of this function is: "{about}"'
    required, optional = api["required_parameters"], api["optional_parameters"]
    if not required:
        optional = []
    parameters = {
        "type": "object",
        "properties": {api_name(given["name"]): parameter_of(given) for given in [*required, *optional]},
        "required": [api_name(given["name"]) for given in required],
        "optional": [api_name(given["name"]) for given in optional],
    }
    return {"name": name, "description": text, "parameters": parameters}


def parameter_of(given: dict) -> dict:
    described = {
        "type": TYPES.get(given["type"], "string"),
        "description": given["description"][:LONGEST_TEXT],
    }
    if str(given["default"]):
        described["example_value"] = given["default"]
    return described


# ---- an episode ----


@contextmanager
def world(args: Namespace) -> Iterator[World]:
    """What answers the calls of a run. Raises UserError."""
    with ExitStack() as stack:
        server = None
        if args.server:
            server = stack.enter_context(Server(args.server, os.environ.get("TOOLBENCH_KEY", "")))
        known = stack.enter_context(Exchanges(args.responses, fill=bool(server)))
        yield World(known, server)


def play(model: Transformer, frame: Frame, args: Namespace, i: int, query: Query) -> Callable:
    """The play of query i: a whole search."""

    def execute(name: str, arguments: dict) -> tuple[str, int]:
        if name not in query.places:
            return error_text(f"No such function name: {name}"), UNKNOWN
        return args.world.ask(*query.places[name], arguments)

    def perform(speak: Callable) -> dict:
        tokens = 0

        def counted(*given, **options) -> Iterator[int]:
            nonlocal tokens
            for token in speak(*given, **options):
                tokens += 1
                yield token

        options = {"domain": "toolbench", **sampling(args, i)}
        episode = Episode(model, frame, Tools(query.tools), speak=counted, **options)
        episode.follow([{"role": "user", "content": query.text}])
        search = Search(Roles(episode, execute, args.seed + query.id), args.max_depth, args.second)
        if args.method == "cot":
            search.chain()
        else:
            search.tree()
        system = data.system_text(episode.record, frame.prompts)
        method = METHODS[args.method]
        raw = raw_answer(search, method, system, query.text, query.functions, tokens)
        if args.raw:
            write_raw(args.raw / query.group / f"{query.id}_{method}.json", raw)
        return line_of(query, method, search, raw)

    return perform


def write_raw(path: Path, raw: dict) -> None:
    text = json.dumps(raw, indent=2)
    write_whole(path, lambda temporary: temporary.write_text(text))


def line_of(query: Query, method: str, search: Search, raw: dict) -> dict:
    """What the result file holds of a query: the answer as ToolEval's judges read it, and what it took."""
    nodes = list(search.root.all())
    codes = Counter(str(node.call.code) for node in nodes if node.call)
    return {
        "id": query.id,
        "group": query.group,
        "query": query.text,
        "method": method,
        "status": status_of(search),
        "messages": min(search.queries, search.max_queries - 1) if method == TREE else search.queries,
        "nodes": len(nodes) - 1,
        "depth": max(node.depth for node in nodes),
        "second_children": sum(len(node.children) - 1 for node in nodes if node.children),
        "gave_up": len(search.gave_up),
        "limits": sum(bool(node.message) and node.message.failed for node in nodes),
        "codes": dict(sorted(codes.items(), key=lambda item: int(item[0]))),
        "tokens": raw["answer_generation"]["total_tokens"],
        "answer": converted(raw),
    }


def status_of(search: Search) -> str:
    if search.answer:
        return "answered"
    return "gave_up" if search.gave_up else "no_answer"


# ---- the suite ----


def judge(line: dict) -> dict:
    """valid: whether there is an answer. Whether it is a good one a judge says. reason: how it ended else."""
    answered = line["status"] == "answered"
    return {"valid": answered, "reason": "" if answered else line["status"]}


def parts(line: dict) -> dict:
    """What a query adds to the rows of compare.py: whether it has an answer, to its set."""
    return {line["group"]: [(line["valid"], 1)]}


def table(header: dict, lines: list[dict]) -> str:
    """A row for each set, and one for all: answers, and what the search took."""
    rows = [["set", "n", "answered", "95 % interval", "gave up", "messages", "went back", "calls", "failed"]]
    for group in dict.fromkeys(line["group"] for line in lines):
        rows.append(row_of(group, [line for line in lines if line["group"] == group]))
    rows.append(row_of("all", lines))
    how = f"{header['method']}, {header['max_depth']} nodes deep"
    note = "per query: messages, went back, calls; failed: of the calls, those without a result\n"
    return f"{layout(rows)}{how}; answered is not solved: that a judge decides\n{note}"


def row_of(name: str, lines: list[dict]) -> list[str]:
    """A row of the table; calls are those of the tools, without Finish."""
    codes = Counter()
    for line in lines:
        codes.update(line["codes"])
    calls = codes.total() - codes[str(ANSWER)] - codes[str(RESTART)]
    gave_up = sum(line["status"] == "gave_up" for line in lines)
    messages = sum(line["messages"] for line in lines)
    returns = sum(line["second_children"] for line in lines)
    means = [f"{count / len(lines):.1f}" for count in (messages, returns, calls)]
    failed = f"{(calls - codes['0']) / calls:.0%}" if calls else "-"
    return [name, *share_cells([line["valid"] for line in lines]), str(gave_up), *means, failed]
