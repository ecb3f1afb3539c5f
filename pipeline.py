"""The multi-role data pipeline (paper, section 3.3): from public data sets to records that train.py takes.

Stages are subcommands, each from files to one JSON Lines file in the schema of data.py:

    convert   a public data set in its own form -> records, by rules alone (no model is asked)

    python pipeline.py convert --source toolbench-messages --output toolbench.jsonl train_messages_0830.json

A row that holds no whole trajectory is refused with its reason, never repaired; a table at the end adds up.
Each record's `source` says which row it came from, which parts the row did not have ("missing", as paths into
the record) and what was left behind ("dropped").
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

import cli
import data
from calls import JSON, check_call


class Refused(Exception):
    """Why one row becomes no record: a reason to count by, and what this row had."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


# ---------------------------------------------------------------- ToolBench, the later message form
# One row: {"tools": [{"Name", "function", "input"}], "instruction": query, "chains": [message, ...]}. One
# voice speaks in its messages; here its parts go to the roles:
#
#   user               the query, once; prompts of the tree search, also sent as the user, are dropped
#   assistant content  -> reasoner; messages without a call are joined to the next one that has a call
#   function_call      -> executor; Finish is no tool but the end: its final_answer -> summarizer
#   function           -> observation, errors included: they teach recovery
#
# A call without any thought keeps a reasoner turn with empty content, listed as missing: who acts next is
# known, only the words are not, and to refuse the row would lose its other steps.

FINISH = "Finish"
TYPES = ("string", "integer", "number", "boolean", "array", "object")
SEARCH_PROMPT = "This is not the first time you try this task"
# Words of the search's scaffolding. A text that repeats them would teach a tool that is not on the list.
SCAFFOLDING = (SEARCH_PROMPT, "give_up_and_restart", "mento-carlo-action-value", '"Finish"', "'Finish'")


def convert_toolbench(row: Any) -> dict:
    """One row -> one record that does not yet know its file and index. Raises Refused."""
    query = field(row, "instruction", str).strip()
    tools = [toolbench_tool(tool) for tool in field(row, "tools", list) if field(tool, "Name", str) != FINISH]
    turns: list[dict] = [{"role": "user", "content": query}]
    thoughts, missing, dropped = [], ["tools.parameters.required"], Counter()
    waiting = None  # the function whose result must come next
    for message in field(row, "chains", list):
        role = field(message, "role", str)
        text = field(message, "content", str).strip() if message.get("content") is not None else ""
        if turns[-1]["role"] == "summarizer":
            raise Refused("goes on after the final answer", f"with {role}")
        if waiting and role != "function":
            raise Refused("call without a result", waiting)
        if role == "system":
            dropped["system prompt"] += 1
        elif role == "user" and text.startswith(SEARCH_PROMPT):
            dropped["search prompt"] += 1
        elif role == "user":
            if len(turns) > 1 or text.removesuffix("Begin!").strip() != query:
                raise Refused("user message that is not the query", text)
        elif role == "function":
            if field(message, "name", str) != waiting:
                raise Refused("result of no call", message["name"])
            turns.append({"role": "observation", "content": message.get("content") or ""})
            waiting = None
        elif role == "assistant":
            thoughts += [text] if text else []
            if message.get("function_call") is None:
                continue
            if not thoughts:
                missing.append(f"trajectory.{len(turns)}.content")
            waiting = add_step(turns, "\n".join(thoughts), field(message, "function_call", dict), tools)
            thoughts = []
        else:
            raise Refused("unknown role", role)
    if turns[-1]["role"] != "summarizer":
        raise Refused("no final answer", f"ends in {turns[-1]['role']}")
    source = {"dataset": "toolbench-messages", "missing": missing, "dropped": dropped}
    return {"tools": tools, "domain": "toolbench", "trajectory": turns, "source": source}


def add_step(turns: list[dict], thought: str, call: dict, tools: list[dict]) -> str | None:
    """Append a reasoner turn and the turn it leads to; return the function whose result is due, if any."""
    name, arguments = field(call, "name", str), read_arguments(field(call, "arguments", str))
    content = final_answer(arguments) if name == FINISH else ""
    for words in SCAFFOLDING:
        if words in thought or words in content:
            raise Refused("search scaffolding in a text", words)
    if name == FINISH:
        turns.append({"role": "reasoner", "content": thought, "next": "summarizer"})
        turns.append({"role": "summarizer", "content": content})
        return None
    if name not in [tool["name"] for tool in tools]:
        raise Refused("call outside the tool list", name)
    turns.append({"role": "reasoner", "content": thought, "next": "executor"})
    turns.append({"role": "executor", "calls": [{"name": name, "arguments": arguments}]})
    return name


def read_arguments(text: str) -> dict:
    try:
        arguments = JSON.decode(text)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise Refused("arguments that are no JSON object", text)
    return arguments


def final_answer(arguments: dict) -> str:
    if arguments.get("return_type") == "give_up_and_restart":
        raise Refused("gave up")
    answer = arguments.get("final_answer")
    if not isinstance(answer, str) or not answer.strip():
        raise Refused("no final answer", f"Finish has {', '.join(arguments) or 'no arguments'}")
    return answer.strip()


