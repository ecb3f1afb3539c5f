"""preview.py: what is told beforehand is what is then asked, request by request."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import ChatServer
from test_complete import GOOD, Model
from test_complete import make as lacking
from test_judge import SCORES
from test_verify import BALI, ERROR, ROME, WRONG, make

from sources.rows import Refused
from stages import complete, judge, preview, verify
from tools.endpoint import Endpoint
from tools.journal import Journal

RECORDS = [
    make(([BALI], "rain"), ([ROME], "sun")),
    make(([WRONG], ERROR), ([BALI], "rain")),  # mended later: one step to ask about
    make(([WRONG], None)),
    make(([WRONG], "rain")),  # refused by a rule
    make(([BALI], None), ([WRONG], None)),  # the wrong call first, then the step before it
]


@pytest.fixture
def endpoint(tmp_path) -> Iterator[Endpoint]:
    """Of a server that always calls for Bali."""
    with (
        ChatServer(lambda request: json.dumps([BALI])) as server,
        Journal(tmp_path / "journal.jsonl") as journal,
        Endpoint(server.base_url, "m", journal) as endpoint,
    ):
        yield endpoint


def records_file(folder: Path) -> Path:
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_verify_asks_what_it_has_told(number):
    model = Model([BALI])
    verify.verify(RECORDS[number], model)
    assert preview.made(verify.requests, RECORDS[number]) == model.asked


def test_complete_and_judge_ask_what_they_have_told():
    model = Model(GOOD)
    complete.complete(lacking(), model)
    assert complete.requests(lacking()) == model.asked
    assert complete.requests(lacking(missing=())) == []
    model = Model(SCORES)
    judge.judge(lacking(missing=()), model)
    assert judge.requests(lacking(missing=())) == model.asked


def test_a_row_asks_up_to_where_it_is_set_aside():
    def requests(record: dict) -> Iterator[list[dict]]:
        yield [{"role": "user", "content": "?"}]
        raise Refused("so")

    assert preview.made(requests, {}) == [[{"role": "user", "content": "?"}]]


def test_what_the_journal_answers_is_not_counted(tmp_path, endpoint):
    path = records_file(tmp_path)
    text = preview.preview("verify", verify.requests, endpoint, path, shown=9)
    assert "verify will ask m" in text and " 6 requests" in text and text.count("--- verify, prompt") == 4
    verify.verify(RECORDS[0], endpoint.ask)
    text = preview.preview("verify", verify.requests, endpoint, path, shown=9)
    known = {json.dumps(messages) for messages in verify.requests(RECORDS[0])}
    rest = [m for record in RECORDS for m in preview.made(verify.requests, record)]
    rest = [messages for messages in rest if json.dumps(messages) not in known]
    assert len(rest) == 3 and " 3 requests" in text
    assert text.count("--- verify, prompt") == 3 and "prompt 1\n" in text and "prompt 3\n" in text


def test_a_sample_stands_for_a_long_file(tmp_path, endpoint, monkeypatch):
    path = tmp_path / "records.jsonl"
    path.write_text((json.dumps(RECORDS[0]) + "\n") * 90)
    monkeypatch.setattr(preview, "SAMPLE", 10)
    assert " 180 requests" in preview.preview("verify", verify.requests, endpoint, path)


def question(number: int = 0) -> list[dict]:
    return [{"role": "system", "content": "Add one."}, {"role": "user", "content": str(number)}]


def test_an_estimate_before_a_run():
    usage = preview.estimate([question(), question(100)], answer_tokens=50, prices=(1e6, 2e6))
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (2, 3 + 3, 100)
    assert usage.cost == 206 and "4 characters a token" in str(usage)
    assert preview.estimate([], 50).cost is None
    usage = preview.estimate([question()], 50, times=2.5)
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (2, 8, 125, 2)
