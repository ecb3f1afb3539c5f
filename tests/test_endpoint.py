"""endpoint.py against a real server on this machine, over connection.py: every fault alone, and all at once.

The server computes each request's key by itself, from the bytes that came.
"""

import contextlib
import gzip
import json
import logging
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
from chat_server import FAULTS, ChatServer, misbehave

import cli
from tools import connection, endpoint
from tools.connection import seconds_after
from tools.endpoint import CutOff, Endpoint, Unanswered
from tools.journal import Journal

KEY = "sk-very/secret+0123456789"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def journal(tmp_path) -> Iterator[Journal]:
    with Journal(tmp_path / "answers.jsonl") as journal:
        yield journal


def connect(server: ChatServer | str, journal: Journal, **options) -> Endpoint:
    url = server if isinstance(server, str) else server.base_url
    return Endpoint(url, "gpt-4o", journal, **{"backoff": 0.001, "read": 1.0, "tries": 3} | options)


def question(number: int = 0) -> list[dict]:
    return [{"role": "system", "content": "Add one."}, {"role": "user", "content": str(number)}]


def add_one(request: dict) -> str:
    return str(int(request["messages"][-1]["content"]) + 1)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- one request ----


def test_a_request_its_answer_and_its_line(journal):
    with ChatServer(add_one) as server:
        with connect(f"{server.base_url}/", journal, key=KEY, max_tokens=7, temperature=None) as client:
            assert client.ask(question(1)) == "2" == client.ask(question(1))
            assert client.knows(question(1)) and not client.knows(question(2))
    (request,) = server.requests
    assert request.body == {"model": "gpt-4o", "messages": question(1), "max_tokens": 7}
    assert request.path == "/v1/chat/completions" and request.authorization == f"Bearer {KEY}"
    entry = {"key": request.key, "model": "gpt-4o", "content": "2", "finish_reason": "stop"}
    assert lines(journal.path) == [entry | {"prompt_tokens": 3, "completion_tokens": 1}]
    assert (client.usage.requests, client.usage.cached, client.usage.retries) == (1, 1, 0)


def test_the_least_temperature_of_a_request(journal):
    with ChatServer(add_one) as server:
        with connect(server, journal, temperature=0.2) as client:
            assert [client.ask(question(1), least) for least in (0.0, 0.7, 0.7)] == ["2"] * 3
        with connect(server, journal, temperature=1.0) as client:
            client.ask(question(1), 0.7)
        with connect(server, journal, temperature=None) as client:
            client.ask(question(1), 0.7)
    assert [request.body.get("temperature") for request in server.requests] == [0.2, 0.7, 1.0, None]


def test_several_answers_to_one_request(journal):
    with ChatServer(add_one) as server, connect(server, journal) as client:
        assert [client.ask(question(), sample=sample) for sample in (0, 1, 2, 1, 0)] == ["1"] * 5
    assert len(server.requests) == 3 == len(lines(journal.path)) and client.usage.cached == 2
    assert len({request.key for request in server.requests}) == 1  # the request itself is the same


@pytest.mark.parametrize("content", (None, "", "I call it.", []))
def test_the_arguments_of_a_call_are_the_answer(content, journal):
    call = {"id": "1", "type": "function", "function": {"name": "grade", "arguments": '{"grade": 1}'}}
    tools = {"tools": [{"type": "function", "function": {"name": "grade"}}], "tool_choice": "required"}
    message = {"content": content, "tool_calls": [call]}
    with ChatServer(lambda request: {"message": message, "finish_reason": "tool_calls"}) as server:
        with connect(server, journal) as client:
            assert client.ask(question(), **tools) == '{"grade": 1}' == client.ask(question(), **tools)
    (request,) = server.requests
    assert {name: request.body[name] for name in tools} == tools


def test_a_broken_call_is_tried_again(journal):
    broken = {"message": {"content": "", "tool_calls": [{"function": {"arguments": {}}}]}}
    with ChatServer(lambda request: broken) as server, connect(server, journal, tries=2) as client:
        with pytest.raises(Unanswered, match="whose answer is no text"):
            client.ask(question())