def toolbench_tool(tool: dict) -> dict:
    """The shortened form {Name, function, input: {parameter: "type, description"}} -> a function schema.

    It does not say which parameters are required, so none is: a guess would turn right calls into wrong ones.
    """
    properties = {}
    for parameter, text in field(tool, "input", dict).items():
        kind, _, description = str(text).partition(",")
        if kind not in TYPES:
            raise Refused("tool parameter of no known type", f"{tool['Name']}: {parameter}: {text}")
        properties[parameter] = {"type": kind}
        if description.strip():
            properties[parameter]["description"] = description.strip()
    parameters = {"type": "object", "properties": properties, "required": []}
    return {"name": tool["Name"], "description": field(tool, "function", str), "parameters": parameters}


def field(row: Any, key: str, kind: type) -> Any:
    """row[key], refusing the row where it is absent or of another type."""
    if not isinstance(row, dict) or not isinstance(row.get(key), kind):
        got = type(row[key]).__name__ if isinstance(row, dict) and key in row else "nothing"
        raise Refused("not the source's shape", f"{key}: got {got}, wanted {kind.__name__}")
    return row[key]


# ---------------------------------------------------------------- convert


def read_array(path: Path) -> list:
    """The rows of a file that holds one JSON array."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cli.UserError(f"{path}: cannot be read ({error.strerror}); name the data set's file") from None
    except (ValueError, RecursionError) as error:
        raise cli.UserError(f"{path}: not JSON in UTF-8 ({error}); use the file as published") from None
    if not isinstance(rows, list):
        raise cli.UserError(f"{path}: got a JSON {type(rows).__name__}, wanted an array; check --source")
    return rows


# A source is a reader (file -> rows) and a rule (row -> record, or Refused).
SOURCES: dict[str, tuple[Callable[[Path], list], Callable[[Any], dict]]] = {
    "toolbench-messages": (read_array, convert_toolbench),
}


def convert(args: argparse.Namespace) -> None:
    if args.output.resolve() in [path.resolve() for path in args.files]:
        raise cli.UserError(f"--output {args.output} is one of the inputs; choose another name")
    counts, examples = Counter(), {}

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            for line in converted(args, counts, examples):
                file.write(line + "\n")
        print_table(counts, examples)
        if not counts["rows out"]:
            raise cli.UserError(f"{args.files[0]}: no row can be converted, nothing written; check --source")

    cli.write_whole(args.output, write)


def converted(args: argparse.Namespace, counts: Counter, examples: dict[str, str]) -> Iterator[str]:
    """Yield each record as a line; fill `counts`, and `examples` with the first row of each reason."""
    read, rule = SOURCES[args.source]
    for path in args.files:
        for index, row in enumerate(tqdm(read(path), desc=path.name, unit=" rows", disable=None)):
            counts["rows in"] += 1
            try:
                record = rule(row)
                record["source"] |= {"file": path.name, "index": index}
                data.check_record(record, f"{path.name}: row {index}")
            except (Refused, cli.UserError) as error:
                refused = error if isinstance(error, Refused) else Refused("not a valid record", str(error))
                counts[f"refused: {refused.reason}"] += 1
                examples.setdefault(f"refused: {refused.reason}", f"{path.name} row {index} {refused.detail}")
                continue
            counts.update(["rows out", *remarks(record)])
            yield json.dumps(record, ensure_ascii=False)


def remarks(record: dict) -> Iterator[str]:
    """What a kept record still lacks, once per occurrence: work for later stages."""
    for turn in record["trajectory"]:
        if turn["role"] == "reasoner":
            yield "kept: reasoner steps"
            if not turn["content"]:
                yield "kept: reasoner steps with an empty thought"
        for call in turn.get("calls", ()):
            yield "kept: calls"
            if check_call(call, record["tools"]):
                yield "kept: calls that break their schema"


def print_table(counts: Counter, examples: dict[str, str]) -> None:
    refused = [name for name, _ in counts.most_common() if name.startswith("refused")]
    kept = sorted(name for name in counts if name.startswith("kept"))
    for name in ["rows in", "rows out", *refused, *kept]:
        first = " ".join(f"(first: {examples[name]}".split())[:70] + ")" if name in examples else ""
        print(f"{counts[name]:>9,}  {name:<45} {first}".rstrip())


def main(argv: list[str] | None = None) -> None:
    parser = cli.ArgumentParser(prog="pipeline.py", description=__doc__)
    stages = parser.add_subparsers(title="stages", required=True, metavar="STAGE")
    about = "A public data set in its own form -> records, by rules alone."
    stage = stages.add_parser("convert", help=about, description=about, argument_default=argparse.SUPPRESS)
    stage.set_defaults(stage=convert)
    stage.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the files as published")
    stage.add_argument("--source", required=True, choices=SOURCES, help="the form they are in")
    stage.add_argument("--output", type=Path, required=True, metavar="OUT", help="JSON Lines file to write")
    args = parser.parse_args(argv)
    args.stage(args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
