"""generation.py against greedy decoding by one full forward per token (`naive_generate`)."""

from functools import partial

import pytest
import torch
from golden import TINY, TINY_LLAMA, load, tokens

from engine import generation
from engine.generation import DRAFT, Drafts, Sequence, generate, guess_all, next_tokens, pick
from model import KVCache, ModelConfig, Transformer


def naive_generate(network: Transformer, ids: list[int], count: int) -> list[int]:
    for _ in range(count):
        ids = ids + [int(network(torch.tensor(ids))[-1].argmax())]
    return ids[-count:]


@pytest.mark.parametrize("name", TINY)
def test_greedy_tokens_with_and_without_cache(name: str) -> None:
    """phi3_longrope crosses the switch of tables while generating: the cache must be dropped there."""
    network, golden = load(name)
    prompts = [key.removesuffix(".prompt") for key in golden if key.endswith(".prompt")]
    assert len(prompts) >= 2
    for case in prompts:
        prompt, wanted = golden[f"{case}.prompt"][0].tolist(), golden[f"{case}.tokens"][0].tolist()
        assert naive_generate(network, prompt, len(wanted)) == wanted
        assert list(generate(network, prompt, max_new_tokens=len(wanted))) == wanted


def test_generate_continues_a_cache(monkeypatch) -> None:
    """Given the whole sequence with text added, it computes only the new part and finds the same tokens."""
    monkeypatch.setattr(generation, "DRAFT", 0)
    network, _ = load("llama_untied_sharded")
    prompt, added = tokens(12).tolist(), tokens(6, seed=2).tolist()
    cache = KVCache(network.config)
    first = list(generate(network, prompt, max_new_tokens=5, cache=cache))
    assert cache.length == 12 + 4  # the last token has not been fed
    longer, fed = prompt + first + added, []
    hook = network.model.embed_tokens.register_forward_pre_hook(lambda m, args: fed.append(len(args[0])))
    second = list(generate(network, longer, max_new_tokens=3, cache=cache))
    hook.remove()
    assert fed == [7, 1, 1]
    assert second == naive_generate(network, longer, 3)
    again = list(generate(network, longer, max_new_tokens=3, cache=cache))  # all of `longer` is cached now
    assert again == second


def test_generate_recomputes_when_the_longrope_table_changes_back() -> None:
    """A cache made with the long table and cut back below the switch holds keys of the wrong table."""
    network, _ = load("phi3_longrope")
    ids = tokens(40).tolist()
    cache = KVCache(network.config)
    list(generate(network, ids, max_new_tokens=2, cache=cache))
    assert cache.long
    cache.truncate(20)
    again = list(generate(network, ids[:21], max_new_tokens=4, cache=cache))
    assert again == naive_generate(network, ids[:21], 4)
    with pytest.raises(AssertionError, match="truncate"):
        network(torch.tensor(ids), cache=cache)


def followed(ids: list[int], drafts: Drafts) -> tuple[int, list[int]]:
    run, known, i = drafts.longest(ids)
    return run, known[i : i + 4]


def test_a_guess_is_what_followed_the_longest_run() -> None:
    drafts = Drafts()
    assert followed([1, 2], drafts) == (0, [])
    drafts.learn([1, 2, 3, 9, 8, 7, 7, 2, 3, 5, 5], 0)
    assert followed([1, 2, 3], drafts) == (3, [9, 8, 7, 7])
    assert followed([4, 7, 2, 3], drafts) == (3, [5, 5])
    assert followed([4, 2, 3], drafts) == (2, [5, 5]), "the latest of two"
    assert followed([3], drafts) == (1, [5, 5]) and followed([6], drafts) == (0, [])
    growing = [1, 2, 3]
    drafts.learn(growing, 2)  # not the 2 behind the 1
    growing += [4, 4]
    assert followed([1, 2], drafts) == (2, [3, 4, 4])
    drafts.learn(growing, 3)
    assert followed([9, 9, 1, 2, 3], drafts) == (3, [4, 4])
    long = list(range(100))
    drafts.learn(long * 2, 0)
    assert followed(long, drafts) == (32, [0, 1, 2, 3]), "32 tokens are enough"


def test_a_token_that_is_everywhere_costs_no_more() -> None:
    drafts = Drafts()
    drafts.learn([5] * 10_000, 0)
    assert {token: len(places) for token, places in drafts.places.items()} == {5: 16}


class Oracle(Drafts):
    """Guesses that the sequence goes on as `known` does, whatever stands in it."""

    def __init__(self, known: list[int]):
        super().__init__()
        self.known = known

    def longest(self, ids: list[int]) -> tuple[int, list[int], int]:
        return 99, self.known, len(ids)


