"""serve.py under load, and 16 of its clients against evaluate.py's way with a batch of 16.

    python -m benchmarks.serve --adapter output                 both tables
    python -m benchmarks.serve --adapter output --only load --requests 1000 --clients 64

Questions are the first ones of the trajectories of --data, with their tools; a response is the reasoner's
turn and one of the role that it names. The server is a process of its own.

throughput  the same questions by engine/together.py, in this process, and by clients at once; rows take turns
load        most requests are right, and each must be answered once, as it is answered alone. Among them come
            invalid ones, half ones, readers that take seconds, and clients that leave. Then Ctrl-C
"""

import argparse
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import data
from agent import Episode, load
from benchmarks import common
from cli import ArgumentParser, UserError, layout, number, run
from engine.together import together
from tools.mock import Tools

PATH = "/v1/chat/completions"
LIMIT = 300  # tokens of a response


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    add, count = parser.add_argument, number(int, 1)
    add("--model", default=str(common.ROOT / "tiny"), metavar="DIR", help="base model")
    add("--adapter", default="output", metavar="DIR", help="what train.py wrote for it; '': the base alone")
    add("--data", type=Path, default=common.ROOT / "bfcl_heldout.jsonl", metavar="FILE", help="trajectories")
    add("--only", choices=("both", "throughput", "load"), default="both", help="tables to make")
    add("--size", type=count, default=16, metavar="N", help="responses at once, of both ways")
    add("--rounds", type=count, default=3, metavar="N", help="that each way plays all questions")
    add("--clients", type=count, default=64, metavar="N", help="at once, under load")
    add("--requests", type=count, default=1000, metavar="N", help="under load")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the base")
    args = parser.parse_args(argv)
    args.frame, args.prompts = "", None
    return args


def bodies_of(records: list[dict]) -> list[dict]:
    """A request for each record."""
    bodies = []
    for record in records:
        tools = [{"type": "function", "function": tool} for tool in record["tools"]]
        bodies.append({"messages": [record["trajectory"][0]], "tools": tools, "max_tokens": LIMIT})
    return bodies


# ---- the server, and requests ----


@contextmanager
def served(args: argparse.Namespace, size: int) -> Iterator[tuple[subprocess.Popen, tuple[str, int]]]:
    """The process and its address."""
    command = [sys.executable, "serve.py", "--port", "0", "--batch", str(size)]
    command += ["--model", args.model, "--adapter", args.adapter]
    command += ["--device", args.device, "--dtype", args.dtype]
    with subprocess.Popen(command, cwd=common.ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"http://(.*):(\d+);", process.stdout.readline())
            if not found:
                raise UserError("serve.py did not start; see its words above")
            yield process, (found[1], int(found[2]))
        finally:
            process.kill()


def ask(address: tuple[str, int], body: object) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(*address, timeout=600)
    connection.request("POST", PATH, json.dumps(body))
    response = connection.getresponse()
    status, answer = response.status, json.loads(response.read())
    connection.close()
    return status, answer


def content_of(answer: dict) -> str:
    """What of an answer is the same each time."""
    message = answer["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls", [])]
    return json.dumps([message["reasoning_content"], message["content"], calls])


# ---- throughput ----


def throughput(args: argparse.Namespace, records: list[dict]) -> str:
    """A table of responses and tokens in a second."""
    model, frame = load(args)
    bodies = bodies_of(records)

    def play(record: dict):
        def perform(speak) -> int:
            tokens = 0

            def counted(*inputs, **options):
                nonlocal tokens
                for token in speak(*inputs, **options):
                    tokens += 1
                    yield token

            episode = Episode(model, frame, Tools(record["tools"]), speak=counted, max_new_tokens=LIMIT)
            episode.follow(record["trajectory"][:1])
            episode.step()
            return tokens

        return perform

    best = {"evaluate.py's way": (0.0, 0.0), "clients of serve.py": (0.0, 0.0)}
    with served(args, args.size) as (_, address), ThreadPoolExecutor(args.size) as pool:
        for _ in range(args.rounds):
            start = time.perf_counter()
            tokens = sum(said for _, said in together(model, map(play, records), args.size))
            seconds = time.perf_counter() - start
            best["evaluate.py's way"] = max(
                best["evaluate.py's way"], (len(records) / seconds, tokens / seconds)
            )
            start = time.perf_counter()
            answers = list(pool.map(lambda body: ask(address, body), bodies))
            seconds = time.perf_counter() - start
            tokens = sum(answer["usage"]["completion_tokens"] for _, answer in answers)
            best["clients of serve.py"] = max(
                best["clients of serve.py"], (len(records) / seconds, tokens / seconds)
            )
    base = best["evaluate.py's way"][0]
    rows = [["best round", "responses/s", "tokens/s", "ratio"]]
    for name, (responses, tokens) in best.items():
        rows.append([name, f"{responses:.1f}", f"{tokens:.0f}", f"{responses / base:.2f}"])
    return layout(rows)


