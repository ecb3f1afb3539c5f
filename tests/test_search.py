"""search.py against the published trees, trees drawn by hand, and one forward pass over what is left."""

import json
import random
from collections.abc import Callable, Iterator
from itertools import count, repeat
from pathlib import Path

import pytest
import torch
from conftest import CLOCK, WEATHER
from test_agent import Script

import data
from agent import Episode
from evaluation.search import Call, Message, Node, Roles, Search, diversity_message, finish, grow
from formats.frames import Frame, load_frame
from model import KVCache
from sources.toolbench import GIVE_UP
from tools.mock import Tools

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TREES = [
    *sorted(SHARED.glob("stabletoolbench/run_example/answer/virtual_chatgpt_dfs/*/*.json")),
    *sorted(SHARED.glob("toolbench/answer_trees/*.json")),
]
OTHER_RULE = ("G1_57", "G1_69", "G3_8")  # a dead end returns 2 there

# ---- recorded messages ----


class Recorded:
    """Speaks given messages, and keeps what was said on the way to where it stands."""

    def __init__(self, messages: list[Message]):
        self.left, self.said, self.requests, self.numbers = list(messages), [], [], []
        self.before = {}  # by message: those on the way to it

    def here(self) -> int:
        return len(self.said)

    def back(self, place: int) -> None:
        del self.said[place:]

    def propose(self, request: str, number: int | None) -> Message:
        self.requests.append(request)
        self.numbers.append(number)
        message = self.left.pop(0)
        self.before[id(message)] = [*self.said]
        self.said.append(message)
        return message


def recorded_messages(root: dict) -> list[Message]:
    """The messages of a tree in ToolBench's files, in the order in which they were said."""
    found = []

    def walk(node: dict) -> None:
        for child in node["children"]:
            run = [child]
            while not run[-1]["expand_num"]:
                (only,) = run[-1]["children"]
                run.append(only)
            found.append((run[-1]["expand_num"], run))
            walk(run[-1])

    walk(root)
    return [message_of(run) for _, run in sorted(found, key=lambda pair: pair[0])]


def message_of(run: list[dict]) -> Message:
    thoughts = [node["description"] for node in run if node["node_type"] == "Thought"]
    names = [node["description"] for node in run if node["node_type"] == "Action"]
    inputs = [node for node in run if node["node_type"] == "Action Input"]
    calls = [
        Call(name, node["description"], node["observation"], node["observation_code"])
        for name, node in zip(names, inputs, strict=True)
    ]
    return Message(*thoughts or [None], calls)


def differences(node: Node, row: dict) -> Iterator[tuple]:
    """Where a tree is not the recorded one."""
    ours = [node.kind, node.text, node.depth, node.number, node.pruned, node.finished, node.code]
    keys = ("node_type", "description", "depth", "expand_num", "pruned", "finished")
    theirs = [*(row[key] for key in keys), row.get("observation_code")]
    observation = node.call.observation if node.call else None
    if ours != theirs or observation != row.get("observation") or len(node.children) != len(row["children"]):
        yield ours, theirs
    for child, below in zip(node.children, row["children"], strict=False):
        yield from differences(child, below)


def replayed(messages: list[Message], **options) -> tuple[Search, Recorded]:
    speaker = Recorded(messages)
    done = Search(speaker, **options)
    done.tree()
    return done, speaker


@pytest.mark.parametrize("path", TREES, ids=lambda path: path.name.split("_ChatGPT")[0])
def test_published_trees_come_out_node_for_node(path):
    row = json.loads(path.read_bytes())
    other = path.name.startswith(OTHER_RULE)
    messages = recorded_messages(row["tree"]["tree"])
    done, speaker = replayed(messages, dead_end=2 if other else 1)
    assert not speaker.left and not list(differences(done.root, row["tree"]["tree"]))
    assert done.queries == row["answer_generation"]["query_count"]
    assert bool(done.answer) is row["win"]
    if path.name.startswith("588"):
        assert (len(list(filter(None, speaker.requests))), len(done.gave_up)) == (12, 2)


# ---- trees drawn by hand ----


def call(name: str, thought: str | None = None, code: int = 0) -> Message:
    return Message(thought, [Call(name, "{}", f"of {name}", code)])


def answer(text: str = "Rain.") -> Message:
    return Message(None, [finish(text)])


LETTERS = [call(letter) for letter in "abcdefgh"]
BACK, ANSWER = Message(None, [finish(GIVE_UP)]), answer()


def outline(node: Node) -> str:
    """a2[b3 c4]: the first call of each message, the number of its node, and what is below."""
    below = []
    for child in node.children:
        last = child
        while not last.message:
            (last,) = last.children
        names = [said.name for said in last.message.calls] or ["-"]
        below.append(f"{names[0]}{last.number}{outline(last)}")
    return f"[{' '.join(below)}]" if below else ""


