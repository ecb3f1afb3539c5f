"""together.py: many episodes at once give what each gives alone, and end as one when one fails."""

import copy
import json
import threading
import time
from collections.abc import Callable

import pytest
from conftest import CLOCK, WEATHER

from agent import run_episode
from engine.generation import generate, next_tokens
from engine.inference import for_inference
from engine.together import together
from formats.frames import Frame, load_frame
from model import KVCache
from tools.mock import Tools


@pytest.fixture(scope="module")
def frame(folders) -> Frame:
    return load_frame(folders[0])


def plays_of(model, frame, count: int, **options) -> list[Callable]:
    tools = Tools([WEATHER, CLOCK])
    queries = [f"Weather in {'Bali ' * (i % 5 + 1)}, {i}?" for i in range(count)]
    common = {"max_new_tokens": 12, "max_turns": 5} | options
    return [
        lambda speak, q=q, i=i: run_episode(model, frame, tools, q, speak=speak, seed=i, **common)
        for i, q in enumerate(queries)
    ]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "top_p": 0.9}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_together_is_one_by_one(model, frame, size, options):
    """Token for token, whatever the size, also as agent.load makes the model; and each number comes once."""
    alone = [play(generate) for play in plays_of(model, frame, 16, **options)]
    assert len({json.dumps(record) for record in alone}) > 8, "episodes differ"
    for made in (model, for_inference(copy.deepcopy(model))):
        plays = plays_of(made, frame, 16, **options)
        assert dict(together(made, iter(plays), size)) == dict(enumerate(alone))


def test_together_makes_one_pass_for_all(model, frame, monkeypatch):
    """Rows in different roles share a pass, and a new play takes the place of one that has ended."""
    monkeypatch.setattr("engine.generation.DRAFT", 0)  # a token a pass
    sizes, roles = [], []

    def spy(model, sequences):
        sizes.append(len(sequences))
        roles.append({sequence.role_ids[-1] for sequence in sequences})
        return next_tokens(model, sequences)

    spoken = []

    def count(i: int, length: int) -> Callable:
        def play(speak) -> int:
            ids = frame.encode("Weather?")
            weight = model.model.norm.weight
            options = dict(max_new_tokens=length, cache=KVCache(model.config, weight.dtype, weight.device))
            spoken.extend(speak(model, ids, role_ids=[i % 3] * len(ids), role=i % 3, **options))
            return i

        return play

    plays = (count(i, n) for i, n in enumerate([9, 3, 4, 6]))
    ended = [number for number, _ in together(model, plays, 2, spy)]
    assert sizes == [2] * 9 + [1] * 4 and ended == [1, 2, 0, 3] and len(spoken) == 22
    assert {0, 1} in roles


def test_a_pass_has_its_sequences_in_the_order_of_the_plays(model, frame):
    """Whichever thread comes first: what a pass rounds and what guesses learn depends on the order."""
    second_goes, orders = threading.Event(), []

    def spy(model, sequences):
        orders.append([sequence.role for sequence in sequences])
        return next_tokens(model, sequences)

    def play(i: int, speak: Callable) -> None:
        ids, weight = frame.encode("Weather?"), model.model.norm.weight
        options = dict(max_new_tokens=1, cache=KVCache(model.config, weight.dtype, weight.device))
        if i == 0:
            second_goes.wait()  # then this one wakes only after the other has asked for its token
        second_goes.set()
        list(speak(model, ids, role_ids=[i] * len(ids), role=i, **options))

    for _ in range(5):
        second_goes.clear()
        plays = [lambda speak, i=i: play(i, speak) for i in range(2)]
        list(together(model, plays, 2, spy))
    assert orders == [[0, 1]] * 5


def test_a_play_that_fails_ends_all(model, frame):
    def fails(speak):
        raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(together(model, [*plays_of(model, frame, 3, max_new_tokens=200), fails], 4))
    for _ in range(100):
        if threading.active_count() == before:
            return
        time.sleep(0.05)
    pytest.fail("a thread still waits")


def test_together_can_be_left(model, frame):
    before, episodes = threading.active_count(), together(model, plays_of(model, frame, 6), 3)
    next(episodes)
    episodes.close()
    for _ in range(100):
        if threading.active_count() == before:
            return
        time.sleep(0.05)
    pytest.fail("a thread still waits")


def test_a_thread_that_comes_after_the_end_does_not_wait(model, frame):
    left, ended, ids = threading.Event(), threading.Event(), frame.encode("Weather?")

    def comes_late(speak: Callable) -> None:
        left.wait()
        try:
            list(speak(model, ids, role_ids=[0] * len(ids), role=0, max_new_tokens=1))
        finally:
            ended.set()

    episodes = together(model, [lambda speak: None, comes_late], 2)
    next(episodes)
    episodes.close()
    left.set()
    assert ended.wait(10)