# ---- load ----

INVALID = [{}, {"messages": []}, {"messages": [{"role": "user", "content": "?"}], "temperature": "hot"}]


def kind_of(i: int) -> str:
    """Of the i-th request: of twenty, six are invalid, and three come from bad clients."""
    return {0: "half", 1: "gone", 2: "slow"}.get(i % 20, "invalid" if i % 20 < 9 else "right")


def attempt(address: tuple[str, int], i: int, body: dict, wanted: str) -> str:
    """Make the i-th request -> what came of it: its kind, or the fault."""
    kind = kind_of(i)
    if kind == "invalid":
        status, answer = ask(address, INVALID[i % len(INVALID)])
        return kind if status == 400 and answer["error"]["message"] else f"invalid: {status}"
    if kind == "right":
        status, answer = ask(address, body)
        if status != 200:
            return f"right: {status}"
        return kind if content_of(answer) == wanted else "right: another answer"
    text = json.dumps(body | {"stream": kind == "slow"}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n".encode()
    with socket.create_connection(address, timeout=600) as connection:
        connection.sendall(head + (text[:50] if kind == "half" else text))
        if kind == "gone":
            time.sleep(0.05)
        received = b""
        while kind == "slow" and (part := connection.recv(2048)):
            received += part
            time.sleep(0.05)
        if kind == "slow" and not received.endswith(b"data: [DONE]\n\n"):
            return "slow: no end"
    return kind


def memory_of(process: subprocess.Popen) -> int:
    """Resident, in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) >> 10


def under_load(args: argparse.Namespace, records: list[dict]) -> str:
    """A table of what came of the requests, of memory and of the end. Raises UserError for a wrong answer."""
    bodies = bodies_of(records)
    with served(args, args.size) as (process, address):
        wanted = [content_of(ask(address, body)[1]) for body in bodies]
        before, memory, start = memory_of(process), [], time.perf_counter()
        with ThreadPoolExecutor(args.clients) as pool:

            def one(i: int) -> str:
                question = i % len(bodies)
                outcome = attempt(address, i, bodies[question], wanted[question])
                memory.append(memory_of(process))
                return outcome

            outcomes = Counter(pool.map(one, range(args.requests)))
        seconds = time.perf_counter() - start
        process.send_signal(signal.SIGINT)
        stopped = time.perf_counter()
        code = process.wait(30)
        ending = time.perf_counter() - stopped
    rows = [["outcome", "requests"], *([name, f"{n:,}"] for name, n in sorted(outcomes.items()))]
    right = Counter(map(kind_of, range(args.requests)))
    text = layout(rows)
    tenth = len(memory) // 10
    most = ", ".join(str(max(memory[i : i + tenth])) for i in range(0, 10 * tenth, tenth))
    text += f"{args.clients} clients, {seconds:.0f} s; MiB before {before}, at most in each tenth {most}\n"
    text += f"Ctrl-C: exit code {code} after {ending:.1f} s\n"
    if outcomes != right or code != 130:
        raise UserError(f"not as wanted: {text}")
    return text


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    records = data.read_records(args.data)
    if args.only in ("both", "throughput"):
        print(throughput(args, records))
    if args.only in ("both", "load"):
        print(under_load(args, records))


if __name__ == "__main__":
    sys.exit(run(main))
