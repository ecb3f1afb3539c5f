"""engine/serving.py: passes that sequences join at any token, caches that are kept. The twin is generate."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from conftest import WEATHER

import data
from engine.generation import generate, next_tokens
from engine.serving import Closed, Full, Passes
from formats.frames import Frame, load_frame
from model import KVCache


def present() -> bool:
    """Whether the client has gone."""
    return False


@contextmanager
def passing(model, **options) -> Iterator[Passes]:
    """Passes, made in a thread of their own."""
    with Passes(model, **options) as passes:
        threading.Thread(target=passes.run, daemon=True).start()
        yield passes


@pytest.fixture(scope="module")
def frame(folders) -> Frame:
    return load_frame(folders[0])


def prompt(frame: Frame, text: str) -> tuple[list[int], list[int]]:
    record = {"tools": [WEATHER], "trajectory": [{"role": "user", "content": text}]}
    example = data.render(record, frame)
    return example.input_ids, example.role_ids


def speech(passes: Passes, ids: list[int], roles: list[int], count: int) -> list[int]:
    with passes.place(present), passes.cache(ids, roles) as cache:
        options = {"role_ids": roles, "role": 1, "cache": cache, "max_new_tokens": count}
        said = list(passes.speak(passes.model, ids, **options))
        ids += said
        roles += [1] * count
    return said


def test_many_at_once_are_as_one_alone(model, frame):
    """Whatever is reused, also after the history of guesses was forgotten."""
    prompts = [prompt(frame, f"Weather in {'Bali ' * (i % 5 + 1)}?") for i in range(12)]
    alone = [
        list(generate(model, ids, role_ids=roles, role=1, max_new_tokens=10 + i))
        for i, (ids, roles) in enumerate(prompts)
    ]
    with passing(model, size=7) as passes, ThreadPoolExecutor(12) as pool:
        passes.tokens = 1 << 30
        found = [
            pool.submit(speech, passes, list(ids), list(roles), 10 + i)
            for i, (ids, roles) in enumerate(prompts)
        ]
        assert [each.result() for each in found] == alone
        assert passes.tokens < 1 << 30


def test_a_sequence_joins_while_others_are_in_the_middle(model, frame):
    sizes, in_pass, go_on = [], threading.Event(), threading.Event()

    def advance(model, sequences):
        sizes.append(len(sequences))
        next_tokens(model, sequences)
        if len(sizes) == 2:
            in_pass.set()
            assert go_on.wait(20)

    with passing(model, advance=advance) as passes, ThreadPoolExecutor(2) as pool:
        first = pool.submit(speech, passes, *prompt(frame, "One?"), 60)
        assert in_pass.wait(20)
        second = pool.submit(speech, passes, *prompt(frame, "Two?"), 20)
        while passes.events.empty():
            time.sleep(0.001)
        go_on.set()
        first.result(), second.result()
    assert sizes[:2] == [1, 1] and 2 in sizes


def test_the_kept_sequence_with_most_in_common_gives_a_copy(model, frame):
    """A token in another role is another token."""
    with passing(model, keep=2) as passes:
        for text in ("Weather in Rome?", "Weather in Bali?", "Weather in Oslo?"):
            ids, roles = prompt(frame, text)
            speech(passes, ids, roles, 3)
        assert len(passes.kept) == 2, "the oldest is dropped"
        again, its_roles = prompt(frame, "Weather in Bali?")
        with passes.cache(again, its_roles) as cache, passes.cache([*again], [*its_roles]) as other:
            assert cache.length == other.length == len(again)
            assert not {layer.data_ptr() for layer in cache.layers} & {
                each.data_ptr() for each in other.layers
            }
        at = 40
        with passes.cache(again, [*its_roles[:at], 2, *its_roles[at + 1 :]]) as cache:
            assert cache.length == at


def test_a_conversation_that_goes_on_takes_the_place_of_what_it_was(model, frame):
    with passing(model) as passes:
        ids, roles = prompt(frame, "Weather in Bali?")
        speech(passes, ids, roles, 3)
        speech(passes, [*ids], [*roles], 3)
        assert len(passes.kept) == 1
        other, its_roles = prompt(frame, "Weather in Oslo?")
        speech(passes, other, its_roles, 3)
        assert len(passes.kept) == 2
        with passes.cache([*ids], [*roles]) as cache:
            assert cache.length == len(ids), "nobody has cut it meanwhile"


def test_what_is_reused_is_what_one_forward_gives(model, frame):
    with passing(model) as passes:
        ids, roles = prompt(frame, "Weather in Bali?")
        speech(passes, ids, roles, 9)
        again, its_roles = prompt(frame, "Weather in Balikesir, please?")
        with passes.cache(again, its_roles) as cache:
            fresh, length = KVCache(model.config), cache.length
            assert 40 < length < len(again)
            with torch.no_grad():
                model.hidden_states(torch.tensor(again), torch.tensor(its_roles), cache=fresh)
            for ours, whole in zip(cache.layers, fresh.layers, strict=True):
                torch.testing.assert_close(
                    ours[..., :length, :], whole[..., :length, :], rtol=1e-4, atol=1e-5
                )


def test_a_stopped_episode_leaves_a_cache_of_what_it_has(model, frame):
    with passing(model) as passes:
        ids, roles = prompt(frame, "Weather?")
        with pytest.raises(ConnectionAbortedError), passes.cache(ids, roles) as cache:
            options = {"role_ids": roles, "role": 0, "cache": cache, "max_new_tokens": 50}
            for count, _ in enumerate(passes.speak(model, ids, **options)):
                if count == 20:
                    raise ConnectionAbortedError
        (kept,) = passes.kept
        assert kept.cache.length == len(ids)


def test_a_fault_is_theirs_who_were_in_the_pass(model, frame):
    def advance(model, sequences):
        if len(sequences[0].ids) > 1000:
            raise RuntimeError("too long")
        next_tokens(model, sequences)

    with passing(model, advance=advance) as passes:
        with pytest.raises(RuntimeError, match="too long"):
            speech(passes, *prompt(frame, "Bali " * 1000), 5)
        assert len(speech(passes, *prompt(frame, "Weather?"), 5)) == 5
        assert passes.inside == passes.speaking == 0


def test_who_finds_no_place_waits_or_is_sent_away(model):
    with passing(model, size=1, queue=1) as passes, ThreadPoolExecutor(1) as pool:
        release = threading.Event()

        def hold() -> None:
            with passes.place(present):
                release.wait(20)

        with passes.place(present):
            waiting = pool.submit(hold)
            while passes.inside < 2:
                time.sleep(0.001)
            with pytest.raises(Full), passes.place(present):
                pass
        release.set()
        waiting.result()
        with passes.place(present):
            assert passes.inside == 1


def test_the_end_wakes_all(model, frame):
    """Those in a pass, those that wait for one, and those that come later."""
    began = threading.Event()

    def advance(model, sequences):
        began.set()
        time.sleep(0.05)
        next_tokens(model, sequences)

    passes = Passes(model, advance=advance)
    with ThreadPoolExecutor(4) as pool:
        with passes:
            thread = threading.Thread(target=passes.run, daemon=True)
            thread.start()
            spoken = [pool.submit(speech, passes, *prompt(frame, f"{i}?"), 500) for i in range(4)]
            assert began.wait(20)
        for each in spoken:
            with pytest.raises(Closed):
                each.result(timeout=20)
    thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(Closed):
        speech(passes, *prompt(frame, "late?"), 5)
