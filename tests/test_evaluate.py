"""evaluate.py: scripted models for verdicts and tables, a tiny random one for the result file.

The twin of a run that was killed is one that was not.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import LLAMA_SPECIALS, byte_tokenizer, write_model
from safetensors.torch import save_file

import data
import evaluate
import mor
from cli import exclusive, run
from engine.adapter import save_adapter
from evaluation import bfcl_questions, maths, results, roles
from model import ModelConfig, Transformer

ROOT = Path(evaluate.__file__).parent
CALL = "[unused11]Action: {} Arguments: {}[unused12]"
ACT, STOP = "I see.\nNext: executor", "I see.\nNext: summarizer"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A random model of bytes that often ends its turns, named as one of the paper's, and an adapter."""
    root = tmp_path_factory.mktemp("models")
    config = {"model_type": "llama", "vocab_size": 261, "hidden_size": 32, "intermediate_size": 32}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config |= {"rms_norm_eps": 1e-5, "max_position_embeddings": 1500, "tie_word_embeddings": False}
    base = write_model(root / "Llama-3.2-1B-Instruct", config, byte_tokenizer())
    model = Transformer.from_config(ModelConfig.from_dict(config), seed=0)
    model.lm_head.weight.data[LLAMA_SPECIALS["<|eot_id|>"]] *= 60
    save_file({name: p.detach().clone() for name, p in model.named_parameters()}, base / "model.safetensors")
    mor.add_mor(model, mor.MoRConfig(rank=2))
    save_adapter(model, root / "zero")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in mor.mor_parameters(model).items():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    save_adapter(model, root / "adapter")
    return base, root / "adapter"


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_lines(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(*argv: object) -> int:
    """Exit code of evaluate.py."""
    try:
        return run(evaluate.main, [str(arg) for arg in argv])
    except SystemExit as error:  # argparse
        return error.code


@pytest.fixture
def play(monkeypatch, folders, tmp_path, capsys) -> Callable:
    """Runs a suite with texts to be spoken, a list for each episode -> lines of the file, what was printed.

    Episodes end in the reverse order.
    """

    def play(suite: str, path: Path, texts: list[list[str]], *flags: object) -> tuple[list[dict], str]:
        frame = data.load_frame(folders[0])

        def perform(model, plays, size):
            for i, play in reversed(list(enumerate(plays))):
                left = iter(texts[i])

                def speak(model, ids, *, max_new_tokens, left=left, **_):
                    yield from [*frame.encode(next(left)), frame.end][:max_new_tokens]

                yield i, play(speak)
                assert not list(left), f"episode {i} has texts left"

        monkeypatch.setattr(evaluate, "together", perform)
        output = tmp_path / f"{suite}.jsonl"
        model = ("--model", folders[0], "--adapter", folders[1])
        assert command(suite, "--data", path, "--output", output, *model, *flags) == 0
        return lines_of(output), capsys.readouterr().out

    return play


def cells(printed: str, first: str) -> list[str]:
    """The cells of the row of that name."""
    (row,) = (line for line in printed.splitlines() if line.startswith(f"{first}  "))
    return row[len(first) :].split()


# ---- BFCL ----

GCD = {
    "name": "math_gcd",
    "description": "",
    "parameters": {
        "type": "dict",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a"],
    },
}
TALK = [("system", "Be kind."), ("user", "Hello."), ("assistant", "Hello!"), ("user", "More?")]


def write_bfcl(folder: Path) -> Path:
    def question(id: str, *messages: tuple[str, str]) -> dict:
        said = [{"role": role, "content": text} for role, text in messages or [("user", f"Of {id}?")]]
        return {"id": id, "question": [said], "function": [GCD]}

    def write(name: str, *rows: dict, place: str = "") -> None:
        write_lines(folder / place / f"BFCL_v4_{name}.json", *rows)

    simple = [f"simple_python_{i}" for i in range(5)]
    write("simple_python", *map(question, simple))
    truth = [{"math_gcd": {"a": [4], "b": [6, ""]}}]
    write("simple_python", *({"id": id, "ground_truth": truth} for id in simple), place="possible_answer")
    write("live_relevance", question("relevance_0"), question("relevance_1"))
    write("irrelevance", question("irrelevance_0"))
    write("live_irrelevance", question("talk", *TALK))
    write("exec_simple", question("exec_0"), question("exec_1"), place="unused_datasets/question")
    answers = [
        {"id": f"exec_{i}", "execution_result_type": ["exact_match"], "ground_truth": [call]}
        for i, call in enumerate(["math_gcd(a=4, b=6)", "get_weather_data(coordinates=[1, 2])"])
    ]
    write("exec_simple", *answers, place="unused_datasets/possible_answer")
    return folder


CATEGORIES = ("simple_python", "live_relevance", "irrelevance", "live_irrelevance", "exec_simple")
RIGHT, OTHER = CALL.format("math_gcd", '{"a": 4}'), CALL.format("math_gcd", '{"a": 5, "b": 6}')
TEXTS = [
    # simple_python
    [ACT, RIGHT],
    [ACT, OTHER],
    [ACT, "I cannot."],
    [STOP],
    ["Hm.", RIGHT],
    # live_relevance, twice
    [ACT, OTHER],
    [ACT, "I cannot."],
    # irrelevance, live_irrelevance
    [STOP],
    [ACT, OTHER],
    # exec_simple; the last one is not run
    [ACT, CALL.format("math_gcd", '{"a": 2, "b": 8}')],
    [],
]


@pytest.fixture
def played_bfcl(play, tmp_path) -> tuple[list[dict], str]:
    """The lines of the result file and what was printed, of TEXTS."""
    return play("bfcl", write_bfcl(tmp_path / "bfcl"), TEXTS, "--categories", *CATEGORIES)


def test_bfcl_verdicts(played_bfcl):
    (header, *lines), _ = played_bfcl
    assert header["header"]["questions"] == len(lines) == 11
    assert header["header"]["categories"] == [*CATEGORIES] and header["header"]["frame"] == ""
    assert [line["valid"] for line in lines] == [1, 0, 0, 0, 1, 1, 0, 1, 0, 1, None]
    statuses = [line["record"]["exit_status"] for line in lines]
    called = "called called unreadable no_call called called unreadable no_call called called question"
    assert statuses == called.split()
    other = [{"name": "math_gcd", "arguments": {"a": 5, "b": 6}}]
    assert [line["calls"] for line in lines[1:4]] == [other, None, []]
    assert "5, wanted one of [4]" in lines[1]["reason"]
    assert lines[2]["reason"] == "no call could be read"


def test_bfcl_records(played_bfcl):
    (_, *lines), _ = played_bfcl
    for line in lines:
        data.check_record(line["record"], line["id"])
    talk = lines[8]["record"]
    assert talk["system"] == "Be kind."
    roles = [turn["role"] for turn in talk["trajectory"]]
    assert roles == ["user", "reasoner", "summarizer", "user", "reasoner", "executor"]
    assert talk["source"] == {"dataset": "bfcl", "category": "live_irrelevance", "id": "talk"}


def test_bfcl_table(played_bfcl):
    _, printed = played_bfcl
    # Wilson: (2/5 + z²/10 ± z sqrt(0.24/5 + z²/100)) / (1 + z²/5) with z = 1.96
    assert cells(printed, "simple_python") == ["5", "40.0%", "11.8%", "to", "76.9%"]
    assert cells(printed, "exec_simple")[:2] == ["1", "100.0%"]
    assert "\n1 not run: get_weather_data asks a web service\n" in printed
    assert cells(printed, "Relevance") == ["2", "50.0%", "9.5%", "to", "90.5%", "38.9%", "94.4%"]
    irrelevance = cells(printed, "Irrelevance")  # the paper has no figures of it
    assert irrelevance[:2] == ["2", "50.0%"] and len(irrelevance) == 5
    assert cells(printed, "Average") == ["0", "-", "-", "27.5%", "77.6%"]


def test_score_judges_once_more(played_bfcl, tmp_path, capsys):
    _, printed = played_bfcl
    path = tmp_path / "bfcl.jsonl"
    assert command("score", path) == 0
    assert capsys.readouterr().out == printed
    text = path.read_text().replace('"valid": true, "reason": ""', '"valid": false, "reason": "?"', 1)
    path.write_text(text)
    assert command("score", path) == 0
    again = capsys.readouterr().out
    assert cells(again, "simple_python")[1] == "40.0%" and "\n1 verdicts are not those" in again


def test_bfcl_compared(played_bfcl, tmp_path, capsys):
    """With a file in which another question is right, which is judged once more."""
    path, other = tmp_path / "bfcl.jsonl", tmp_path / "other.jsonl"
    header, *lines = lines_of(path)
    header["header"]["adapter"] = "f00"
    lines[3]["calls"] = [{"name": "math_gcd", "arguments": {"a": 4}}]
    write_lines(other, header, *lines)
    assert command("compare", path, other) == 0
    printed = capsys.readouterr().out
    assert f"B  {other}: Llama-3.2-1B-Instruct, adapter f00\n" in printed
    row = cells(printed, "simple_python")
    assert row[:3] == ["40.0%", "60.0%", "+20.0%"] and row[-3:] == ["0", "1", "1.0000"]
    assert cells(printed, "Irrelevance")[:3] == ["50.0%", "50.0%", "+0.0%"]
    assert "Average" not in printed
    header["header"]["adapter"] = "f00\x1b[2J\u202e"
    write_lines(other, header, *lines)
    assert command("compare", path, other) == 0
    assert "adapter f00\\x1b[2J\\u202e\n" in capsys.readouterr().out
    del header["header"]["questions"]
    write_lines(other, header, *lines)
    assert command("score", other) == 2
    assert "damaged (KeyError('questions'))" in capsys.readouterr().err


def test_a_limit_is_spread_over_each_category(play, tmp_path):
    flags = ("--categories", "simple_python", "live_relevance", "--limit", 2)
    (_, *lines), _ = play("bfcl", write_bfcl(tmp_path / "bfcl"), [[STOP]] * 4, *flags)
    assert [line["id"] for line in lines] == "simple_python_0 simple_python_2 relevance_0 relevance_1".split()


def test_a_turn_over_its_limit(play, tmp_path):
    """A reasoner cut off has made no call; whole calls of an executor cut off count."""
    texts = [["Well, " * 20], ["Next: executor", RIGHT + ", " + OTHER]]
    flags = ("--categories", "live_relevance", "--max-new-tokens", len(RIGHT) + 2)
    (_, *lines), _ = play("bfcl", write_bfcl(tmp_path / "bfcl"), texts, *flags)
    assert [line["record"]["exit_status"] for line in lines] == ["max_tokens"] * 2
    assert [line["calls"] for line in lines] == [None, [{"name": "math_gcd", "arguments": {"a": 4}}]]
    assert [line["valid"] for line in lines] == [False, True]


# ---- GSM8K and MATH ----


def test_math_runs_the_code(play, tmp_path):
    rows = [
        {"problem": "Half?", "level": "Level 1", "type": "Algebra", "solution": r"So \boxed{\frac12}."},
        {"problem": "Two?", "level": "Level 1", "type": "Geometry", "solution": r"So \boxed{2}."},
        {"problem": "Three?", "level": "Level 5", "type": "Algebra", "solution": r"So \boxed{3}."},
    ]
    texts = [
        [ACT, "x = 1", ACT, "x / 2", STOP, r"Not \boxed{7}, it is \boxed{0.5}."],
        [STOP, r"It is \boxed{3}."],
        [ACT, "1 / 0"] * 4 + [ACT, "I give up."],
    ]
    path = write_lines(tmp_path / "math_test.jsonl", *rows)
    (_, *lines), printed = play("math", path, texts, "--unsafe-python")
    assert [line["valid"] for line in lines] == [True, False, False]
    assert [line["answer"] for line in lines] == ["0.5", "3", ""]
    assert [line["reason"] for line in lines] == ["", "got '3', wanted '2'", "no answer"]
    observed = []
    for line in lines:
        turns = line["record"]["trajectory"]
        observed.append([turn["content"] for turn in turns if turn["role"] == "observation"])
    assert observed == [["<empty_execution>", "0.5"], [], ["ZeroDivisionError: division by zero"] * 4]
    assert lines[2]["record"]["exit_status"] == "max_turns"
    names = [row.split("  ")[0] for row in printed.splitlines()[1:]]
    assert names == ["problems", "MATH", "Level 1", "Level 5", "Algebra", "Geometry"]
    assert cells(printed, "MATH")[:2] == ["3", "33.3%"]
    assert cells(printed, "Level 1")[:2] == ["2", "50.0%"]


def test_gsm8k_and_a_seed_for_each_question(play, tmp_path, monkeypatch, folders):
    seeds = []
    true = maths.run_episode
    monkeypatch.setattr(maths, "run_episode", lambda *a, **k: seeds.append(k["seed"]) or true(*a, **k))
    qwen = tmp_path / "Qwen2.5-Coder-1.5B"
    shutil.copytree(folders[0], qwen)
    rows = [{"question": f"Q{i}?", "answer": f"Because.\n#### {i},000"} for i in range(3)]
    texts = [[STOP, rf"\boxed{{{n}}}"] for n in (0, 1000, 2001)]
    path = write_lines(tmp_path / "gsm.jsonl", *rows)
    (_, *lines), printed = play("math", path, texts, "--unsafe-python", "--seed", 5, "--model", qwen)
    assert sorted(seeds) == [5, 6, 7] and [line["id"] for line in lines] == ["0", "1", "2"]
    assert cells(printed, "GSM8K") == ["3", "66.7%", "20.8%", "to", "93.9%", "54.7%", "41.7%", "68.5%"]


# ---- roles ----


def make_record(i: int) -> dict:
    tool = {"name": "get", "description": "", "parameters": {"type": "object", "properties": {"n": {}}}}
    turns = [
        {"role": "user", "content": f"Run {i}."},
        {"role": "reasoner", "content": "Go on.", "next": "executor"},
        {"role": "executor", "calls": [{"name": "get", "arguments": {"n": i}}]},
        {"role": "observation", "content": str(i)},
        {"role": "reasoner", "content": "Done.", "next": "summarizer"},
        {"role": "summarizer", "content": f"Number {i}."},
    ]
    return {"tools": [tool], "trajectory": turns}


@pytest.fixture
def played_roles(play, tmp_path) -> tuple[list[dict], str]:
    """Lines and print of four records: all right, with faults, too long, with code in place of calls."""
    long, code = make_record(2), make_record(3) | {"domain": "math"}
    long["trajectory"] *= 40
    code["trajectory"][2] = {"role": "executor", "content": "1"}
    del code["tools"]
    path = write_lines(tmp_path / "held.jsonl", make_record(0), make_record(1), long, code)
    texts = [  # the last turn is written first
        ["Number 0.", "Done.\nNext: summarizer", CALL.format("get", '{"n": 0}'), "Go on.\nNext: executor"],
        # the executor twice: after the reference's words, and after "Go."
        ["Number 11", "Next: executor", WRONG, "Go.\nNext: executor", RIGHT_CALL],
        [],
        ["Number 3.", "Done.\nNext: summarizer", "1" * 99, "Go on.\nNext: executor"],
    ]
    (_, *lines), printed = play("roles", path, texts)
    return lines, printed


RIGHT_CALL, WRONG = CALL.format("get", '{"n": 1}'), CALL.format("get", '{"n": 2}')
NEAR = [  # of the record with faults
    1 - 3 / 21,  # "Go." for "Go on."
    1 - 1 / len(RIGHT_CALL),  # n 2 for 1
    roles.similarity("Next: executor", "Done.\nNext: summarizer"),
    1 - 1 / 9,
]


def test_roles_lines(played_roles):
    lines, _ = played_roles
    assert [line["id"] for line in lines] == [1, 2, 3, 4] and lines[3]["category"] == "math"
    too_long = "not run: longer than the model's 1500 positions"
    assert [line["reason"] for line in lines] == ["", "", too_long, ""]
    right, faulty, _, code = lines
    assert [turn["role"] for turn in right["turns"]] == "reasoner executor reasoner summarizer".split()
    assert right["levenshtein"] == [1, 1, 1, 1]
    assert right["turns"][0]["own"] == right["turns"][1]["text"]
    assert faulty["turns"][0]["own"] == RIGHT_CALL and faulty["turns"][1]["text"] == WRONG
    assert faulty["levenshtein"] == pytest.approx(NEAR)
    cut = code["turns"][1]
    assert cut["text"] == "1" * 20 and not cut["ended"]
    assert code["levenshtein"][1] == pytest.approx(0.05)
    assert right["counts"] == dict(reasoner_turns=2, next_role=2, executor_turns=1, exact=1, exact_own=1)
    assert faulty["counts"] == dict(reasoner_turns=2, next_role=1, executor_turns=1, exact=0, exact_own=1)
    assert code["counts"] == dict(reasoner_turns=2, next_role=2, executor_turns=0, exact=0, exact_own=0)


def test_roles_table(played_roles):
    lines, printed = played_roles
    assert cells(printed, "executor")[0] == "3"
    assert cells(printed, "summarizer")[3] == f"{(1 + NEAR[3] + 1) / 3:.1%}"
    assert cells(printed, "all")[0] == "12" and "\n1 not run: longer than" in printed
    assert cells(printed, "next role")[:2] == ["6", "83.3%"]
    assert cells(printed, "calls")[:2] == ["2", "50.0%"]
    assert cells(printed, "calls after own words")[1] == "100.0%"
    sums = torch.tensor([line["sums"] for line in lines]).sum(dim=(0, 1))
    assert cells(printed, "all")[1:3] == [f"{sums[0] / sums[2]:.4f}", f"{sums[1] / sums[2]:.1%}"]


def test_roles_compared(played_roles, tmp_path, capsys):
    """Every value is that of the suite's own table."""
    _, printed = played_roles
    path = tmp_path / "roles.jsonl"
    assert command("compare", path, path) == 0
    compared = capsys.readouterr().out
    for role in (*mor.ROLES, "all"):
        names = [f"{role}: {what}" for what in ("loss", "token accuracy", "Levenshtein accuracy")]
        assert [cells(compared, name)[0] for name in names] == cells(printed, role)[1:]
        assert len(cells(compared, names[0])) == 7  # no verdicts
    for name in ("next role", "calls", "calls after own words"):
        assert cells(compared, name)[0] == cells(printed, name)[1]
        assert cells(compared, name)[-3:] == ["0", "0", "1.0000"]


# ---- the result file ----


def random_run(
    folders: tuple[Path, Path], path: Path, output: Path, suite: str = "bfcl", *flags: object
) -> list:
    argv = [suite, "--data", path, "--output", output, "--model", folders[0], "--adapter", folders[1]]
    if suite == "bfcl":
        argv += ["--categories", *CATEGORIES, "--max-new-tokens", 12, "--temperature", 1.5]
    return [*map(str, [*argv, *flags])]


@pytest.mark.parametrize("suite", ["bfcl", "roles"])
def test_the_file_does_not_depend_on_the_batch_nor_on_where_it_was_cut(folders, tmp_path, capsys, suite):
    """A random model, and a file cut at the places that matter."""
    if suite == "bfcl":
        path = write_bfcl(tmp_path / "bfcl")
    else:
        path = write_lines(tmp_path / "held.jsonl", *map(make_record, range(3)))
    whole = tmp_path / "whole.jsonl"
    assert command(*random_run(folders, path, whole, suite, "--batch", 3)) == 0
    content, printed = whole.read_bytes(), capsys.readouterr().out
    if suite == "bfcl":
        statuses = [line["record"]["exit_status"] for line in lines_of(whole)[1:]]
        assert len(set(statuses)) > 2, "episodes differ"
    else:
        assert any(turn["ended"] for line in lines_of(whole)[1:] for turn in line["turns"])
    head, second = content.index(b"\n"), content.index(b"\n", content.index(b"\n") + 1)
    cuts = [0, 10, head, head + 1, second, second + 1, len(content) - 1, len(content)]
    cuts = cuts if suite == "bfcl" else cuts[3:5]
    for batch, cut in enumerate(cuts, 1):
        part = tmp_path / "part.jsonl"
        part.write_bytes(content[:cut])
        assert command(*random_run(folders, path, part, suite, "--batch", batch)) == 0
        assert part.read_bytes() == content and capsys.readouterr().out == printed


def test_lines_lost_doubled_or_swapped_are_noticed(folders, tmp_path, capsys):
    path, output = write_bfcl(tmp_path / "bfcl"), tmp_path / "results.jsonl"
    argv = random_run(folders, path, output, "bfcl", "--limit", 2)
    assert command(*argv) == 0
    head, *lines = output.read_bytes().splitlines(keepends=True)
    changes = {
        "lost": [*lines[:1], *lines[2:]],
        "the first lost": lines[1:],
        "doubled": [*lines[:2], *lines[1:]],
        "at the end": [*lines, lines[-1]],
        "swapped": [lines[1], lines[0], *lines[2:]],
    }
    for change, changed in changes.items():
        output.write_bytes(head + b"".join(changed))
        before = output.read_bytes()
        for of in (argv, ["score", output]):
            capsys.readouterr()
            assert command(*of) == 2, change
            error = capsys.readouterr().err
            assert f"{output}:" in error and "make it again" in error and error.count("\n") == 1
        assert output.read_bytes() == before
    unnumbered = [re.sub(rb'"number": [0-9]+, ', b"", line) for line in lines]  # as older code wrote them
    output.write_bytes(head + b"".join(unnumbered))
    assert command("score", output) == 0
    output.write_bytes(head + b"".join([*unnumbered[1:], unnumbered[1]]))
    assert command("score", output) == 2 and "stands above as well" in capsys.readouterr().err


def test_of_two_runs_into_one_file_the_second_is_refused(folders, tmp_path, capsys):
    path, output = write_bfcl(tmp_path / "bfcl"), tmp_path / "results.jsonl"
    argv = random_run(folders, path, output, "bfcl", "--categories", "irrelevance")
    with exclusive(output):
        assert command(*argv) == 2
        error = capsys.readouterr().err
        assert f"{output}: in use by another run" in error and error.count("\n") == 1
        assert not output.read_bytes()
    assert command(*argv) == 0


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import evaluate
from cli import run

def start(argv):
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(run(evaluate.main, argv))
    return child

argv, chance = sys.argv[1:], random.Random(0)
output = Path(argv[argv.index("--output") + 1])
assert os.waitpid(start(argv), 0)[1] == 0
whole = output.read_bytes()
output.unlink()
for size in sorted(chance.randrange(len(whole)) for _ in range(4)):
    child = start(argv)
    while not output.exists() or output.stat().st_size < size:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(len(output.read_bytes()) - len(whole))
assert os.waitpid(start(argv), 0)[1] == 0
assert output.read_bytes() == whole
"""


def test_killed_at_random_moments(folders, tmp_path):
    """One process imports the code; those that it forks, which run it, are killed."""
    path = write_bfcl(tmp_path / "bfcl")
    argv = random_run(folders, path, tmp_path / "results.jsonl", "bfcl", "--batch", 2)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *argv], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert min(map(int, done.stdout.split())) < 0, "it was killed before its end"


def test_the_base_alone_is_an_adapter_before_training(folders, tmp_path):
    path = write_bfcl(tmp_path / "bfcl")
    alone, zero = tmp_path / "alone.jsonl", tmp_path / "zero.jsonl"
    assert command(*random_run(folders, path, alone, "bfcl", "--adapter", "")) == 0
    paper = random_run(folders, path, alone, "bfcl", "--adapter", "", "--prompts", "paper")
    assert command(*paper) == 2, "the wording is in the header: no file has answers in both"
    assert command(*random_run((folders[0], folders[1].with_name("zero")), path, zero)) == 0
    (a, *lines), (b, *others) = map(lines_of, (alone, zero))
    assert lines == others and a["header"].pop("adapter") == "none" != b["header"].pop("adapter") and a == b


def test_sources_are_what_is_imported():
    """The digest of the code covers every file that the results depend on."""
    found, left = {ROOT / "tools/sandbox_child.py"}, ["evaluate"]  # the child is run, not imported
    while left:
        path = ROOT / (left.pop().replace(".", "/") + ".py")
        if path.exists() and path not in found:
            found.add(path)
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    left += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    left += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    assert len(found) > 20
    assert found <= {path for pattern in results.CODE for path in ROOT.glob(pattern)}


# ---- defaults, help and refusals ----


def test_defaults():
    """Greedy; of maths, four rounds of reasoner and executor before the last two turns."""
    common = ["--data", "x", "--output", "y"]
    args = evaluate.parse_args(["math", *common, "--python"])
    assert (args.max_turns, args.limit, args.batch) == (10, 0, 16)
    assert (args.temperature, args.top_p, args.max_new_tokens, args.seed) == (0.0, 1.0, 512, 0)
    args = evaluate.parse_args(["bfcl", *common])
    assert args.categories == [*bfcl_questions.CATEGORIES] and args.temperature == 0.0


@pytest.mark.parametrize("suite", ["", *evaluate.SUITES, "score", "compare"])
def test_help(suite, capsys):
    assert command(*[suite] * bool(suite), "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: evaluate.py {suite}".rstrip())


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--seed", "1"], "seed: got 1, the file was made with 0"),
        (["--max-new-tokens", "3"], "max_new_tokens: got 3"),
        (["--limit", "1"], "limit: got 1"),
        (
            ["--categories", "live_relevance"],
            "categories: got ['live_relevance'], the file was made with ['irr",
        ),
        (["--data", "{}/other"], "data: got"),
        (["--adapter", ""], "adapter: got 'none'"),
    ],
)
def test_results_of_another_run(folders, tmp_path, capsys, flags, words):
    path, output = write_bfcl(tmp_path / "bfcl"), tmp_path / "results.jsonl"
    argv = random_run(folders, path, output, "bfcl", "--categories", "irrelevance")
    assert command(*argv) == 0
    before = output.read_bytes()
    capsys.readouterr()
    other = write_bfcl(tmp_path / "other") / "BFCL_v4_irrelevance.json"
    other.write_text(other.read_text().replace("Of irrelevance_0?", "What?"))
    assert command(*argv, *(flag.replace("{}", str(tmp_path)) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert words in error and "another --output" in error and error.count("\n") == 1
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    "argv, words",
    [
        ("", "required: SUITE"),
        ("bfcl --data x", "required: --output"),
        ("bfcl --data {} --output {}/o --categories easy", "choose from"),
        ("bfcl --data {} --output {}/o", "holds no BFCL_v4_simple_python.json"),
        ("bfcl --data {}/bfcl --output {}/o --categories irrelevance --adapter {}", "no adapter there"),
        ("bfcl --data {}/bfcl --output {}/text --categories irrelevance", "wanted a result file"),
        ("bfcl --data {}/bfcl --output {} --categories irrelevance", "Is a directory"),
        ("bfcl --data {}/bfcl --output {}/text/o --categories irrelevance", "another --output"),
        ("math --data {}/text --output {}/o", "math: got no --python"),
        ("math --data {}/text --output {}/o --python", "install bubblewrap, or accept"),
        ("math --data {}/text --output {}/o --unsafe-python", "text:1: not JSON"),
        ("roles --data {}/absent --output {}/o", "absent: cannot be read"),
        ("roles --data {}/absent --output {}/o --seed 1", "unrecognized arguments: --seed 1"),
        ("score {}/absent", "No such file or directory; wanted"),
        ("score {}/text", "text:1: not JSON"),
        ("score {}/other", "got no header; wanted a result file"),
        ("score {}/damaged", "damaged (KeyError"),
        ("compare {}/damaged {}/absent", "No such file or directory; wanted"),
        ("compare {}/damaged {}/damaged", "damaged (KeyError"),
        ("compare {}/damaged", "the following arguments are required: FILE"),
    ],
)
def test_refusals(folders, tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.setenv("PATH", "/nowhere")  # without bubblewrap
    write_bfcl(tmp_path / "bfcl")
    (tmp_path / "text").write_text("Some text\nof somebody.\n")
    write_lines(tmp_path / "other", {"header": {"suite": []}})
    write_lines(tmp_path / "damaged", {"header": {"suite": "math", "questions": 1}}, {"id": "1"})
    suite, *flags = argv.replace("{}", str(tmp_path)).split() or [""]
    model = ["--model", folders[0], "--adapter", folders[1]] if suite in ("bfcl", "math", "roles") else []
    assert command(*[suite] * bool(suite), *model, *flags) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1, error
    assert (tmp_path / "text").read_text() == "Some text\nof somebody.\n"
