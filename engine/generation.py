"""Text from the model: one pass gives each of several sequences its next tokens, more than one where it can.

    tokens = list(generate(model, prompt_ids, max_new_tokens=50, stop_ids=model.config.eos_token_ids))

A pass over one new token reads all weights and computes little, so guessed tokens ride along nearly for free.
The guess is what came next when the latest tokens stood before, earlier in the sequence or in others: calls
and answers repeat the names and values of the tools and the query, and turns begin and end alike. As much of
it as the model would have said by itself is kept, so guesses change the speed and not the text.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from formats.checkpoint import ModelConfig
from model import KVCache, Transformer

# Tokens guessed for one sequence, and rows of a pass that guesses may fill. On two CPU cores a pass over 13
# rows takes 1.2 (bfloat16) to 1.5 (float32) times as long as one over a single row.
DRAFT, ROWS = 12, 64


class Drafts:
    """Where each token stood, the latest 16 places: what a guess takes does not grow with what was said."""

    def __init__(self) -> None:
        self.places: dict[int, deque[tuple[list[int], int]]] = {}

    def learn(self, ids: list[int], start: int) -> None:
        """Note what stands before each token of `ids` from index `start` on. The list may grow afterwards."""
        for i in range(max(start, 1), len(ids)):
            self.places.setdefault(ids[i - 1], deque(maxlen=16)).append((ids, i))

    def longest(self, ids: list[int]) -> tuple[int, list[int], int]:
        """The longest run of tokens that ends as `ids` does: its length, the ids it is in, the index behind.

        The latest of several; (0, [], 0) where the last token is new. Lengths beyond 32 count as 32.
        """
        best = 0, [], 0
        for known, i in reversed(self.places.get(ids[-1], ())):
            run = 0
            while run < min(32, i, len(ids)) and known[i - 1 - run] == ids[-1 - run]:
                run += 1
            if run > best[0]:
                best = run, known, i
        return best


@dataclass
class Sequence:
    """A sequence that grows: all its ids, and roles if the model has any; computed is what `cache` holds."""

    ids: list[int]
    role_ids: list[int] | None
    cache: KVCache
    role: int | None = None  # of the tokens to come
    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None
    drafts: Drafts = field(default_factory=Drafts)

    def __post_init__(self) -> None:
        self.drafts.learn(self.ids, 0)

    def extend(self, tokens: list[int], history: Drafts | None) -> None:
        """Append tokens, for the guesses to come, too."""
        start = len(self.ids)
        self.ids += tokens
        if self.role_ids is not None:
            self.role_ids += [self.role] * len(tokens)
        self.drafts.learn(self.ids, start)
        if history:
            history.learn(self.ids, start)


def guess(sequence: Sequence, config: ModelConfig, history: Drafts | None, most: int) -> list[int]:
    """Up to `most` tokens: what followed the longest run, in `history` or else in the sequence.

    None where tokens are drawn at random, nor any that would meet an end of the model's positions.
    """
    if sequence.temperature:
        return []
    run, known, i = sequence.drafts.longest(sequence.ids)
    if history:
        elsewhere = history.longest(sequence.ids)
        if elsewhere[0] >= run:
            run, known, i = elsewhere
    tokens = known[i : i + most]
    length = len(sequence.ids)
    end = length + len(tokens)
    if end > config.max_position_embeddings:
        return []
    if config.uses_long_factor(end) != config.uses_long_factor(length):
        return []
    return tokens


def next_tokens(model: Transformer, sequences: list[Sequence], history: Drafts | None = None) -> None:
    """Append one or more tokens to each sequence, by one forward pass over all that is not in the caches yet.

    Each row meets the adapters of its own role, so sequences in different roles share the pass. Temperature 0
    takes the likeliest; then a guess joins the pass, and as much of it as the model says by itself is kept,
    with the token after that. history: what other sequences said; it learns what is said now.
    """
    guesses = guess_all(model, sequences, history)
    logits = score(model, sequences, guesses)
    best = logits.argmax(dim=-1).tolist()
    row = 0  # the first of those of a sequence
    for sequence, tokens in zip(sequences, guesses, strict=True):
        end = row + 1 + len(tokens)
        own = best[row:end]
        if sequence.temperature:
            own = [pick(logits[row], sequence.temperature, sequence.top_p, sequence.generator)]
        accept(sequence, tokens, own, history)
        row = end


def guess_all(model: Transformer, sequences: list[Sequence], history: Drafts | None) -> list[list[int]]:
    """A guess for each; many sequences share the rows."""
    most = min(DRAFT, ROWS // len(sequences))
    return [guess(sequence, model.config, history, most) for sequence in sequences]


@torch.inference_mode()
def score(model: Transformer, sequences: list[Sequence], guesses: list[list[int]]) -> Tensor:
    """Logits behind the last token of each sequence and each guessed one: [sequences + guessed, vocab]."""
    ids, role_ids, lengths, rows = [], [], [], []
    for sequence, tokens in zip(sequences, guesses, strict=True):
        cache, length = sequence.cache, len(sequence.ids)
        cache.truncate(length - 1)
        if cache.long != model.config.uses_long_factor(length):
            cache.truncate(0)  # its keys were turned by the other longrope table
        ids += sequence.ids[cache.length :] + tokens
        if sequence.role_ids is not None:
            role_ids += sequence.role_ids[cache.length :] + [sequence.role] * len(tokens)
        lengths.append(length - cache.length + len(tokens))
        rows += range(len(ids) - len(tokens) - 1, len(ids))
    device = model.model.norm.weight.device
    hidden = model.hidden_states(
        torch.tensor(ids, device=device),
        torch.tensor(role_ids, device=device) if role_ids else None,
        lengths,
        cache=[sequence.cache for sequence in sequences],
        rows=torch.tensor(rows, device=device),
    )
    return model.lm_head(hidden)


def accept(sequence: Sequence, tokens: list[int], best: list[int], history: Drafts | None) -> None:
    """Append what is right in the guessed `tokens`, and the token after it; what is wrong leaves the cache.

    best: what the model says behind the sequence and behind each guessed token.
    """
    right = 0
    while right < len(tokens) and tokens[right] == best[right]:
        right += 1
    sequence.cache.truncate(len(sequence.ids) + right)
    sequence.extend(best[: right + 1], history)


def generate(
    model: Transformer,
    input_ids: list[int],
    *,
    role_ids: list[int] | None = None,
    role: int | None = None,
    max_new_tokens: int,
    stop_ids: Iterable[int] = (),
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    cache: KVCache | None = None,
    advance: Callable[[Transformer, list[Sequence]], None] = next_tokens,
) -> Iterator[int]:
    """Yield new token ids, a stop id included, then end.

    `input_ids` (and `role_ids`) are the whole sequence; computed is what lies beyond `cache.length`. New
    tokens get role `role`. At the end, the last one is not in the cache yet. `advance` appends next tokens.
    """
    assert len(input_ids) > 0, "generate needs a token to start from"
    assert (role_ids is None) == (role is None), "role_ids and role go together"
    stop_ids, weight = frozenset(stop_ids), model.model.norm.weight
    if cache is None:
        cache = KVCache(model.config, weight.dtype, weight.device)
    roles = None if role_ids is None else list(role_ids)
    sequence = Sequence(list(input_ids), roles, cache, role, temperature, top_p, generator)
    done, end = len(input_ids), len(input_ids) + max_new_tokens
    while done < end:
        if done == len(sequence.ids):
            advance(model, [sequence])
        token, done = sequence.ids[done], done + 1
        if token in stop_ids:
            end = done
        if done == end:
            cache.truncate(end - 1)
        yield token


def pick(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> int:
    """Draw a token from logits [vocab], among the smallest set of mass `top_p`."""
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    falling, tokens = probabilities.sort(descending=True)
    before = falling.cumsum(-1) - falling
    out = tokens[(before > 0) & (before >= top_p)]  # the likeliest always stays
    # drawn in the order of the ids: in that of the probabilities, rounding might swap two neighbours
    return int(torch.multinomial(probabilities.index_fill(0, out, 0.0), 1, generator=generator))
