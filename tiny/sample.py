"""Write the sample: bfcl.jsonl (training), bfcl_heldout.jsonl and bfcl_seen.jsonl (evaluation).

    python -m tiny.sample

Questions, calls and results come from world.py, so every reference call is right by construction. The
functions of bfcl_heldout.jsonl occur in neither of the other files; bfcl_seen.jsonl asks new questions about
functions of the training file.
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path

from cli import ArgumentParser, number, run, write_whole
from tiny import world

KINDS = {
    "simple": 5,
    "multiple": 8,
    "parallel": 2,
    "parallel_multiple": 3,
    "none": 3,
}  # in parts of the sample


def calls_in_words(calls: list[tuple[world.Function, dict]]) -> str:
    """`get_weather with city Bali and days 3; ...`, as the reasoner of the paper's Fig. 11 says it."""
    parts = []
    for function, arguments in calls:
        values = " and ".join(f"{name} {world.as_words(value)}" for name, value in arguments.items())
        parts.append(f"{function.name} with {values}")
    return "; ".join(parts)


def call_turns(calls: list[tuple[world.Function, dict]]) -> list[dict]:
    executor = {
        "role": "executor",
        "calls": [{"name": f.name, "arguments": arguments} for f, arguments in calls],
    }
    return [{"role": "reasoner", "content": f"I need {calls_in_words(calls)}.", "next": "executor"}, executor]


def answer_turns(thought: str, answer: str) -> list[dict]:
    return [
        {"role": "reasoner", "content": thought, "next": "summarizer"},
        {"role": "summarizer", "content": answer},
    ]


def observation(value: object) -> dict:
    return {"role": "observation", "content": json.dumps(value, ensure_ascii=False)}


def second_try(rng: random.Random, calls: list[tuple[world.Function, dict]]) -> list[dict] | None:
    """A call whose text argument is refused, and the call with a better one; None if it has no text."""
    function, arguments = calls[0]
    names = [
        n for n, v in arguments.items() if isinstance(v, str) and "enum" not in world.PARAMETERS[n].schema
    ]
    if len(calls) > 1 or not names:
        return None
    name = rng.choice(names)
    better = world.PARAMETERS[name].draw(rng)
    again = [(function, {**arguments, name: better})]
    error = observation({"error": f"{name} {arguments[name]} is unknown", name: better})
    return [*call_turns(calls), error, *call_turns(again)]


def user_turn(rng: random.Random, drawn: world.Request) -> list[dict]:
    """The trajectory from one user turn to the summarizer's answer."""
    user = {"role": "user", "content": drawn.question}
    if not drawn.calls:
        return [user, *answer_turns("No tool fits this question.", "I have no tool that can do this.")]
    draw = rng.random()
    if draw < 0.35:  # as in BFCL: the calls alone, no result
        names = " and ".join(function.name for function, _ in drawn.calls)
        return [
            user,
            *call_turns(drawn.calls),
            *answer_turns("The calls are made.", f"I called {names} for you."),
        ]
    turns = (second_try(rng, drawn.calls) if draw < 0.5 else None) or call_turns(drawn.calls)
    results = [world.draw_result(rng) for _ in drawn.calls]
    told = "; ".join(world.result_in_words(result) for result in results)
    answer = told[0].upper() + told[1:] + "."
    return [
        user,
        *turns,
        observation(results if len(results) > 1 else results[0]),
        *answer_turns("The result answers it.", answer),
    ]


def record(rng: random.Random, functions: list[world.Function]) -> dict:
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    drawn, tools = world.request(rng, functions, kind)
    trajectory = user_turn(rng, drawn)
    if kind in ("simple", "multiple") and rng.random() < 0.15:  # a second question about the tools at hand
        function = rng.choice(tools)
        calls = [(function, world.draw_arguments(rng, function))]
        trajectory += user_turn(rng, world.Request(world.ask(rng, calls), calls))
    return {
        "tools": [f.schema() for f in tools],
        "trajectory": trajectory,
        "source": {"dataset": "tiny world", "kind": kind},
    }


def new_records(
    rng: random.Random, functions: list[world.Function], count: int, asked: set[str]
) -> list[dict]:
    """`count` records none of whose questions is in `asked`, which grows by them."""
    records = []
    while len(records) < count:
        drawn = record(rng, functions)
        questions = {turn["content"] for turn in drawn["trajectory"] if turn["role"] == "user"}
        if not questions & asked:
            asked |= questions
            records.append(drawn)
    return records


def write(path: Path, records: list[dict]) -> None:
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    kinds = Counter(r["source"]["kind"] for r in records)
    functions = {tool["name"] for r in records for tool in r["tools"]}
    print(f"{path}: {len(records)} trajectories, {len(functions)} functions, {dict(kinds)}")


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tiny.sample", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent.parent, help="folder to write to"
    )
    parser.add_argument("--count", type=number(int, 1), default=1600, help="trajectories for training")
    parser.add_argument(
        "--eval-count", type=number(int, 1), default=100, help="trajectories in each held-out file"
    )
    args = parser.parse_args(argv)
    seen = [f for f in world.all_functions() if not world.held_out(f.thing)]
    unseen = [f for f in world.all_functions() if world.held_out(f.thing)]
    rng, asked = random.Random(2026), set()
    write(args.output / "bfcl.jsonl", new_records(rng, seen, args.count, asked))
    write(args.output / "bfcl_seen.jsonl", new_records(rng, seen, args.eval_count, asked))
    write(args.output / "bfcl_heldout.jsonl", new_records(rng, unseen, args.eval_count, asked))


if __name__ == "__main__":
    sys.exit(run(main))