@pytest.mark.parametrize(
    ("messages", "options", "tree"),
    [
        (LETTERS, {"max_depth": 2}, "[a1 b2]"),
        (LETTERS, {"max_depth": 4}, "[a1[b2 c3] d4[e5 f6]]"),
        (LETTERS, {"max_depth": 4, "dead_end": 2}, "[a1[b2] c3[d4]]"),
        (
            [*LETTERS[:2], BACK, *LETTERS[2:4], BACK],
            {"max_depth": 6},
            "[a1[b2[Finish3] c4[d5 Finish6]] Finish7]",
        ),
        ([LETTERS[0], BACK, LETTERS[1], ANSWER], {}, "[a1[Finish2] b3[Finish4]]"),
        ([BACK], {}, "[Finish1]"),
        ([LETTERS[0], ANSWER, LETTERS[1]], {}, "[a1[Finish2]]"),
        ([LETTERS[0], ANSWER], {"max_depth": 3}, "[a1[Finish2]]"),
        (LETTERS, {"max_depth": 4, "max_queries": 3}, "[a1[b2]]"),
        ([call("a", "I think."), *LETTERS[1:]], {"max_depth": 4}, "[a1[b2 c3] d4[e5 f6]]"),
        ([Message("I think.", []), *LETTERS], {"max_depth": 3}, "[-1[a2 b3] c4[d5 e6]]"),
        ([LETTERS[0], Message("full", [], failed=True), *LETTERS[2:4]], {"max_depth": 4}, "[a1[-2 c3]"),
    ],
)
def test_the_search_goes_back_as_published(messages, options, tree):
    done, speaker = replayed([*messages, *repeat(BACK, 9)], **options)
    assert outline(done.root).startswith(tree)
    if tree.count("[") == tree.count("]"):
        assert outline(done.root) == tree
    assert len(speaker.requests) == done.visits - 1


def test_a_message_is_a_run_of_nodes_and_an_empty_thought_is_one():
    message = Message("", [Call("a", "1", "x"), Call("b", "2", "y", 5)])
    last = grow(root := Node("Action Input", ""), message)
    assert [(node.kind, node.text, node.depth) for node in last.path()] == [
        ("Thought", "", 1), ("Action", "a", 2), ("Action Input", "1", 3), ("Action", "b", 4),
        ("Action Input", "2", 5),
    ]  # fmt: skip
    assert last.message is message and last.code == 5 and len(list(root.all())) == 6
    assert grow(root, Message(None, [])).kind == "Thought", "so that the search ends"


def test_marks_of_ends():
    done, _ = replayed([*LETTERS[:4], ANSWER], max_depth=12)
    finished = [node.text for node in done.root.all() if node.finished]
    assert finished == ["{}", "d", "{}", "Finish", done.answer.text], "upwards to the second input above"
    done, _ = replayed([LETTERS[0], BACK, LETTERS[1], ANSWER])
    pruned = [node for node in done.root.all() if node.pruned]
    assert pruned == done.gave_up and done.answer.code == 3 and done.gave_up[0].code == 4


def test_a_further_child_is_told_what_was_tried():
    done, speaker = replayed([*LETTERS[:4], ANSWER], max_depth=6)
    assert [bool(request) for request in speaker.requests] == [False, False, False, True, True]
    assert speaker.requests[3] == diversity_message_before(done.root, "b")
    assert '"name": "c"' in speaker.requests[3] and '"name": "d"' not in speaker.requests[3]
    assert '"function_output": "of c"' in speaker.requests[3] and "was: of b" in speaker.requests[3]
    sampled = Search(speaker := Recorded([*LETTERS[:4], ANSWER]), max_depth=6, second="sample")
    sampled.tree()
    assert speaker.requests == [""] * 5 and speaker.numbers == [None, None, None, 2, 1]


def diversity_message_before(root: Node, name: str) -> str:
    """The message for the second child of the node that called `name`."""
    (node,) = (node for node in root.all() if node.call and node.call.name == name)
    second = node.children.pop()
    try:
        return diversity_message(node)
    finally:
        node.children.append(second)


def test_a_child_that_only_thought_is_told_by_its_first_call_and_a_fault_not_at_all():
    root = Node("Action Input", "")
    thought = grow(root, Message("Hm.", []))
    assert diversity_message(root) == ""
    grow(grow(thought, call("a")), call("b"))
    grow(thought, call("c"))
    told = diversity_message(root)
    assert '"name": "a"' in told and '"name": "b"' not in told and '"name": "c"' not in told
    assert "observation before" not in told, "the root has none"
    grow(failed := Node("Action Input", ""), Message("max_tokens", [], failed=True))
    assert diversity_message(failed) == ""


