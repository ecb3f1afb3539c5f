"""How fast `pipeline.py convert`, the rules of `verify`, and `unify` are, on one core, and their memory.

    python -m benchmarks.pipeline                                        invented rows, three sources
    python -m benchmarks.pipeline --data apigen=xlam.json --count 5000   a file of one's own, over and over

Each figure is of a process of its own, from reading the input to the last byte of the output, without the
start of Python and the imports, whose memory is told apart. Seconds are of CPU time, which other work on the
machine does not change much. verify asks no model and runs no code; unify reads what verify wrote.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

from cli import ArgumentParser, number, run

ROOT = Path(__file__).resolve().parent.parent
WORDS = "weather film flight hotel stock recipe".split()
ACE = "Here is a list of functions in JSON format that you can invoke:\n{}. \nShould you decide to call"
GLAIVE = (
    "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n{}\n"
)


def invented(source: str, i: int) -> dict:
    """A row with three tools of four parameters and a call, in a source's published form."""
    names = [f"find_{WORDS[(i + k) % 6]}_{k}" for k in range(3)]
    about = {"city": "The city in which to look.", "day": "The day, as year, month and day."}
    about |= {"limit": "How many results are wanted at most.", "brief": "Leave out the details."}
    kinds = dict(zip(about, ("string", "string", "integer", "boolean"), strict=True))
    query = f"Number {i}: what is there in Rome on the first of May? At most {i % 9 + 1} results, please."
    arguments = {"city": "Rome", "day": "2025-05-01", "limit": i % 9 + 1}
    if source == "apigen":
        python = {"string": "str", "integer": "int, optional", "boolean": "bool, optional"}
        flat = {name: {"description": about[name], "type": python[kind]} for name, kind in kinds.items()}
        tools = [{"name": n, "description": "Finds what there is.", "parameters": flat} for n in names]
        answers = [{"name": names[0], "arguments": arguments}]
        return {"id": i, "query": query, "answers": json.dumps(answers), "tools": json.dumps(tools)}
    properties = {name: {"type": kind, "description": about[name]} for name, kind in kinds.items()}
    outer = {
        "type": "dict" if source == "toolace" else "object",
        "properties": properties,
        "required": ["city"],
    }
    tools = [{"name": n, "description": "Finds what there is.", "parameters": outer} for n in names]
    found, answer = json.dumps({"found": ["a fair", "a concert"]}), "There are a fair and a concert."
    if source == "toolace":
        call = f'[{names[0]}(city="Rome", day="2025-05-01", limit={i % 9 + 1})]'
        said = [
            ("user", query),
            ("assistant", call),
            ("tool", f'[{{"name": "{names[0]}", "results": {found}}}]'),
        ]
        turns = [{"from": who, "value": text} for who, text in [*said, ("assistant", answer)]]
        return {"system": ACE.format(json.dumps(tools)), "conversations": turns}
    call = f"""<functioncall> {{"name": "{names[0]}", "arguments": '{json.dumps(arguments)}'}}"""
    chat = f"USER: {query}\n\n\nASSISTANT: {call} <|endoftext|>\n\n\nFUNCTION RESPONSE: {found}\n\n\n"
    chat += f"ASSISTANT: {answer} <|endoftext|>\n\n\n"
    return {"system": GLAIVE.format("\n\n".join(json.dumps(t, indent=4) for t in tools)), "chat": chat}


def write_rows(path: Path, source: str, data: str | None, count: int) -> None:
    """A JSON array of so many rows, as the data sets are published."""

    def rows() -> Iterator[dict]:
        from sources.catalogue import SOURCES

        yield from islice(cycle(list(SOURCES[source].read(Path(data)))), count)

    with open(path, "w", encoding="utf-8") as file:
        for i, row in enumerate(rows() if data else (invented(source, i) for i in range(count))):
            file.write(("," if i else "[") + "\n" + json.dumps(row))
        file.write("\n]\n")


def measure(*argv: str) -> dict:
    """One command, in this process."""
    import pipeline

    def peak() -> float:
        """MB so far."""
        return (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024)
            / 2**20
        )

    before, started = peak(), time.process_time()
    pipeline.main([*argv])
    return {"seconds": time.process_time() - started, "before": before, "peak": peak()}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="pipeline.py", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--count", type=number(int, 1), default=100_000, metavar="N", help="rows of each source"
    )
    help = "rows of one's own, repeated; without it, invented ones"
    parser.add_argument("--data", nargs="+", default=[], metavar="SOURCE=FILE", help=help)
    args = parser.parse_args(argv)
    given = dict(pair.split("=", 1) for pair in args.data) or dict.fromkeys(("apigen", "toolace", "glaive"))
    heads = ("stage", "rows", "MB in", "CPU s", "rows/s", "peak MB", "of imports")
    heads = [f"{head:>{width}}" for head, width in zip(heads, (10, 9, 8, 9, 9, 9, 12), strict=True)]
    print(f"{heads[0].strip():>31}   " + "".join(heads[1:]))
    with tempfile.TemporaryDirectory() as name:
        rows, records, out = (Path(name) / f"{part}.json" for part in ("rows", "records", "out"))
        for source, data in given.items():
            write_rows(rows, source, data, args.count)
            stages = {"convert": (rows, "--source", source, "--output", records)}
            stages["verify"] = (records, "--model", "", "--output", out)
            stages["unify"] = (out, "--output", Path(name))
            for stage, (path, *flags) in stages.items():
                job = [sys.executable, "-m", "benchmarks.pipeline", "--row", stage, path, *flags]
                done = subprocess.run(job, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                row = json.loads(done.stdout.splitlines()[-1])
                size, read = path.stat().st_size / 1e6, args.count
                if stage != "convert":
                    with open(path, "rb") as file:
                        read = sum(1 for _ in file)
                print(
                    f"{source:24}{stage:10}{read:9,}{size:8,.0f}{row['seconds']:9.1f}"
                    f"{read / row['seconds']:9,.0f}{row['peak']:9,.0f}{row['before']:12,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--row"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        sys.exit(run(main))
