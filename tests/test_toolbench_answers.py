"""toolbench_answers.py: the staged runs, and raw files of searches of our own."""

import json
import random
from pathlib import Path

import pytest
from test_search import ANSWER, BACK, LETTERS, Recorded, call, differences, recorded_messages, replayed

from evaluation.search import Call, Message, Search, finish
from evaluation.toolbench_answers import CHAIN, TREE, converted, raw_answer
from sources import toolbench
from sources.toolbench import GIVE_UP

RUN = Path(__file__).resolve().parents[2] / "shared" / "data" / "stabletoolbench" / "run_example"
NOTHING = {"type": "object", "properties": {}, "required": []}
FUNCTION = {"name": "a", "description": "", "parameters": NOTHING}
ASKED = ("Be good.", "Rain?", [FUNCTION], 7)


@pytest.mark.skipif(not RUN.exists(), reason="no published run at hand")
@pytest.mark.parametrize("method", ["cot", "dfs"])
def test_published_answers_are_converted_as_published(method):
    files = sorted(RUN.glob(f"answer/virtual_chatgpt_{method}/*/*.json"))
    path = RUN / f"model_predictions_converted/virtual_chatgpt_{method}/G1_instruction.json"
    wanted = json.loads(path.read_bytes())
    assert len(files) == 3
    for file in files:
        ours = converted(json.loads(file.read_bytes()))
        assert json.dumps(ours) == json.dumps(wanted[file.name.split("_")[0]])


def tree_of(messages: list[Message], **options) -> dict:
    done, _ = replayed(messages, **options)
    return raw_answer(done, TREE, *ASKED)


def chain_of(messages: list[Message], **options) -> dict:
    done = Search(Recorded(messages), **options)
    done.chain()
    return raw_answer(done, CHAIN, *ASKED)


def steps(raw: dict) -> list:
    """The converted answer's steps: what was said, or (name, response)."""
    found, left = [], converted(raw)["answer"]["answer_details"]
    while left:
        (step,) = left
        message, left = step["message"], step["next"]
        found.append(message if isinstance(message, str) else (message["name"], message["response"]))
    return found


THOUGHT = Message("Hm.", [])


def test_an_answer_is_the_way_to_it():
    raw = tree_of([THOUGHT, call("a", "A thought."), BACK, call("b"), ANSWER])
    assert raw["win"] and raw["answer_generation"]["finish_type"] == "give_answer"
    assert raw["answer_generation"]["query_count"] == 5 and raw["answer_generation"]["total_tokens"] == 7
    assert steps(raw) == ["", "", "Hm.", ("b", "of b"), ("Finish", "")], "without what was taken back"
    answer = converted(raw)["answer"]
    assert answer["total_steps"] == 5 and answer["final_answer"] == ANSWER.calls[0].arguments
    assert (answer["method"], converted(raw)["query"]) == (TREE, "Rain?")
    assert [function["name"] for function in converted(raw)["available_tools"]] == ["a", "Finish"]
    assert steps(tree_of([call("a", "A thought."), ANSWER])) == ["", "", ("a", "of a"), ("Finish", "")]


def test_giving_up_is_an_end_of_a_tree_and_none_of_a_chain():
    raw = tree_of([call("a"), BACK, call("b"), BACK])
    made = raw["answer_generation"]
    assert (raw["win"], made["valid_data"], made["finish_type"]) == (False, True, "give_up")
    assert steps(raw) == ["", "", ("a", "of a"), ("Finish", "")] and "give_up" in made["final_answer"]
    raw = chain_of([call("a"), BACK])
    made = raw["answer_generation"]
    assert (made["valid_data"], made["final_answer"], made["train_messages"]) == (False, "", [])
    assert [name for name, _ in steps(raw)[2:]] == ["a", "Finish"]


def test_without_an_end_the_nodes_are_seen():
    raw = tree_of([THOUGHT, *LETTERS, *LETTERS], max_depth=4)
    assert not raw["answer_generation"]["valid_data"] and converted(raw)["answer"]["final_answer"] == ""
    assert steps(raw) == ["", "", "Hm.", ("a", "of a"), ("b", "of b")], "by first children"
    raw = chain_of([THOUGHT, *LETTERS], max_depth=4)
    assert steps(raw) == ["", "", "Hm.", ("a", "of a"), ("b", "of b")]


def test_messages_are_one_list_for_each_of_the_model():
    several = Message("Both.", [Call("a", "{}", "1"), Call("b", "{}", "2", 1)])
    lists = chain_of([several, THOUGHT, ANSWER])["answer_generation"]["train_messages"]
    assert [len(messages) for messages in lists] == [3, 5, 7, 8]
    assert [message["role"] for message in lists[-1]] == [
        "system", "user", "assistant", "function", "assistant", "function", "assistant", "assistant",
    ]  # fmt: skip
    assert lists[0][2]["content"] == "Both." and "content" not in lists[1][4]
    assert lists[1][4]["function_call"]["name"] == "invalid_hallucination_function_name"


def test_of_diversity_messages_the_last_one_stays():
    raw = tree_of([call("a"), call("b"), *LETTERS[2:4], ANSWER, *LETTERS], max_depth=4)
    assert [len(messages) for messages in raw["answer_generation"]["train_messages"]] == [4, 6]
    for messages in raw["answer_generation"]["train_messages"]:
        (told,) = (message for message in messages if "valid" in message)
        assert told["role"] == "user" and told["valid"] is False


def random_messages(seed: int) -> list[Message]:
    chance = random.Random(seed)

    def message(number: int) -> Message:
        kind = chance.random()
        if kind < 0.15:
            return Message("Thought.", [finish(GIVE_UP if kind < 0.12 else "Rain.")])
        calls = [Call("a", f'{{"n": {number}}}', f"{number}") for _ in range(chance.choice([1, 1, 2]))]
        return Message(chance.choice([None, f"Thought {number}."]), calls)

    return [message(number) for number in range(200)]


@pytest.mark.parametrize("seed", range(12))
def test_raw_files_hold_the_search_and_our_converter_reads_them(seed):
    """The tree comes out of its file node for node, and its way to the answer is a record of ours."""
    done, _ = replayed(random_messages(seed))
    raw = json.loads(json.dumps(raw_answer(done, TREE, *ASKED)))
    again, speaker = replayed(recorded_messages(raw["tree"]["tree"]))
    assert not speaker.left and not list(differences(again.root, raw["tree"]["tree"]))
    assert raw["tree"]["size"] == len(list(done.root.all()))
    if not raw["answer_generation"]["valid_data"]:
        return
    record = toolbench.tree(raw)
    end = done.answer or done.gave_up[0]
    said = [node.message for node in end.path() if node.message]
    calls = [made.arguments for message in said for made in message.calls[:1]]
    assert len(record["trajectory"]) > 2 and record["trajectory"][-1]["role"] == "summarizer"
    assert len(calls) == len(said)
    assert (record["trajectory"][-1]["content"] == GIVE_UP) is (done.answer is None)


def test_deep_trees_can_be_written():
    deep = [call(str(i)) for i in range(200)]
    for raw in (tree_of(deep, max_depth=200), chain_of(deep, max_depth=200)):
        assert json.loads(json.dumps(raw, indent=2)) == raw
        assert json.loads(json.dumps(converted(raw)))["answer"]["total_steps"] == 102