def test_the_speaker_stands_where_the_search_does():
    messages = [call(str(i)) for i in range(30)]
    for place in (7, 12, 13, 20):
        messages[place] = Message(None, [finish(GIVE_UP)])
    done, speaker = replayed(messages, max_depth=8)
    said = [node for node in done.root.all() if node.message]
    assert len(said) > 10
    for node in said:
        before = [above.message for above in node.path()[:-1] if above.message]
        assert speaker.before[id(node.message)] == before


@pytest.mark.parametrize(
    ("messages", "options", "tree", "pruned"),
    [
        ([*LETTERS[:2], ANSWER], {}, "[a0[b0[Finish0]]]", False),
        (LETTERS, {"max_depth": 5}, "[a0[b0[c0]]]", True),
        ([LETTERS[0], BACK], {}, "[a0[Finish0]]", True),
        ([LETTERS[0], Message("max_tokens", [], failed=True)], {}, "[a0[-0]]", True),
        ([LETTERS[0], ANSWER], {"max_depth": 4}, "[a0[Finish0]]", False),
    ],
)
def test_a_chain_goes_on_to_its_first_end(messages, options, tree, pruned):
    done = Search(Recorded(messages), **options)
    done.chain()
    assert outline(done.root) == tree and done.queries == tree.count("0")
    end = list(done.root.all())[-1]
    assert end.pruned is pruned and bool(done.answer) is not pruned


# ---- an Episode as the speaker ----


@pytest.fixture(scope="module")
def frame(folders) -> Frame:
    return load_frame(folders[0])


CALLING = "[unused11]Action: get_weather Action-Input: {}[unused12]"
ACT, STOP = "I need it.\nNext: executor", "Enough.\nNext: summarizer"
BALI, OSLO = ('{"city": "Bali"}', '{"city": "Oslo"}')


def said(*arguments: str) -> str:
    return ", ".join(CALLING.replace("{}", text) for text in arguments)


def executed(name: str, arguments: dict) -> tuple[str, int]:
    return (f"Rain in {arguments['city']}", 0) if name == "get_weather" else ("unknown", 1)


def episode_of(model, frame, speak: Callable, **options) -> Episode:
    options = {"domain": "toolbench", "speak": speak} | options
    episode = Episode(model, frame, Tools([WEATHER, CLOCK]), **options)
    episode.follow([{"role": "user", "content": "Weather in Bali?"}])
    return episode


def check_prefix(episode: Episode) -> None:
    """The sequence is the rendered record; the cache and what follows are those of one forward over it."""
    rendered = data.render(episode.record, episode.frame)
    assert episode.ids == rendered.input_ids and episode.role_ids == rendered.role_ids
    ids, roles = torch.tensor(episode.ids), torch.tensor(episode.role_ids)
    cache, fresh = episode.cache, KVCache(episode.model.config)
    length = min(cache.length, len(ids) - 1)
    cache.truncate(length)
    with torch.no_grad():
        whole = episode.model(ids, roles, cache=fresh)
        for ours, layer in zip(cache.layers, fresh.layers, strict=True):
            torch.testing.assert_close(ours[..., :length, :], layer[..., :length, :], rtol=1e-4, atol=1e-5)
        following = episode.model(ids[length:], roles[length:], cache=cache)
    torch.testing.assert_close(following, whole[length:], rtol=1e-4, atol=1e-5)
    cache.truncate(length)


def test_messages_of_an_episode(model, frame):
    texts = [ACT, said(BALI), ACT, said(BALI, OSLO), ACT, "No call.", "Next: executor", said(BALI)]
    script = Script(frame, [*texts, STOP, "Rain."])
    roles = Roles(episode_of(model, frame, script), executed)
    thought, several, unreadable, silent, end = (roles.propose("", None) for _ in range(5))
    assert thought == Message("I need it.", [Call("get_weather", BALI, "Rain in Bali")])
    assert [made.observation for made in several.calls] == ["Rain in Bali", "Rain in Oslo"]
    assert (unreadable.calls[0].name, unreadable.calls[0].arguments, unreadable.calls[0].code) == (
        "", "No call.", 1,
    )  # fmt: skip
    assert silent.thought is None and not silent.failed
    given = '{"return_type": "give_answer", "final_answer": "Rain."}'
    assert (end.calls[0].name, end.calls[0].arguments, end.calls[0].code) == ("Finish", given, 3)
    heard = [turn["content"] for turn in roles.episode.record["trajectory"] if turn["role"] == "observation"]
    assert heard[:2] == ["Rain in Bali", '["Rain in Bali", "Rain in Oslo"]'] and '"error"' in heard[2]
    check_prefix(roles.episode)


