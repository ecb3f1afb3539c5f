"""Generation for episodes that come and go: they join a pass at any token, and later ones reuse their caches.

    with Passes(model) as passes:
        passes.run()  # and in each episode's thread:

    with passes.place(gone), passes.cache(episode.ids, episode.role_ids) as episode.cache:
        ...  # the episode speaks by passes.speak

As in engine/together.py, each episode is plain code in a thread and sleeps while it waits for tokens. There
the plays are known and start together; here the thread that meets the model takes what waits. The main thread
does that best: OpenMP has a team for each thread that calls it, and two teams wait for each other's cores (a
pass of the bundled model then takes 1.4 times as long).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Lock, Semaphore

from engine.generation import Drafts, Sequence, generate, next_tokens
from model import KVCache, Transformer

PAUSE = 0.002  # seconds without news, after which a pass waits no longer for the episodes that are awake
HISTORY = 1 << 21  # tokens of sequences that guesses are made from; then they are forgotten
LOOK = 0.2  # seconds between two looks whether a client is still there


class Full(Exception):
    """As many wait as may."""


class Closed(Exception):
    """No pass is made any more."""


@dataclass(eq=False)
class Waiting:
    """An episode wants tokens for `sequence`. Its thread sleeps until `wake` is set."""

    sequence: Sequence
    wake: Event
    fault: BaseException | None = None


@dataclass
class Kept:
    """A finished sequence. Its cache holds the first tokens of it, and nobody changes it any more."""

    ids: list[int]
    role_ids: list[int]
    cache: KVCache

    def common(self, ids: list[int], role_ids: list[int]) -> int:
        """How many tokens of the cache are those of another sequence, each in the same role."""
        same, most = 0, min(self.cache.length, len(ids))
        while same < most:  # by halves, as lists are compared faster than their members
            half = (same + most + 1) // 2
            part = slice(same, half)
            if self.ids[part] == ids[part] and self.role_ids[part] == role_ids[part]:
                same = half
            else:
                most = half - 1
        return same


class Passes:
    """One model, met by one thread, for many episodes.

    size: episodes that speak at a time. queue: further ones that may wait for a place. keep: finished
    sequences whose caches are kept. advance: appends next tokens; if None, next_tokens, which guesses from
    what was said lately.
    """

    def __init__(
        self,
        model: Transformer,
        size: int = 16,
        queue: int = 256,
        keep: int = 8,
        advance: Callable | None = None,
    ):
        self.model, self.keep, self.advance = model, keep, advance
        self.places, self.most, self.lock = Semaphore(size), size + queue, Lock()
        self.inside = self.speaking = self.tokens = 0
        self.kept: list[Kept] = []  # the newest is the last
        self.events: SimpleQueue[Waiting | None] = SimpleQueue()
        self.asleep: set[Waiting] = set()
        self.closed = Event()

    def __enter__(self) -> "Passes":
        return self

    def __exit__(self, *_) -> None:
        """End after the pass that is being made. Who waits, or comes later, gets Closed."""
        self.closed.set()
        for event in list(self.asleep):
            event.wake.set()
        self.events.put(None)

    # ---- for the episodes, in threads of their own ----

    @contextmanager
    def place(self, gone: Callable[[], bool]) -> Iterator[None]:
        """Wait for a place, have it, leave it. Raises Full, and ConnectionAbortedError for who has left."""
        with self.lock:
            if self.inside >= self.most:
                raise Full
            self.inside += 1
        try:
            while not self.places.acquire(timeout=LOOK):
                if gone():
                    raise ConnectionAbortedError
            try:
                yield
            finally:
                self.places.release()
        finally:
            with self.lock:
                self.inside -= 1

    @contextmanager
    def cache(self, ids: list[int], role_ids: list[int]) -> Iterator[KVCache]:
        """A cache that holds what a kept sequence has in common with this one; no two episodes share it.

        Afterwards it is kept with the lists, which have grown, in the place of those that they continue.
        """
        cache = self._begin(ids, role_ids)
        with self.lock:
            self.speaking += 1
        try:
            yield cache
        finally:
            cache.truncate(len(ids))  # an episode that was stopped may have left more
            with self.lock:
                self.speaking -= 1
                others = [kept for kept in self.kept if kept.common(ids, role_ids) < kept.cache.length]
                self.kept = [*others, Kept(ids, role_ids, cache)][-self.keep :]

    def _begin(self, ids: list[int], role_ids: list[int]) -> KVCache:
        """A copy of what is longest in common: another conversation with these tools may want it, too."""
        config, weight = self.model.config, self.model.model.norm.weight
        cache = KVCache(config, weight.dtype, weight.device)
        with self.lock:
            common = [kept.common(ids, role_ids) for kept in self.kept]
            length = max(common, default=0)
            if not length:
                return cache
            kept = self.kept[common.index(length)]
        if kept.cache.long == config.uses_long_factor(len(ids)):  # else its keys were turned by another table
            cache.layers = [layer[..., :length, :].clone() for layer in kept.cache.layers]
            cache.length, cache.long = length, kept.cache.long
        return cache

    def speak(self, model: Transformer, input_ids: list[int], **options) -> Iterator[int]:
        """`generate`, in the passes of all."""
        with self.lock:
            self.tokens += len(input_ids)
        return generate(model, input_ids, advance=self._wait, **options)

    def _wait(self, model: Transformer, sequences: list[Sequence]) -> None:
        event = Waiting(sequences[0], Event())  # generate asks for its one sequence
        self.asleep.add(event)
        self.events.put(event)
        if not self.closed.is_set():
            event.wake.wait()
        self.asleep.remove(event)
        if self.closed.is_set():
            raise Closed
        if event.fault:
            raise event.fault

    # ---- the thread that meets the model ----

    def run(self) -> None:
        """Make passes, in this thread, until the end or an interruption."""
        advance = self.advance or partial(next_tokens, history=Drafts())
        while not self.closed.is_set():
            waiting = self._gather()
            if self.tokens > HISTORY and not self.advance:
                advance, self.tokens = partial(next_tokens, history=Drafts()), 0
            try:
                if not self.closed.is_set():
                    advance(self.model, [event.sequence for event in waiting])
            except Exception as fault:  # theirs, and not of those that come later
                for event in waiting:
                    event.fault = fault
            for event in waiting:
                event.wake.set()

    def _gather(self) -> list[Waiting]:
        """Whoever waits, once all do or there was no news for a moment."""
        waiting = [self.events.get()]
        with suppress(Empty):
            while None not in waiting and len(waiting) < self.speaking:
                waiting.append(self.events.get(timeout=PAUSE))
        return [event for event in waiting if event]
