"""pipeline.py: whole runs on invented rows of four sources, a server playing both models.

The twin of a run that was killed, or met faults, is one that was not: all files but the journal are the same.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import ChatServer, misbehave
from conftest import LLAMA_SPECIALS, byte_tokenizer, write_model
from safetensors.torch import save_file

import data
import evaluate
import pipeline
import train
from cli import run
from model import ModelConfig, Transformer

ROOT = Path(pipeline.__file__).parent
CALL = re.compile(r"call (\w+) for (\w+)")
NAMES = [f"{what}_in" for what in "rain sun wind fog hail snow dew tide".split()]
CITIES = "Bali Rome Oslo Lima Kyiv".split()

# ---- rows, each source's in its published form; the query says which calls are right ----


def apigen(i: int) -> dict:
    name, other, city = NAMES[i % 8], NAMES[(i + 1) % 8], CITIES[i % 5]
    query = f"Number {i}: call {name} for {city}" + (f" and call {other} for {city}." if i % 3 == 0 else ".")
    calls = [{"name": name, "arguments": {"city": city}} for name, city in CALL.findall(query)]
    if i % 7 == 3:
        calls[0]["arguments"]["city"] = "Paris"  # not what was asked for: the second model will say so
    if i % 7 == 5:
        query += " This is tedious."  # the judge will say so, too
    tools = [
        {"name": n, "description": "", "parameters": {"city": {"description": "Where.", "type": "str"}}}
        for n in (name, other)
    ]
    answers = "[broken" if i == 6 else json.dumps(calls)
    return {"id": i, "query": query, "answers": answers, "tools": json.dumps(tools)}


def schema(name: str) -> dict:
    properties = {"city": {"type": "string", "description": "Where."}}
    return {
        "name": name,
        "description": "",
        "parameters": {"type": "object", "properties": properties, "required": ["city"]},
    }


def glaive(i: int) -> dict:
    name, city = NAMES[i % 8], CITIES[i % 5]
    chat = f"USER: Number {i}, please call {name} for {city}.\n\n\nASSISTANT: <functioncall> "
    chat += f'{{"name": "{name}", "arguments": \'{{"city": "{city}"}}\'}} <|endoftext|>\n\n\n'
    chat += 'FUNCTION RESPONSE: {"much": "none"}\n\n\nASSISTANT: None at all. <|endoftext|>\n\n\n'
    system = (
        "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
    )
    return {"system": system + json.dumps(schema(name), indent=4) + "\n", "chat": chat}


def toolbench(i: int) -> dict:
    name, city = f"{NAMES[i % 8]}_for_weather", CITIES[i % 5]
    finish = {"return_type": "give_answer", "final_answer": "There is none."}
    if i % 4 == 3:
        finish = {"return_type": "give_up_and_restart"}
    query = f"Number {i} is to call {name} for {city}."

    def say(name: str, arguments: dict, thought: str) -> dict:
        call = {"name": name, "arguments": json.dumps(arguments)}
        return {"role": "assistant", "content": thought, "function_call": call}

    chain = [{"role": "user", "content": f"\n{query}\nBegin!\n"}, say(name, {"city": city}, "Look it up.")]
    chain += [{"role": "function", "name": name, "content": "none"}, say("Finish", finish, "It is known.")]
    tools = [{"Name": name, "function": "", "input": {"city": "string, Where."}}]
    return {"tools": tools, "instruction": query, "chains": chain}


def mathcoder(i: int) -> dict:
    blocks = [("user", f"How much is {i} and twenty, exactly?"), ("text", "Add them."), ("code", f"{i} + 20")]
    blocks += [("execution", str(i + 20)), ("text", f"It is \\boxed{{{i + 20}}}.")]
    return {"messages": [], "debug_result": [{"role": role, "content": text} for role, text in blocks]}


ROWS = {
    "apigen": [apigen(i) for i in range(16)],
    "glaive": [glaive(i) for i in range(5)],
    "toolbench-messages": [toolbench(i) for i in range(5)],
    "mathcoder": [mathcoder(i) for i in range(6)],
}


def play(request: dict) -> str:
    """What both models say; all is read off the request, so that equal requests have equal answers."""
    asked = request["messages"][-1]["content"]
    lines = asked.splitlines()
    if "Write, in place of null:" in asked:
        paths = re.findall(r'^\d+\. "(trajectory\.\d+\.content)"', asked, re.MULTILINE)
        return json.dumps({path: text_for(path, asked) for path in paths})
    if lines[-1].startswith('{"overall"'):
        steps = dict.fromkeys(json.loads(lines[-1].replace(": N", ": 0"))["steps"], 8)
        return json.dumps({"overall": 2 if "tedious" in asked else 9, "steps": steps, "comment": "Fair."})
    turns = [json.loads(line) for line in lines if line.startswith('{"turn"')]
    if '{"answer"' in lines[-1]:
        (number,) = re.findall(r"\d+", turns[0]["content"])
        return json.dumps({"answer": int(number) + 20})
    query = [turn["content"] for turn in turns if turn["role"] == "user"][-1]
    return json.dumps([{"name": name, "arguments": {"city": city}} for name, city in CALL.findall(query)])


def text_for(path: str, asked: str) -> object:
    """A thought names the functions that are called behind it, a summary without a result copies calls."""
    shown = [json.loads(line) for line in asked.splitlines() if line.startswith('{"turn"')]
    turns = {turn["turn"]: turn for turn in shown}
    (i,) = re.findall(r"\d+", path)
    calls = [call for turn in turns.values() for call in turn.get("calls", [])]
    if turns[f"trajectory.{i}"]["role"] == "reasoner":
        return "Here the way goes on." + "".join(f" {call['name']}." for call in calls)
    observed = any(turn["role"] == "observation" for turn in turns.values())
    return "Here the way goes on." if observed else calls


# ---- runs ----


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("published")
    for name, rows in ROWS.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return [f"{name}={folder / name}.json" for name in ROWS]


def arguments(server: ChatServer, inputs: list[str], folder: Path, *more: object) -> list[str]:
    argv = [
        "run",
        *inputs,
        "--output",
        folder,
        "--base-url",
        server.base_url,
        "--judge-base-url",
        server.base_url,
    ]
    argv += ["--workers", 4, "--backoff", 0.01, "--tries", 12, "--timeout", 0.5, "--held-out", 0.2]
    argv += ["--sample", 9, "--per-source"]  # of 11 rows of apigen
    return [str(part) for part in (*argv, *more)]


def files(folder: Path) -> dict[str, bytes]:
    """All that a run wrote, but for the journal, whose order is that of the answers."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "journal.jsonl"}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def places(folder: Path) -> Counter:
    """Where each row of the sources ended: (dataset, index) of all final files."""
    found = Counter()
    for path in (
        *folder.glob("*.refused.jsonl"),
        *(folder / f"{name}.jsonl" for name in ("review", "train", "heldout")),
    ):
        for line in lines(path):
            source = line.get("record", line)["source"] if path.stem == "review" else line["source"]
            found[source["dataset"], source["index"]] += 1
    return found


