"""Generation for episodes that come and go: they join a pass at any token, and later ones reuse their caches.

    with Passes(model) as passes:
        with passes.place(gone), passes.cache(episode.ids, episode.role_ids) as episode.cache:
            ...  # the episode speaks by passes.speak

As in engine/together.py, each episode is plain code in a thread and sleeps while it waits for tokens. There
the plays are known and start together; here one thread, the only one that meets the model, takes what waits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Lock, Semaphore, Thread

from engine.generation import Drafts, Sequence, generate, next_tokens
from model import KVCache, Transformer

PAUSE = 0.002  # seconds without news, after which a pass waits no longer for the episodes that are awake
HISTORY = 1 << 21  # tokens of sequences that guesses are made from; then they are forgotten
LOOK = 0.5  # seconds between two looks whether a client in the queue is still there


class Full(Exception):
    """As many wait as may."""


class Closed(Exception):
    """No pass is made any more."""


@dataclass
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
        ours = zip(self.ids[: self.cache.length], self.role_ids, strict=False)
        same = 0
        for pair, other in zip(ours, zip(ids, role_ids, strict=True), strict=False):
            if pair != other:
                break
            same += 1
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
        self.closed = Event()
        self.thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Passes":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        """End after the pass that is being made. Who waits, or comes later, gets Closed."""
        self.closed.set()
        self.events.put(None)
        self.thread.join()
        while not self.events.empty():
            if event := self.events.get():
                event.wake.set()

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
        self.events.put(event)
        if not self.closed.is_set():
            event.wake.wait()
        if self.closed.is_set():
            raise Closed
        if event.fault:
            raise event.fault

    # ---- the thread that meets the model ----

    def _run(self) -> None:
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