@pytest.mark.parametrize("fault", [*FAULTS, "408", "409", "425", "502", "drip"])
def test_each_passing_fault_is_tried_again_and_never_journaled(fault, journal):
    limits, faults = {"total": 0.2, "read": 5.0} if fault == "drip" else {}, [fault, fault, None]
    with ChatServer(add_one, lambda key, n: faults[n], slow=1.5, retry_after="0.01") as server:
        with connect(server, journal, tries=2, **limits) as client:
            with pytest.raises(Unanswered, match="no answer in 2 tries: ."):
                client.ask(question())
            assert lines(journal.path) == [] and len(server.requests) == 2
            assert client.ask(question()) == "1"
    assert len(lines(journal.path)) == 1 and client.usage.requests == 1 and client.usage.retries == 1


def choice(content: str | None, finish: str, **message) -> dict:
    return {"message": {"content": content} | message, "finish_reason": finish}


PERMANENT = [("400", "1"), ("413", "1"), ("422", "1")]
PERMANENT += [(None, choice("So", "content_filter")), (None, choice(None, "length"))]
PERMANENT += [(None, choice(None, "stop", refusal="I will not."))]


@pytest.mark.parametrize("fault, answer", PERMANENT)
def test_a_refusal_is_journaled_and_not_asked_again(fault, answer, tmp_path):
    said, faults = [], [None, fault]
    with ChatServer(lambda request: answer, lambda key, attempt: faults.pop(0)) as server:
        for _ in range(2):
            with Journal(tmp_path / "answers.jsonl") as journal, connect(server, journal) as client:
                with contextlib.suppress(Unanswered):  # the server answers something, and means what it says
                    client.ask(question(1))
                with pytest.raises(Unanswered) as refused:
                    client.ask(question())
                said.append((refused.value.reason, refused.value.detail))
    assert len(server.requests) == 2 == len(lines(journal.path)) and said[0] == said[1]
    assert lines(journal.path)[1]["content"] is None


@pytest.mark.parametrize("reason", ["length", "max_tokens", "model_length"])
def test_an_answer_that_was_cut_off_is_an_answer(reason, journal):
    with (
        ChatServer(lambda request: choice("The rain in", reason)) as server,
        connect(server, journal) as client,
    ):
        assert client.ask(question()) == "The rain in" == client.ask(question())
        assert all(isinstance(client.ask(question(n)), CutOff) for n in (0, 0, 1))
    assert lines(journal.path)[0]["finish_reason"] == reason


# ---- what concerns all requests ----

MENDED = [("401", "key"), ("403", "key"), ("404", "base-url"), ("402", "credit"), ("429-quota", "credit")]


@pytest.mark.parametrize("fault, word", [*MENDED, ("307", "redirects"), ("405", "base-url")])
def test_a_fault_of_all_requests_is_the_users(fault, word, journal):
    with (
        ChatServer(add_one, lambda key, attempt: fault) as server,
        connect(server, journal, key=KEY) as client,
    ):
        for number in range(3):
            with pytest.raises(cli.UserError, match=f"(?s){server.base_url}.*{word}") as error:
                client.ask(question(number))
            assert "\n" not in str(error.value) and KEY not in str(error.value)
    assert len(server.requests) == 1 and lines(journal.path) == []


def test_refusals_alone_end_the_asking_and_are_asked_again(journal):
    with ChatServer(add_one, lambda key, n: "400" if broken else None) as server:
        broken = True
        with connect(server, journal) as client:
            for number in range(endpoint.HOPELESS - 1):
                with pytest.raises(Unanswered):
                    client.ask(question(number))
            for number in (30, 31):
                with pytest.raises(cli.UserError, match=r"20 requests and no answer.*\(400\).*--max-tokens"):
                    client.ask(question(number))
        assert len(server.requests) == endpoint.HOPELESS and lines(journal.path) == []
        with connect(server, journal) as client:
            broken = False
            assert client.ask(question(0)) == "1"
            broken = True
            for number in range(1, 40):  # after an answer it is the requests
                with pytest.raises(Unanswered):
                    client.ask(question(number))
    assert len(lines(journal.path)) == 40


def test_no_server_from_the_start_or_later(journal):
    with ChatServer(add_one) as server:
        early, late = connect(server, journal), connect(server, journal)
        late.ask(question(1))
    for client in (early, late):
        with client, pytest.raises(cli.UserError, match=f"{server.base_url}: cannot be reached .*refused"):
            client.ask(question(2))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gpt",
        "ftp://a/v1",
        "http://",
        "http://a:b/v1",
        "http://a b/v1",
        "//a/v1",
        "http://a..b/v1",
        "http://[1::2::3]/v1",
    ],
)
def test_what_is_no_base_url(url, journal):
    with pytest.raises(cli.UserError, match="--base-url: got .* wanted http"):
        connect(url, journal)


