"""virtual.py against a server on this machine that fails in each of the ways, and its file of exchanges."""

import json
import threading
from pathlib import Path

import pytest
from api_server import FAULTS, ApiServer, misbehave

from cli import UserError
from tools import virtual
from tools.virtual import Exchanges, Server, World

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "stabletoolbench"
ASKED = ("Data", "atlas", "rain", {"city": "Bali", "days": 2})


def reply(request: dict) -> dict:
    return {"error": "", "response": f"rain in {json.loads(request['tool_input'])['city']}"}


def ask(server: ApiServer, *asked, path: Path | None = None, **options) -> tuple[str, int]:
    options = {"backoff": 0.001, "tries": 3, "total": 0.3} | options
    with Exchanges(path, fill=True) as known, Server(server.url, **options) as client:
        return World(known, client).ask(*(asked or ASKED))


def test_a_request_and_what_the_agent_sees():
    with ApiServer(reply) as server:
        assert ask(server, key="secret") == ('{"error": "", "response": "rain in Bali"}', 0)
    (body,) = server.requests
    assert json.loads(body.pop("tool_input")) == ASKED[3]
    assert body == {
        "category": "Data", "tool_name": "atlas", "api_name": "rain", "strip": "truncate",
        "toolbench_key": "secret",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code"), [("Message error...", 11), ("API not working error...", 6), ("?", 0)]
)
def test_codes_by_the_error_that_a_reply_names(error, code):
    with ApiServer(lambda request: {"error": error, "response": "x"}) as server:
        assert ask(server)[1] == code


def test_long_replies_are_cut():
    for length, end in ((virtual.LONGEST, '"}'), (virtual.LONGEST + 1, '"...')):
        text = "é" + "x" * (length - len(json.dumps({"error": "", "response": "é"})))
        with ApiServer(lambda request, text=text: {"error": "", "response": text}) as server:
            seen, _ = ask(server)
        assert seen.endswith(end) and len(seen) == virtual.LONGEST + 3 * (end != '"}') and "\\u00e9" in seen


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_tried_again_and_in_the_end_told(tmp_path, fault):
    path = tmp_path / "exchanges.jsonl"
    with ApiServer(reply, lambda key, attempt: fault if attempt < 2 else None, slow=0.6) as server:
        assert ask(server, path=path) == ('{"error": "", "response": "rain in Bali"}', 0)
    assert len(server.requests) == 3 and len(path.read_text().splitlines()) == 1
    with ApiServer(reply, lambda key, attempt: fault, slow=0.6) as server:
        seen, code = ask(server, path=tmp_path / "none.jsonl", tries=2)
    wanted = "Timeout error..." if fault == "slow" else "request invalid, data error."
    assert json.loads(seen)["error"].startswith(wanted) and json.loads(seen)["response"] == ""
    assert ("status_code=500" in seen) is (fault == "500")
    assert code == (5 if fault == "slow" else 12) and len(server.requests) == 2
    assert not (tmp_path / "none.jsonl").exists(), "a fault is no answer"


def test_other_statuses():
    with ApiServer(reply, lambda key, attempt: "400") as server:
        seen, code = ask(server)
    assert "status_code=400" in seen and code == 12 and len(server.requests) == 1, "not tried again"
    with ApiServer(reply, lambda key, attempt: "404") as server:
        with pytest.raises(UserError, match="answered 404; mend --server"):
            ask(server)


def test_a_server_that_is_not_there_ends_all_asking():
    with ApiServer(reply) as server:
        pass
    with Server(server.url, backoff=0.001) as client:
        with pytest.raises(UserError, match="cannot be reached .*; start the server"):
            client.ask({"tool_input": {}})
        with pytest.raises(UserError, match="cannot be reached"):
            client.ask({"tool_input": {}})
    for url in ("localhost:8080", "ftp://host/virtual", "http://user:word@host/virtual"):
        with pytest.raises(UserError, match="--server: got"):
            Server(url)


