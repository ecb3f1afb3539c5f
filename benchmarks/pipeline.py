"""How fast `pipeline.py convert`, the rules of `verify`, and `unify` are, on one core, and their memory.

    python -m benchmarks.pipeline                                        invented rows, three sources
    python -m benchmarks.pipeline --data apigen=xlam.json --count 5000   a file of one's own, over and over

Each figure is of a process of its own, from reading the input to the last byte of the output, without the
start of Python and the imports, whose memory is told apart. Seconds are of CPU time, which other work on the
machine does not change much. verify asks no model and runs no code; unify reads what verify wrote.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

from tqdm import tqdm

from benchmarks.apart import in_new_process, peak_bytes
from cli import ArgumentParser, layout, number, run

# ---- invented rows: three tools of four parameters and one call, in a source's published form ----

WORDS = "weather film flight hotel stock recipe".split()
PARAMETERS = {  # of every tool: type in JSON Schema, description
    "city": ("string", "The city in which to look."),
    "day": ("string", "The day, as year, month and day."),
    "limit": ("integer", "How many results are wanted at most."),
    "brief": ("boolean", "Leave out the details."),
}
PYTHON_TYPES = {"string": "str", "integer": "int, optional", "boolean": "bool, optional"}
ABOUT = "Finds what there is."
FOUND, ANSWER = '{"found": ["a fair", "a concert"]}', "There are a fair and a concert."
ACE = "Here is a list of functions in JSON format that you can invoke:\n{}. \nShould you decide to call"
GLAIVE = (
    "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n{}\n"
)


def tool_names(i: int) -> list[str]:
    return [f"find_{WORDS[(i + k) % len(WORDS)]}_{k}" for k in range(3)]


def tools_of(i: int, type_of_object: str) -> list[dict]:
    """The tools of row i with JSON Schema."""
    properties = {name: {"type": kind, "description": text} for name, (kind, text) in PARAMETERS.items()}
    schema = {"type": type_of_object, "properties": properties, "required": ["city"]}
    return [{"name": name, "description": ABOUT, "parameters": schema} for name in tool_names(i)]


def query_of(i: int) -> str:
    return f"Number {i}: what is there in Rome on the first of May? At most {i % 9 + 1} results, please."


def arguments_of(i: int) -> dict:
    return {"city": "Rome", "day": "2025-05-01", "limit": i % 9 + 1}


def apigen_row(i: int) -> dict:
    flat = {
        name: {"description": text, "type": PYTHON_TYPES[kind]} for name, (kind, text) in PARAMETERS.items()
    }
    tools = [{"name": name, "description": ABOUT, "parameters": flat} for name in tool_names(i)]
    answers = [{"name": tool_names(i)[0], "arguments": arguments_of(i)}]
    return {"id": i, "query": query_of(i), "answers": json.dumps(answers), "tools": json.dumps(tools)}


def toolace_row(i: int) -> dict:
    called = tool_names(i)[0]
    values = ", ".join(f"{name}={json.dumps(value)}" for name, value in arguments_of(i).items())
    turns = [
        {"from": "user", "value": query_of(i)},
        {"from": "assistant", "value": f"[{called}({values})]"},
        {"from": "tool", "value": f'[{{"name": "{called}", "results": {FOUND}}}]'},
        {"from": "assistant", "value": ANSWER},
    ]
    return {"system": ACE.format(json.dumps(tools_of(i, "dict"))), "conversations": turns}


def glaive_row(i: int) -> dict:
    tools = "\n\n".join(json.dumps(tool, indent=4) for tool in tools_of(i, "object"))
    call = f"""{{"name": "{tool_names(i)[0]}", "arguments": '{json.dumps(arguments_of(i))}'}}"""
    chat = (
        f"USER: {query_of(i)}\n\n\n"
        f"ASSISTANT: <functioncall> {call} <|endoftext|>\n\n\n"
        f"FUNCTION RESPONSE: {FOUND}\n\n\n"
        f"ASSISTANT: {ANSWER} <|endoftext|>\n\n\n"
    )
    return {"system": GLAIVE.format(tools), "chat": chat}


INVENTED = {"apigen": apigen_row, "toolace": toolace_row, "glaive": glaive_row}


# ---- rows in files ----


def own_rows(source: str, path: Path, count: int) -> Iterator[dict]:
    """`count` rows of a file, over and over. Raises UserError."""
    from sources.catalogue import SOURCES

    return islice(cycle(list(SOURCES[source].read(path))), count)


def write_rows(path: Path, rows: Iterator[dict]) -> None:
    """A JSON array, as the data sets are published."""
    with open(path, "w", encoding="utf-8") as file:
        before = "[\n"
        for row in rows:
            file.write(before + json.dumps(row))
            before = ",\n"
        file.write("\n]\n")


def count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


# ---- the command ----


def source_and_file(text: str) -> tuple[str, Path]:
    """An argparse type: SOURCE=FILE."""
    from sources.catalogue import SOURCES

    source, _, path = text.partition("=")
    if source not in SOURCES or not path:
        wanted = f"SOURCE=FILE with a source among {', '.join(SOURCES)}"
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted {wanted}")
    return source, Path(path)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    add = parser.add_argument
    add("--count", type=number(int, 1), default=100_000, metavar="N", help="rows of each source")
    own = "rows of one's own, repeated; []: invented ones"
    add("--data", type=source_and_file, nargs="+", default=[], metavar="SOURCE=FILE", help=own)
    return parser.parse_args(argv)


def measure(*argv: str) -> dict:
    """One command of pipeline.py, in this process. Raises UserError."""
    import pipeline  # not above: the process that prints the table needs no torch

    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        imports, started = peak_bytes(), time.process_time()
        pipeline.main(list(argv))
        seconds = time.process_time() - started
    return {"seconds": seconds, "imports": imports, "peak": peak_bytes()}


def stages(source: str, rows: Path, folder: Path) -> dict[str, list[str]]:
    """Arguments of pipeline.py by stage: each reads what the one before it wrote."""
    records, verified = str(folder / "records.jsonl"), str(folder / "verified.jsonl")
    return {
        "convert": ["convert", str(rows), "--source", source, "--output", records],
        "verify": ["verify", records, "--model", "", "--output", verified],
        "unify": ["unify", verified, "--output", str(folder)],
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    rows = {source: map(row_of, range(args.count)) for source, row_of in INVENTED.items()}
    if args.data:
        rows = {source: own_rows(source, path, args.count) for source, path in args.data}
    table = [["source", "stage", "rows", "MB in", "CPU s", "rows/s", "peak MB", "of imports"]]
    with tempfile.TemporaryDirectory() as name, tqdm(total=3 * len(rows), disable=None, leave=False) as bar:
        path = Path(name) / "rows.json"
        for source, of_source in rows.items():
            write_rows(path, of_source)
            for stage, command in stages(source, path, Path(name)).items():
                given = Path(command[1])
                read = args.count if given == path else count_lines(given)
                got = in_new_process(measure, *command)
                cells = [source, stage, f"{read:,}", f"{given.stat().st_size / 1e6:,.1f}"]
                cells += [f"{got['seconds']:.2f}", f"{read / got['seconds']:,.0f}"]
                cells += [f"{got[what] / 2**20:,.0f}" for what in ("peak", "imports")]
                table.append(cells)
                bar.update()
    print(layout(table), end="")


if __name__ == "__main__":
    sys.exit(run(main))