@pytest.mark.parametrize("url", ["http://me:{}@a/v1", "http://a/v1?key={}", "http://a/v1#{}"])
def test_secrets_in_a_base_url_are_not_repeated(url, journal):
    with pytest.raises(cli.UserError, match="--base-url: got one with a user") as error:
        connect(url.format(KEY), journal)
    assert KEY not in str(error.value)


def test_without_an_http_client(journal, monkeypatch):
    for name in ("httpx2", "httpx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(cli.UserError, match="pip install httpx2"):
        connect("http://127.0.0.1/v1", journal)


# ---- too much, too long, something else ----


@pytest.mark.parametrize("fault", ["endless", "gzip-bomb", "double-gzip", "slow-headers", "continue"])
def test_one_exchange_has_a_largest_size_and_a_longest_time(fault, journal):
    total, what = {"slow-headers": (0.5, "no whole"), "continue": (0.5, "no whole")}.get(
        fault, (60, "8 MiB|not ask")
    )
    with ChatServer(add_one, lambda key, n: [fault, None][n]) as server:
        with connect(server, journal, total=total, read=5.0, tries=1) as client:
            start = time.monotonic()
            with pytest.raises(Unanswered, match=what):
                client.ask(question())
            assert time.monotonic() - start < 10
            assert client.ask(question()) == "1"


def test_a_connection_that_comes_late_is_ended_at_once():
    ours, theirs = socket.socketpair()
    with ours, theirs, connection.HangUp(0.001) as line:
        while not line.late:
            time.sleep(0.001)
        stream = SimpleNamespace(get_extra_info=lambda name: ours)
        line.trace("connection.connect_tcp.complete", {"return_value": stream})
        theirs.settimeout(5)
        assert theirs.recv(1) == b""


def test_a_small_reply_is_not_unpacked_to_a_large_one():
    body = gzip.compress(bytes(1 << 28), 1)
    tracemalloc.start()
    with pytest.raises(connection.Transient, match="more than 8 MiB"):
        connection.decompressed(body, {"content-encoding": "gzip"})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * connection.LARGEST


def test_a_compressed_reply_is_read(journal):
    with ChatServer(add_one, lambda key, n: "gzip") as server, connect(server, journal) as client:
        assert client.ask(question()) == "1"


@pytest.mark.parametrize("fault, what", [("gzip-bomb", "8 MiB"), ("double-gzip", "in the encoding")])
def test_replies_that_nobody_can_use_end_the_asking_too(fault, what, journal, monkeypatch):
    monkeypatch.setattr(endpoint, "HOPELESS", 3)
    with ChatServer(add_one, lambda key, n: fault) as server, connect(server, journal, tries=8) as client:
        with pytest.raises(cli.UserError, match=f"3 requests and no answer.*{what}"):
            for number in range(40):
                with contextlib.suppress(Unanswered):
                    client.ask(question(number))
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault, what", [("html", "a web page"), ("events", "a stream of events")])
def test_a_server_that_is_no_endpoint_ends_the_asking_at_once(fault, what, journal):
    with ChatServer(add_one, lambda key, n: fault) as server, connect(server, journal, tries=8) as client:
        for number in range(3):
            with pytest.raises(cli.UserError, match=rf"answered 200 with {what}.*most end in /v1"):
                client.ask(question(number))
    assert len(server.requests) == 1 and lines(journal.path) == []


def test_what_a_body_is_without_a_word_of_its_kind():
    assert endpoint.no_endpoint({}, b"\xef\xbb\xbf\n<!doctype html>") == "a web page"
    assert endpoint.no_endpoint({}, b"data: {}").startswith("a stream")
    assert endpoint.no_endpoint({"content-type": "text/html"}, b' {"choices": []}') == ""


def test_a_web_page_after_an_answer_passes(journal):
    faults = [None, "html", None]
    with ChatServer(add_one, lambda key, n: faults.pop(0)) as server, connect(server, journal) as client:
        assert (client.ask(question(0)), client.ask(question(1))) == ("1", "2")


def test_replies_without_an_answer_end_the_asking(journal):
    with (
        ChatServer(add_one, lambda key, n: "no-choices") as server,
        connect(server, journal, tries=8) as client,
    ):
        with pytest.raises(cli.UserError, match="20 requests and no answer.*most end in /v1"):
            for number in range(40):
                with contextlib.suppress(Unanswered):
                    client.ask(question(number))
    assert len(server.requests) == endpoint.HOPELESS


TEXT = {"type": "text", "text": "Yes"}
THOUGHT = {"type": "thinking", "thinking": [TEXT]}
PARTS = [
    ([TEXT], "Yes"),
    ([THOUGHT, TEXT, TEXT], "YesYes"),
    ([{"type": "output_text", "text": "A"}, "b", {"text": "c"}], "Abc"),
]
PARTS += [([THOUGHT], None), ([], None), ([{"type": "text", "text": 7}], None)]


@pytest.mark.parametrize("content, text", PARTS)
def test_a_list_of_parts_is_their_text(content, text, journal):
    with ChatServer(lambda request: choice(content, "stop")) as server, connect(server, journal) as client:
        if text:
            assert client.ask(question()) == text
        else:
            with pytest.raises(Unanswered, match="an answer without a text"):
                client.ask(question())
    assert len(server.requests) == 1 == len(lines(journal.path))


def test_max_tokens_goes_under_the_name_that_the_server_wants(journal):
    with ChatServer(add_one, strict="max_completion_tokens") as server, connect(server, journal) as client:
        assert (client.ask(question(0)), client.ask(question(1))) == ("1", "2")
        assert client.ask(question(0)) == "1" and client.usage.requests == 2
    (first, second, third) = [request.body for request in server.requests]
    assert first == second | {"max_tokens": second.pop("max_completion_tokens")}
    assert third["max_completion_tokens"] == 1024 and "max_tokens" not in third | second
    assert lines(journal.path)[0]["key"] == server.requests[0].key


def test_many_threads_learn_the_name_at_once(journal):
    with ChatServer(add_one, strict="max_completion_tokens") as server:
        with connect(server, journal) as client, ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: client.ask(question(number)), range(8)))
    assert answers == [str(number + 1) for number in range(8)]
    assert sum("max_tokens" in request.body for request in server.requests) > 1  # it was at once