def test_the_file_answers_first_and_alone(tmp_path):
    path = tmp_path / "exchanges.jsonl"
    with ApiServer(reply) as server:
        first = ask(server, path=path)
        turned = (*ASKED[:3], dict(reversed(ASKED[3].items())))
        assert ask(server, *turned, path=path) == first and len(server.requests) == 1, (
            "sorted JSON is the key"
        )
    with Exchanges(path) as known:
        world = World(known)
        assert world.ask(*ASKED) == first
        seen, code = world.ask(*ASKED[:3], {"city": "Oslo"})
    assert code == 12 and "no such request is recorded" in seen


def test_of_two_answers_the_first_counts_for_both(tmp_path):
    """Two threads ask at once; the server says something else each time."""
    numbers, both = iter(range(9)), threading.Barrier(2)

    def answer(request):
        both.wait(5)
        return {"error": "", "response": next(numbers)}

    seen = []
    path = tmp_path / "x.jsonl"
    with ApiServer(answer) as server, Exchanges(path, True) as known, Server(server.url) as client:
        world = World(known, client)
        threads = [threading.Thread(target=lambda: seen.append(world.ask(*ASKED))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 2 and seen[0] == seen[1] and len(path.read_text().splitlines()) == 1


def test_a_file_with_a_torn_line_and_one_by_hand(tmp_path):
    path = tmp_path / "exchanges.jsonl"
    request = dict(zip(("category", "tool_name", "api_name", "tool_input"), ASKED, strict=True))
    row = json.dumps({"request": request, "reply": "cut..."})
    for torn in (row, f'{row}\n{{"request": {{}}'):
        path.write_text(torn)
        with Exchanges(path) as known:
            assert World(known).ask(*ASKED) == ("cut...", 0), "an observation as it was recorded"
        with Exchanges(path, fill=True) as known:
            known.add({"tool_input": {}}, {"error": ""})
        assert [json.loads(line)["reply"] for line in path.read_text().splitlines()] == [
            "cut...",
            {"error": ""},
        ]
    path.write_text('{"request": 1, "reply": {}}\n')
    with pytest.raises(UserError, match=r":1: got request, reply; wanted"):
        Exchanges(path)
    with pytest.raises(UserError, match="cannot be read"):
        Exchanges(tmp_path / "nowhere.jsonl")
    with Exchanges(tmp_path / "y.jsonl", fill=True):
        with pytest.raises(UserError, match="in use by another run"):
            Exchanges(tmp_path / "y.jsonl", fill=True)


def test_thirty_percent_of_faults_leave_the_same_file(tmp_path):
    files = []
    for share in (0.0, 0.3):
        path = tmp_path / f"{share}.jsonl"
        with (
            ApiServer(reply, misbehave(1, share), slow=0.3) as server,
            Exchanges(path, True) as known,
            Server(server.url, backoff=0.001, total=0.15, tries=8) as client,
        ):
            world = World(known, client)
            seen = [world.ask(*ASKED[:3], {"city": f"{i}"}) for i in range(20)]
        assert all(code == 0 for _, code in seen) and (len(server.requests) > 22) is (share > 0)
        files.append(path.read_text())
    assert files[0] == files[1]


@pytest.mark.skipif(not SHARED.exists(), reason="no recorded exchanges at hand")
def test_recorded_exchanges_are_seen_as_they_were(tmp_path):
    path, rows = tmp_path / "exchanges.jsonl", []
    for line in (SHARED / "virtual_server_exchanges.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        request = {key: row["request_rebuilt"][key] for key in ("category", "tool_name", "api_name")}
        request["tool_input"] = json.loads(row["request_rebuilt"]["tool_input"])
        rows.append((request, row["observation_verbatim"]))
    kept = {}
    for request, seen in rows:
        kept.setdefault(virtual.key_of(request), (request, seen))
    with Exchanges(path, fill=True) as known:
        for request, seen in kept.values():
            whole = not seen.endswith("...")
            known.add(request, json.loads(seen) if whole else seen)
    assert len(rows) == 39 and len(kept) == 22
    with Exchanges(path) as known:
        world = World(known)
        for request, seen in kept.values():
            assert world.ask(*request.values()) == (seen, 0)