@pytest.mark.parametrize("name", TINY)
def test_drafts_change_the_passes_and_not_the_tokens(name: str, monkeypatch) -> None:
    """A text that repeats itself, continued greedily: drafts right, half right and wrong, ends inside one."""
    network, _ = load(name)
    part, passes = tokens(9).tolist(), []
    sequences = [part * 3, part * 2 + part[:4], part + naive_generate(network, part, 9) + part]
    network.model.embed_tokens.register_forward_pre_hook(lambda m, args: passes.append(len(args[0])))
    monkeypatch.setattr(generation, "DRAFT", 4)

    def say(prompt: list[int], known: list[int], **options) -> tuple[list[int], int]:
        cache, advance = KVCache(network.config), partial(next_tokens, history=Oracle(known))
        options = dict(max_new_tokens=20, cache=cache, advance=advance) | options
        return list(generate(network, prompt, **options)), cache.length - len(prompt)

    for prompt in sequences:
        wanted = naive_generate(network, prompt, 20)
        passes.clear()
        assert say(prompt, prompt + wanted) == (wanted, 19)
        assert len(passes) <= 5, "five tokens a pass, and one table change"
        stop = wanted[7]
        said, cached = say(prompt, prompt + wanted, stop_ids=[stop])
        assert said == wanted[: wanted.index(stop) + 1] and cached == len(said) - 1
        half = [token if i % 3 else 0 for i, token in enumerate(prompt + wanted)]
        assert say(prompt, half) == (wanted, 19)
        assert say(prompt, [0] * 99) == (wanted, 19)
        assert list(generate(network, prompt, max_new_tokens=20)) == wanted


def test_what_others_said_is_guessed() -> None:
    network, _ = load("qwen2_tied")
    prompt, count, passes = tokens(8, seed=3).tolist(), 3 * DRAFT, []
    wanted, advance = naive_generate(network, prompt, count), partial(next_tokens, history=Drafts())
    network.model.embed_tokens.register_forward_pre_hook(lambda m, args: passes.append(len(args[0])))
    for _ in range(2):
        passes.clear()
        assert list(generate(network, prompt, max_new_tokens=count, advance=advance)) == wanted
    assert len(passes) <= 4, "the second time"


def test_many_sequences_share_the_rows_of_a_pass(monkeypatch) -> None:
    network = Transformer.from_config(ModelConfig.from_dict(TINY_LLAMA))
    monkeypatch.setattr(generation, "ROWS", 10)
    sequences = [Sequence([1, 2, 3], None, KVCache(network.config)) for _ in range(3)]
    assert [len(tokens) for tokens in guess_all(network, sequences, Oracle(list(range(99))))] == [3, 3, 3]
    assert len(guess_all(network, sequences[:1], Oracle(list(range(99))))[0]) == 10
    assert len(guess_all(network, sequences[:1], Oracle(list(range(5))))[0]) == 2
    sequences[0].temperature = 0.5
    assert guess_all(network, sequences[:2], Oracle(list(range(99)))) == [[], [3, 4, 5, 6, 7]]
    last = Sequence([1] * 61, None, KVCache(network.config))  # of 64 positions
    assert guess_all(network, [last], Oracle([1] * 64)) == [[1, 1, 1]]
    assert guess_all(network, [last], Oracle([1] * 65)) == [[]]


def test_generate_gives_new_tokens_their_role() -> None:
    network = Transformer.from_config(ModelConfig.from_dict(TINY_LLAMA))
    seen, advance = [], partial(next_tokens, history=Oracle([7] * 8))
    linear = network.model.layers[0].self_attn.q_proj
    linear.register_forward_pre_hook(lambda m, args: seen.append(args[1]))
    options = dict(role_ids=[0, 0, 1, 1], role=2, max_new_tokens=3, advance=advance)
    list(generate(network, [1, 2, 3, 4], **options))
    assert seen[0].sizes == [2, 2, 4], "the draft too"


def test_generate_stops_and_samples() -> None:
    network, golden = load("qwen2_tied")
    prompt, greedy = golden["gen33.prompt"][0].tolist(), golden["gen33.tokens"][0].tolist()
    stop = greedy[5]
    wanted = greedy[: greedy.index(stop) + 1]
    assert list(generate(network, prompt, max_new_tokens=16, stop_ids=[stop])) == wanted
    assert list(generate(network, prompt, max_new_tokens=0)) == []

    def draw(seed: int, **options) -> list[int]:
        chance = torch.Generator().manual_seed(seed)
        return list(generate(network, prompt, max_new_tokens=16, generator=chance, **options))

    assert draw(0, temperature=2.0) == draw(0, temperature=2.0)
    assert draw(0, temperature=2.0) != draw(1, temperature=2.0)
    assert draw(0, temperature=2.0, top_p=0.0) == greedy


def test_pick_draws_from_the_smallest_set_of_that_mass() -> None:
    logits = torch.tensor([0.1, 0.4, 0.3, 0.2]).log()
    chance = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.tensor([pick(logits, 1.0, 0.6, chance) for _ in range(2000)]), minlength=4)
    assert counts[0] == counts[3] == 0
    assert abs(counts[1] / 2000 - 4 / 7) < 0.04
    counts = torch.bincount(torch.tensor([pick(logits, 0.5, 1.0, chance) for _ in range(2000)]), minlength=4)
    assert abs(counts[1] / 2000 - 16 / 30) < 0.04  # temperature 0.5 squares the odds
