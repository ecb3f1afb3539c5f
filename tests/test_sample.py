"""The bundled sample: what the README says of it holds, and its generator writes it again byte for byte."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

import data
from formats.calls import check_call
from tiny import pretrain, world

ROOT = Path(__file__).resolve().parent.parent
FILES = ("bfcl.jsonl", "bfcl_seen.jsonl", "bfcl_heldout.jsonl")


@pytest.fixture(scope="module")
def records() -> dict[str, list[dict]]:
    return {name: data.read_records(ROOT / name) for name in FILES}


def functions(records: list[dict]) -> set[str]:
    offered = {tool["name"] for record in records for tool in record["tools"]}
    called = {
        call["name"] for record in records for turn in record["trajectory"] for call in turn.get("calls", [])
    }
    return offered | called


def test_size(records):
    assert len(records["bfcl.jsonl"]) >= 1000
    assert len(functions(records["bfcl.jsonl"])) >= 300


def test_held_out_functions_occur_nowhere_in_training(records):
    """Neither by name nor by description."""
    assert not functions(records["bfcl.jsonl"]) & functions(records["bfcl_heldout.jsonl"])
    assert functions(records["bfcl_seen.jsonl"]) <= functions(records["bfcl.jsonl"])
    training = {tool["description"] for record in records["bfcl.jsonl"] for tool in record["tools"]}
    assert not training & {
        tool["description"] for record in records["bfcl_heldout.jsonl"] for tool in record["tools"]
    }


def test_evaluation_questions_are_new(records):
    def questions(name: str) -> set[str]:
        return {turn["content"] for r in records[name] for turn in r["trajectory"] if turn["role"] == "user"}

    assert not questions("bfcl_seen.jsonl") & questions("bfcl.jsonl")


@pytest.mark.parametrize("name", FILES)
def test_every_form_of_trajectory_occurs(records, name):
    trajectories = [record["trajectory"] for record in records[name]]
    calls = [[turn["calls"] for turn in trajectory if "calls" in turn] for trajectory in trajectories]
    kinds = {record["source"]["kind"] for record in records[name]}
    assert kinds == {"simple", "multiple", "parallel", "parallel_multiple", "none"}
    assert any(not turns for turns in calls), "no question without a call"
    assert any(len(turn) > 1 for turns in calls for turn in turns), "no parallel calls"
    assert any(not any(t["role"] == "observation" for t in trajectory) for trajectory in trajectories)
    assert any(
        '{"error"' in t["content"]
        for trajectory in trajectories
        for t in trajectory
        if t["role"] == "observation"
    )
    assert any(sum(t["role"] == "user" for t in trajectory) == 2 for trajectory in trajectories)


@pytest.mark.parametrize("name", FILES)
def test_reference_calls_fit_their_schemas(records, name):
    for record in records[name]:
        for turn in record["trajectory"]:
            for call in turn.get("calls", []):
                assert check_call(call, record["tools"]) is None


def test_generator_writes_the_same_files(tmp_path):
    subprocess.run([sys.executable, "-m", "tiny.sample", "--output", str(tmp_path)], cwd=ROOT, check=True)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.parametrize("level", [1, 2])
def test_pretraining_text_knows_neither_held_out_functions_nor_our_notation(level):
    kept = [f.name for f in world.all_functions() if world.held_out(f.thing)]
    functions = [f for f in world.all_functions() if not world.held_out(f.thing)]
    tokenizer, rng = data.load_frame(ROOT / "tiny").tokenizer, random.Random(0)
    for _ in range(300):
        ids, trained = pretrain.document(rng, tokenizer, functions, level)
        assert len(ids) == len(trained) and any(trained)
        text = tokenizer.decode(ids, skip_special_tokens=False)
        for forbidden in ("Action:", "Arguments:", "Next:", "reasoner", "executor", "summarizer"):
            assert forbidden not in text
        assert not [name for name in kept if f'"{name}"' in text]
