"""BFCL's command starts without the vendors' SDKs; error texts among its answers are found.

Most tests stand on a package of a few lines in the place of bfcl-eval; those that need the real one skip.
"""

import importlib
import importlib.util
import json
import sys
import threading
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import serve
from benchmarks import bfcl_launch
from benchmarks.bfcl_launch import CATEGORIES, SDKS, StandIns
from cli import UserError, run
from engine.heldout import spread
from evaluation import bfcl_questions

CALL = [{"book": '{"city": "Oslo"}'}]
REFUSED = "Error during inference: Connection error."
NEEDED = ("bfcl_eval", "httpx", "openai", "typer", "tree_sitter")


@pytest.fixture
def stand_ins(monkeypatch):
    """The finder at its place, for one test."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, StandIns()])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def package(tmp_path, monkeypatch, stand_ins):
    """A bfcl_eval that says in told.json how it was called, and has questions of one category."""
    folder = tmp_path / "site" / "bfcl_eval"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    code = "import json, os, pathlib, anthropic\n"
    code += "def cli(argv):\n"
    code += "    told = [argv, os.environ['OPENAI_API_KEY'], str(anthropic.Client)]\n"
    code += f"    pathlib.Path({str(tmp_path / 'told.json')!r}).write_text(json.dumps(told))\n"
    (folder / "__main__.py").write_text(code)
    lines = [json.dumps({"id": f"multiple_{i}"}) for i in range(10)]
    (folder / "data" / "BFCL_v4_multiple.json").write_text("\n".join(lines) + "\n")
    (folder / "data" / "BFCL_v4_live_multiple.json").write_text("")
    monkeypatch.syspath_prepend(folder.parent)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BFCL_PROJECT_ROOT", str(tmp_path / "root"))
    return tmp_path


class Models(BaseHTTPRequestHandler):
    """Answers a GET of /v1/models with the right key, as serve.py does."""

    def do_GET(self):
        right = self.path == "/v1/models" and self.headers["Authorization"] == "Bearer a-key"
        self.send_response(200 if right else 401)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = HTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


# ---- stand-ins ----


def test_mocks_stand_in_for_absent_sdks_at_any_depth(stand_ins):
    for name in SDKS:
        if importlib.util.find_spec(name).loader.__class__ is StandIns:
            module = importlib.import_module(f"{name}.of.some.depth")
            assert module.AnyName(1).any_method()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_package")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("googlemaps_of_nobody")


def test_an_installed_sdk_is_not_replaced(stand_ins, tmp_path, monkeypatch):
    (tmp_path / "cohere.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("cohere").VALUE == 7


# ---- the launcher ----


def test_flags_reach_the_command_as_they_are(package):
    argv = ["evaluate", "--model", "some/model", "--partial-eval"]
    bfcl_launch.main(argv)
    told, key, client = json.loads((package / "told.json").read_text())
    assert (told, key) == (argv, "EMPTY")
    assert "Mock" in client


def test_generate_asks_a_server_that_answers(package, server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server)
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    bfcl_launch.main(["generate", "--num-threads", "2"])
    assert json.loads((package / "told.json").read_text())[:2] == [
        ["generate", "--num-threads", "2"],
        "a-key",
    ]


@pytest.mark.parametrize("base", ["", "nonsense", "http://127.0.0.1:1/v1", "{server}"])
def test_generate_is_refused_where_no_server_answers(package, server, base, monkeypatch):
    """Else each question would get an error text, or go to OpenAI. The last one lacks the key."""
    monkeypatch.setenv("OPENAI_BASE_URL", base.format(server=server))
    with pytest.raises(UserError, match="OPENAI_BASE_URL"):
        bfcl_launch.main(["generate"])
    assert not (package / "told.json").exists()


def test_without_the_package_one_line_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="bfcl-eval: not installed"):
        bfcl_launch.main(["evaluate"])


# ---- which questions ----


def test_the_sample_is_that_of_evaluate(package):
    bfcl_launch.main(["sample", "--limit", "4", "--categories", "multiple"])
    chosen = json.loads((package / "root" / "test_case_ids_to_generate.json").read_text())
    assert chosen == {"multiple": ["multiple_0", "multiple_2", "multiple_5", "multiple_7"]}
    ids = [str(i) for i in range(23)]
    for limit in (0, 1, 5, 22, 23, 99):
        assert bfcl_launch.spread(ids, limit) == spread(ids, limit)


def test_a_place_for_the_results_must_be_named(package, monkeypatch):
    monkeypatch.delenv("BFCL_PROJECT_ROOT")
    with pytest.raises(UserError, match="BFCL_PROJECT_ROOT"):
        bfcl_launch.main(["sample", "--categories", "multiple"])


# ---- error texts ----


def too_long() -> str:
    """The answer to a question whose prompt serve.py has refused: the SDK shows the message alone."""
    model = Namespace(config=Namespace(max_position_embeddings=4096))
    return f"Error during inference: Error code: 400 - {serve.too_long('8,452 tokens', model)}"


def write_results(folder: Path, category: str, results: list) -> Path:
    file = folder / "openbmb_MiniCPM-SALA-FC" / "group" / f"BFCL_v4_{category}_result.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": f"{category}_{i}", "result": result}) for i, result in enumerate(results)]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_answers_are_not_taken_for_errors(tmp_path, capsys):
    """Calls, words, nothing, and a dialogue in whose tools something went wrong."""
    dialogue = [[CALL, "Error during execution: no such file"], ["Error during inference is a phrase."]]
    write_results(tmp_path, "irrelevance", [CALL, "I cannot do that.", "", None])
    write_results(tmp_path, "multi_turn_base", [dialogue])
    assert run(bfcl_launch.main, ["check", str(tmp_path)]) == 0
    cells = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert cells[1:] == [["irrelevance", "4", "0", "0"], ["multi_turn_base", "1", "0", "0"]]


def test_error_texts_are_counted_and_refused(tmp_path, capsys):
    write_results(tmp_path, "irrelevance", [REFUSED, "I cannot do that.", too_long()])
    write_results(tmp_path, "multi_turn_base", [too_long()])
    write_results(tmp_path, "multiple", [CALL])
    assert run(bfcl_launch.main, ["check", str(tmp_path)]) == 2
    told = capsys.readouterr()
    cells = [line.split()[:4] for line in told.out.splitlines()[1:]]
    wanted = [["irrelevance", "3", "2", "1"], ["multi_turn_base", "1", "1", "1"], ["multiple", "1", "0", "0"]]
    assert cells == wanted
    assert "Connection error." in told.out
    assert "3 of 5 answers are error texts" in told.err


def test_no_results_and_damaged_ones_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        bfcl_launch.main(["check", str(tmp_path)])
    file = write_results(tmp_path, "multiple", [])
    file.write_text('{"id": "multiple_0", "result": []}\n{"id": "multiple_1"}\n')
    with pytest.raises(UserError, match="_result.json:2: result: missing"):
        bfcl_launch.main(["check", str(tmp_path)])
    file.write_text('{"id": "multiple_0", "res')
    with pytest.raises(UserError, match="_result.json:1: not JSON"):
        bfcl_launch.main(["check", str(tmp_path)])


# ---- the real package ----


@pytest.mark.skipif(not importlib.util.find_spec("bfcl_eval"), reason="needs bfcl-eval")
def test_the_real_sample_is_that_of_evaluate(tmp_path, monkeypatch):
    monkeypatch.setenv("BFCL_PROJECT_ROOT", str(tmp_path))
    bfcl_launch.sample(Namespace(limit=7, categories=CATEGORIES))
    chosen = json.loads((tmp_path / "test_case_ids_to_generate.json").read_text())
    for category in set(CATEGORIES) & set(bfcl_questions.CATEGORIES):
        questions = spread(bfcl_questions.read_questions("bfcl-eval", category), 7)
        assert chosen[category] == [question.id for question in questions]
    assert len(chosen["multi_turn_base"]) == 7


@pytest.mark.skipif(not all(map(importlib.util.find_spec, NEEDED)), reason="needs bfcl-eval's packages")
def test_the_real_command_starts(tmp_path, monkeypatch, stand_ins, capsys):
    monkeypatch.setenv("BFCL_PROJECT_ROOT", str(tmp_path))
    with pytest.raises(SystemExit) as done:
        bfcl_launch.main(["evaluate", "--help"])
    assert done.value.code == 0
    assert "--partial-eval" in capsys.readouterr().out
