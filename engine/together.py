"""Many episodes at once: each is plain code in a thread; one forward pass serves all that wait for tokens."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from engine.generation import Drafts, Sequence, generate, next_tokens
from model import Transformer


@dataclass
class Waiting:
    """A play wants tokens for `sequence`. Its thread sleeps until `wake` is set."""

    number: int
    sequence: Sequence
    wake: Event


@dataclass
class Ended:
    """A play has returned `result`, or raised `fault`."""

    number: int
    result: Any = None
    fault: BaseException | None = None


class Closed(Exception):
    """Ends the thread of a play for which nobody waits any more."""


def together(
    model: Transformer, plays: Iterable[Callable], size: int, advance: Callable | None = None
) -> Iterator[tuple[int, Any]]:
    """Perform `plays`, up to `size` at once; yield (number, what it returned) of each as it ends.

    A play is a function of `speak`, which takes the place of generate:

        plays = (lambda speak, q=q: run_episode(model, frame, tools, q, speak=speak) for q in queries)

    Each runs in a thread of its own, as plain code from top to bottom. A thread that wants tokens sleeps;
    when all sleep, this thread, the only one that meets the model, makes one forward pass for all. When a
    play ends, the next begins. Which thread comes first decides nothing. A play's exception is raised here.
    advance appends the next tokens; if None, next_tokens, which guesses from what any play has said.
    """
    advance = advance or partial(next_tokens, history=Drafts())
    events: SimpleQueue[Waiting | Ended] = SimpleQueue()
    to_begin, running, closed = enumerate(plays), 0, Event()
    waiting: list[Waiting] = []
    try:
        while True:
            for number, play in islice(to_begin, size - running):
                Thread(target=perform, args=(number, play, events, closed), daemon=True).start()
                running += 1
            if not running:
                return
            if len(waiting) == running:
                waiting.sort(key=lambda event: event.number)
                advance(model, [event.sequence for event in waiting])
                for event in waiting:
                    event.wake.set()
                waiting.clear()
            event = events.get()
            if isinstance(event, Waiting):
                waiting.append(event)
                continue
            running -= 1
            if event.fault is not None:
                raise event.fault
            yield event.number, event.result
    finally:
        closed.set()  # a thread that comes later sees it and does not sleep; those that sleep are woken
        while not events.empty():
            event = events.get()
            if isinstance(event, Waiting):
                waiting.append(event)
        for event in waiting:
            event.wake.set()


def perform(number: int, play: Callable, events: SimpleQueue, closed: Event) -> None:
    """A whole play, in a thread: each wish for tokens is an event, and so is the end."""

    def wait(model: Transformer, sequences: list[Sequence]) -> None:
        event = Waiting(number, sequences[0], Event())  # generate asks for its one sequence
        events.put(event)
        if not closed.is_set():
            event.wake.wait()
        if closed.is_set():
            raise Closed

    try:
        events.put(Ended(number, play(partial(generate, advance=wait))))
    except BaseException as fault:
        events.put(Ended(number, fault=fault))