# ---- proxies, and the key on its way ----

PROXIES = [("all_proxy", "socks://127.0.0.1:9"), ("https_proxy", "ftp://me:secret@127.0.0.1:9")]
PROXIES += [("http_proxy", "http://[::1"), ("ALL_PROXY", "socks5://127.0.0.1:9")]


@pytest.mark.parametrize("name, address", PROXIES)
def test_a_proxy_that_cannot_be_used(name, address, journal, monkeypatch):
    """A server on this machine is asked all the same."""
    monkeypatch.setenv(name, address)
    with ChatServer(add_one) as server, connect(server, journal) as client:
        assert client.ask(question()) == "1"
    with (
        contextlib.suppress(ImportError),
        pytest.raises(cli.UserError, match="proxy of the environ") as error,
    ):
        connect("http://example.invalid/v1", journal)
        import socksio  # noqa: F401  with this package it can be
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_named(content, journal, monkeypatch, tmp_path):
    if content:
        (tmp_path / "file").write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "file"))
    with pytest.raises(cli.UserError, match="certificates of the environment .SSL_CERT_FILE"):
        connect("https://example.invalid/v1", journal)


def test_an_address_that_is_none(journal):
    with pytest.raises(cli.UserError, match="--base-url: got 'http://256.1.1.1/v1'"):
        connect("http://256.1.1.1/v1", journal)


def test_a_dead_proxy_is_no_dead_server(journal, monkeypatch):
    with ChatServer(add_one) as server:
        dead = server.base_url.removesuffix("/v1")
    monkeypatch.setenv("http_proxy", dead.replace("//", "//me:secret@"))
    with connect("http://example.invalid/v1", journal) as client:
        with pytest.raises(
            cli.UserError, match=r"through the proxy 127.0.0.1:\d+ \(Conn.*unset the"
        ) as error:
            client.ask(question())
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url, told",
    [
        ("http://example.invalid/v1", True),
        ("http://10.0.0.1/v1", True),
        ("http://localhost.example.invalid/v1", True),
        ("https://example.invalid/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://127.0.0.2/v1", False),
        ("http://[::1]/v1", False),
    ],
)
def test_a_key_in_the_clear_is_told(url, told, journal, capsys):
    with connect(url, journal), connect(url, journal, key=KEY):
        said = capsys.readouterr().err
    assert ("unencrypted" in said) == told and said.count("\n") == told and KEY not in said


