"""What a stage would ask and what that would cost, before anything is asked."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import data
from sources.rows import Refused
from stages.process import Results, read_items
from tools.endpoint import Endpoint, Message, Prices, Unanswered, Usage, tokens_in


def estimate(prompts: Iterable[list[Message]], answer_tokens: int, prices: Prices = None) -> Usage:
    """What it would cost to ask these, each answered by `answer_tokens` tokens."""
    usage = Usage(prices=prices)
    for messages in prompts:
        usage.requests += 1
        usage.prompt_tokens += tokens_in(*(message["content"] for message in messages))
        usage.completion_tokens += answer_tokens
    usage.estimated = usage.requests
    return usage


class Previewed(Exception):
    """A preview has taken down a prompt instead of answering it."""


class Preview:
    """Stands in for an endpoint that must not be asked: `ask` keeps the prompt and raises Previewed.

    cached: an endpoint's method of that name; prompts that the journal answers are answered.
    """

    def __init__(self, cached: Callable[[list[Message]], str | None] = lambda messages: None):
        self.prompts: list[list[Message]] = []
        self._cached = cached

    def ask(self, messages: list[Message]) -> str:
        answer = self._cached(messages)
        if answer is None:
            self.prompts.append(messages)
            raise Previewed
        return answer


# ---- stages that ask ----

ANSWER_TOKENS = {"complete": 200, "judge": 150, "verify": 60}  # of one answer, for estimates: a guess
SAMPLE = 1000  # rows whose prompts are made for an estimate


class Job(NamedTuple):
    """A stage that may ask: its step takes a record and `ask`, the endpoint's, None without one."""

    stage: str
    step: Callable[..., Results]
    endpoint: Endpoint | None
    others: dict[str, Path]  # further files, as `process` takes them


def preview(job: Job, path: Path, shown: int = 0) -> str:
    """What a job would ask now: its first prompts and an estimate of requests, tokens and cost."""
    total = sum(1 for _ in data.numbered_lines(path))
    every, rows, prompts, repeated = -(-total // SAMPLE), 0, [], []
    for _, record in read_items(path, every):
        rows, seen = rows + 1, Preview(job.endpoint.cached)
        steps = sum("calls" in turn for turn in record["trajectory"]) if job.stage == "verify" else 1
        if steps:  # code is run, not asked about
            try:
                job.step(record, ask=seen.ask)
            except (Previewed, Refused, Unanswered):
                prompts += seen.prompts
                repeated += seen.prompts * (steps - 1)  # the others of a row are much like its first
    usage = estimate(prompts + repeated, ANSWER_TOKENS[job.stage], job.endpoint.usage.prices)
    counted = ("requests", "estimated", "prompt_tokens", "completion_tokens")
    usage = replace(usage, **{name: round(getattr(usage, name) * total / rows) for name in counted})
    lines = []
    for number, messages in enumerate(prompts[:shown], 1):
        lines += [f"--- {job.stage}, prompt {number}", *(f"[{m['role']}] {m['content']}" for m in messages)]
    return "\n".join(
        [*lines, f"{job.stage} will ask {job.endpoint.model} at {job.endpoint.base_url}: {usage}"]
    )