def command(*argv: object) -> int:
    try:
        return run(pipeline.main, [str(part) for part in argv])
    except SystemExit as error:  # argparse
        return error.code


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with ChatServer(play) as server:
        yield server


@pytest.fixture(scope="module")
def made(server, inputs, tmp_path_factory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("made")
    assert run(pipeline.main, arguments(server, inputs, folder)) == 0
    return folder


def test_every_row_is_done_or_set_aside_once(made):
    everything = {(name, index) for name, rows in ROWS.items() for index in range(len(rows))}
    assert places(made) == dict.fromkeys(everything, 1)
    train, held_out = (data.read_records(made / f"{name}.jsonl") for name in ("train", "heldout"))
    assert train and held_out and {r["source"]["dataset"] for r in train + held_out} == ROWS.keys()
    reasons = Counter(line["reason"] for path in made.glob("?-*.refused.jsonl") for line in lines(path))
    assert reasons["gave up"] == 1 and reasons["overall score under 7"] == 2 and sum(reasons.values()) == 4
    assert [line["record"]["source"]["index"] for line in lines(made / "review.jsonl")] == [3, 10]
    for record in train + held_out:
        source = record["source"]
        assert source["file"] == f"{source['dataset']}.json" and source["scores"]["model"] == "deepseek-chat"
        assert source["verified"] == {"model": "deepseek-chat", "run": False, "review": None}
        assert not any(path.startswith("trajectory") for path in source["missing"])
        texts = [turn.get("content", "") for turn in record["trajectory"]]
        completed = [text for text in texts if text.startswith(("Here the way goes on.", "Action: "))]
        assert len(completed) == len(source.get("completed", [])) and bool(completed) == (
            "completed_by" in source
        )


def test_report_adds_up(made):
    counts = json.loads((made / "report.json").read_text())
    assert list(counts) == ["convert", "complete", "judge", "verify", "unify"]
    before = {name: len(rows) for name, rows in ROWS.items()}
    for by_source in counts.values():
        for name, row in by_source.items():
            assert row["rows in"] == before[name]
            assert row["rows in"] == sum(
                n for what, n in row.items() if not what.startswith(("kept", "rows in"))
            )
            before[name] = row.get("rows out", 0)
    assert counts["unify"]["apigen"]["train"] == 9
    table = (made / "report.txt").read_text()
    (line,) = (line for line in table.splitlines() if line.startswith("convert   rows in"))
    assert line.split()[3:] == ["16", "5", "6", "5", "32"]
    assert "judge     refused: overall score under 7" in table and "apigen.json row 5 Fair." in table


def test_faults_change_nothing(made, inputs, tmp_path, capsys):
    with ChatServer(play, misbehave(seed=1), slow=0.8, retry_after="0") as server:
        assert run(pipeline.main, arguments(server, inputs, tmp_path, "--price-in", 2.5)) == 0
        assert sum(request.fault is not None for request in server.requests) > 10
    assert files(tmp_path) == files(made)
    out = capsys.readouterr().out
    assert re.search(r"gpt-4o: \d+ requests \(0 more from the journal, \d+ retries\).* cost \d", out)
    answered = len(lines(tmp_path / "journal.jsonl"))
    with ChatServer(play) as server:  # all is answered: nobody is asked again
        assert run(pipeline.main, arguments(server, inputs, tmp_path)) == 0
        assert not server.requests and len(lines(tmp_path / "journal.jsonl")) == answered
    assert files(tmp_path) == files(made)


def test_killed_at_any_moment_and_started_again(made, inputs, tmp_path):
    with ChatServer(play, misbehave(seed=2, kinds=("429", "500", "close", "truncate"))) as server:
        argv = [sys.executable, str(ROOT / "pipeline.py"), *arguments(server, inputs, tmp_path)]
        for answers in (4, 40):
            process = subprocess.Popen(
                argv, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
            )
            journal, deadline = tmp_path / "journal.jsonl", time.monotonic() + 60
            while not journal.exists() or journal.read_bytes().count(b"\n") < answers:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (tmp_path / "train.jsonl").exists()
        assert run(pipeline.main, arguments(server, inputs, tmp_path)) == 0
        asked = Counter(request.key for request in server.requests if request.fault is None)
    assert files(tmp_path) == files(made)
    assert sum(count - 1 for count in asked.values()) <= 2 * 4  # replies under way when it was killed


def test_ctrl_c_ends_a_run_while_the_server_hangs(made, inputs, tmp_path):
    hung: list[str] = []

    def hang(key: str, attempt: int) -> str | None:
        """After eight answers none comes."""
        if len(server.requests) < 8:
            return None
        hung.append(key)
        return "slow"

    with ChatServer(play, hang, slow=60) as server:
        argv = arguments(server, inputs, tmp_path, "--timeout", 90)
        child = subprocess.Popen(
            [sys.executable, str(ROOT / "pipeline.py"), *argv],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        while len(hung) < 4:
            assert child.poll() is None
            time.sleep(0.002)
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=60)
        assert time.monotonic() - start < 30  # about one where nothing else is done; the server takes 60
        assert child.returncode == 130 and b"Traceback" not in error
    kept = {line["key"] for line in lines(tmp_path / "journal.jsonl")}
    assert len(kept) == 8 and kept.isdisjoint(hung)
    with ChatServer(play) as server:
        assert run(pipeline.main, arguments(server, inputs, tmp_path)) == 0
        assert kept.isdisjoint(request.key for request in server.requests)
    assert files(tmp_path) == files(made)


def test_unanswered_rows_are_asked_again_and_only_these(made, inputs, tmp_path, capsys):
    def stubborn(key: str, attempt: int) -> str | None:
        return "500" if int(key, 16) % 3 == 0 and broken else None

    broken = True
    with ChatServer(play, stubborn) as server:
        assert run(pipeline.main, arguments(server, inputs, tmp_path, "--tries", 2)) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        waiting = int(last.split()[0])
        refused = [line for path in tmp_path.glob("*.refused.jsonl") for line in lines(path)]
        assert waiting == sum(line["reason"] == "no answer in 2 tries" for line in refused) > 3
        assert "the same command asks these, and only these, again" in last
        assert set(places(tmp_path).values()) == {1}
        done = {request.key for request in server.requests if request.fault is None}
        broken, count = False, len(server.requests)
        assert run(pipeline.main, arguments(server, inputs, tmp_path)) == 0
        assert done.isdisjoint(request.key for request in server.requests[count:])
    assert files(tmp_path) == files(made)


def test_decisions_are_merged(server, inputs, tmp_path, capsys):
    assert run(pipeline.main, arguments(server, inputs, tmp_path)) == 0
    assert "2 rows wait for a person" in capsys.readouterr().out
    first, second = lines(tmp_path / "review.jsonl")
    path, other = first["faults"][0]["path"], first["faults"][0]["other"]
    decisions = [
        {"id": first["id"], "decision": "change", "calls": {path: other}},
        {"id": second["id"], "decision": "drop"},
    ]
    (tmp_path / "decisions.jsonl").write_text("".join(json.dumps(decision) + "\n" for decision in decisions))
    assert run(pipeline.main, arguments(server, inputs, tmp_path)) == 0
    assert not lines(tmp_path / "review.jsonl")
    (line,) = [line for line in lines(tmp_path / "4-verified.refused.jsonl")]
    assert line["reason"] == "dropped in review" and line["source"]["index"] == 10
    (record,) = [r for r in lines(tmp_path / "4-verified.jsonl") if r["source"]["verified"]["review"]]
    assert record["trajectory"][2]["calls"] == other and record["trajectory"][1]["content"]
    assert record["source"]["verified"]["review"] == "edited"


def test_stages_one_by_one_make_the_same(made, server, inputs, tmp_path):
    name, published = inputs[0].split("=")
    asking = ["--base-url", server.base_url, "--journal", made / "journal.jsonl", "--output"]
    assert command("convert", "--source", name, published, "--output", tmp_path / "1.jsonl") == 0
    for number, stage in enumerate(("complete", "judge", "verify"), 2):
        assert command(stage, tmp_path / f"{number - 1}.jsonl", *asking, tmp_path / f"{number}.jsonl") == 0
        (whole,) = (path for path in made.glob(f"{number}-*.jsonl") if "refused" not in path.name)
        of_source = [record for record in lines(whole) if record["source"]["dataset"] == name]
        assert lines(tmp_path / f"{number}.jsonl") == of_source
    assert len(lines(tmp_path / "4.review.jsonl")) == 2
    assert command("unify", tmp_path / "4.jsonl", "--output", tmp_path / "made", "--held-out", 0) == 0
    assert len(lines(tmp_path / "made/train.jsonl")) == len(lines(tmp_path / "4.jsonl"))


def test_without_models(inputs, tmp_path, capsys):
    """Rules alone: only what the data say themselves is kept."""
    assert command("run", inputs[2], inputs[0], "--output", tmp_path, "--model", "", "--judge-model", "") == 0
    assert {record["source"]["dataset"] for record in lines(tmp_path / "train.jsonl")} == {
        "toolbench-messages"
    }
    reasons = {line["reason"] for line in lines(tmp_path / "2-completed.refused.jsonl")}
    assert reasons == {"lacks a thought or summary, and no model is asked"}


def test_rules_need_no_model_and_survive_a_kill(inputs, tmp_path, capsys):
    """Twin: the same without the kill."""
    folders = [tmp_path / "whole", tmp_path / "killed"]
    whole, killed = (
        ["run", *inputs, "--rules", "--judge-model", "", "--sample", 20, "--output", f] for f in folders
    )
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "pipeline.py"), *map(str, killed)], stdout=subprocess.DEVNULL
    )
    while not (folders[1] / "1-converted.jsonl").exists():
        assert child.poll() is None
        time.sleep(0.001)
    child.kill()
    child.wait()
    assert command(*killed) == 0 == command(*whole)
    assert files(folders[0]) == files(folders[1])
    train = data.read_records(folders[0] / "train.jsonl")
    assert len(train) == 20
    by_rules = [record for record in train if record["source"].get("completed_by") == "rules"]
    assert by_rules and all(turn.get("content", "x") for record in train for turn in record["trajectory"])
    assert (
        command("complete", "--rules", folders[0] / "1-converted.jsonl", "--output", tmp_path / "c.jsonl")
        == 0
    )
    assert (tmp_path / "c.jsonl").read_bytes() == (folders[0] / "2-completed.jsonl").read_bytes()