# ---- the key ----


def test_the_key_appears_nowhere(tmp_path, capfd, caplog):
    """The server repeats it in every error, in answers, in a finish_reason and in a refusal."""
    caplog.set_level(logging.DEBUG)
    said = ""
    kinds = ["429", "500", "no-choices", "close", "truncate", "400", "401"]
    answers = [choice(f"{KEY}.", "stop"), choice(None, KEY), choice(None, "stop", refusal=f"No {KEY}")]
    for number, kind in enumerate([*kinds, *answers]):
        fault, answer = (kind, "") if isinstance(kind, str) else (None, kind)
        with (
            ChatServer(lambda request, a=answer: a, lambda key, attempt, f=fault: f) as server,
            Journal(tmp_path / f"{number}.jsonl") as journal,
            connect(server, journal, key=KEY) as client,
        ):
            try:
                said += client.ask(question())
            except (Unanswered, cli.UserError) as error:
                said += repr(error) + "".join(map(repr, (error.__context__, error.__cause__)))
            said += repr(client) + repr(client.usage) + str(client.usage) + journal.path.read_text()
            assert server.requests[0].authorization == f"Bearer {KEY}"
    output = capfd.readouterr()
    said += output.out + output.err + caplog.text
    assert KEY not in said and said.count("[key]") >= 8


@pytest.mark.parametrize("key", ["two words-secret", "line\nsecret", "sécret-secret", 'quo"ted-secret'])
def test_a_key_that_is_none_is_not_repeated(key, journal):
    with pytest.raises(cli.UserError, match="the key in the environment") as error:
        connect("http://127.0.0.1/v1", journal, key=key)
    assert "secret" not in str(error.value)


def test_the_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", f"{KEY}\n")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert endpoint.read_key("SOME_KEY") == KEY and endpoint.read_key() is None


def test_a_short_key_of_a_local_server_stays_in_answers(journal):
    with (
        ChatServer(lambda request: "It is EMPTY.") as server,
        connect(server, journal, key="EMPTY") as client,
    ):
        assert client.ask(question()) == "It is EMPTY."


# ---- many threads ----


def test_200_requests_from_8_threads_when_three_tries_of_ten_fail(journal):
    with ChatServer(add_one, misbehave(seed=1), slow=1.5, retry_after="0.02") as server:
        with connect(server, journal, tries=12, workers=8) as client, ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: client.ask(question(number)), range(200)))
    assert answers == [str(number + 1) for number in range(200)]
    assert {request.fault for request in server.requests} == {None, *FAULTS}
    answered = [request.key for request in server.requests if request.fault is None]
    assert sorted(entry["key"] for entry in lines(journal.path)) == sorted(answered) == sorted(set(answered))
    assert client.usage.requests == 200 and client.usage.retries == len(server.requests) - 200


def test_of_identical_requests_at_once_the_first_answer_counts(journal):
    """Whatever the server says to the others: one line in the journal, and the same answer for all."""
    numbers = iter(range(8))

    def slow_answer(request: dict) -> str:
        time.sleep(0.15)
        return str(next(numbers))

    with ChatServer(slow_answer) as server:
        with connect(server, journal, read=5) as client, ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.ask(question()), range(8)))
    assert len(server.requests) == 8 and len(lines(journal.path)) == 1
    assert answers == [lines(journal.path)[0]["content"]] * 8


CHILD = """
    import sys
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    from tools.endpoint import Endpoint
    from tools.journal import Journal

    def ask(number):
        client.ask([{"role": "system", "content": "Add one."}, {"role": "user", "content": str(number)}])

    with Journal(Path(sys.argv[2])) as journal:
        with Endpoint(sys.argv[1], "gpt-4o", journal, tries=12, backoff=0.001) as client:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(ask, range(200)))
"""