def test_a_request_is_heard_for_one_message_and_leaves_no_trace(model, frame):
    heard = []

    def speak(model, ids, **options):
        heard.append(frame.decode(ids))
        yield from script(model, ids, **options)

    script = Script(frame, [ACT, said(BALI), ACT, said(OSLO), STOP, GIVE_UP])
    roles = Roles(episode_of(model, frame, speak), executed)
    place = roles.here()
    roles.propose("", None)
    roles.back(place)
    check_prefix(roles.episode)
    roles.propose("Something else.", None)
    check_prefix(roles.episode)
    assert roles.propose("", None).calls[0].code == 4
    assert ["Something else." in text for text in heard] == [False, False, True, True, False, False]
    kept = [turn["role"] for turn in roles.episode.record["trajectory"]]
    assert kept == ["user", "reasoner", "executor", "observation", "reasoner", "summarizer"]
    check_prefix(roles.episode)


def test_limits_are_failed_messages_and_leave_a_sound_sequence(model, frame):
    episode = episode_of(model, frame, Script(frame, repeat(ACT)), max_new_tokens=3)
    place = episode.here()
    assert Roles(episode, executed).propose("", None) == Message("max_tokens", [], failed=True)
    check_prefix(episode)
    episode.back(place)
    full = Roles(episode, executed).propose("word " * 3000, None)
    assert full == Message("context_full", [], failed=True)
    check_prefix(episode)
    done = Search(Roles(episode, executed))
    done.tree()
    assert done.answer is None and {node.text for node in done.root.children} == {"max_tokens"}


def test_second_children_are_drawn_by_seed_and_number(model, frame):
    drawn = []

    def speak(model, ids, *, temperature, generator, **options):
        drawn.append((temperature, generator.initial_seed()))
        yield from script(model, ids, temperature=temperature, generator=generator, **options)

    script = Script(frame, [ACT, said(BALI)] * 4)
    roles = Roles(episode_of(model, frame, speak), executed, seed=2**63)
    for number in (None, 3, 3, 4):
        roles.propose("", number)
    plain, third, again, fourth = drawn[::2]
    assert third == again != fourth and third[0] == 0.7 and plain[0] == 0.0
    assert roles.episode.sampling["temperature"] == 0.0


def random_texts(seed: int) -> Iterator[str]:
    """Turns of a run: calls, several, unreadable and of no function, answers now and then, giving up."""
    chance = random.Random(seed)
    for number in count():
        end = chance.random()
        if end < 0.12:
            yield STOP if chance.random() < 0.7 else "Next: summarizer"
            yield GIVE_UP if end < 0.1 else f"Rain {number}."
            continue
        yield chance.choice([f"Thought {number}.\nNext: executor", "Next: executor"])
        cities = [json.dumps({"city": chance.choice("ABCDEF")}) for _ in range(chance.choice([1, 1, 1, 2]))]
        yield chance.choice([said(*cities)] * 4 + [said(BALI).replace("get_weather", "nothing"), "No call."])


@pytest.mark.parametrize(("seed", "second"), [(0, "prompt"), (2, "sample")])
def test_random_trees_leave_one_sequence_and_read_no_path_twice(model, frame, monkeypatch, seed, second):
    """After each step back: ids, roles, cache and logits. At the end: how many tokens passed the model.

    The naive twin is a memory of every prefix that was read: a token behind a known prefix is read again. So
    are only the last tokens of a place, and a header where nothing else is said in front of a second child.
    """
    now, read, prefixes = [], [], set()
    script, states = Script(frame, random_texts(seed)), model.hidden_states

    def speak(model, ids, **options):
        def counted(new, roles, *given, cache, **rest):
            read.append(len(new))
            prefixes.update(tuple(now[:end]) for end in range(cache.length + 1, cache.length + len(new) + 1))
            return states(new, roles, *given, cache=cache, **rest)

        now[:] = ids
        tokens = script(model, ids, **options)
        while True:
            with monkeypatch.context() as patch:
                patch.setattr(model, "hidden_states", counted)
                token = next(tokens, None)
            if token is None:
                return
            now.append(token)
            yield token

    episode = episode_of(model, frame, speak)
    roles = Roles(episode, executed, seed)
    places = []

    def back(place):
        episode.back(place)
        check_prefix(episode)
        places.append(place)

    roles.back = back
    done = Search(roles, max_depth=9, second=second, max_queries=20)
    done.tree()
    check_prefix(episode)
    assert done.queries > 5 and len(places) > 2
    header = len(data.render_header("reasoner", frame).input_ids)
    assert len(prefixes) <= sum(read) <= len(prefixes) + 2 * (header + 2) * done.queries
    assert sum(read) <= 1.3 * len(prefixes)