def test_rules_do_not_replace_a_text(tmp_path):
    turns = [{"role": "user", "content": "?"}, {"role": "reasoner", "content": "So.", "next": "summarizer"}]
    source = {"missing": ["trajectory.1.content"]}
    record = {"trajectory": [*turns, {"role": "summarizer", "content": "!"}], "source": source}
    (tmp_path / "in.jsonl").write_text(json.dumps(record))
    assert command("complete", "--rules", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl") == 0
    (line,) = lines(tmp_path / "out.refused.jsonl")
    assert line["reason"] == "completion: nothing is missing where the record says so"


def test_dry_run_asks_nothing(inputs, tmp_path, capsys):
    with ChatServer(play) as server:
        argv = arguments(server, inputs, tmp_path, "--dry-run", 2, "--price-in", 1, "--judge-price-out", 1)
        assert run(pipeline.main, argv) == 0
        assert not server.requests
    out = capsys.readouterr().out
    for stage, model in (("complete", "gpt-4o"), ("judge", "deepseek-chat"), ("verify", "deepseek-chat")):
        assert out.count(f"--- {stage}, prompt") == 2
        assert re.search(rf"{stage} will ask {model} at http://127\S+: \d+ requests .* cost \d", out)
    assert not (tmp_path / "train.jsonl").exists()


# ---- what a user can mend ----

WRONG = {
    "unknown source": ("run xlam={rows} --output {out}", "wanted SOURCE=FILE"),
    "no pair": ("run {rows} --output {out}", "wanted SOURCE=FILE"),
    "absent file": ("run apigen={out}/absent.json --output {out}", "absent.json: cannot be read"),
    "empty folder": ("run apigen={empty} --output {out}", "holds no .json"),
    "another source's rows": ("run glaive={rows} --output {out}", "rows have"),
    "convert, not JSON": ("convert --source apigen {text} --output {out}/o.jsonl", "wanted a JSON array"),
    "convert, onto itself": ("convert --source apigen {rows} --output {rows}", "is one of the inputs"),
    "convert, nothing usable": (
        "convert --source apigen {broken} --output {out}/o.jsonl",
        "no row can be converted",
    ),
    "complete, no record": ("complete {text} --output {out}/o.jsonl", "rows.txt:1: not JSON"),
    "complete, bad URL": ("complete {record} --output {out}/o.jsonl --base-url gpt", "--base-url: got 'gpt'"),
    "judge, no model": ("judge {record} --output {out}/o.jsonl --model ''", "got no --model"),
    "judge, score": ("judge {record} --output {out}/o.jsonl --min-step 11", "wanted int from 1 to 10"),
    "verify, absent": ("verify {out}/absent --output {out}/o.jsonl --model ''", "absent: cannot be read"),
    "verify, responses": ("verify {record} --output {out}/o.jsonl --responses x", "got no --tools"),
    "judge, strange source": ("judge {strange} --output {out}/o.jsonl", "source.missing: got 5"),
    "verify, onto the journal": (
        "verify {record} --output {out}/o.jsonl --journal {out}/o.jsonl",
        "is one of the inputs",
    ),
    "verify, a folder": ("verify {record} --output {empty} --model ''", "is a folder"),
    "unify, empty": ("unify {nothing} --output {out}", "nothing.json: is empty"),
    "unify, onto itself": ("unify {empty}/train.jsonl --output {empty}", "is one of the inputs"),
    "unify, no sample": ("unify {record} --output {out} --per-source", "got no --sample"),
    "verify, references": (
        "verify {record} --output {out}/o.jsonl --model '' --references {rows}",
        "holds no question",
    ),
    "review, absent": ("review {out}/review.jsonl", "review.jsonl: cannot be read"),
    "review, records": ("review {record}", "wanted review.jsonl"),
    "unify, no record": ("unify {text} --output {out}", "rows.txt:1: not JSON"),
    "unify, evaluation": ("unify {record} --output {out} --evaluation {empty}", "holds no question"),
    "no stage": ("", "STAGE"),
}


@pytest.mark.parametrize(("argv", "words"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line(tmp_path, capsys, argv, words):
    paths = {name: tmp_path / name for name in ("out", "empty")}
    paths["empty"].mkdir()
    contents = {"rows": json.dumps(ROWS["apigen"]), "broken": json.dumps([apigen(6)]), "text": "hello"}
    turns = [{"role": "user", "content": "?"}, {"role": "reasoner", "content": "", "next": "summarizer"}]
    record = {"trajectory": [*turns, {"role": "summarizer", "content": "!"}]}
    contents["record"] = json.dumps(record)
    contents["nothing"] = ""
    contents["strange"] = json.dumps(record | {"source": {"missing": 5}})
    for name, content in contents.items():
        paths[name] = tmp_path / ("rows.txt" if name == "text" else f"{name}.json")
        paths[name].write_text(content)
    assert command(*(part.format(**paths).replace("''", "") for part in argv.split())) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1, error
    assert not [*paths["empty"].iterdir()] and paths["rows"].read_text() == contents["rows"]
    assert not paths["out"].exists() or not [*paths["out"].iterdir()]


def test_fault_of_all_rows_stops_at_once(inputs, tmp_path, capsys):
    with ChatServer(play, lambda key, attempt: "401") as server:
        assert run(pipeline.main, arguments(server, inputs, tmp_path)) == 2
        assert len(server.requests) <= 4
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "2-completed.jsonl").exists()


def test_refusals_of_all_requests_stop_a_run(inputs, tmp_path, capsys):
    with ChatServer(play, lambda key, attempt: "400") as server:
        assert run(pipeline.main, arguments(server, inputs, tmp_path, "--temperature", 0.5)) == 2
        assert {request.body["temperature"] for request in server.requests} == {0.5}
        assert len(server.requests) < 20 + 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert "20 requests and no answer" in error and "temperature" in error
    assert not (tmp_path / "2-completed.jsonl").exists() and not (tmp_path / "journal.jsonl").exists()


# ---- from published rows to a trained adapter and its figures ----


def test_chain(made, tmp_path, capsys):
    config = {"model_type": "llama", "vocab_size": 261, "hidden_size": 16, "intermediate_size": 16}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config |= {"rms_norm_eps": 1e-5, "max_position_embeddings": 3000, "tie_word_embeddings": False}
    base = write_model(tmp_path / "base", config, byte_tokenizer())
    model = Transformer.from_config(ModelConfig.from_dict(config), seed=0)
    model.lm_head.weight.data[LLAMA_SPECIALS["<|eot_id|>"]] *= 60  # often ends its turns
    save_file({name: p.detach().clone() for name, p in model.named_parameters()}, base / "model.safetensors")
    argv = f"--data {made}/train.jsonl --model {base} --output {tmp_path}/adapter --steps 2 --rank 2"
    assert run(train.main, [*argv.split(), "--device", "cpu", "--cache", ""]) == 0
    argv = f"roles --data {made}/heldout.jsonl --model {base} --adapter {tmp_path}/adapter --limit 2"
    argv += f" --output {tmp_path}/roles.jsonl --device cpu"
    assert run(evaluate.main, argv.split()) == 0
    assert "next role" in capsys.readouterr().out