def test_sigkill_and_a_second_run(tmp_path):
    path = tmp_path / "answers.jsonl"
    kinds = [fault for fault in FAULTS if fault != "slow"]
    with ChatServer(add_one, misbehave(seed=2, kinds=kinds), retry_after="0.01") as server:
        command = [sys.executable, "-c", textwrap.dedent(CHILD), server.base_url, str(path)]
        child = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        while len(server.requests) < 80 and child.poll() is None:
            time.sleep(0.001)
        with pytest.raises(cli.UserError, match="in use by another run"):
            Journal(path)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        before = len(server.requests)
        with Journal(path) as journal:
            kept = [entry["key"] for entry in lines(path)]
            with connect(server, journal, tries=12) as client, ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda number: client.ask(question(number)), range(200)))
    keys = [entry["key"] for entry in lines(path)]
    assert answers == [str(number + 1) for number in range(200)]
    assert 0 < len(kept) < 200 and keys[: len(kept)] == kept
    assert len(keys) == 200 == len(set(keys))
    assert not set(kept) & {request.key for request in server.requests[before:]}
    assert client.usage.cached == len(kept)


def test_a_fault_of_all_requests_ends_all_waiting(journal):
    """One thread waits for its back-off, when another one hears that the key is wrong."""
    faults, ended = ["503", "401"], []

    def ask(client: Endpoint, number: int) -> None:
        with pytest.raises(cli.UserError, match="401"):
            client.ask(question(number))
        ended.append(number)

    with ChatServer(add_one, lambda key, attempt: faults.pop(0)) as server:
        with connect(server, journal, backoff=30) as client:
            waiting = threading.Thread(target=ask, args=(client, 0))
            waiting.start()
            while client.usage.retries == 0:
                time.sleep(0.001)
            start = time.monotonic()
            ask(client, 1)
            waiting.join()
            assert time.monotonic() - start < 1 and sorted(ended) == [0, 1]
    assert len(server.requests) == 2 and lines(journal.path) == []


# ---- when ----


def test_retry_after_is_read_in_both_forms():
    assert seconds_after("7", 0) == 7 and seconds_after("0.5", 0) == 0.5
    assert seconds_after(formatdate(1_000_007, usegmt=True), 1_000_000) == 7
    assert seconds_after(formatdate(999_000, usegmt=True), 1_000_000) == 0
    for nonsense in (None, "", "soon", "nan", "-5", "Mon, 99 Foo"):
        assert seconds_after(nonsense, 0) == 0
    assert seconds_after("1e9", 0) == seconds_after("inf", 0) == connection.LONGEST_RETRY_AFTER


@pytest.mark.parametrize("fault", ["429-after", "503-after"])
def test_retry_after_is_waited_for_and_429_holds_back_all_threads(fault, journal):
    faults = [fault, None, None]
    with (
        ChatServer(add_one, lambda key, attempt: faults.pop(0), retry_after="0.3") as server,
        connect(server, journal) as client,
    ):
        thread = threading.Thread(target=client.ask, args=(question(0),))
        thread.start()
        while client.usage.retries == 0:
            time.sleep(0.001)
        client.ask(question(1))
        thread.join()
    first, *later = server.requests
    held = [request for request in later if request.key == first.key or fault == "429-after"]
    assert len(later) == 2 and min(request.time for request in held) - first.time >= 0.3


def test_the_rate_limit_spaces_requests_evenly(journal):
    with ChatServer(add_one) as server:
        with connect(server, journal, rate=1200) as client, ThreadPoolExecutor(4) as pool:
            start = time.monotonic()
            list(pool.map(lambda number: client.ask(question(number)), range(9)))
    arrivals = sorted(request.time - start for request in server.requests)
    assert all(at >= 0.05 * i for i, at in enumerate(arrivals)) and arrivals[-1] < 2


def test_requests_at_once_are_capped(journal):
    asked, most = [], []

    def count(request: dict) -> str:
        asked.append(request)
        most.append(len(asked))
        time.sleep(0.01)
        asked.pop()
        return "7"

    with ChatServer(count) as server:
        with connect(server, journal, workers=3) as client, ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda number: client.ask(question(number)), range(24)))
    assert max(most) == 3


# ---- what it costs ----


@pytest.mark.parametrize("counted", [True, False])
def test_tokens_and_cost(counted, journal):
    with ChatServer(lambda request: "one two three", usage=counted) as server:
        with connect(server, journal, prices=(2.0, 10.0)) as client:
            for number in (0, 1, 1):
                client.ask(question(number))
    usage = client.usage
    assert (usage.requests, usage.cached) == (2, 1)
    expected = (6, 6, 0) if counted else (6, 8, 2)  # words of the test's server, or characters / 4
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == expected
    assert usage.cost == pytest.approx((6 * 2 + expected[1] * 10) / 1e6)
    assert ("4 characters a token" in str(usage)) != counted
