"""What a stage would ask and what that would cost, told before anything is asked (and by --dry-run).

    print(preview("judge", judge.requests, endpoint, path, shown=2))

A stage tells its requests beforehand: the first one for each text, score or step that it asks about. How
often a model has to be asked again, because its answer cannot be used, nobody knows.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import data
from cli import printable
from sources.rows import Refused
from stages.process import read_items
from tools.endpoint import Endpoint, Message, Prices, Usage, tokens_in

ANSWER_TOKENS = {"complete": 200, "judge": 150, "verify": 60}  # of one answer, for estimates: a guess
SAMPLE = 1000  # rows whose prompts are made for an estimate
Requests = Callable[[dict], Iterable[list[Message]]]  # from a record; may raise Refused, where a stage would


def preview(stage: str, requests: Requests, endpoint: Endpoint, path: Path, shown: int = 0) -> str:
    """The first prompt of so many rows, and an estimate of requests, tokens and cost.

    What the journal answers is neither shown nor counted. Of a long file SAMPLE rows, evenly spread, stand
    for all.
    """
    total = sum(1 for _ in data.numbered_lines(path))
    rows, prompts, lines, number = 0, [], [], 0
    for _, record in read_items(path, every=math.ceil(total / SAMPLE)):
        rows += 1
        unanswered = [messages for messages in made(requests, record) if not endpoint.knows(messages)]
        prompts += unanswered
        if unanswered and number < shown:
            number += 1
            lines.append(f"--- {stage}, prompt {number}")
            lines += [f"[{message['role']}] {message['content']}" for message in unanswered[0]]
    usage = estimate(prompts, ANSWER_TOKENS[stage], endpoint.usage.prices, total / rows)
    lines.append(f"{stage} will ask {endpoint.model} at {endpoint.base_url}: {usage}")
    return printable("\n".join(lines))


def made(requests: Requests, record: dict) -> list[list[Message]]:
    """The requests of a row, up to where a stage would set it aside."""
    found = []
    try:
        for messages in requests(record):
            found.append(messages)
    except Refused:
        pass
    return found


def estimate(
    prompts: list[list[Message]], answer_tokens: int, prices: Prices = None, times: float = 1.0
) -> Usage:
    """What it would cost to ask these so many times, each answered by `answer_tokens` tokens."""
    sizes = [tokens_in(*(message["content"] for message in messages)) for messages in prompts]
    count = round(len(prompts) * times)
    return Usage(
        requests=count,
        prompt_tokens=round(sum(sizes) * times),
        completion_tokens=round(len(prompts) * answer_tokens * times),
        estimated=count,
        prices=prices,
    )
